"""The consumer's end of a sequence: an iterator of tokens, and the channel behind it."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Self

from inference.types import Finish, FinishReason, GenerateStats, Token

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Channel", "TokenStream"]


class Channel:
    """Carries the tokens of one sequence from the engine's thread to its consumer, and the wish to cancel back.

    The engine knows the channel, not the stream: so a stream that nobody holds is collected, and cancels.
    """

    __slots__ = ("_held", "_queue", "cancelled", "ended", "finish", "get", "get_nowait", "wake")

    def __init__(self) -> None:
        # SimpleQueue: its put never blocks and may be called from a finalizer.
        self._queue: queue.SimpleQueue[Token] = queue.SimpleQueue()
        self._held: list[Token] = []
        self.get = self._queue.get
        self.get_nowait = self._queue.get_nowait
        self.cancelled = False
        self.finish: Finish | None = None
        self.ended = threading.Event()
        """Set once `finish` is there."""
        self.wake: Callable[[], object] | None = None
        """Called after each put, while an asyncio consumer waits."""

    def hold(self, token: Token) -> None:
        """Keep a token for `flush`. Called on the engine's thread, as all that follows."""
        self._held.append(token)

    def flush(self) -> None:
        """Hand over what is held."""
        held, self._held = self._held, []
        for token in held:
            self._put(token)

    def put(self, token: Token) -> None:
        """Hand over what is held, then `token`."""
        self.flush()
        self._put(token)

    def _put(self, token: Token) -> None:
        self._queue.put(token)
        if token.finish is not None:
            self.finish = token.finish
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

    def __init__(self, channel: Channel, owner: object) -> None:
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
        self._channel.cancelled = True

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
            channel.cancelled = True
