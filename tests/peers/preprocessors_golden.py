"""Golden tests of the row preprocessors: what ms-swift 4.6.0 makes of the same rows.

    pip install ms-swift==4.6.0 torch      # in an environment of its own
    python tests/peers/preprocessors_golden.py plugins/preprocessors/tests

The rows are made up in the form of each dataset. Messages, rejected answers and solutions are ms-swift's; that a row
keeps its other columns is ours. Where we differ on purpose, the row says so: ms-swift trains on empty answers and on
unfilled placeholders, we leave them out or refuse.
"""

import copy
import json
import sys
from pathlib import Path

from datasets import Dataset
from swift.dataset import DATASET_MAPPING
from swift.dataset.preprocessor import AutoPreprocessor

KEYS = ["messages", "rejected_response", "rejected_messages", "solution"]


def registered(dataset, subset=None):
    """The preprocessor of a registered dataset."""
    for meta in DATASET_MAPPING.values():
        if dataset not in (meta.ms_dataset_id, meta.hf_dataset_id):
            continue
        for one in meta.subsets:
            if not isinstance(one, str) and (subset or "default") in (one.subset, one.name):
                return copy.deepcopy(one.preprocess_func or meta.preprocess_func)
        return copy.deepcopy(meta.preprocess_func)
    raise SystemExit(f"{dataset} is not registered")


def theirs(preprocessor, row):
    out = preprocessor(Dataset.from_list([copy.deepcopy(row)]), load_from_cache_file=False, enable_auto_mapping=True, strict=False)
    if len(out) == 0:
        return None
    row = {key: value for key, value in out[0].items() if key in KEYS and value is not None}
    if isinstance(row.get("messages"), str):
        row["messages"] = json.loads(row["messages"])
    return row


def case(preprocessor, rows, used, ours=None):
    """`used`: the columns that are used up. `ours`: what we say to the row of a number instead."""
    expect = []
    for number, row in enumerate(rows):
        if number in (ours or {}):
            expect.append(ours[number])
            continue
        got = theirs(preprocessor, row)
        assert got is not None, f"ms-swift drops {row}"
        kept = {key: value for key, value in row.items() if key not in used and key not in got}
        expect.append({**{key: got[key] for key in KEYS if key in got}, **kept})
    return {"rows": rows, "expect": expect}


def dropped(reason):
    return {"dropped": reason}


def alpaca():
    rows = [
        {"instruction": "保持健康的三个提示。", "input": "", "output": "以下是……"},
        {"instruction": "判断情感", "input": "输入：我很高兴", "output": "积极"},
        {"instruction": "翻译", "input": "Guten Tag", "output": "你好"},
        {"instruction": "什么都不说", "input": "", "output": ""},
    ]
    english = [
        {"instruction": "Give three tips.", "input": "", "output": "1. Eat", "text": "Below is an instruction ..."},
        {"instruction": "Sort", "input": "3, 1, 2", "output": "1, 2, 3", "text": "Below ..."},
    ]
    used = ["instruction", "input", "output", "text"]
    return "alpaca", [
        {"config": {}, **case(registered("AI-ModelScope/alpaca-gpt4-data-zh"), rows, used, {3: dropped("no output")})},
        {"config": {}, **case(registered("AI-ModelScope/alpaca-gpt4-data-en"), english, used)},
        {"config": {}, "rows": [{"instruction": "", "input": None, "output": "x"}], "expect": [dropped("no instruction")]},
    ]


def self_cognition():
    rows = [
        {"query": "你是谁？", "response": "我是{{NAME}}，由{{AUTHOR}}训练的人工智能助手。", "tag": "zh"},
        {"query": "Are you {{NAME}}?", "response": "Yes, {{NAME}} by {{AUTHOR}}. {{NAME}}!", "tag": "en"},
    ]
    cases = []
    for subset in [None, "qwen3", "empty_think"]:
        preprocessor = registered("swift/self-cognition", subset)
        preprocessor.set_name_author(("小黄", "Xiao Huang"), ("魔搭", "ModelScope"))
        config = {"model_name": ["小黄", "Xiao Huang"], "model_author": ["魔搭", "ModelScope"]}
        if subset:
            config["subset"] = subset
        cases.append({"config": config, **case(preprocessor, rows, ["query", "response", "tag"])})
    empty = {"query": "Who?", "response": None, "tag": "en"}
    cases.append({"config": {"model_name": "A", "model_author": "B"}, "rows": [empty], "expect": [dropped("no response")]})
    return "self-cognition", cases


