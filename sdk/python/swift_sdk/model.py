"""Model families: a config in, the graph of the network out. The builder of the contract with scopes for `with`, parameters named
by scope, and operators. This module knows no component: the builder is given to it.

A call that the host refuses (a shape that does not fit, a tensor that the checkpoint lacks) ends the trace there, and the host
says where. What Python itself can see to be wrong is an exception before.
"""

from typing import Any, Callable, Literal, NewType, Optional, Sequence, Union

from .config import Config
from .registry import ENTRIES, declare
from .rope import Options, Rope

#: A tensor of the checkpoint: named as in the checkpoint, unfused, unquantised, unsharded. Using it twice ties it.
Param = NewType("Param", object)
#: A rule saying which earlier or later rows of its own sequence a row may attend to.
Mask = NewType("Mask", object)
#: A stream of rows: the tokens of all sequences of a step, end to end.
Rows = NewType("Rows", object)

Dtype = Literal["compute", "float32", "int32", "boolean"]
Number = Union[int, float]

_LARGEST_SIZE = 2**32 - 1


def model(
    name: str, *, types: Sequence[str] = (), architectures: Sequence[str] = (), summary: str = ""
) -> Callable[[Any], Any]:
    """Declares a model family: it builds checkpoints whose `model_type` in `config.json` is one of `types`, or else `name`.
    `architectures` are asked only where a config has no `model_type`.

    A function takes `(g, config)`: the `Graph` to build in, and the `Config`. A class is made with the config, reads and
    checks it in `__init__`, and has `build(self, g)`. Either publishes "hidden" `[rows, width]` and "logits"
    `[rows, vocabulary]`. It must be pure: what is built follows from the config and the names in the checkpoint.
    """
    claimed = list(types) or [name]
    for one in ENTRIES.get("model", {}).values():
        for model_type in claimed:
            if model_type in one.extra["types"]:
                raise ValueError(f'two model families claim the model_type "{model_type}": {one.name} and {name}')
    return declare("model", name, summary, None, ("build",), types=claimed, architectures=list(architectures))


