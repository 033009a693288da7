"""How config.json says that the matrices are quantised: in MLX's way, or in one of Hugging Face's."""

from __future__ import annotations

from inference.folder.documents import Document
from inference.folder.folder import Quantization

__all__ = ["read_quantization"]


def read_quantization(config: Document) -> Quantization | None:
    """What `quantization` (MLX) or `quantization_config` (Hugging Face) says, None if there is neither.

    Raises:
        CorruptFileError: a figure in it is of the wrong type or impossible.
    """
    if (section := config.section("quantization")) is not None:
        bits = _bits(section, "bits")
        if bits is None:
            raise config.wrong("quantization", "an object with `bits`")
        mode = section.text("mode") or "affine"
        layers = {name: section.section(name) for name, value in section.values.items() if isinstance(value, dict)}
        own = {name: _bits(layer, "bits") for name, layer in layers.items() if layer}
        return Quantization(
            f"{bits}-bit" if mode == "affine" else mode, bits, {name: value for name, value in own.items() if value}
        )
    text_config = config.section("text_config")
    section = config.section("quantization_config") or (text_config and text_config.section("quantization_config"))
    if section is None:
        return None
    method, bits = section.text("quant_method") or "quantised", _bits(section, "bits", "w_bit")
    return Quantization(f"{method} {bits}-bit" if bits else method, bits)


def _bits(section: Document, *keys: str) -> int | None:
    bits = section.count(*keys)
    if bits is not None and not 1 <= bits <= 32:
        key = next(key for key in keys if section.values.get(key) is not None)
        raise section.wrong(key, "between 1 and 32")
    return bits