def math():
    problem, solution = "What is $1+1$?", "It is $\\boxed{2}$."
    numina = [
        {"problem": problem, "solution": solution, "messages": [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]},
    ]
    dapo = [{"prompt": problem, "solution": "2", "data_source": "math_dapo", "extra_info": {"index": "7"}}]
    cot = [{"source": "olympiads", "problem": problem, "solution": solution}]
    cases = [
        {"config": {}, **case(registered("AI-MO/NuminaMath-TIR"), numina, ["problem"])},
        {"config": {}, **case(registered("open-r1/DAPO-Math-17k-Processed"), dapo, ["prompt"])},
        {"config": {}, **case(registered("AI-MO/NuminaMath-CoT"), cot, ["problem"])},
    ]
    # ms-swift has no solution for GSM8K; the number after #### is what a reward compares.
    grade = {"question": "2 apples and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
    expect = theirs(registered("modelscope/gsm8k"), grade)
    cases.append({"config": {}, "rows": [grade], "expect": [{**expect, "solution": "5"}]})
    system = {"role": "system", "content": "Think."}
    cases.append(
        {
            "config": {"system": "Think."},
            "rows": [cot[0], {"problem": "x", "solution": None}, {"problem": None, "solution": "2"}],
            "expect": [
                {"messages": [system, *cases[2]["expect"][0]["messages"]], "solution": solution, "source": "olympiads"},
                dropped("no solution"),
                dropped("no problem"),
            ],
        }
    )
    return "math", cases


def preference():
    emoji = [
        {"question": "喜欢狗吗☀️", "answer_zh": "当然❤️！", "answer_en": "Of course❤️!"},
        {"question": "喜欢狗吗", "answer_zh": "same", "answer_en": "same"},
    ]
    turns = lambda *contents: [{"role": ["user", "assistant"][i % 2], "content": c} for i, c in enumerate(contents)]
    orpo = [
        {"source": "Airoboros", "prompt": "q", "chosen": turns("q", "good"), "rejected": turns("q", "bad"), "question": "q"},
        {"source": "toxic-dpo-v0.2", "prompt": "q", "chosen": turns("q", "good"), "rejected": turns("q", "bad"), "question": "q"},
        {"source": "x", "prompt": "q", "chosen": turns("q", "good"), "rejected": turns("q", "good"), "question": "q"},
        {"source": "x", "prompt": "q", "chosen": turns("q"), "rejected": turns("q", "bad"), "question": "q"},
        {"source": "x", "prompt": "q", "chosen": turns("q", "good"), "rejected": None, "question": "q"},
    ]
    same = dropped("chosen and rejected are the same")
    orpo_preprocessor = registered("AI-ModelScope/orpo-dpo-mix-40k")
    assert theirs(orpo_preprocessor, orpo[1]) is None
    ours = {
        1: dropped("from toxic-dpo-v0.2"),
        2: same,
        3: dropped("a conversation does not end with an answer"),
        4: dropped("no rejected answer"),
    }
    text = {"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 1.5}
    expect = {"messages": turns("q", "good"), "rejected_response": "bad", "margin": 1.5}
    emoji_preprocessor = registered("hjh0119/shareAI-Llama3-DPO-zh-en-emoji")
    assert theirs(emoji_preprocessor, emoji[1]) is None
    return "preference", [
        {"config": {}, **case(emoji_preprocessor, emoji, ["question", "answer_zh", "answer_en"], {1: same})},
        {"config": {}, **case(orpo_preprocessor, orpo, ["prompt", "chosen", "rejected"], ours)},
        {"config": {}, "rows": [text, {**text, "prompt": None}], "expect": [expect, dropped("no prompt")]},
    ]


def sharegpt():
    rounds = [{"conversation": [{"human": "你好", "assistant": "你好！"}, {"human": "再见", "assistant": "再见！"}], "category": "chat"}]
    turns = [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s", "id": "7"},
        {"conversations": [{"from": "system", "value": "t"}, {"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "r"}, {"from": "gpt", "value": "a"}], "system": None, "id": "8"},
    ]
    bad = [
        {"conversations": []},
        {"conversations": None},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "oracle", "value": "a"}]},
        {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "a"}]},
        {"conversations": "not JSON"},
    ]
    reasons = ["no messages", "no messages", "no answer", "a message has an unknown role", "a message has no content"]
    reasons.append("the messages are a text that is not JSON")
    return "sharegpt", [
        {"config": {}, **case(registered("swift/sharegpt"), rounds, ["conversation"])},
        {"config": {}, **case(AutoPreprocessor(), turns, ["conversations", "system"])},
        {"config": {}, "rows": bad, "expect": [dropped(reason) for reason in reasons]},
    ]


def main():
    folder = Path(sys.argv[1])
    for make in [alpaca, self_cognition, math, preference, sharegpt]:
        name, groups = make()
        # One file for each settings: the settings belong to the file.
        configs = []
        for group in groups:
            if group["config"] not in configs:
                configs.append(group["config"])
        for number, config in enumerate(configs):
            cases = [{"rows": g["rows"], "expect": g["expect"]} for g in groups if g["config"] == config]
            golden = {"kind": "preprocessor", "name": name, "config": config, "cases": cases}
            suffix = "" if number == 0 else f"-{number}"
            path = folder / f"{name}{suffix}.json"
            path.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
            print(path)


main()
