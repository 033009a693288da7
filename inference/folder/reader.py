"""`read_folder`: everything that a model folder says before its weights, checked. No code of the folder is run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from inference.errors import (
    ModelFileError,
    ModelIsDirectoryError,
    NotALanguageModelError,
    SplitFileError,
    UnsupportedModelError,
)
from inference.folder.documents import Document, damaged, read_document, read_text
from inference.folder.figures import Figures
from inference.folder.folder import Folder, SpecialTokens
from inference.folder.quantization import read_quantization
from inference.folder.safetensors import StoredTensor, read_tensors
from inference.folder.sampling import folder_sampling, sampling_metadata

__all__ = ["is_folder", "read_folder"]

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model*.safetensors"
"""What the weights' files are called, for Hugging Face and for MLX."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_MODEL_TYPE = re.compile(r"\w[\w-]*", re.ASCII)


def is_folder(path: Path) -> bool:
    """Whether `path` is a directory that has a config.json."""
    try:
        return (path / CONFIG).is_file()
    except OSError:
        return False


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """The model in a directory that has config.json, model*.safetensors and tokenizer.json. Weights are not touched.

    Raises:
        ModelIsDirectoryError: the directory has no config.json.
        NotALanguageModelError: it holds an adapter.
        ModelFileError: tokenizer.json or the weights are missing, or come in a form that is not read.
        SplitFileError: a file of the weights is missing.
        EmptyFileError, TruncatedFileError, CorruptFileError: a file is damaged.
        UnsupportedModelError: the model comes with code of its own.
    """
    path = Path(path)
    if not is_folder(path):
        raise _no_model(path)
    config = read_document(path / CONFIG)
    architecture = _architecture(config)
    paths = _weight_files(path)
    tensors = _tensors(path, paths)
    if not (path / TOKENIZER).is_file():
        raise ModelFileError(
            f"{path} has no {TOKENIZER}, and no other tokenizer is read. Take the model's GGUF file, or make one with "
            'transformers: AutoTokenizer.from_pretrained("...").save_pretrained("...").'
        )
    tokenizer_config = read_document(path / "tokenizer_config.json", required=False)
    generation = read_document(path / "generation_config.json", required=False)
    figures = Figures(config, tensors)
    context = figures.train_context_length
    return Folder(
        path=path,
        paths=paths,
        config=MappingProxyType(dict(config.values)),
        tensors=MappingProxyType(tensors),
        name=_name(path),
        architecture=architecture,
        layers=figures.layers,
        train_context_length=context,
        vocabulary_size=figures.vocabulary_size,
        kv_elements_per_token=figures.kv_elements_per_token,
        quantized_as=read_quantization(config),
        special_tokens=_special_tokens(config, generation, tokenizer_config),
        chat_template=_chat_template(path, tokenizer_config),
        sampling=folder_sampling(generation, context),
        sampling_metadata=sampling_metadata(generation),
    )


def _architecture(config: Document) -> str:
    if config.text("model_file") is not None:
        raise UnsupportedModelError(
            f"{config.path} wants the program {config.values['model_file']!r} of its folder to be run, which is not "
            "done: it could do anything. Take the model's GGUF file, or another conversion."
        )
    architecture = config.text("model_type")
    if architecture is None:
        raise damaged(config.path, "it has no `model_type`")
    if not _MODEL_TYPE.fullmatch(architecture):  # engines look for a module of this name
        raise config.wrong("model_type", "a name of letters, digits, _ and -")
    return architecture


def _name(path: Path) -> str:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links, whose targets are nameless
    repository = absolute.parent.parent.name
    if absolute.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return absolute.name or str(absolute)


# Weights -------------------------------------------------------------------------------------------------------------


def _weight_files(path: Path) -> tuple[Path, ...]:
    paths = _listed(path, WEIGHTS)
    if not paths:
        raise _no_weights(path)
    if not (path / "model.safetensors").is_file():  # beside that one, an index is left from before
        names = {file.name for file in paths}
        missing = [name for name in _announced(path, names) if name not in names]
        if missing:
            raise SplitFileError(
                f"The file {path / missing[0]} is missing; download all files of the weights into the same folder."
            )
    return tuple(paths)


def _announced(path: Path, names: set[str]) -> Sequence[str]:
    """The files of which the weights consist, by the index, else by their own names."""
    index = read_document(path / INDEX, required=False)
    if (places := index.section("weight_map")) is not None:
        files = sorted({places.text(tensor) or "" for tensor in places.values})
        strange = next((file for file in files if not re.fullmatch(r"[^/\\]+\.safetensors", file)), None)
        if strange is not None:
            raise damaged(index.path, f"it names {strange!r}, no safetensors file beside it")
        return files
    counts = {int(shard[2]) for shard in map(_SHARD.fullmatch, names) if shard}
    return [f"model-{number + 1:05}-of-{count:05}.safetensors" for count in counts for number in range(count)]


