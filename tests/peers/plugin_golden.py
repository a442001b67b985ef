"""Golden tests of the first-party plugins `rewards` and `metrics`, made by the reference implementations.

    python3 -m venv venv
    venv/bin/pip install math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.11.0 \
        rouge==1.0.1 nltk==3.10.4 jieba==0.42.1 numpy
    venv/bin/pip download --no-deps --dest wheel ms-swift==4.6.0
    venv/bin/python tests/peers/plugin_golden.py wheel/ms_swift-4.6.0-py3-none-any.whl

Writes plugins/rewards/tests/*.json and plugins/metrics/tests/*.json, which are part of the components and run by
host/plugin/tests/first_party.rs and by `swift plugin test`. Nothing of ms-swift is installed or copied: its two files with
the rewards and the metrics are read out of the wheel and run beside stand-ins for what they import.

Files whose names end in `_differs` hold what swift answers where it differs on purpose (docs/plugins/rewards.md); the
script checks that the reference really answers otherwise.
"""

import json
import math
import random
import sys
import types
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261123


def module_from_wheel(wheel, path):
    """Runs one file of ms-swift; what it imports of the rest stands in."""

    class Anything:
        def __init__(self, *args, **kwargs):
            pass

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    def fake(name, **members):
        module = types.ModuleType(name)
        module.__path__ = []
        module.__getattr__ = lambda attribute: Anything
        for key, value in members.items():
            setattr(module, key, value)
        sys.modules.setdefault(name, module)

    fake("swift"), fake("swift.infer_engine", InferRequest=Anything), fake("swift.metrics")
    fake("swift.metrics.base", EvalMetrics=type("EvalMetrics", (), {}))
    fake("swift.utils", get_logger=lambda: Anything(), get_current_device=lambda: None)
    fake("torch", Tensor=type("Tensor", (), {}), distributed=types.SimpleNamespace(is_initialized=lambda: False))
    fake("torch.distributed", is_initialized=lambda: False)
    strtobool = lambda text: int(text.lower() in ("1", "true", "yes"))
    fake("transformers", EvalPrediction=Anything), fake("transformers.trainer_utils", EvalPrediction=Anything)
    fake("transformers.utils", strtobool=strtobool)
    name = path.removesuffix(".py").replace("/", ".")
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(path)
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    sys.modules[name] = module
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def write(plugin, name, tests):
    """One object a file; one case a line, so that a difference is readable."""
    path = ROOT / "plugins" / plugin / "tests" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    cases = tests.pop("cases")
    dumps = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    lines = ",\n".join(map(dumps, cases))
    path.write_text(f'{dumps(tests)[:-1]},"cases":[\n{lines}\n]}}\n')
    samples = sum(len(case.get("samples", case.get("examples", []))) for case in cases)
    print(f"{path.relative_to(ROOT)}: {len(cases)} cases, {samples} samples, {path.stat().st_size} bytes")


# --- rewards -----------------------------------------------------------------------------------------------------------


def sample(completion, solution=None, tokens=None):
    row = {"completion": completion}
    if tokens is not None:
        row["completion_tokens"] = tokens
    if solution is not None:
        row["solution"] = solution
    return row


def reward_file(file, name, samples, expected, config=None, batch=20):
    cases = [
        {"samples": samples[at : at + batch], "expect": expected[at : at + batch]}
        for at in range(0, len(samples), batch)
    ]
    write("rewards", file, {"kind": "reward", "name": name, "config": config or {}, "cases": cases})


def tag(text):
    return f"<think>so</think> <answer>{text}</answer>"


def box(text):
    return f"Thus we get \\boxed{{{text}}}."


