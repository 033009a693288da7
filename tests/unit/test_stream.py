"""The consumer's end, from asyncio and from threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from fakes import FakeRunner, continuation, fake_model

from inference.engine.model import EngineModel
from inference.errors import EngineError


def slow(tokens: Sequence[int]) -> int:
    time.sleep(0.001)
    return 7


@pytest.fixture
def endless() -> Iterator[EngineModel]:
    """A model of one slot that never stops by itself."""
    with fake_model(FakeRunner(next_token=slow, context_length=10**6)) as model:
        yield model


def slot_is_free(model: EngineModel) -> bool:
    return model.generate([1], max_tokens=1, timeout=10).text() == "\x07"


def test_async_iteration_gives_the_same_tokens() -> None:
    async def read(model: EngineModel) -> list[int]:
        return [token.id async for token in model.generate([1, 2], max_tokens=25)]

    with fake_model(FakeRunner()) as model:
        assert asyncio.run(read(model)) == continuation([1, 2], 25)


def test_async_streams_run_together_and_the_event_loop_stays_free() -> None:
    async def read(model: EngineModel, n: int) -> list[int]:
        return [token.id async for token in model.generate([n], max_tokens=20)]

    async def main(model: EngineModel) -> tuple[list[list[int]], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        results = await asyncio.gather(*[read(model, n) for n in range(1, 5)])
        ticking.cancel()
        return results, ticks

    with fake_model(FakeRunner(slots=2)) as model:
        results, ticks = asyncio.run(main(model))
    assert results == [continuation([n], 20) for n in range(1, 5)]
    assert ticks > 0


def test_a_cancelled_task_frees_its_slot(endless: EngineModel) -> None:
    async def read() -> None:
        async for _ in endless.generate([1], max_tokens=10**5):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert slot_is_free(endless)


def test_leaving_an_async_with_block_frees_the_slot(endless: EngineModel) -> None:
    async def main() -> str | None:
        async with endless.generate([1], max_tokens=10**5) as stream:
            await anext(stream)
        return stream.finish_reason

    assert asyncio.run(main()) == "cancelled"
    assert slot_is_free(endless)


def test_an_event_loop_that_was_closed_under_a_stream_harms_nobody_else(endless: EngineModel) -> None:
    stream = endless.generate([1], max_tokens=10**5)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(stream))
    stream._channel.wake = lambda: loop.call_soon_threadsafe(lambda: None)
    loop.close()
    assert next(stream).id == 7, "it can be read on without the loop"
    del stream
    assert slot_is_free(endless)


def test_errors_are_raised_from_the_async_iteration() -> None:
    async def read(model: EngineModel) -> None:
        async for _ in model.generate([1]):
            pass

    with fake_model(FakeRunner(next_token=lambda tokens: -1)) as model, pytest.raises(EngineError):
        asyncio.run(read(model))


def test_an_exception_in_the_consumer_frees_the_slot(endless: EngineModel) -> None:
    def consume() -> None:
        with endless.generate([1], max_tokens=10**5) as stream:
            for _ in stream:
                raise KeyError("the consumer's own")

    with pytest.raises(KeyError):
        consume()
    assert slot_is_free(endless)


def test_many_threads_share_one_model() -> None:
    results: dict[int, list[int]] = {}

    def consume(model: EngineModel, n: int) -> None:
        results[n] = [token.id for token in model.generate([n], max_tokens=30)]

    with fake_model(FakeRunner(slots=3)) as model:
        threads = [threading.Thread(target=consume, args=(model, n)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {n: continuation([n], 30) for n in range(16)}


def test_tokens_wait_for_a_slow_reader() -> None:
    with fake_model(FakeRunner()) as model:
        stream = model.generate([1], max_tokens=50)
        model.generate([2], max_tokens=1).text()  # one slot: by now the first has ended
        assert [token.id for token in stream] == continuation([1], 50)


def test_text_gives_what_was_not_read_yet() -> None:
    with fake_model(FakeRunner(script=list(b"hello"))) as model:
        stream = model.generate("x")
        assert next(stream).text == "h"
        assert stream.text() == "ello"
        assert stream.text() == ""


def test_closing_from_elsewhere_does_not_take_the_last_token_from_a_waiting_reader(endless: EngineModel) -> None:
    for _ in range(20):
        stream = endless.generate([1], max_tokens=10**5)
        reader = threading.Thread(target=stream.text)
        reader.start()
        stream.close()
        assert stream.finish_reason == "cancelled"
        reader.join(10)
        assert not reader.is_alive()
