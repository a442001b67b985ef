"""Rotary embeddings as configs describe them: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before),
whose type is under `rope_type` or `type`. This module knows the contract's names of the options, and no graph."""

from dataclasses import dataclass, field
from typing import Mapping, Union

from .config import Config
from .errors import Failed

# Every key that one of the built scalings reads. Any other key would be a meaning nobody builds.
_KNOWN = (
    "rope_theta",
    "rope_type",
    "type",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    # Written by the authors of YaRN, read by nobody.
    "finetuned",
)

#: Options of one call, by the contract's names.
Options = Mapping[str, Union[float, str, bool]]


@dataclass(frozen=True)
class Rope:
    """One rotary embedding: how many dimensions of a head it rotates, its base, and its scaling."""

    dims: int
    theta: float = 10_000.0
    #: As the contract's `rope` names them: `{"scaling": "linear", "factor": 4.0}`, `{"interleaved": True}`.
    options: Options = field(default_factory=dict)

    @staticmethod
    def from_config(config: Config, head_dim: int) -> "Rope":
        """Reads the rotary embedding of heads of `head_dim` dimensions, all of them rotated."""
        # transformers lets `rope_scaling` win when both are there.
        section = config.section("rope_scaling") or config.section("rope_parameters")
        theta = config.number_or("rope_theta", 10_000.0)
        if section is None:
            return Rope(head_dim, theta)
        for key in section:
            if section.is_object(key):
                raise section.refuse(key, "a rotary embedding for each type of layer is not built")
            if key not in _KNOWN:
                raise section.refuse(key, "which no rotary embedding that is built has")
        if section.number_or("partial_rotary_factor", 1.0) != 1.0:
            raise section.refuse("partial_rotary_factor", "rotating a part of a head is not built by this family")
        theta = section.number_or("rope_theta", theta)
        kind = section.optional_text("rope_type")
        if kind is None:
            kind = section.optional_text("type")
        kind = "default" if kind is None else kind
        if kind == "default":
            return Rope(head_dim, theta)
        if kind not in _SCALINGS:
            built = "default, linear, dynamic, llama3 and yarn"
            raise Failed(f'config.json: the rope type "{kind}" is not built; built are {built}')
        return Rope(head_dim, theta, {**_SCALINGS[kind](config, section), "scaling": kind})


def _linear(config: Config, section: Config) -> Options:
    return {"factor": section.number("factor")}


def _dynamic(config: Config, section: Config) -> Options:
    return {"factor": section.number("factor"), "max-position": float(config.size("max_position_embeddings"))}


def _llama3(config: Config, section: Config) -> Options:
    return {
        "factor": section.number("factor"),
        "low-freq-factor": section.number("low_freq_factor"),
        "high-freq-factor": section.number("high_freq_factor"),
        "original-max-position": _original_length(config, section),
    }


def _yarn(config: Config, section: Config) -> Options:
    original = _original_length(config, section)
    factor = section.optional_number("factor")
    if factor is None:
        factor = config.size("max_position_embeddings") / original
    options: dict[str, Union[float, str, bool]] = {"factor": factor, "original-max-position": original}
    attention = section.optional_number("attention_factor")
    if attention is not None:
        options["attention-factor"] = attention
    # transformers takes 0 for absent in all four.
    for key, option in (("beta_fast", "beta-fast"), ("beta_slow", "beta-slow")):
        beta = section.number_or(key, 0.0)
        if beta != 0.0:
            options[option] = beta
    magnitude, magnitude_all = section.number_or("mscale", 0.0), section.number_or("mscale_all_dim", 0.0)
    if magnitude != 0.0 and magnitude_all != 0.0:
        options["mscale"], options["mscale-all-dim"] = magnitude, magnitude_all
    truncate = section.optional_flag("truncate")
    if truncate is not None:
        options["truncate"] = truncate
    return options


def _original_length(config: Config, section: Config) -> float:
    """The trained length: outside the rotary section it has priority, and without any it is the length of the model."""
    key = "original_max_position_embeddings"
    outside, inside = config.optional_size(key), section.optional_size(key)
    if outside is None and inside is None:
        return float(config.size("max_position_embeddings"))
    return float(inside if outside is None else outside)  # type: ignore[arg-type]


_SCALINGS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}