def accuracy_pairs(rng):
    """(completion, solution) on which math-verify and swift agree."""
    pairs = []
    say = lambda solution, *completions: pairs.extend((completion, solution) for completion in completions)
    # Where the answer stands.
    say("72", "The answer is 72.", "The answer is $72$.", tag("72"), tag("The answer is $72$"), r"\boxed{72}",
        r"First \boxed{7}, but after a long check of everything that was said we find \boxed{72}", "72",
        r"so $x = \boxed{72}$, done", r"$$\boxed{72}$$ and text", r"\[ \boxed{72} \]", r"\fbox{72}", "answer: $72$",
        "Answer: 72", "final answer is $72$. I hope it is correct", r"the final answer to this is: \(72\)", "", "$72$",
        r"\boxed{72", r"\boxed{}", tag(""), tag("I do not know"), tag("71 or 72"), tag("72 and 71"), tag("72%"),
        "<answer>72</answer> and <answer>71</answer>", "<answer>71</answer> and <answer>72</answer>", "<answer>72",
        r"<answer>\boxed{72}</answer>", tag("x = 72"), tag("seventy-two"), r"\boxed{71} \boxed{72}",
        r"\boxed{72} and \boxed{72}", "answer\n$72$", r"$\boxed{71}$ no, $\boxed{72}$ is right, as is easy to see by now and here")
    say("#### 72", tag("72"), box("72"), tag("7 2"))
    say(r"The answer is \boxed{72}.", tag("72"), box("72"), box("71"), "72")
    say("So 12 + 60 = 72 apples", tag("72"), box("72"), tag("60"))
    say("<answer>72</answer>", tag("72"), box("72"), tag("73"))
    say(r"<answer>\frac{1}{2}</answer>", tag("1/2"), tag("0.5"), box(r"\frac{1}{2}"), tag("2"))
    say("the price is 12 or 13", tag("12"), tag("13"))
    # Numbers.
    numbers = ["5", "-5", "0", "007", "3.5", "-0.25", "1,234", "1,234,567", "12.50", "1000000", "0.333333", "99.9"]
    spoken = ["5", "5.0", "-5", "0", "7", "3.50", "7/2", "-1/4", "1234", "1,234", "1234567", "12.5", "25/2", "1/3", "10^6",
              "100", "999/10", "0.3333333", "4.9999999"]
    for gold in numbers:
        say(gold, *(tag(one) for one in spoken))
        say(f"${gold}$", *(box(one) for one in spoken))
    # Fractions.
    fractions = [r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac{3}{4}", r"-\frac{2}{6}", r"\frac{-1}{3}", r"\frac{10}{4}",
                 r"2\frac{1}{2}", r"-3\frac{1}{4}", r"\frac{\frac{1}{2}}{3}", "1/2", "3/4", "-1/3", "0.5", "0.75", "2.5"]
    for gold in fractions:
        say(f"${gold}$", *(box(one) for one in fractions))
    # Lists, pairs, intervals, sets.
    lists = ["(1,2)", "(2,1)", "1,2", "2, 1", r"\{1,2\}", r"\{2, 1\}", "[1,2]", "[1,2)", "(1,2]", "(1,2,3)", "1,2,3",
             r"\{3,1,2\}", r"\left(\frac{1}{2}, 3\right)", "(0.5, 3)", r"(-\infty, 3]", r"(-\infty,3)", r"(0,\infty)",
             "5", "(5)", r"\{5\}", "[3,1]", "(3,1)", r"\{1,1,2\}", r"\emptyset", r"1 \text{ and } 2", r"1 \text{ or } 2"]
    for gold in lists:
        say(f"${gold}$", *(box(one) for one in lists))
    # Equations and names.
    equations = ["x=5", "5", "y=5", "x = 5.0", "3+2=5", "x=y=5", "x=1,y=2", "1,2", r"x\in[1,2]", "[1,2]", "f(x)=5"]
    for gold in equations:
        say(f"${gold}$", *(box(one) for one in equations))
    # Dress and units.
    dressed = [r"90^\circ", r"90^{\circ}", "90 degrees", r"90\text{ cm}", r"90\ \mathrm{cm}", "90 cm", r"\$90", "90",
               r"90\text{ square units}", r"\left(90\right)", r"\displaystyle 90", r"90\text{ m}^2", "90 miles", "{90}"]
    for gold in dressed:
        say(f"${gold}$", *(box(one) for one in dressed))
    # Text.
    texts = [r"\text{Paris}", r"\text{paris}", r"\text{New York}", "A", r"\text{A}", r"\textbf{(C)}", "(C)", "C",
             r"\text{(A) 12}", "12"]
    for gold in texts:
        say(f"${gold}$", *(box(one) for one in texts))
    # Arithmetic.
    sums = ["2^{10}", "1024", r"2\cdot 512", r"1.5\times 10^{3}", "1500", "10^{-3}", "0.001", "3+4", "7", "(3+4)", "14/2",
            "-2^2", "-4", "2^{-1}", "0.5"]
    for gold in sums:
        say(f"${gold}$", *(box(one) for one in sums))
        say(gold, tag(rng.choice(sums)))
    # Chance.
    for _ in range(120):
        a, b = rng.randint(-60, 60), rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 12, 50])
        value = a / b
        forms = [f"{a}/{b}", rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}", f"{value:.6f}", repr(round(value, 3))]
        gold, said = rng.choice(forms), rng.choice(forms)
        pairs.append((box(said), f"${gold}$"))
    return pairs


