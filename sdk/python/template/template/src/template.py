"""A chat template: ChatML with reasoning in <think> and tool calls as Hermes writes them."""

import json
import re

from swift_sdk import template
from swift_sdk.template import Parsed, Segment, ToolCall

TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

CALL = re.compile(r"\n?<tool_call>\n?(.*?)\n?</tool_call>", re.DOTALL)


@template("chatml", summary="ChatML with reasoning and tool calls")
class ChatML:
    """What is `special` becomes one token; what is text never does, whatever it looks like."""

    def render(self, conversation, form):
        """Header, text and end of each message; only what the assistant says is trained."""
        segments = []
        system = "system" if conversation.messages and conversation.messages[0].role == "system" else None
        if conversation.tools and not system:
            segments += block(None, "system", tool_text(conversation.tools), 0.0)
        for index, message in enumerate(conversation.messages):
            role, text = message.role, message.text
            if index == 0 and system and conversation.tools:
                text += "\n\n" + tool_text(conversation.tools)
            elif role == "tool":
                role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
            elif role == "assistant":
                text = answer(message)
            segments += block(index, role, text, message.weight)
        if form == "prompt":
            segments += [Segment("special", "<|im_start|>"), Segment("text", "assistant\n")]
            if conversation.arguments.get("enable_thinking") is False:
                segments.append(Segment("text", "<think>\n\n</think>\n\n"))
        return segments

    def stops(self):
        """What ends an answer."""
        return ["<|im_end|>"]

    def parse(self, completion, context):
        """Reasoning first, then text and tool calls."""
        text, reasoning, calls, problems = context.prefix + completion, None, [], []
        if text.startswith("<think>"):
            inside, end, text = text.removeprefix("<think>").partition("</think>")
            reasoning, text = inside.strip("\n") or None, text.lstrip("\n")
            if not end:
                problems.append("the reasoning does not end")

        def call(match):
            try:
                value = json.loads(match[1])
                calls.append(ToolCall(value["name"], json.dumps(value["arguments"], ensure_ascii=False)))
            except (ValueError, KeyError, TypeError):
                problems.append("a tool call is not a JSON object with name and arguments")
                return match[0]
            return ""

        content = CALL.sub(call, text)
        if "<tool_call>" in content and not problems:
            problems.append("a tool call does not end")
        return Parsed(content, reasoning, calls, problems)


def block(index, role, text, weight):
    """One message."""
    return [
        Segment("special", "<|im_start|>", 0.0, index),
        Segment("text", role + "\n", 0.0, index),
        Segment("text", text, weight, index),
        Segment("special", "<|im_end|>", weight, index),
        Segment("text", "\n", 0.0, index),
    ]


def answer(message):
    """What the assistant says: `parse` is the inverse."""
    text = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
    calls = [f'<tool_call>\n{{"name": {json.dumps(one.name)}, "arguments": {one.arguments}}}\n</tool_call>' for one in message.tool_calls]
    return text + "\n".join(([message.text] if message.text else []) + calls)


def tool_text(tools):
    """What the system says about the tools."""
    return TOOLS.format(tools="\n".join(tools))