def _tensors(path: Path, paths: Sequence[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in paths:
        for tensor in read_tensors(file):
            if tensor.name in tensors:
                both = f"{file.name} has the tensor `{tensor.name}`, and so has {tensors[tensor.name].path.name}"
                raise SplitFileError(f"{path}: {both}. Remove the file that does not belong there.")
            tensors[tensor.name] = tensor
    if not tensors:
        raise damaged(paths[0], "it holds no tensors")
    return tensors


def _no_weights(path: Path) -> ModelFileError:
    gguf, other = _listed(path, "*.gguf"), _listed(path, "*.safetensors")
    if gguf:
        return _name_the_file(path, gguf)
    pickles = [file.name for file in _listed(path, "*") if file.suffix in _PICKLES]
    if pickles:
        return ModelFileError(
            f"{path} has its weights as {pickles[0]}, a pickle, which can run any code when it is read. Take the "
            "model's safetensors, or its GGUF file."
        )
    found = f" {other[0].name} is not called so." if other else ""
    return ModelFileError(f"{path} has a {CONFIG}, but no weights ({WEIGHTS}).{found} Download the whole folder.")


def _no_model(path: Path) -> ModelFileError:
    if gguf := _listed(path, "*.gguf"):
        return _name_the_file(path, gguf)
    if _listed(path, "adapter_config.json"):
        return NotALanguageModelError(
            f"{path} is an adapter (LoRA), which only changes a language model; merge it into its base model and load "
            "the result."
        )
    return ModelIsDirectoryError(
        f"{path} is a directory without a {CONFIG}. Name a .gguf file, or a folder with {CONFIG}, {WEIGHTS} and "
        f"{TOKENIZER}."
    )


def _name_the_file(path: Path, files: Sequence[Path]) -> ModelIsDirectoryError:
    return ModelIsDirectoryError(f"{path} is a directory; name the .gguf file in it, such as {files[0].name}.")


def _listed(path: Path, pattern: str) -> list[Path]:
    try:
        return sorted(path.glob(pattern))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error


# Tokens and the chat template ----------------------------------------------------------------------------------------


def _special_tokens(config: Document, generation: Document, tokenizer_config: Document) -> SpecialTokens:
    sections = [config.section("text_config"), config, generation]
    ends = [section.counts("eos_token_id") or [] for section in sections if section]
    begins = [section.counts("bos_token_id") or [] for section in sections if section]
    return SpecialTokens(
        bos=_special_token(tokenizer_config, "bos_token", begins),
        eos=_special_token(tokenizer_config, "eos_token", ends),
        ends=tuple(dict.fromkeys(token for ids in ends for token in ids)),
        add_bos=tokenizer_config.boolean("add_bos_token"),
        add_eos=tokenizer_config.boolean("add_eos_token"),
    )


def _special_token(tokenizer_config: Document, key: str, ids: Sequence[Sequence[int]]) -> str | int | None:
    """The text that tokenizer_config.json has for a token, else the id that the other documents have. Where it writes
    null the model has no such token, whatever the others say."""
    if key not in tokenizer_config:
        return next((found[0] for found in reversed(ids) if found), None)
    value = tokenizer_config.values[key]
    section = tokenizer_config.section(key) if isinstance(value, dict) else None
    return section.text("content") if section else tokenizer_config.text(key)


def _chat_template(path: Path, tokenizer_config: Document) -> str | None:
    source = read_text(path / "chat_template.jinja", required=False)
    if source is not None:
        return source
    for document in (tokenizer_config, read_document(path / "chat_template.json", required=False)):
        templates = document.values.get("chat_template")
        if isinstance(templates, list):
            return _default_template(document, templates)
        if templates is not None:
            return document.text("chat_template")
    return None


def _default_template(document: Document, templates: Sequence[Any]) -> str | None:
    """The template called "default" in a list of named ones, or the only one."""
    if not all(
        isinstance(entry, dict) and isinstance(entry.get("template"), str) and isinstance(entry.get("name"), str)
        for entry in templates
    ):
        raise document.wrong("chat_template", "a string, or a list of named templates")
    named = {entry.get("name"): entry["template"] for entry in templates}
    return named.get("default", templates[0]["template"] if len(templates) == 1 else None)
