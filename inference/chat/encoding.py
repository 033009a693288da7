"""A chat as token ids: what a message says never becomes a control token."""

from __future__ import annotations

import functools
import itertools
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inference.chat.template import ChatTemplate, plain_options, plain_turns
from inference.errors import ChatTemplateError
from inference.protocols import Tokenizer
from inference.types import Message

__all__ = ["encode_chat"]

_GUARDS = tuple(map(chr, range(0x10FFFF, 0x10F000, -1)))
"""Characters to break a look-alike with: no tokenizer merges their bytes with a neighbour's."""

BEGINNING = 256
"""Characters of a control token's text that tell it: who breaks its beginning has broken it."""


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Iterable[Message | Mapping[str, Any]],
    template_options: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of the rendered messages: one BOS where the model wants one, no EOS.

    Only what the template writes becomes a control token. Where a message holds the text of one, a guard character is
    put into that text before the rendering and taken out of the ids afterwards. Not to parse it would be too little: a
    vocabulary may merge "</", "s" and ">" to the control token all the same.

    Tokens that a vocabulary calls user-defined, not control (`<think>`, Command R's turns), are kept out of what users
    and tools say too, if the template writes them; the system's and the assistant's own words may use them. A control
    token of a single character is not kept out.

    Raises:
        ChatTemplateError: as `ChatTemplate.render`.
    """
    turns, options = plain_turns(messages), plain_options(template_options or {})
    text = template.render_plain(turns, options)
    texts = tuple(tokenizer.control_texts())
    control = _look_alikes(texts)
    everything = _look_alikes((*texts, *(tag for tag in template.tags if _is_one_token(tokenizer, tag))))

    def guarded(guard: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        trusted = ("system", "developer", "assistant")
        return (
            [_guarded(turn, control if turn["role"] in trusted else everything, guard) for turn in turns],
            {k: v if k.endswith("_token") else _guarded(v, everything, guard) for k, v in options.items()},
        )

    if guarded(_GUARDS[0]) == (turns, options):
        return _with_bos(tokenizer, text, _encode(tokenizer, text))

    used = set().union(template.source, *_strings(turns), *_strings(options))
    free = (guard for guard in _GUARDS if guard not in used and _escaped(guard) not in text)
    broken = guard = ""
    for guard in itertools.islice(free, 4):
        broken = template.render_plain(*guarded(guard)).replace(_escaped(guard), guard)
        ids = _without_guard(tokenizer, broken, guard)
        if ids is not None:
            return _with_bos(tokenizer, broken, ids)
    if not guard:
        raise ChatTemplateError("The messages use every character that could guard the control tokens' texts in them.")
    # The vocabulary has no tokens for such characters. The pieces are safe apart as well, though a SentencePiece
    # vocabulary may begin each with a space.
    ids = [token for piece in broken.split(guard) for token in _encode(tokenizer, piece)]
    return _with_bos(tokenizer, broken, ids)


class _LookAlikes:
    """Finds the texts of control tokens in other text."""

    def __init__(self, texts: Iterable[str]) -> None:
        # A SentencePiece vocabulary writes a space as U+2581 and reads either as the other.
        spelt = {spelling[:BEGINNING] for text in texts for spelling in (text, text.replace("\u2581", " "))}
        self._beginnings: list[str] = []
        """Sorted, none the beginning of another: where a longer one is, the shorter one is found."""
        for text in sorted(spelling for spelling in spelt if len(spelling) > 1):
            if not self._beginnings or not text.startswith(self._beginnings[-1]):
                self._beginnings.append(text)
        self._longest = max(map(len, self._beginnings), default=0)
        self._first = re.compile("|".join(map(re.escape, {text[0] for text in self._beginnings})) or "(?!)")

    def broken(self, text: str, guard: str, *, joined: bool) -> str:
        """`text` with `guard` after the first character of each look-alike, overlapping ones included, so that none is
        left. `joined`: what the template puts behind the text may complete one that begins at its end."""
        end = len(text.rstrip()) if joined else 0  # a template may trim
        places = [
            match.end()
            for match in self._first.finditer(text)
            if self._is_at(text, match.start()) or self._begins_at(text, match.start(), end)
        ]
        return guard.join(text[start:stop] for start, stop in itertools.pairwise((0, *places, len(text))))

    def _is_at(self, text: str, start: int) -> bool:
        # In order, a text comes right behind its own beginning: what lay between would begin with that, too.
        place = bisect_right(self._beginnings, text[start : start + self._longest])
        return place > 0 and text.startswith(self._beginnings[place - 1], start)

    def _begins_at(self, text: str, start: int, end: int) -> bool:
        """Whether the text of a control token begins with what is between `start` and `end`."""
        if not 0 < end - start < self._longest:
            return False
        tail = text[start:end]
        place = bisect_left(self._beginnings, tail)
        return place < len(self._beginnings) and self._beginnings[place].startswith(tail)


@functools.lru_cache(maxsize=8)
def _look_alikes(texts: tuple[str, ...]) -> _LookAlikes:
    return _LookAlikes(texts)


def _guarded(value: Any, look_alikes: _LookAlikes, guard: str, key: str = "") -> Any:
    """A copy of plain data in which every look-alike is broken. `key` is what the value stands under."""
    if isinstance(value, str):
        # Only these are put one behind the other with nothing between. Others, a role say, the template compares.
        return look_alikes.broken(value, guard, joined=key in ("content", "text"))
    if isinstance(value, dict):
        return {_guarded(k, look_alikes, guard): _guarded(v, look_alikes, guard, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_guarded(item, look_alikes, guard, key) for item in value)
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(_strings(item) for pair in value.items() for item in pair)
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_strings, value))


def _without_guard(tokenizer: Tokenizer, text: str, guard: str) -> list[int] | None:
    """Ids of `text` less those of `guard`; None where the guard has no tokens of its own in them."""
    ids = _encode(tokenizer, text)
    parts = [tokenizer.token_bytes(token) for token in ids]
    whole, mark = b"".join(parts), guard.encode()
    if whole.count(mark) != text.count(guard):
        return None
    is_guard = bytearray(len(whole))
    for match in re.finditer(re.escape(mark), whole):
        is_guard[match.start() : match.end()] = b"\1" * len(mark)
    kept, start = [], 0
    for token, part in zip(ids, parts, strict=True):
        share = is_guard[start : start + len(part)]
        start += len(part)
        if not any(share):
            kept.append(token)
        elif not all(share):
            return None
    return kept


def _escaped(guard: str) -> str:
    """As `tojson(ensure_ascii=true)` writes it."""
    return json.dumps(guard)[1:-1]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False, parse_special=True)


def _is_one_token(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the vocabulary has a token for `text`, one that even plain text becomes."""
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    return len(ids) == 1 and tokenizer.control_text(ids[0]) == text


def _with_bos(tokenizer: Tokenizer, text: str, ids: list[int]) -> list[int]:
    """`ids` of `text` with exactly one BOS if the model wants one or the template writes one."""
    bos = tokenizer.bos_token
    if bos is None:
        return ids
    while ids[:2] == [bos, bos]:
        ids = ids[1:]
    # Asked of the tokenizer itself, by an example: some models have a BOS and do not want it.
    wanted = tokenizer.encode("a", add_special=True)[:1] == [bos]
    written = ids[:1] == [bos] or text.lstrip().startswith(tokenizer.control_text(bos) or "\0")
    return [bos, *ids] if wanted and not written else ids
