"""The `rope.*` keys of a file, and the ropes that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from inference.gguf.architectures.entry import Architecture
from inference.gguf.architectures.figures import real, whole
from inference.gguf.architectures.rope import Rope, Yarn
from inference.gguf.header import Header
from inference.gguf.unsupported import unsupported

__all__ = ["Ropes"]

_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Ropes:
    """The rope of layers that see all, and that of layers with a window."""

    full: Rope
    windowed: Rope
    original_context_length: int
    """Tokens that the model was trained for before its context was extended."""
    has_longrope: bool
    """Whether `rope.scaling.type` says so."""

    @property
    def dimensions(self) -> int:
        return self.full.dimensions

    def of_layer(self, windowed: bool) -> Rope:
        return self.windowed if windowed else self.full

    @classmethod
    def of(cls, header: Header, entry: Architecture, head_length: int) -> Ropes:
        """Read as llama.cpp does: load_hparams, and for YaRN's magnitude the constructor of llama_context.

        Raises:
            UnsupportedModelError: the scaling is none of those known, the rope turns more of a head or less than it
                may, or a figure is one that no rope can be computed with.
            CorruptFileError: a key is of another type.
        """
        key = header.architecture_key
        scaling = header.text(key("rope.scaling.type"), "linear")
        if scaling not in _SCALINGS:
            raise unsupported(header.path, f"`{key('rope.scaling.type')}` = {scaling!r}", _SCALINGS)
        dimensions = header.integer(key("rope.dimension_count"), head_length)
        least = 2 if entry.partial_rotary else head_length
        if not least <= dimensions <= head_length or dimensions % 2:
            raise unsupported(
                header.path, f"`{key('rope.dimension_count')}` = {dimensions} for heads of {head_length} elements"
            )
        original = whole(header, "rope.scaling.original_context_length", 0) or header.train_context_length
        trained_scale = _scale(header)
        if scaling == "yarn" and trained_scale > 1:
            raise unsupported(header.path, f"YaRN with a factor of {1 / trained_scale:g}, where at least 1 must be")
        full = Rope(
            entry.rope_order,
            dimensions,
            base=real(header, "rope.freq_base", 10_000.0, above=1),
            scale=1.0 if scaling == "none" else trained_scale,
            yarn=Yarn(original) if scaling == "yarn" else None,
            magnitude=real(header, "rope.scaling.attn_factor", 1.0, above=0),
        )
        windowed = _windowed(header, entry, full, trained_scale)
        return cls(
            _with_yarn_magnitude(full, full.scale),
            _with_yarn_magnitude(windowed, full.scale),
            original,
            has_longrope=scaling == "longrope",
        )


def _windowed(header: Header, entry: Architecture, full: Rope, trained_scale: float) -> Rope:
    """The rope of layers with a window, before its magnitude is YaRN's."""
    rule = entry.windows
    if rule is None:
        return full
    base = full.base if rule.own_base is None else rule.own_base
    if rule.base_key:
        base = real(header, "rope.freq_base_swa", base, above=1)
    rope = replace(full, base=base, scale=trained_scale if rule.scaled else 1.0)
    return rope if rule.yarn else replace(rope, yarn=None, magnitude=1.0)


def _with_yarn_magnitude(rope: Rope, full_scale: float) -> Rope:
    """YaRN raises the magnitude by 0.1 x ln(factor). llama.cpp first takes from it what the full layers' factor would
    add where that is below 1, since ggml's rope adds it by each layer's own factor."""
    if rope.yarn is None:
        return rope
    factor = 1 / full_scale
    wanted = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
    own = 1 + 0.1 * math.log(1 / rope.scale)
    return replace(rope, magnitude=rope.magnitude * wanted / (1 + 0.1 * math.log(factor)) * own)


def _scale(header: Header) -> float:
    """1 / the scaling factor, which older files keep under another key; 0 means that there is none."""
    factor = real(header, "rope.scaling.factor", real(header, "rope.scale_linear", 0.0))
    return 1.0 if factor == 0 else 1 / factor
