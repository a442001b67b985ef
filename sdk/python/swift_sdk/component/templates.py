"""The interface `swift:template/templates` over the author's templates."""

import json
from typing import Any, Optional

from componentize_py_types import Err, Ok
from wit_world.exports import templates as wit

# The generator calls the module by its interface alone where no other interface of the component has that name.
try:
    from wit_world.imports import swift_template_types as types
except ImportError:
    from wit_world.imports import types

from .. import log
from ..errors import Failed, describe
from ..registry import ENTRIES, find
from ..settings import parse
from ..template import Context, Conversation, Message, Parsed, Part, Segment, ToolCall, WholeParser
from . import fallible, infallible

_PARTS = {types.Part_Text: "text", types.Part_Image: "image", types.Part_Audio: "audio", types.Part_Video: "video"}
_CONTENTS = {
    "text": types.Content_Text,
    "special": types.Content_Special,
    "image": types.Content_Image,
    "audio": types.Content_Audio,
    "video": types.Content_Video,
}
_EVENTS = {
    "reasoning": types.Event_Reasoning,
    "text": types.Event_Text,
    "arguments": types.Event_Arguments,
    "problem": types.Event_Problem,
}


class _Chosen:
    """What `configure` set up in this instance."""

    template: Any


class Templates:
    """The export."""

    @staticmethod
    @infallible
    def templates() -> list[wit.Info]:
        return [wit.Info(one.name, one.summary) for one in ENTRIES["template"].values()]

    @staticmethod
    def claims(config: str, tokenizer_config: str) -> Optional[str]:
        for one in ENTRIES["template"].values():
            if not hasattr(one.target, "claims"):
                continue
            try:
                if one.target.claims(json.loads(config), json.loads(tokenizer_config)):
                    return one.name
            except Exception as error:
                log.warn(f"{one.name} claims nothing: {describe(error)}")
        return None

    @staticmethod
    @fallible
    def configure(name: str, config: str) -> None:
        entry = find("template", name)
        if not entry.is_class:
            raise Failed(f'the template "{name}" is a function; it must be a class with render, stops and parse')
        values = parse(config)
        # What the tokenizer says comes unasked.
        offered = tuple(name for name in values if name.endswith(("_token", "_tokens")))
        _Chosen.template, _ = entry.object(values, offered)

    @staticmethod
    @infallible
    def render(conversations: list[types.Conversation], form: types.Form) -> list[Any]:
        return [_render(one, form.name.lower()) for one in conversations]

    @staticmethod
    @infallible
    def stops() -> list[str]:
        return list(_Chosen.template.stops())

    @staticmethod
    @infallible
    def parse(completions: list[str], context: types.Context) -> list[types.Parsed]:
        given = _context(context)
        return [_parsed(_Chosen.template.parse(one, given)) for one in completions]


class Parser:
    """The streaming parser: the template's own, or one that waits for the whole."""

    @infallible
    def __init__(self, context: types.Context) -> None:
        template = _Chosen.template
        own = getattr(template, "parser", None)
        self._parser = own(_context(context)) if own else WholeParser(template, _context(context))

    @infallible
    def push(self, text: str) -> list[Any]:
        return [_event(one) for one in self._parser.push(text)]

    @infallible
    def finish(self) -> list[Any]:
        return [_event(one) for one in self._parser.finish()]


def _render(conversation: types.Conversation, form: str) -> Any:
    arguments = {name: json.loads(value) for name, value in conversation.arguments}
    messages = [_message(one) for one in conversation.messages]
    given = Conversation(messages, conversation.tools, arguments, conversation.date)
    try:
        return Ok([_segment(one) for one in _Chosen.template.render(given, form)])
    except BaseException as error:
        return Err(describe(error))


def _message(message: types.Message) -> Message:
    return Message(
        message.role,
        [Part(_PARTS[type(one)], one.value) for one in message.content],
        message.reasoning,
        [ToolCall(one.name, one.arguments, one.id) for one in message.tool_calls],
        message.tool_call_id,
        message.name,
        message.loss,
        message.loss_scale,
    )


def _segment(segment: Segment) -> types.Segment:
    return types.Segment(_CONTENTS[segment.kind](segment.value), float(segment.weight), segment.message)


def _context(context: types.Context) -> Context:
    arguments = {name: json.loads(value) for name, value in context.arguments}
    return Context(context.tools, arguments, context.prefix)


def _parsed(parsed: Parsed) -> types.Parsed:
    calls = [types.ToolCall(one.id, one.name, one.arguments) for one in parsed.tool_calls]
    return types.Parsed(parsed.content, parsed.reasoning, calls, list(parsed.problems))


def _event(event: Any) -> Any:
    kind, value = event
    if kind == "tool-call":
        return types.Event_ToolCall(types.ToolCallStart(value.id, value.name))
    return _EVENTS[kind](value)
