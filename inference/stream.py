"""The consumer's end of a sequence: an iterator of tokens, and the channel behind it."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from inference.types import Finish, FinishReason, GenerateStats, Token

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Channel", "NumberedChannel", "TokenChannel", "TokenStream"]

T = TypeVar("T")


class Channel(ABC, Generic[T]):
    """Carries what one request makes from the engine's thread to its consumer, and the wish to cancel back.

    The engine knows the channel and not the consumer: so a consumer that nobody holds is collected, and cancels.
    """

    __slots__ = ("_held", "cancelled", "notify")

    def __init__(self) -> None:
        self._held: list[T] = []
        self.cancelled = False
        self.notify: Callable[[Channel[T]], object] | None = None
        """Told of the wish to cancel; the engine sets it. It may be called from a finalizer."""

    @abstractmethod
    def _put(self, item: T) -> None:
        """Give the item to the consumer, without blocking."""

    def hold(self, item: T) -> None:
        """Keep an item for `flush`. Called on the engine's thread, as the next two."""
        self._held.append(item)

    def flush(self) -> None:
        """Hand over what is held."""
        held, self._held = self._held, []
        for item in held:
            self._put(item)

    def put(self, item: T) -> None:
        """Hand over what is held, then `item`."""
        self.flush()
        self._put(item)

    def cancel(self) -> None:
        """Ask for the end. May be called on any thread, and more than once."""
        if not self.cancelled:
            self.cancelled = True
            notify = self.notify
            if notify is not None:
                notify(self)


class NumberedChannel(Channel[T]):
    """The channel of one request among many with one consumer: it puts its number beside each item."""

    __slots__ = ("_number", "_queue")

    def __init__(self, queue: queue.SimpleQueue[tuple[int, T]], number: int) -> None:
        super().__init__()
        self._queue = queue
        self._number = number

    def _put(self, item: T) -> None:
        self._queue.put((self._number, item))


class TokenChannel(Channel[Token]):
    """The channel of one sequence, with one consumer that waits for its tokens."""

    __slots__ = ("_queue", "ended", "finish", "get", "get_nowait", "wake")

    def __init__(self) -> None:
        super().__init__()
        # SimpleQueue: its put never blocks and may be called from a finalizer.
        self._queue: queue.SimpleQueue[Token] = queue.SimpleQueue()
        self.get = self._queue.get
        self.get_nowait = self._queue.get_nowait
        self.finish: Finish | None = None
        self.ended = threading.Event()
        """Set once `finish` is there."""
        self.wake: Callable[[], object] | None = None
        """Called after each put, while an asyncio consumer waits."""

    def _put(self, item: Token) -> None:
        self._queue.put(item)
        if item.finish is not None:
            self.finish = item.finish
            self.ended.set()
        wake = self.wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the event loop that waited is closed; whoever reads on finds the token in the queue
                self.wake = None


class TokenStream(Iterator[Token], AsyncIterator[Token]):
    """The tokens of one call, as they are made: iterate with `for` or `async for`, in one place only.

    Errors are raised from the iteration, in place of the last token. Leaving a `with` block, `close()`, `cancel()` and
    garbage collection all end the sequence and free its slot within one step. Not read, tokens wait in a buffer, at
    most `max_tokens` of them.
    """

    def __init__(self, channel: TokenChannel, owner: object) -> None:
        self._channel = channel
        self._owner: object | None = owner  # the model must not be collected, and so closed, while a stream is read
        self._finish: Finish | None = None
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        if self._finish is not None or self._closed:
            raise StopIteration
        return self._received(self._channel.get())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        if self._finish is not None or self._closed:
            raise StopAsyncIteration
        try:
            return self._received(self._channel.get_nowait())
        except queue.Empty:
            return self._received(await self._arrival())

    async def _arrival(self) -> Token:
        """Waits for the next token without blocking the event loop."""
        import asyncio  # late: a synchronous user should not pay for it

        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._channel.wake = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                try:  # after `wake` is set: a token put before that is seen here, one put later wakes
                    return self._channel.get_nowait()
                except queue.Empty:
                    await arrived.wait()
                    arrived.clear()
        finally:
            self._channel.wake = None

    def _received(self, token: Token) -> Token:
        if token.finish is not None:
            self._finish = token.finish
            self._owner = None
            if token.finish.error is not None:
                raise token.finish.error
        return token

    def text(self) -> str:
        """Wait for the end; the joined text of all tokens that were not read yet.

        Raises:
            InferenceError: what ended the sequence, if an error did.
        """
        return "".join([token.text for token in self])

    def cancel(self) -> None:
        """End the sequence within one step. What was made before can still be read; `finish_reason` becomes
        "cancelled" unless it had ended already."""
        self._channel.cancel()

    def close(self) -> None:
        """Cancel, and read no more."""
        self._closed = True
        self.cancel()
        self._owner = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the sequence ended; None until its last token was read. After `close()` this waits for that token, which
        takes one step at most."""
        finish = self._settled()
        return finish.reason if finish else None

    @property
    def stats(self) -> GenerateStats | None:
        """What the call cost; None until its last token was read. After `close()` this waits, as `finish_reason`."""
        finish = self._settled()
        return finish.stats if finish else None

    def _settled(self) -> Finish | None:
        if self._closed and self._finish is None:
            self._channel.ended.wait()
            self._finish = self._channel.finish
        return self._finish

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        channel = getattr(self, "_channel", None)
        if channel is not None:
            channel.cancel()
