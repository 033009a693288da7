"""`inference info`: what a model says before its weights. No engine is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import click

from inference.cli.model_name import MODEL
from inference.cli.report import bytes_text, json_text, show_json, show_rows, show_table
from inference.errors import CorruptFileError
from inference.folder import Folder, read_folder
from inference.gguf.reader import Header, read_header
from inference.stores import find_model

__all__ = ["command"]

SHOWN = 8
"""Elements of a longer array that are shown."""
SHOWN_CHARACTERS = 400
"""Of a longer text, unless it is wanted as JSON."""

Described = Header | Folder

# What is shown and called the same in the lines and in the JSON; None where the model does not say.
FIGURES: dict[str, Callable[[Described], Any]] = {
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
    "gguf_version": lambda header: header.version if isinstance(header, Header) else None,
    "shards": lambda header: len(header.paths),
}


@click.command("info")
@click.argument("model", type=MODEL)
@click.option("--metadata", is_flag=True, help="Also every metadata key; long arrays are cut.")
@click.option("--tensors", is_flag=True, help="Also every tensor: block format, shape, size.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(model: str, metadata: bool, tensors: bool, as_json: bool) -> None:
    """Show what a model file holds.

    MODEL is a GGUF file, a Hugging Face or MLX folder, or a name from Ollama's or LM Studio's local store. Projectors,
    adapters and other GGUF files are shown as well, with their kind. KV memory is for keys and values in f16. The
    metadata of a folder is its config.json.
    """
    path = find_model(model)
    header = read_folder(path) if path.is_dir() else read_header(path)
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


def _figure(header: Described, figure: Callable[[Described], Any]) -> Any:
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


def _abbreviated(header: Described, key: str) -> str:
    value = header.metadata[key]
    if _is_array(value):
        more = f", ... {len(value):,} in all" if len(value) > SHOWN else ""
        return f"[{', '.join(map(repr, value[:SHOWN]))}{more}]"
    text = json_text(value) if value is None or isinstance(value, Mapping) else _number(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... {len(text):,} characters in all"


def _json_value(header: Described, key: str) -> Any:
    """The value; of a GGUF file's long array its type, its length and its beginning."""
    value = header.metadata[key]
    if not isinstance(header, Header) or not _is_array(value) or len(value) <= SHOWN:
        return value
    return {"type": header.metadata.type_name(key), "length": len(value), "first": list(value[:SHOWN])}


def _is_array(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
