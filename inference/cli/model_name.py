"""The MODEL argument: a GGUF file, a model folder, or a name that a local model store knows."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from inference.errors import ModelFileError
from inference.stores import find_model, list_models

__all__ = ["MODEL", "is_model_name"]


class ModelName(click.ParamType[str]):
    """Passed on as it is; a shell completes it to *.gguf files and stored names."""

    name = "model"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        directory, start = os.path.split(incomplete)
        try:
            entries = sorted(Path(directory or ".").iterdir())
        except OSError:  # no such directory, or one with ~ in it that only the shell can read
            entries = []
        here = [entry for entry in entries if entry.name.startswith(start)]
        files = [entry for entry in here if entry.suffix.lower() == ".gguf"]
        names = [stored.name for stored in list_models() if stored.name.startswith(incomplete)]
        if not files and not names:
            return [CompletionItem(incomplete, type="file")]  # the shell's own completion
        directories = [f"{entry.name}/" for entry in here if entry.is_dir()]
        found = [os.path.join(directory, name) for name in [*(file.name for file in files), *directories]]  # noqa: PTH118
        return [CompletionItem(value) for value in [*found, *names]]


MODEL = ModelName()


def is_model_name(word: str) -> bool:
    """Whether `word` is meant as a model and not as a prompt: it names a file, a model folder or a stored model, or it
    looks like a path."""
    if word.lower().endswith(".gguf"):
        return True
    if any(character.isspace() for character in word) or not word:
        return False
    if "/" in word or os.sep in word:
        return True
    from inference.folder import is_folder  # late: commands that are always given a model do not ask

    try:
        found = find_model(word)
        return found.is_file() or is_folder(found)
    except (ModelFileError, OSError, ValueError):
        return False