def accuracy_differs():
    """(completion, solution, what swift says): named in docs/plugins/rewards.md."""
    yes, no = 1.0, 0.0
    return [
        # scientific notation: read as 1e3 = 1000; math-verify reads 1, or e as Euler's number
        (tag("1e3"), "1000", yes), (tag("1"), "1e3", no), (box("2.5e-3"), "$0.0025$", yes),
        # percent in LaTeX
        (box(r"50\%"), "50%", yes), (box(r"50\%"), "$0.5$", yes), (box(r"5\%"), "$5$", yes),
        # mixed numbers in plain text
        (tag("3 1/2"), "7/2", yes), (box("3 1/2"), r"$\frac{7}{2}$", yes), (tag("2"), "$3 1/2$", no),
        # thousands set apart by a space
        (box(r"12\,000"), "$12000$", yes), (box("1 234"), "$1234$", yes), 
        # products without a sign
        (box("2(3)"), "$6$", yes), (box("2(3)"), "$5$", no),
        # \frac12
        (box(r"\frac12"), r"$\frac{1}{2}$", yes), (box(r"3\frac12"), "$3.5$", yes), (tag(r"\frac12"), "1/2", yes),
        # a full stop inside
        (box("5."), "$5$", yes),
        # several boxes are several answers, not thousands
        (r"\boxed{5} and \boxed{100}", "$5100$", no), (r"\boxed{5} and \boxed{100}", "$5, 100$", yes),
        # a solution that is only text
        (tag("Paris"), "Paris", yes), (box("A"), "A", yes), (tag("ten"), "ten", yes), (tag("(1,2)"), "(1,2)", yes),
        # a word with or without \text
        (box("spira"), "$Paris$", no),
        # what math-verify does not parse in a box inside of LaTeX signs
        (r"so $$\boxed{90\text{ cm}}$$", "$90$", yes), (r"$\boxed{x\in[1,2]}$", r"$x\in[1,2]$", yes),
        (r"$2+\boxed{5}$", "$5$", yes), (r"$2+\boxed{5}$", "$7$", no),
        # no algebra
        (box("x+1"), "$1+x$", no), (box("2"), r"$\sqrt{4}$", no), (box(r"\frac{\pi}{2}"), r"$0.5\pi$", no),
        (box("6"), "$3!$", no), (box("3"), "$|3|$", no), (box("3<x"), "$x>3$", no),
        (box(r"(3,4)\cup(1,2)"), r"$(1,2)\cup(3,4)$", no), (box("5:3"), r"$\frac{5}{3}$", no), (box(r"5 \pm 2"), "$3, 7$", no),
    ]


def texts(rng, pieces, count, longest=9):
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(0, longest))) for _ in range(count)]


