"""`inference info`: what a file's header says. No engine is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from inference.cli.model_name import MODEL
from inference.cli.report import bytes_text, show_json, show_rows, show_table
from inference.errors import CorruptFileError
from inference.gguf.reader import Header, read_header
from inference.stores import find_model

__all__ = ["command"]

SHOWN = 8
"""Elements of a longer array that are shown."""
SHOWN_CHARACTERS = 400
"""Of a longer text, unless it is wanted as JSON."""

# What is shown and called the same in the lines and in the JSON; None where the file does not say.
FIGURES: dict[str, Callable[[Header], Any]] = {
    "path": lambda header: header.path,
    "name": lambda header: header.name,
    "kind": lambda header: header.kind,
    "architecture": lambda header: header.architecture or None,
    "quantization": lambda header: header.quantization,
    "parameters": lambda header: header.parameters,
    "size_bytes": lambda header: header.size_bytes,
    "layers": lambda header: header.layers,
    "train_context_length": lambda header: header.train_context_length,
    "vocabulary_size": lambda header: header.vocabulary_size or None,
    "kv_bytes_per_token": lambda header: header.kv_bytes_per_token("f16"),
    "chat_template": lambda header: header.chat_template is not None,
    "sampling": lambda header: header.sampling_metadata,
    "gguf_version": lambda header: header.version,
    "shards": lambda header: len(header.paths),
}


@click.command("info")
@click.argument("model", type=MODEL)
@click.option("--metadata", is_flag=True, help="Also every metadata key; long arrays are cut.")
@click.option("--tensors", is_flag=True, help="Also every tensor: block format, shape, size.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(model: str, metadata: bool, tensors: bool, as_json: bool) -> None:
    """Show what a model file holds.

    MODEL is a GGUF file, or a name from Ollama's or LM Studio's local store. Projectors, adapters and other GGUF files
    are shown as well, with their kind. KV memory is for keys and values in f16.
    """
    header = read_header(find_model(model))
    figures = {name: _figure(header, figure) for name, figure in FIGURES.items()}
    if as_json:
        document: dict[str, Any] = dict(figures)
        if metadata:
            document["metadata"] = {key: _json_value(header, key) for key in header.metadata}
        if tensors:
            document["tensors"] = [
                {"name": t.name, "type": t.type, "shape": list(t.shape), "size_bytes": t.size_bytes}
                for t in header.tensors.values()
            ]
        show_json(document)
        return
    show_rows((_words(name), _text(name, value)) for name, value in figures.items() if value is not None)
    if metadata:
        show_rows((key, _abbreviated(header, key)) for key in header.metadata)
    if tensors:
        rows = [
            (tensor.name, tensor.type, " x ".join(map(str, tensor.shape)), bytes_text(tensor.size_bytes))
            for tensor in header.tensors.values()
        ]
        show_table(("Tensor", "Format", "Shape", "Size"), rows)


def _figure(header: Header, figure: Callable[[Header], Any]) -> Any:
    """The figure, None where the file does not say: an adapter has no layers."""
    try:
        return figure(header)
    except CorruptFileError:
        return None


def _words(name: str) -> str:
    return {"size_bytes": "size", "kv_bytes_per_token": "KV bytes per token", "gguf_version": "GGUF version"}.get(
        name, name.replace("_", " ")
    )


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "size_bytes":
        return f"{bytes_text(value)} ({value:,} bytes)"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items()) or "none"
    return str(value)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _abbreviated(header: Header, key: str) -> str:
    value, length = header.metadata[key], header.metadata.length(key)
    if length is not None and not isinstance(value, (str, int, float)):
        more = f", ... {length:,} in all" if length > SHOWN else ""
        return f"[{', '.join(map(repr, value[:SHOWN]))}{more}]"
    text = _number(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... {len(text):,} characters in all"


def _json_value(header: Header, key: str) -> Any:
    """The value; of a long array its type, its length and its beginning."""
    value, length = header.metadata[key], header.metadata.length(key)
    if length is None or isinstance(value, (str, int, float)):
        return value
    if length <= SHOWN:
        return list(value)
    return {"type": header.metadata.type_name(key), "length": length, "first": list(value[:SHOWN])}
