"""`config.json` of a checkpoint, read with types. Errors name the key, what stands there and what is needed; a key that changes
the mathematics is either read by the family or refused by name. This module knows no graph."""

import json
import math
from typing import Any, Callable, Iterator, Optional, TypeVar

from .errors import Failed

# Keys of well-known configs that change what a decoder computes. A family names those it builds and refuses the rest, see
# `Config.refuse_all_but`. Neutral: null, false, 0, empty; for a multiplier 1. The list is that of the SDK in Rust.
CHANGES_THE_MODEL = (
    # storage that is not plain tensors
    "quantization_config",
    "compression_config",
    # biases, norms and activations
    "attention_bias",
    "attention_out_bias",
    "mlp_bias",
    "qkv_bias",
    "use_bias",
    "lm_head_bias",
    "use_qk_norm",
    "qk_norm",
    "qk_layernorm",
    "clip_qkv",
    "sandwich_norm",
    # which rows attend to which, and how
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attention_chunk_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logits_soft_cap",
    "attn_temperature_tuning",
    "attention_multiplier",
    "query_pre_attn_scalar",
    "attention_sinks",
    "use_alibi",
    "alibi",
    # rotary embeddings
    "partial_rotary_factor",
    "rotary_pct",
    "rope_interleaved",
    "rope_local_base_freq",
    "mrope_section",
    "use_mrope",
    "no_rope_layers",
    "no_rope_layer_interval",
    # multipliers
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "normalize_embedding",
    "scale_embeddings",
    # experts, latent attention, recurrence
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "q_lora_rank",
    "linear_attention",
    "full_attention_interval",
    "num_kv_shared_layers",
    # dropout in training
    "attention_dropout",
    "hidden_dropout",
    "residual_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    # other networks
    "is_encoder_decoder",
    "add_cross_attention",
    "vision_config",
    "audio_config",
)

# Activations as configs name them, and by the contract's names.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_fast": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}

_T = TypeVar("_T")

_LARGEST_SIZE = 2**32 - 1
_SIZE = "a positive whole number"
_NUMBER = "a number"