class Tensor:
    """A value of the graph: shape `[rows, ...tail]`. `+`, `-`, `*`, `/` take another tensor or a number."""

    __slots__ = ("_graph", "_value", "_tail")

    def __init__(self, graph: "Graph", value: Any) -> None:
        self._graph = graph
        self._value = value
        self._tail: Optional[tuple[int, ...]] = None

    @property
    def tail(self) -> tuple[int, ...]:
        """The axes after the rows."""
        if self._tail is None:
            self._tail = tuple(self._graph._builder.shape(self._value))
        return self._tail

    @property
    def last(self) -> int:
        """The last axis; 1 for a value without any."""
        return self.tail[-1] if self.tail else 1

    def reshape(self, *tail: int) -> "Tensor":
        """The same elements of every row as `[rows, ...tail]`."""
        return self._make(self._graph._builder.reshape(self._value, _sizes("reshape", tail)))

    def rope(self, positions: "Tensor", rope: Rope) -> "Tensor":
        """Rotates heads `[rows, heads, d]` by positions `[rows]`."""
        [dims] = _sizes("the dimensions of a rope", [rope.dims])
        options = self._graph._options(rope.options)
        at = _value("rope", positions)
        return self._make(self._graph._builder.rope(self._value, at, dims, float(rope.theta), options))

    def glu(self, up: "Tensor", activation: str) -> "Tensor":
        """activation(self) * up; see `unary` for the names."""
        return self._make(self._graph._builder.glu(self._value, _value("glu", up), _text("glu", activation)))

    def unary(self, op: str) -> "Tensor":
        """A pointwise function: "silu", "gelu", "gelu-tanh", "relu", "relu2", "sigmoid", "tanh", "exp", "log", "square",
        "sqrt", "rsqrt", "neg", "softplus"."""
        return self._make(self._graph._builder.unary(_text("unary", op), self._value))

    def binary(self, op: str, other: "Tensor") -> "Tensor":
        """A pointwise function of two operands: "add", "sub", "mul", "div", "maximum", "minimum"."""
        return self._make(self._graph._builder.binary(_text("binary", op), self._value, _value("binary", other)))

    def softmax(self) -> "Tensor":
        """Softmax over the last axis."""
        return self._make(self._graph._builder.softmax(self._value))

    def l2_norm(self, eps: float) -> "Tensor":
        """Divides by the Euclidean length of the last axis."""
        return self._make(self._graph._builder.l2_norm(self._value, float(eps)))

    def split(self, axis: int, sizes: Sequence[int]) -> list["Tensor"]:
        """Pieces of these sizes along tail axis `axis`; 0 is the first after the rows."""
        [axis] = _sizes("the axis of a split", [axis])
        pieces = self._graph._builder.split(self._value, axis, _sizes("split", sizes))
        return [self._make(piece) for piece in pieces]

    def __add__(self, other: Union["Tensor", Number]) -> "Tensor":
        return self.binary("add", self._operand(other))

    def __sub__(self, other: Union["Tensor", Number]) -> "Tensor":
        return self.binary("sub", self._operand(other))

    def __mul__(self, other: Union["Tensor", Number]) -> "Tensor":
        return self.binary("mul", self._operand(other))

    def __truediv__(self, other: Union["Tensor", Number]) -> "Tensor":
        return self.binary("div", self._operand(other))

    def __radd__(self, other: Number) -> "Tensor":
        return self._operand(other).binary("add", self)

    def __rsub__(self, other: Number) -> "Tensor":
        return self._operand(other).binary("sub", self)

    def __rmul__(self, other: Number) -> "Tensor":
        return self._operand(other).binary("mul", self)

    def __rtruediv__(self, other: Number) -> "Tensor":
        return self._operand(other).binary("div", self)

    def __neg__(self) -> "Tensor":
        return self.unary("neg")

    def _operand(self, other: Union["Tensor", Number]) -> "Tensor":
        return other if isinstance(other, Tensor) else self._graph.scalar(other)

    def _make(self, value: Any) -> "Tensor":
        return Tensor(self._graph, value)


class _Inside:
    """A scope while `with` is in it."""

    __slots__ = ("_graph", "_path", "_kind", "_outside")

    def __init__(self, graph: "Graph", path: str, kind: str) -> None:
        self._graph = graph
        self._path = path
        self._kind = kind

    def __enter__(self) -> None:
        self._outside = self._graph._path
        self._graph._builder.enter(self._path, self._kind)
        self._graph._path = self._graph._full(self._path)

    def __exit__(self, *error: object) -> None:
        self._graph._builder.exit()
        self._graph._path = self._outside