def rewards(wheel):
    rng = random.Random(SEED)
    orm = module_from_wheel(wheel, "swift/rewards/orm.py")
    arguments = dict(cosine_min_len_value_wrong=-0.5, cosine_max_len_value_wrong=0.0, cosine_min_len_value_correct=1.0,
                     cosine_max_len_value_correct=0.5, cosine_max_len=512, repetition_n_grams=3,
                     repetition_max_penalty=-1.0, soft_max_length=512, soft_cache_length=128)
    args = lambda **changed: types.SimpleNamespace(**{**arguments, **changed})

    accuracy = orm.MathAccuracy()
    pairs = sorted(set(accuracy_pairs(rng)))
    rng.shuffle(pairs)
    judged = list(zip(pairs, accuracy([one for one, _ in pairs], [two for _, two in pairs])))
    # Most combinations are wrong: as many of these as of the right ones.
    right = [one for one in judged if one[1] == 1][:300]
    chosen = right + [one for one in judged if one[1] != 1][: len(right)]
    rng.shuffle(chosen)
    reward_file("accuracy", "accuracy", [sample(*pair) for pair, _ in chosen], [score for _, score in chosen])
    print(f"  {len(right)} of {len(chosen)} are right, of {len(judged)} judged")
    differs = accuracy_differs()
    reference = accuracy([one for one, _, _ in differs], [two for _, two, _ in differs])
    for (completion, solution, ours), theirs in zip(differs, reference):
        if theirs == ours:
            print(f"  no difference: {completion!r} for {solution!r} gets {theirs}")
    reward_file("accuracy_differs", "accuracy", [sample(*one[:2]) for one in differs], [one[2] for one in differs])

    think = ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "\u3000", "\x1c", "a", "</think> <answer>", "<think>b</think>"]
    whole = ["<think>a</think><answer>b</answer>", "<think>\n\n</think>\n<answer>\n</answer>", "", "<think></think><answer></answer> "]
    format_texts = whole + texts(rng, think, 100) + ["<think>" + one + "</answer>" for one in texts(rng, think, 100)]
    format_texts = list(dict.fromkeys(format_texts))
    reward_file("format", "format", [sample(one) for one in format_texts], orm.Format()(format_texts), batch=40)

    react = ["<think>", "</think>", "Action:", "Action Input:", " ", "\n", "\x1f", "f", "{}", "</think>\nAction:"]
    react_texts = texts(rng, react, 100) + ["<think>" + one + "Action Input: {}" for one in texts(rng, react, 100)]
    react_texts = list(dict.fromkeys(react_texts))
    reward_file("react_format", "react_format", [sample(one) for one in react_texts], orm.ReActFormat()(react_texts), batch=40)

    lengths = [0, 1, 2, 63, 127, 128, 255, 256, 383, 384, 385, 400, 447, 511, 512, 513, 600, 1024]
    both = [(tag("5"), "5"), (tag("6"), "5")]
    for name, changed in [("cosine", {}), ("cosine_values", dict(cosine_max_len=300, cosine_min_len_value_wrong=-10.0,
                          cosine_max_len_value_wrong=-0.1, cosine_min_len_value_correct=3.0, cosine_max_len_value_correct=1.5))]:
        samples = [sample(*pair, tokens=length) for length in lengths for pair in both]
        ids = [[0] * one["completion_tokens"] for one in samples]
        expected = orm.CosineReward(args(**changed))([one["completion"] for one in samples],
                                                     [one["solution"] for one in samples], response_token_ids=ids)
        reward_file(name, "cosine", samples, expected, {"cosine_max_len": 512, **changed})

    for name, config in [("soft_overlong", dict(soft_max_length=512, soft_cache_length=128)),
                         ("soft_overlong_values", dict(soft_max_length=100, soft_cache_length=7))]:
        samples = [sample("x", tokens=length) for length in lengths + [92, 93, 94, 99, 100, 101]]
        expected = orm.SoftOverlong(args(**config))([one["completion"] for one in samples],
                                                    response_token_ids=[[0] * one["completion_tokens"] for one in samples])
        reward_file(name, "soft_overlong", samples, expected, config)

    words = ["the ", "The ", "cat\n", "sat\t", "on\u3000", "mat\x1f", "ÄÖ ", "äö ", "ΣΑΣ ", "σας ", "İ ", "重复", " ", "a b a b a b "]
    repeated = ["", " ", "a b c", "a a a a a", "重复重复重复重复"] + texts(rng, words, 100, 14)
    for name, config in [("repetition", {}), ("repetition_values", dict(repetition_n_grams=1, repetition_max_penalty=-0.3))]:
        expected = orm.RepetitionPenalty(args(**config))(repeated)
        reward_file(name, "repetition", [sample(one) for one in repeated], expected, config, batch=40)

    actions = ["Action: f", "Action: g", "Thought: x\nAction: f", "no action", "Action: f Action: g", "Action:"]
    inputs = ['{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": "1"}', '{"a": 1, "b": [1, {"c": null}]}',
              '{"b": [1.0, {"c": null}], "a": 1e0}', '{"a": 2, "b": 3}', "{}", "[1]", "1", "", "the red house", "a red house",
              "the red house on the hill. It is old.", "green", "{'a': 1}", '{"a": 1', '{"a": "x\\u00e9"}', '{"a": "xé"}',
              '{"a": 9007199254740993}', '{"a": 9007199254740992.0}', '{"a": -0}', '{"a": 0.0}', '{"a": 1, "a": 2}', '{"a": 2}', "...",
              '"text"', "null"]
    calls = [action + "\nAction Input: " + one for action in actions for one in inputs] + actions
    tails = ["", "<|im_end|>", "\nObservation:", "\nObservation: 3\nObservation:", "<|endoftext|> "]
    pairs = [(rng.choice(calls) + rng.choice(tails), rng.choice(calls)) for _ in range(80)]
    pairs += [(f"Action: f\nAction Input: {one}{rng.choice(tails)}", f"Action: f\nAction Input: {two}")
              for one in inputs for two in inputs if one == two or rng.random() < 0.15]
    expected = orm.ReactORM()([one for one, _ in pairs], solution=[two for _, two in pairs])
    reward_file("toolbench", "toolbench", [sample(*pair) for pair in pairs], expected, batch=40)
    print(f"  {sum(expected):.0f} of {len(expected)} are right")

    answers = ["1", "1.0", "-1", r"\frac{1}{2}", r"\dfrac{1}{2}", "0.5", r"\frac{2}{4}", "2^{3}", "8", r"2 \cdot 4", "x + 1",
               r"\text{yes}", "1,234", "1234", "{5}", "5", "(1, 2)", "(1,2)", "3 + 4", "7", r"-\frac{1}{2}", "-0.5"]
    frames = ["@", r"so \boxed{@} it is", "thinking\n# Answer\n@\n", r"\(@\)", r"\[ @ \]", r"\boxed{@} or \boxed{0}"]
    put = lambda frame, answer: frame.replace("@", answer)
    pairs = [(put(rng.choice(frames), one), put(rng.choice(frames[:3]), two)) for one in answers for two in answers
             if one == two or rng.random() < 0.35]
    pairs += [("", ""), (r"\boxed{1", r"\boxed{1"), (r"\boxed{\frac{1}{2}} x", r"\boxed{0.5"), ("1 # Answer 2 # Answer 3", "2")]
    message = lambda text: types.SimpleNamespace(messages=[{"role": "assistant", "content": text}])
    expected = orm.MathORM()([message(one) for one, _ in pairs], [two for _, two in pairs])
    reward_file("math", "math", [sample(*pair) for pair in pairs], expected, batch=40)
    print(f"  {sum(expected):.0f} of {len(expected)} are right")
    # (completion, solution, what swift says)
    differs = [(r"\boxed{x + 1}", "1 + x", 0.0), (r"\boxed{\sqrt{4}}", "2", 0.0), (r"\boxed{3\frac{1}{2}}", "3.5", 1.0), ("3 1/2", "3.5", 1.0),
               (r"\boxed{\{1\}}", "1.0", 0.0), ("2x + 2", "2(x+1)", 0.0)]
    for completion, solution, ours in differs:
        theirs = orm.MathORM()([message(completion)], [solution])[0]
        if theirs == ours:
            print(f"  no difference: {completion!r} for {solution!r} gets {theirs}")
    reward_file("math_differs", "math", [sample(*one[:2]) for one in differs], [one[2] for one in differs])