class Config:
    """`config.json`, or an object inside it. For every reader a null counts as an absent key."""

    def __init__(self, entries: dict[str, Any], path: str = "") -> None:
        self._entries = entries
        # Keys that lead here, each followed by a dot.
        self._path = path

    @staticmethod
    def parse(text: str) -> "Config":
        """Reads the text of a `config.json`, which must be a JSON object."""
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise Failed(f"config.json: it is no JSON: {error}") from None
        if not isinstance(entries, dict):
            raise Failed(f"config.json: {_shown(entries)} stands where an object is needed")
        return Config(entries)

    def __contains__(self, key: str) -> bool:
        """Whether the key is there, be it with null."""
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """The keys of this object, in the file's order."""
        return iter(self._entries)

    def size(self, key: str) -> int:
        """A positive whole number that must be there: a width, a count."""
        return self._needed(key, self.optional_size(key), _SIZE)

    def size_or(self, key: str, default: int) -> int:
        """As `size`, with a value for an absent key."""
        size = self.optional_size(key)
        return default if size is None else size

    def optional_size(self, key: str) -> Optional[int]:
        """As `size`, None for an absent key."""
        return self._read(key, _size, _SIZE)

    def number(self, key: str) -> float:
        """A number that must be there."""
        return self._needed(key, self.optional_number(key), _NUMBER)

    def number_or(self, key: str, default: float) -> float:
        """As `number`, with a value for an absent key."""
        number = self.optional_number(key)
        return default if number is None else number

    def optional_number(self, key: str) -> Optional[float]:
        """As `number`, None for an absent key."""
        return self._read(key, _number, _NUMBER)

    def flag_or(self, key: str, default: bool) -> bool:
        """true or false, with a value for an absent key."""
        flag = self.optional_flag(key)
        return default if flag is None else flag

    def optional_flag(self, key: str) -> Optional[bool]:
        """true or false, None for an absent key."""
        return self._read(key, lambda value: value if isinstance(value, bool) else None, "true or false")

    def optional_text(self, key: str) -> Optional[str]:
        """A text, None for an absent key."""
        return self._read(key, lambda value: value if isinstance(value, str) else None, "a text")

    def texts(self, key: str) -> Optional[list[str]]:
        """A list of texts, None for an absent key."""
        return self._read(key, _texts, "a list of texts")

    def section(self, key: str) -> Optional["Config"]:
        """An object inside this one, None for an absent or empty one."""
        entries = self._read(key, lambda value: value if isinstance(value, dict) else None, "an object")
        return Config(entries, f"{self._path}{key}.") if entries else None

    def activation(self, key: str) -> str:
        """The activation function under `key` by the name that the host gives it; absent means silu."""
        name = self.optional_text(key)
        name = "silu" if name is None else name
        if name not in _ACTIVATIONS:
            raise self._about(
                key,
                f'the activation "{name}", which is not built; built are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, '
                "relu2, sigmoid and tanh",
            )
        return _ACTIVATIONS[name]

    def refuse_all_but(self, *built: str) -> None:
        """Refuses every key that changes the mathematics and stands at a value that is not neutral, but for those that the
        family reads itself. Call it first: then nothing of the config is ignored in silence."""
        for key, value in self._entries.items():
            if key in CHANGES_THE_MODEL and key not in built and not _is_neutral(key, value):
                raise self.refuse(key, "which changes the model in a way that this plugin does not build")

    def refuse(self, key: str, what: str) -> Failed:
        """An error about this key, to raise: config.json: `key` is VALUE, WHAT."""
        shown = _shown(self._entries[key]) if key in self._entries else "missing"
        return self._about(key, f"{shown}, {what}")

    def is_object(self, key: str) -> bool:
        """Whether the value of `key` is itself an object."""
        return isinstance(self._entries.get(key), dict)

    def _read(self, key: str, read: Callable[[Any], Optional[_T]], needed: str) -> Optional[_T]:
        """What `read` makes of the value; None where there is no value. None of `read` means that it is a wrong one."""
        value = self._entries.get(key)
        if value is None:
            return None
        result = read(value)
        if result is None:
            raise self._about(key, f"{_shown(value)}, {needed} is needed")
        return result

    def _needed(self, key: str, value: Optional[_T], needed: str) -> _T:
        if value is None:
            raise self._about(key, f"missing, {needed} is needed")
        return value

    def _about(self, key: str, what: str) -> Failed:
        return Failed(f"config.json: `{self._path}{key}` is {what}")


def attention_windows(config: Config, layers: int) -> list[Optional[int]]:
    """The window of every layer, itself included; None is full attention.

    `layer_types` decides where it is given; else, when `use_sliding_window` is true, the layers from `max_window_layers` on
    have a window of `sliding_window` tokens (Qwen2 and Qwen3).
    """
    window = config.size_or("sliding_window", 4096) if config.flag_or("use_sliding_window", False) else None
    types = config.texts("layer_types")
    if types is None:
        # Zero is a meaningful value here: every layer has the window.
        every = config.optional_number("max_window_layers") == 0
        first = 0 if every else config.size_or("max_window_layers", 28)
        return [window if layer >= first else None for layer in range(layers)]
    if len(types) != layers:
        raise config.refuse("layer_types", f"one type for each of the {layers} layers is needed")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            built = "which is not built; built are full_attention and sliding_attention"
            raise config.refuse("layer_types", f"and one is `{kind}`, {built}")
        if kind == "sliding_attention" and window is None:
            needs = "that needs `use_sliding_window` true and a `sliding_window`"
            raise config.refuse("layer_types", f"and some are `sliding_attention`; {needs}")
    return [window if kind == "sliding_attention" else None for kind in types]


def _number(value: Any) -> Optional[float]:
    # Python's JSON reads NaN and Infinity, which are no number here.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _size(value: Any) -> Optional[int]:
    # `8192.0` is how some tools write a whole number.
    number = _number(value)
    if number is None or number != int(number) or not 0 < number <= _LARGEST_SIZE:
        return None
    return int(number)


def _texts(value: Any) -> Optional[list[str]]:
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _is_neutral(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        multiplier = key.endswith("multiplier") or key.startswith(("logit", "scale_"))
        return bool(value == (1 if multiplier or key in ("partial_rotary_factor", "rotary_pct") else 0))
    if isinstance(value, list):
        return all(one == "full_attention" for one in value)
    return not value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:100] + "..."
