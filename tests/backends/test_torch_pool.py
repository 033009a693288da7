"""The threads that all models share: callers take turns, results do not hang on how many there are, and a forked child
has its own."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from inference_rocm.cpu.bfloat16 import Bfloat16Linear  # noqa: E402 - after torch is known to be there
from inference_rocm.forms import PACKED  # noqa: E402
from kernel_definitions import Attending, kept, kernels_on, packed, random_activations, random_weights, require_close  # noqa: E402
from torch import Tensor  # noqa: E402

INPUTS = 768
PATIENCE = 30
"""Seconds after which a child hangs."""


def layer_run(name: str, threads: int, count: int, outputs: int = 400) -> Callable[[], Tensor]:
    """A multiplication that is long enough for several threads."""
    layer = packed(kernels_on(threads), name, random_weights(name, outputs, INPUTS))
    rows, _ = random_activations(count, INPUTS)
    return lambda: layer(rows)


def attention_run(threads: int, *, span: bool) -> Callable[[], Tensor]:
    torch.manual_seed(1)
    kernels, count = kernels_on(threads), 40
    keys, values = (torch.randn(count, 4, 128, 64).bfloat16() for _ in range(2))
    query, slots = torch.randn(count, 8, 64), [3] * count if span else [*range(count)]
    return lambda: Attending().by(kernels, query, keys, values, slots, range(60, 60 + count), span=span)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("count", [1, 40])
def test_a_layer_gives_the_same_bits_on_any_number_of_threads(name: str, count: int) -> None:
    alone = layer_run(name, 1, count)()
    for threads in (2, 3, 8):
        assert torch.equal(layer_run(name, threads, count)(), alone)


def test_a_bfloat16_layer_gives_the_same_bits_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(400, INPUTS).bfloat16(), torch.randn(100, INPUTS)
    alone, *others = (
        Bfloat16Linear(kernels_on(threads), [weight], 400, INPUTS, None)(rows) for threads in (1, 2, 3, 8)
    )
    assert all(torch.equal(other, alone) for other in others)


@pytest.mark.parametrize("span", [False, True])
def test_attention_gives_the_same_bits_on_any_number_of_threads(span: bool) -> None:
    alone = attention_run(1, span=span)()
    for threads in (2, 3, 8):
        assert torch.equal(attention_run(threads, span=span)(), alone)


def test_elements_give_the_same_bits_on_any_number_of_threads() -> None:
    rows, weight = torch.randn(200, 1000), torch.rand(1000)
    one, several = kernels_on(1), kernels_on(3)
    assert torch.equal(one.rms_norm(rows, weight, 1e-5), several.rms_norm(rows, weight, 1e-5))
    assert torch.equal(one.gate(rows, "silu"), several.gate(rows, "silu"))
    assert torch.equal(one.argmax(rows), several.argmax(rows))


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0"])
def test_every_number_of_rows_is_right(name: str) -> None:
    weights = random_weights(name, 150, INPUTS)
    layer = packed(kernels_on(2), name, weights)
    for count in range(1, 41):
        rows, rounded = random_activations(count, INPUTS, seed=count)
        require_close(layer(rows), rounded @ kept(weights).T, 1e-5)


def test_callers_on_several_threads_take_turns() -> None:
    runs = [
        layer_run("Q4_K", 2, 1), layer_run("Q6_K", 3, 17), attention_run(2, span=True), attention_run(4, span=False),
    ]  # fmt: skip
    expected, start = [run() for run in runs], threading.Barrier(len(runs))
    wrong: list[int] = []

    def repeat(place: int) -> None:
        start.wait()
        wrong.extend(place for _ in range(150) if not torch.equal(runs[place](), expected[place]))

    callers = [threading.Thread(target=repeat, args=(place,)) for place in range(len(runs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_workers_that_fell_asleep_wake_up() -> None:
    run = layer_run("Q4_K", 4, 1)
    expected = run()
    for _ in range(20):
        threading.Event().wait(0.005)
        assert torch.equal(run(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while another thread calls"])
def test_a_forked_child_computes_the_same_and_does_not_hang(busy: bool) -> None:
    run, another = layer_run("Q4_K", 3, 5), layer_run("Q6_K", 3, 16)
    expected, stop = run(), threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            another()

    caller = threading.Thread(target=keep_calling)
    if busy:
        caller.start()
    try:
        for _ in range(10):
            assert child_says(lambda: torch.equal(run(), expected) and torch.equal(run(), expected))
    finally:
        stop.set()
        if busy:
            caller.join()
    assert torch.equal(run(), expected), "the parent goes on as before"


def child_says(truth: Callable[[], bool]) -> bool:
    """What a forked child finds."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"yes" if truth() else b"no")
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], PATIENCE)
        if not ready:
            os.kill(child, signal.SIGKILL)
            pytest.fail("The child hangs.")
        return os.read(reading, 3) == b"yes"
    finally:
        os.close(reading)
        os.waitpid(child, 0)
