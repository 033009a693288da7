"""What a shell completes MODEL to."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from inference.cli import model_name
from inference.cli.model_name import MODEL
from inference.stores import StoredModel


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("small.gguf", "sample.GGUF", "other.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.gguf").touch()
    stored = [StoredModel("smol:135m", tmp_path / "blob", "Ollama")]
    monkeypatch.setattr(model_name, "list_models", lambda: iter(stored))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(incomplete: str) -> list[tuple[str, str]]:
    context = click.Context(click.Command("run"))
    items = MODEL.shell_complete(context, click.Argument(["model"]), incomplete)
    return [(item.type, item.value) for item in items]


def test_files_folders_and_stored_names_complete() -> None:
    assert completed("s") == [
        ("plain", "sample.GGUF"),
        ("plain", "small.gguf"),
        ("plain", "sub/"),
        ("plain", "smol:135m"),
    ]


def test_files_in_a_folder_complete_with_the_folder() -> None:
    assert completed("sub/") == [("plain", "sub/inner.gguf")]


@pytest.mark.parametrize("incomplete", ["oth", "~/", "nowhere/"])
def test_where_no_model_fits_the_shell_completes_files(incomplete: str) -> None:
    assert completed(incomplete) == [("file", incomplete)]
