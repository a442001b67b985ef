"""Chat templates: a conversation to segments of text with loss weights, and a completion back to a message."""

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

from .registry import declare


@dataclass
class Part:
    """A piece of a message; `kind` is "text", "image", "audio" or "video", and a medium's value is its reference."""

    kind: str
    value: str


@dataclass
class ToolCall:
    """A call of a tool by the assistant; the arguments are JSON as the row has it."""

    name: str
    arguments: str
    id: Optional[str] = None


@dataclass
class Message:
    """One message; the role is "system", "developer", "user", "assistant" or "tool"."""

    role: str
    content: list[Part]
    #: What the assistant thought before it answered.
    reasoning: Optional[str] = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    #: In a tool's result: the call it answers, and the tool.
    tool_call_id: Optional[str] = None
    name: Optional[str] = None
    #: Whether to train on this message, and its weight, where the row says so.
    loss: Optional[bool] = None
    loss_scale: Optional[float] = None

    @property
    def text(self) -> str:
        """All of the content, for templates without media."""
        for part in self.content:
            if part.kind != "text":
                raise ValueError(f"this template has no place for {part.kind}")
        return "".join(part.value for part in self.content)

    @property
    def weight(self) -> float:
        """Weight of the loss of what the assistant says in it; 0 for every other role unless the row says otherwise."""
        if self.loss is False:
            return 0.0
        if self.loss_scale is not None:
            return self.loss_scale
        return 1.0 if self.loss or self.role == "assistant" else 0.0


@dataclass
class Conversation:
    """One conversation."""

    messages: list[Message]
    #: Definitions of tools, each a JSON object in OpenAI's form, as text.
    tools: list[str] = field(default_factory=list)
    #: Template arguments such as `enable_thinking`; unknown ones are ignored.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: The run's date as YYYY-MM-DD, for templates that write one.
    date: Optional[str] = None


@dataclass
class Segment:
    """A piece of the rendered conversation. `kind` is "text", "special" (one special token, by its text) or a medium's."""

    kind: str
    value: str
    #: Weight of the loss of its tokens.
    weight: float = 0.0
    #: Index of the message that it renders.
    message: Optional[int] = None


@dataclass
class Context:
    """What a completion continues."""

    tools: list[str] = field(default_factory=list)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: The end of the prompt that is already the assistant's ("<think>\\n"), or "".
    prefix: str = ""


@dataclass
class Parsed:
    """A completion, read back."""

    content: str
    reasoning: Optional[str] = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    #: Why it is not whole; nothing of the text is lost.
    problems: list[str] = field(default_factory=list)


#: What a part of a completion adds, as a pair: ("reasoning", text), ("text", text), ("tool-call", ToolCall with no
#: arguments yet), ("arguments", text), ("problem", text).
Event = tuple[str, Any]


class WholeParser:
    """The streaming parser of a template that has none of its own: it keeps the pieces, and reads them when they are all
    there. So it says what `parse` says, but late."""

    def __init__(self, template: Any, context: Context) -> None:
        self._template = template
        self._context = context
        self._pieces: list[str] = []

    def push(self, text: str) -> list[Event]:
        """Keeps a piece."""
        self._pieces.append(text)
        return []

    def finish(self) -> list[Event]:
        """Reads all of them."""
        parsed = self._template.parse("".join(self._pieces), self._context)
        events: list[Event] = []
        if parsed.reasoning is not None:
            events.append(("reasoning", parsed.reasoning))
        if parsed.content:
            events.append(("text", parsed.content))
        for call in parsed.tool_calls:
            events.append(("tool-call", call))
            events.append(("arguments", call.arguments))
        events.extend(("problem", problem) for problem in parsed.problems)
        return events


def template(name: str, *, summary: str = "", settings: Optional[Mapping[str, Any]] = None) -> Callable[[Any], Any]:
    """Declares a chat template, a class: what the user writes after `--template` is `name`. The methods:

    - `configure(self, settings)`: the tokenizer's `bos_token`, `eos_token`, ... and the user's settings;
    - `render(self, conversation, form)`: a list of `Segment`. `form` is "prompt" (all messages, and the opening of an
      answer) or "training" (all messages to the end of the last). An exception is the error of this conversation;
    - `stops(self)`: texts that end an answer;
    - `parse(self, completion, context)`: a `Parsed`, the inverse of rendering an assistant's message;
    - `parser(self, context)`, if it can say early what it reads: an object with `push(text)` and `finish()`, lists of
      `Event`; joined they say what `parse` says. Without it all comes at the end;
    - `claims(config, tokenizer_config)`, a static method, if the template is to be chosen without being named: whether it
      fits the checkpoint with these JSON objects.
    """
    return declare("template", name, summary, settings, ("render", "stops", "parse"))