# --- metrics -----------------------------------------------------------------------------------------------------------


def metric_file(file, name, cases, config=None):
    """cases: (examples, numbers by name)"""
    cases = [{"examples": examples, "expect": expect} for examples, expect in cases]
    write("metrics", file, {"kind": "metric", "name": name, "config": config or {}, "cases": cases})


def example(prediction, *references, **columns):
    return {"prediction": prediction, "references": list(references), **columns}


def our_tokens(text):
    """The definition in plugins/metrics/src/tokens.rs."""
    import re

    return re.findall(r"[a-zA-Z0-9]+(?:\.[0-9]+)?%?|[+#&._%-]+|\r\n|[^ ]", text)


def metrics(wheel):
    import numpy as np

    rng = random.Random(SEED)
    acc = module_from_wheel(wheel, "swift/metrics/acc.py")
    for file, strategy in [("acc_token", "token"), ("acc_seq", "seq")]:
        cases = []
        for _ in range(40):
            rows, length = rng.randint(1, 5), rng.randint(1, 8)
            labels = [[rng.choice([-100, 1, 2, 3]) for _ in range(length)] for _ in range(rows)]
            if rng.random() < 0.2:
                labels[0] = [-100] * length
            predictions = [[label if rng.random() < 0.8 else rng.randint(1, 3) for label in row] for row in labels]
            # ms-swift shifts: the prediction at a position is of the next label.
            shifted = np.array([[0, *row] for row in labels]), np.array([[*row, 0] for row in predictions])
            found = acc.compute_acc(shifted[1], shifted[0], acc_strategy=strategy)
            expect = {key: float(sum(values) / len(values)) for key, values in found.items()}
            cases.append(([example(said, wanted) for said, wanted in zip(predictions, labels)], expect))
        metric_file(file, "acc", cases, {"acc_strategy": strategy})

    import string

    vocabulary = ["a", "A", "b.", "b", "1", "2", " ", "é", "É", "!", ""]
    for file, config in [("exact_match", {}), ("exact_match_ignoring", dict(ignore_case=True, ignore_punctuation=True, ignore_numbers=True))]:
        def plain(text):
            if config:
                text = text.lower().translate(str.maketrans("", "", string.punctuation + string.digits))
            return text

        cases = []
        for _ in range(30):
            rows = [example("".join(rng.choices(vocabulary, k=2)), *["".join(rng.choices(vocabulary, k=2)) for _ in range(rng.randint(1, 6))])
                    for _ in range(rng.randint(1, 8))]
            right = [any(plain(row["prediction"]) == plain(one) for one in row["references"]) for row in rows]
            cases.append((rows, {"exact_match": sum(right) / len(right)}))
        metric_file(file, "exact_match", cases, config)

    nlg(wheel, rng)

    # pass@k as in the paper's numpy code
    def chance(n, c, k):
        if n - c < k:
            return 1.0
        return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    cases, equal = [], []
    for _ in range(15):
        problems = {i: [rng.random() < 0.4 for _ in range(rng.randint(1, 12))] for i in range(rng.randint(1, 4))}
        rows = [(name, right) for name, rights in problems.items() for right in rights]
        rng.shuffle(rows)
        expect = {f"pass@{k}": float(np.mean([chance(len(one), sum(one), k) for one in problems.values()]))
                  for k in (1, 2, 5) if all(len(one) >= k for one in problems.values())}
        cases.append(([example("", problem=name, passed=right) for name, right in rows], expect))
        equal.append(([example(" 4\n" if right else "5", "4", "5.0", id=name) for name, right in rows], {"pass@1": expect["pass@1"]}))
    metric_file("pass_at_k", "pass_at_k", cases, dict(k=[1, 2, 5], group="problem", correct="passed"))
    metric_file("pass_at_k_equal", "pass_at_k", equal[:10])

    reranker = module_from_wheel(wheel, "swift/metrics/reranker.py").RerankerMetrics.__new__(
        sys.modules["swift.metrics.reranker"].RerankerMetrics)
    made = {"mrr": [], "ndcg": []}
    for _ in range(30):
        rows = []
        for _ in range(rng.randint(1, 6)):
            labels = [label for _ in range(rng.randint(0, 3)) for label in [1] + [0] * rng.randint(0, 5)]
            labels = [0] * rng.choice([0, 0, 0, 2]) + labels
            scores = rng.sample(range(-1000, 1000), len(labels))
            rows.append(([score / 100 for score in scores], labels))
        # Each row by itself: ms-swift joins rows, so a zero at the start of one would go to the query before.
        found = [reranker._calculate_query_metrics(np.array(scores), np.array(labels)) for scores, labels in rows]
        for name in made:
            values = [value for one in found for value in one[name]]
            expect = {name: float(np.mean(values))} if values else {}
            made[name].append(([example({"numbers": scores}, {"numbers": labels}) for scores, labels in rows], expect))
    for name, cases in made.items():
        metric_file(name, name, cases)

    # One query a row with graded labels: the same formulas, written out.
    made = {"mrr": [], "ndcg": []}
    for _ in range(25):
        rows = []
        for _ in range(rng.randint(1, 4)):
            labels = [rng.choice([0, 0, 1, 2, 3]) for _ in range(rng.randint(1, 8))]
            rows.append(([score / 100 for score in rng.sample(range(-1000, 1000), len(labels))], labels))
        ranks, gains = [], []
        for scores, labels in rows:
            order = np.argsort(-np.array(scores))
            ranked = [labels[i] for i in order]
            gain = lambda labels: sum((2**label - 1) / math.log2(at + 2) for at, label in enumerate(labels))
            ranks.append(next((1 / (at + 1) for at, label in enumerate(ranked) if label > 0), 0.0))
            best = gain(sorted(labels, reverse=True))
            gains.append(gain(ranked) / best if best else 0.0)
        examples = [example({"numbers": scores}, {"numbers": labels}) for scores, labels in rows]
        made["mrr"].append((examples, {"mrr": float(np.mean(ranks))}))
        made["ndcg"].append((examples, {"ndcg": float(np.mean(gains))}))
    for name, cases in made.items():
        metric_file(f"{name}_row", name, cases, {"query": "row"})


