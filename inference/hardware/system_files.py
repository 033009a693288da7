"""Reading the small files by which Linux describes itself. What is not there, or not as expected, is None."""

from __future__ import annotations

from pathlib import Path

__all__ = ["names_in", "number_in", "text_in"]


def text_in(path: Path) -> str | None:
    """The file's text without surrounding white space."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """The file's one number, decimal or hexadecimal ("0x1002")."""
    try:
        return int(text_in(path) or "", 0)
    except ValueError:
        return None


def names_in(folder: Path) -> list[str]:
    """The names in a directory, sorted; none if it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
