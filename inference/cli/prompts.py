"""The file that many prompts come from: JSON lines, or plain text with a prompt on each line."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

from inference.cli.lines import TOO_LONG, read_line

__all__ = ["Entry", "Line", "PromptFile", "is_jsonl_file", "is_text_file"]

KNOWN = ("prompt", "messages", "id")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, less its line break."""

    index: int
    """Its place in the file, from 0; blank lines count."""
    content: bytes
    is_whole: bool = True
    """Whether `content` is all of it, and not the beginning of a line that is too long."""

    @property
    def number(self) -> int:
        """Its place as editors and error messages count, from 1."""
        return self.index + 1

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that tell this line from another."""
        return blake2b(self.content, digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line asks for: `prompt` or `messages`, or an `error` that says why it is no prompt."""

    prompt: str | list[int] | None = None
    messages: list[Any] | None = None
    id: str | int | float | None = None
    error: str | None = None


class PromptFile:
    """Lines are read one by one, so that the file may be of any size."""

    def __init__(self, path: str, *, is_text: bool) -> None:
        """`path` may be "-", standard input. `is_text`: a line is a prompt as it stands, and no JSON."""
        self.path = path
        self.name = "standard input" if path == "-" else Path(path).name
        self._is_text = is_text

    @property
    def rereadable(self) -> bool:
        """Whether it can be read twice: a pipe cannot."""
        return self.path != "-" and Path(self.path).is_file()

    def __iter__(self) -> Iterator[Line]:
        """Its lines, blank ones left out."""
        with nullcontext(sys.stdin.buffer) if self.path == "-" else Path(self.path).open("rb") as file:
            for index in count():
                raw, is_whole = read_line(file)
                if not raw:
                    return
                content = (raw if index else raw.removeprefix(BYTE_ORDER_MARK)).rstrip(b"\r\n")
                if content.strip() or not is_whole:
                    yield Line(index, content, is_whole)

    def fingerprints(self) -> array[int]:
        """For each line its fingerprint as a number, 0 for a blank one: 8 bytes a line."""
        numbers = array("Q")
        for line in self:
            numbers.extend([0] * (line.index - len(numbers)))
            numbers.append(int(line.fingerprint, 16))
        return numbers

    def entry(self, line: Line) -> Entry:
        """What the line asks for."""
        if not line.is_whole:
            return Entry(error=f"The line is {TOO_LONG}.")
        try:
            text = line.content.decode()
            if self._is_text:
                return Entry(prompt=text)
            content = json.loads(text)
            if "\\u" in text:  # escapes may write half a character, which no tokenizer takes
                json.dumps(content, ensure_ascii=False).encode()
            return _entry(content)
        except UnicodeEncodeError:
            return Entry(error="The line has half a surrogate pair, which is no character.")
        except UnicodeDecodeError as error:
            return Entry(error=f"The line is not UTF-8 text: {error}.")
        except json.JSONDecodeError as error:
            return Entry(error=f"The line is not JSON: {error.msg} at character {error.colno}.")
        except (ValueError, RecursionError) as error:  # a number, or a nesting, of many thousand characters
            return Entry(error=f"The line is JSON that cannot be read: {error}.")


def is_text_file(path: str) -> bool:
    """Whether the name is that of a plain text file."""
    return Path(path).suffix.lower() in (".txt", ".text")


def is_jsonl_file(path: str) -> bool:
    """Whether the name is that of a file of JSON lines."""
    return Path(path).suffix.lower() in (".jsonl", ".ndjson", ".json")


def _entry(content: Any) -> Entry:
    if not isinstance(content, dict):
        return Entry(error='The line is no JSON object such as {"prompt": "Hello"}.')
    name, prompt, messages = content.get("id"), content.get("prompt"), content.get("messages")
    if isinstance(name, bool | list | dict):
        return Entry(error='"id" must be text or a number.')
    if unknown := [key for key in content if key not in KNOWN]:
        return Entry(id=name, error=f'Unknown key {unknown[0]!r}. A line has "prompt" or "messages", and "id".')
    if (prompt is None) == (messages is None):
        return Entry(id=name, error='The line must have either "prompt" or "messages".')
    if messages is not None:
        good = isinstance(messages, list) and all(isinstance(turn, dict) for turn in messages)
        return (
            Entry(messages=messages, id=name) if good else Entry(id=name, error='"messages" must be a list of objects.')
        )
    if not isinstance(prompt, str | list):
        return Entry(id=name, error='"prompt" must be text, or a list of token ids.')
    return Entry(prompt=prompt, id=name)
