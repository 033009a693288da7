"""What the calls for many prompts return."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from inference.engine.feed import Feed
from inference.types import Classification, Token

__all__ = ["BatchStream", "ClassificationStream"]

T = TypeVar("T")


class _Stream(Generic[T]):
    """What both share: whoever leaves the `with` block, closes or drops it frees its slots within one step."""

    def __init__(self, feed: Feed[T], owner: object) -> None:
        self._feed = feed
        self._owner: object | None = owner  # the model must not be collected, and so closed, while this is read

    def __iter__(self) -> Self:
        return self

    def close(self) -> None:
        """Cancel what is under way; take and give no more."""
        self._feed.close()
        self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None:
            feed.close()


class BatchStream(_Stream[Token], Iterator[tuple[int, Token]]):
    """The tokens of many prompts, each with its prompt's index, as they come."""

    def __next__(self) -> tuple[int, Token]:
        item = self._feed.get()
        if item is None:
            self._owner = None
            raise StopIteration
        if item[1].finish is not None:
            self._feed.ended(item[0])
        return item


class ClassificationStream(_Stream[Classification], Iterator[Classification]):
    """One `Classification` for each prompt, in the order of the prompts."""

    def __init__(self, feed: Feed[Classification], owner: object) -> None:
        super().__init__(feed, owner)
        self._next = 0
        self._early: dict[int, Classification] = {}

    def __next__(self) -> Classification:
        while self._next not in self._early:
            item = self._feed.get()
            if item is None:
                self._owner = None
                raise StopIteration
            self._early[item[0]] = item[1]
        self._next += 1
        self._feed.ended(self._next - 1)  # not before it is handed over: what waits here counts as under way
        return self._early.pop(self._next - 1)

    def close(self) -> None:
        super().close()
        self._early.clear()