class Graph:
    """The graph being built. Inside `with g.scope(..)` and `with g.block(..)` parameters are named under its path."""

    def __init__(self, builder: Any, types: Any) -> None:
        # What the contract calls a builder, and the classes of its literals.
        self._builder = builder
        self._types = types
        self._path = ""

    # -- structure ---------------------------------------------------------------------------------------

    def text(self) -> tuple[Tensor, Tensor]:
        """The inputs of a language model: tokens `[rows]` and positions `[rows]`, both int32, of the stream "text"."""
        rows = self.rows("text")
        return self.input("tokens", rows, "int32"), self.input("positions", rows, "int32")

    def rows(self, name: str) -> Rows:
        """The row stream of this name."""
        return Rows(self._builder.rows(_text("rows", name)))

    def input(self, name: str, rows: Rows, dtype: Dtype, tail: Sequence[int] = ()) -> Tensor:
        """What the data pipeline feeds for each row: `[rows, ...tail]`."""
        kinds = {one.name.lower(): one for one in self._types.Dtype}
        if dtype not in kinds:
            raise ValueError(f"input: {dtype!r} is no type; there are {', '.join(kinds)}")
        stream = self._handle("input", rows, self._types.Rows)
        return Tensor(self, self._builder.input(_text("input", name), stream, kinds[dtype], _sizes("input", tail)))

    def scope(self, path: str) -> _Inside:
        """`with g.scope("mlp"):` adds to the names of parameters and to the place in messages."""
        return _Inside(self, _text("scope", path), "")

    def block(self, path: str, index: int) -> _Inside:
        """`with g.block("layers", 0):` is one of the repeated layers: a cut for recomputation and pipelining."""
        [index] = _sizes("the index of a block", [index])
        return _Inside(self, f"{_text('block', path)}.{index}", "block")

    def output(self, name: str, x: Tensor) -> None:
        """Publishes a result: "hidden", "logits"."""
        self._builder.output(_text("output", name), _value("output", x))

    def supports(self, op: str) -> bool:
        """Whether the host knows this function of the contract."""
        return bool(self._builder.supports(_text("supports", op)))

    # -- parameters --------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds `name` in the current scope."""
        return bool(self._builder.has(self._full(name)))

    def parameter(self, name: str, *shape: int) -> Param:
        """The checkpoint tensor `name` of the current scope, which must have this shape."""
        return Param(self._builder.load(self._full(name), _sizes(name, shape)))

    def read(self, parameter: Param) -> Tensor:
        """A parameter as a value without rows."""
        return Tensor(self, self._builder.read(self._handle("read", parameter, self._types.Param)))

    # -- layers ------------------------------------------------------------------------------------------

    def embed(self, name: str, ids: Tensor, vocabulary: int, width: int) -> tuple[Tensor, Param]:
        """An embedding `name` with weight `[vocabulary, width]`: `[rows]` -> `[rows, width]`, and its table for a tied head."""
        table = self.parameter(f"{name}.weight", vocabulary, width)
        return Tensor(self, self._builder.embed(_value(name, ids), table)), table

    def linear(self, name: str, x: Tensor, out: int, bias: bool = False) -> Tensor:
        """A linear layer `name` with weight `[out, in]` and perhaps a bias `[out]`: `[rows, ..., in]` -> `[rows, ..., out]`."""
        value = _value(name, x)
        weight = self.parameter(f"{name}.weight", out, x.last)
        added = self.parameter(f"{name}.bias", out) if bias else None
        return Tensor(self, self._builder.linear(value, weight, added))

    def rms_norm(self, name: str, x: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        """An RMS norm `name` over the last axis. `offset` is added to its weight: 1 where a checkpoint holds the weight's
        distance from one (Gemma)."""
        value = _value(name, x)
        weight = self.parameter(f"{name}.weight", x.last)
        options = self._options({"offset": offset} if offset else {})
        return Tensor(self, self._builder.rms_norm(value, weight, float(eps), options))

    def layer_norm(self, name: str, x: Tensor, eps: float, bias: bool = True) -> Tensor:
        """A layer norm `name` over the last axis."""
        value = _value(name, x)
        weight = self.parameter(f"{name}.weight", x.last)
        added = self.parameter(f"{name}.bias", x.last) if bias else None
        return Tensor(self, self._builder.layer_norm(value, weight, added, float(eps)))

    def logits(self, x: Tensor, table: Param, scale: Optional[float] = None, soft_cap: Optional[float] = None) -> Tensor:
        """The vocabulary head: `[rows, width]`, table `[vocabulary, width]` -> `[rows, vocabulary]`, times `scale`; with a
        soft cap c then c * tanh(y / c)."""
        options = self._options(_given({"scale": scale, "soft-cap": soft_cap}))
        head = self._handle("logits", table, self._types.Param)
        return Tensor(self, self._builder.logits(_value("logits", x), head, options))

    def head_table(self, config: Config, embedding: Param, vocabulary: int, width: int) -> Param:
        """The table of the vocabulary head: `lm_head.weight`, or `embedding` where the two are tied. They are tied when the
        config says so, or says nothing and the checkpoint has no head."""
        tied = config.optional_flag("tie_word_embeddings")
        if tied is None:
            tied = not self.has("lm_head.weight")
        return embedding if tied else self.parameter("lm_head.weight", vocabulary, width)

    # -- attention ---------------------------------------------------------------------------------------

    def causal_mask(self, window: Optional[int] = None) -> Mask:
        """Causal attention; with a window, a row sees itself and the `window - 1` rows before it."""
        if window is None:
            return Mask(self._builder.mask_causal())
        [window] = _sizes("the window of a mask", [window])
        return Mask(self._builder.mask_window(max(window - 1, 0), 0))

    def full_mask(self) -> Mask:
        """Every row sees its whole sequence."""
        return Mask(self._builder.mask_all())

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, soft_cap: Optional[float] = None
    ) -> Tensor:
        """q `[rows, hq, d]`, k `[rows, hk, d]`, v `[rows, hk, dv]` -> `[rows, hq, dv]`; hk divides hq. With a soft cap c, scores
        become c * tanh(score / c) before the softmax."""
        options = self._options(_given({"soft-cap": soft_cap}))
        values = [_value("attention", one) for one in (q, k, v)]
        rule = self._handle("attention", mask, self._types.Mask)
        return Tensor(self, self._builder.attention(*values, rule, float(scale), options))

    def scalar(self, x: Number) -> Tensor:
        """A number as a value."""
        if isinstance(x, bool) or not isinstance(x, (int, float)):
            raise TypeError(f"a tensor or a number is needed, not {type(x).__name__}")
        return Tensor(self, self._builder.scalar(float(x)))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        """Joins along tail axis `axis`; 0 is the first after the rows."""
        [axis] = _sizes("the axis of a concat", [axis])
        return Tensor(self, self._builder.concat([_value("concat", x) for x in xs], axis))

    # -- for this module ---------------------------------------------------------------------------------

    def _full(self, name: str) -> str:
        """The checkpoint name of `name` in the current scope."""
        name = _text("the name", name)
        return f"{self._path}.{name}" if self._path else name

    @staticmethod
    def _handle(what: str, given: object, kind: type) -> object:
        """A parameter, a mask or a row stream; anything else would end the call without a word."""
        if not isinstance(given, kind):
            raise TypeError(f"{what}: a {kind.__name__} is needed, not {type(given).__name__}")
        return given

    def _options(self, options: Options) -> list[tuple[str, Any]]:
        """Options as the contract takes them."""
        return [(_text("an option", name), self._option(value)) for name, value in options.items()]

    def _option(self, value: Union[Number, str, bool]) -> Any:
        if isinstance(value, bool):
            return self._types.Arg_Flag(value)
        if isinstance(value, str):
            return self._types.Arg_Text(_text("an option", value))
        return self._types.Arg_Num(float(value))


def _given(options: dict[str, Optional[float]]) -> dict[str, float]:
    return {name: value for name, value in options.items() if value is not None}


def _value(what: str, x: Tensor) -> Any:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what}: a tensor is needed, not {type(x).__name__}")
    return x._value


def _text(what: str, text: str) -> str:
    """A text that can leave the component: no half of a surrogate pair."""
    if not isinstance(text, str):
        raise TypeError(f"{what}: a text is needed, not {type(text).__name__}")
    if not text.isascii():
        text.encode()
    return text


def _sizes(what: str, sizes: Sequence[int]) -> list[int]:
    """Sizes that fit the contract; a quotient made with `/` is none."""
    for size in sizes:
        if type(size) is not int:
            hint = "; divide with //" if isinstance(size, float) else ""
            raise TypeError(f"{what}: {size!r} is no whole number{hint}")
        if not 0 <= size <= _LARGEST_SIZE:
            raise ValueError(f"{what}: {size} is no size")
    return list(sizes)