def nlg(wheel, rng):
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge.rouge import Rouge

    jieba.setLogLevel(60)
    vocabulary = ["the ", "cat ", "sat", " on ", "mat", ".", ". ", ", ", "3.14 ", "50% ", "well-known ", "(so) ", "a+b ", "e.g. ", "\n", "\t", "\r\n", "? ", "... ", "A1 "]
    chinese = ["我", "爱", "北", "京", "天", "安", "门", "，", "。", " ", "the ", "5%"]
    sentence = lambda words=vocabulary: "".join(rng.choice(words) for _ in range(rng.randint(0, 14)))

    # English: our words are jieba's, so the numbers are ms-swift's own (before it rounds them to six places).
    for text in (sentence() for _ in range(2000)):
        cut = [word.strip(" ") for word in jieba.cut(text) if word.strip(" ")]
        ours = our_tokens(text)
        assert cut == ours, (text, cut, ours)

    def scores(prediction, references):
        """compute_rouge_bleu of ms-swift on our words; the best of several references for ROUGE."""
        said = our_tokens(prediction)
        wanted = [words for words in map(our_tokens, references) if words]
        if not wanted:
            return None
        names = ["rouge-1", "rouge-2", "rouge-l"]
        best = dict.fromkeys(names, 0.0)
        if not said:
            return {**best, "bleu-4": 0.0}
        for words in wanted:
            said_text, wanted_text = " ".join(said), " ".join(words)
            if said_text.strip(".") and wanted_text.strip("."):
                found = Rouge().get_scores(said_text, wanted_text)[0]
                best = {name: max(best[name], found[name]["f"]) for name in names}
        return {**best, "bleu-4": sentence_bleu(wanted, said, smoothing_function=SmoothingFunction().method3)}

    module = module_from_wheel(wheel, "swift/metrics/utils.py")
    sys.modules["swift.metrics.utils"] = module
    ms_swift = module_from_wheel(wheel, "swift/metrics/nlg.py")
    made = {"rouge": [], "bleu": []}

    def case(rows):
        found = [one for one in (scores(row["prediction"], row["references"]) for row in rows) if one is not None]
        mean = lambda name: sum(one[name] for one in found) / len(found) * 100
        rouge = {name: mean(name) for name in ("rouge-1", "rouge-2", "rouge-l")} if found else {}
        bleu = {"bleu-4": mean("bleu-4")} if found else {}
        made["rouge"].append((rows, rouge))
        made["bleu"].append((rows, bleu))
        return {**rouge, **bleu}

    for _ in range(60):
        rows = []
        for _ in range(rng.randint(1, 5)):
            wanted = sentence()
            said = wanted if rng.random() < 0.2 else "".join(w for w in wanted.split(" ") if rng.random() < 0.8) if rng.random() < 0.3 else sentence()
            rows.append(example(said, wanted))
        found = case(rows)
        theirs = ms_swift.compute_rouge_bleu([row["prediction"] for row in rows], [row["references"][0] for row in rows])
        assert not found or all(abs(found[name] - theirs[name]) < 1e-6 for name in theirs), (found, theirs)
    for _ in range(30):
        case([example(sentence(chinese), *[sentence(chinese) for _ in range(rng.randint(1, 3))]) for _ in range(rng.randint(1, 4))])
    case([]), case([example("", "a b")]), case([example("a b", "")]), case([example("...", "a")]), case([example(". .", " . ")])
    for name, cases in made.items():
        metric_file(name, name, cases)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rewards(sys.argv[1])
    metrics(sys.argv[1])
