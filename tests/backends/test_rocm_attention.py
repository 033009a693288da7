"""Attention on GPUs, by Triton's interpreter: it is its definition, for single tokens and for spans."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_attention import (  # noqa: E402 - after torch is known to be there
    CAPACITY,
    CLOSE,
    NAN,
    TYPES,
    Attending,
    places,
    random_memory,
    require_close,
    require_right,
    require_seen_to_the_ends,
    span,
)
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from inference_rocm.gpu.attention import Heads, share_count  # noqa: E402
from inference_rocm.gpu.device import Device  # noqa: E402
from inference_rocm.gpu.span_attention import query_tiles  # noqa: E402
from torch import Tensor  # noqa: E402

CDNA, RDNA = (Device(torch.device("cpu"), wave, units=1, interpreted=True) for wave in (64, 32))
"""The first takes groups of more than two heads as a matrix; the second takes all heads one by one."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For such small tensors threads take longer to wake than to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


devices = pytest.mark.parametrize("device", [CDNA, RDNA], ids=["cdna", "rdna"])


@devices
@pytest.mark.parametrize(("softcap", "window", "with_sinks"), [
    (None, None, False), (3.0, None, False), (None, 7, False), (None, 100, True), (3.0, 1, True), (None, None, True),
])  # fmt: skip
def test_every_rule_holds(softcap: float | None, window: int | None, with_sinks: bool, device: Device) -> None:
    sinks = torch.randn(3) * 3 if with_sinks else None
    attending = Attending(softcap=softcap, window=window, sinks=sinks)
    require_right(attending, 3, 1, 32, torch.float32, device, CLOSE[torch.float32])


@devices
@pytest.mark.parametrize(
    ("heads", "kv_heads", "length"),
    [(2, 2, 64), (2, 1, 80), (3, 1, 96), (7, 1, 32), (16, 1, 32), (9, 3, 64), (4, 1, 256), (11, 1, 24)],
)
def test_heads_have_any_shape(heads: int, kv_heads: int, length: int, device: Device) -> None:
    require_right(Attending(length**-0.5), heads, kv_heads, length, torch.float32, device, CLOSE[torch.float32])


@pytest.mark.parametrize("wave", [64, 32])
@pytest.mark.parametrize(("group", "length"), [(2, 64), (3, 128), (8, 256)])
def test_blocks_are_right_as_a_gpu_takes_them(group: int, length: int, wave: int) -> None:
    gpu = Device(torch.device("cpu"), wave, units=1)
    sinks = torch.randn(group)
    attending = Attending(length**-0.5, 3.0, 30, sinks)
    require_right(attending, group, 1, length, torch.float32, gpu, CLOSE[torch.float32])


@devices
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_memory_has_half_types(dtype: torch.dtype, device: Device) -> None:
    require_right(Attending(window=100), 3, 1, 64, dtype, device, CLOSE[dtype])


def test_heads_taken_one_by_one_round_nothing() -> None:
    keys, values = random_memory(2, 64, torch.bfloat16)
    query, attending = torch.randn(1, 8, 64), Attending()
    found = attending.singles(query, keys, values, [1], [199], RDNA)
    require_close(found, attending(query, keys, values, [1], [199]), CLOSE[torch.float32])


@settings(max_examples=8, deadline=None)
@given(
    position=st.integers(0, CAPACITY - 1),
    window=st.none() | st.integers(1, CAPACITY + 5),
    units=st.integers(1, 3),
    matrix=st.booleans(),
)
def test_a_context_splits_into_any_shares(position: int, window: int | None, units: int, matrix: bool) -> None:
    keys, values = random_memory(1, 16)
    device = Device(torch.device("cpu"), 64 if matrix else 32, units=units, interpreted=True)
    query, attending = torch.randn(1, 3, 16), Attending(window=window)
    found = attending.singles(query, keys, values, [1], [position], device)
    require_close(found, attending(query, keys, values, [1], [position]), CLOSE[torch.float32])


@devices
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_shares_are_joined_in_float32_and_rounded_once_to_the_outputs_type(dtype: torch.dtype, device: Device) -> None:
    keys, values = random_memory(1, 32, dtype)
    several = Device(device.torch, device.wave, units=3, interpreted=True)
    assert share_count(Heads(3, 1, 32), CAPACITY, several) > 2
    query, slots, positions, attending = torch.randn(3, 3, 32), [1, 2, -1], [199, 130, 0], Attending()
    found = attending.singles(query, keys, values, slots, positions, several, dtype)
    assert found.dtype == dtype
    require_close(found, attending(query, keys, values, slots, positions), CLOSE[dtype])
    exact = attending.singles(query, keys, values, slots, positions, several)
    if dtype == torch.float16:  # the interpreter cuts off to bfloat16
        assert torch.equal(found, exact.half())


def test_small_devices_and_short_windows_need_no_shares() -> None:
    assert share_count(Heads(8, 8, 64), 4096, CDNA) == 1
    large = Device(torch.device("cuda"), 64, units=64)
    assert share_count(Heads(8, 8, 64), 64, large) == 1
    assert share_count(Heads(8, 8, 64), 4096, large) == 32
    assert share_count(Heads(8, 8, 64), 1024, large) == 16


@settings(max_examples=8, deadline=None)
@given(
    start=st.integers(0, 120), count=st.integers(1, 80), window=st.none() | st.integers(1, 200), group=st.integers(1, 5)
)
def test_spans_of_any_length_attend_from_anywhere(start: int, count: int, window: int | None, group: int) -> None:
    keys, values = random_memory(1, 16)
    query, attending, spans = torch.randn(count, group, 16), Attending(window=window), [span(2, start, count)]
    found = attending.spans(query, keys, values, spans)
    require_close(found, attending(query, keys, values, *places(spans)), CLOSE[torch.float32])


@given(counts=st.lists(st.integers(1, 50), max_size=6), block=st.integers(1, 20))
def test_tiles_hold_each_token_once_and_no_tile_holds_two_spans(counts: list[int], block: int) -> None:
    spans = [span(slot, 10 * slot, count) for slot, count in enumerate(counts)]
    tiles = query_tiles(spans, block)
    rows = [(first + i, slot, start + i) for first, count, slot, start in tiles for i in range(count)]
    assert rows == [(row, *place) for row, place in enumerate(zip(*places(spans), strict=True))]
    assert all(0 < count <= block for _, count, _, _ in tiles)


@pytest.mark.parametrize(("window", "device"), [(None, CDNA), (3500, RDNA)], ids=["cdna", "window, rdna"])
def test_contexts_of_thousands_are_seen_to_their_ends(window: int | None, device: Device) -> None:
    several = Device(device.torch, device.wave, units=3, interpreted=True)
    require_seen_to_the_ends(window, 3, 64, torch.float32, several, 1e-5)


@devices
def test_memory_reaches_beyond_two_to_the_31_elements(device: Device) -> None:
    """Memory that is not touched takes none."""
    memory = torch.empty(10, 1, 2**22, 64, dtype=torch.float16)
    memory[9, 0, -20:] = torch.randn(20, 64)
    query, attending = torch.randn(2, 3, 64).half(), Attending(window=15)
    slots, positions = [9, 9], range(2**22 - 2, 2**22)
    wanted = attending(query, memory, memory, slots, positions)
    require_close(attending.singles(query, memory, memory, slots, positions, device), wanted, CLOSE[torch.float16])
    found = attending.spans(query, memory, memory, [span(9, 2**22 - 2, 2)], device)
    require_close(found, wanted, CLOSE[torch.float16])


# The same bits --------------------------------------------------------------------------------------------------------


@devices
@pytest.mark.parametrize("dtype", TYPES[:2])
def test_a_row_alone_gives_the_bits_that_it_gives_in_a_batch(dtype: torch.dtype, device: Device) -> None:
    keys, values = random_memory(1, 32, dtype)
    query, slots, positions, attending = torch.randn(5, 3, 32), [2, 0, -1, 1, 2], [199, 3, 0, 150, 77], Attending()
    together = attending.singles(query, keys, values, slots, positions, device)
    for row in range(5):
        rows = slice(row, row + 1)
        alone = attending.singles(query[rows], keys, values, slots[rows], positions[rows], device)
        assert torch.equal(alone[0], together[row])


@pytest.fixture
def alike_in_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's `tl.dot` is numpy's product, whose library may sum a matrix's last rows in another order."""

    def product(a: Any, b: Any, dtype: Any) -> Any:
        return np.einsum("...ij,...jk->...ik", a, b, dtype=dtype)

    monkeypatch.setattr(np, "matmul", product)


@pytest.mark.usefixtures("alike_in_every_row")
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("dtype", TYPES[:2])
def test_a_token_gives_the_same_bits_in_a_span_cut_anywhere(dtype: torch.dtype, window: int | None) -> None:
    keys, values = random_memory(1, 32, dtype)
    query, attending = torch.randn(90, 3, 32).to(dtype), Attending(window=window)
    whole = attending.spans(query, keys, values, [span(1, 100, 90)])
    cuts = [span(1, 100, 7), span(1, 107, 1), span(1, 108, 82)]
    assert torch.equal(attending.spans(query, keys, values, cuts), whole)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_span_gives_what_its_tokens_give_one_by_one(dtype: torch.dtype) -> None:
    keys, values = random_memory(1, 32, dtype)
    query, attending = torch.randn(10, 3, 32), Attending(window=40, sinks=torch.randn(3))
    singles = attending.singles(query, keys, values, [1] * 10, range(70, 80), RDNA)
    found = attending.spans(query, keys, values, [span(1, 70, 10)])
    require_close(found, singles.double(), CLOSE[dtype])


# What is not seen -----------------------------------------------------------------------------------------------------


def hidden_but(keys: Tensor, values: Tensor, slot: int, seen: slice) -> tuple[Tensor, Tensor]:
    """The same memory with NaN wherever that slot's tokens do not look."""
    hidden = []
    for part in (keys, values):
        copy = torch.full_like(part, NAN)
        copy[slot, :, seen] = part[slot, :, seen]
        hidden.append(copy)
    return hidden[0], hidden[1]


@devices
@pytest.mark.parametrize("position", [0, 130, CAPACITY - 1])
@pytest.mark.parametrize("window", [None, 7])
def test_a_single_token_knows_nothing_of_what_it_does_not_see(
    position: int, window: int | None, device: Device
) -> None:
    keys, values = random_memory(1, 24)
    first = max(0, position + 1 - window) if window else 0
    hidden = hidden_but(keys, values, 1, slice(first, position + 1))
    query, attending = torch.randn(1, 3, 24), Attending(window=window)
    found = attending.singles(query, *hidden, [1], [position], device)
    assert torch.equal(found, attending.singles(query, keys, values, [1], [position], device))


@pytest.mark.parametrize(("start", "count"), [(0, 2), (37, 27), (CAPACITY - 5, 5)])
@pytest.mark.parametrize("window", [None, 1, 30])
def test_a_span_knows_nothing_of_what_it_does_not_see(start: int, count: int, window: int | None) -> None:
    keys, values = random_memory(1, 24)
    first = max(0, start + 1 - window) if window else 0
    hidden = hidden_but(keys, values, 1, slice(first, start + count))
    query, attending, spans = torch.randn(count, 3, 24), Attending(window=window), [span(1, start, count)]
    found = attending.spans(query, *hidden, spans)
    assert torch.equal(found, attending.spans(query, keys, values, spans))


@devices
@pytest.mark.parametrize("units", [1, 64])
def test_rows_that_pad_a_batch_read_nothing_and_give_zeros(units: int, device: Device) -> None:
    keys, values = (torch.full((1, 2, 64, 16), NAN) for _ in range(2))
    small = Device(device.torch, device.wave, units, interpreted=True)
    attending = Attending(sinks=torch.randn(6))
    found = attending.singles(torch.randn(3, 6, 16), keys, values, [-1, -1, -7], [0, 5, 2**31 - 1], small)
    assert (found == 0).all()


@pytest.mark.parametrize("window", [None, 7])
def test_a_token_takes_nothing_of_later_ones_of_its_span_however_large(window: int | None) -> None:
    keys, values = random_memory(1, 32)
    query, attending, spans = torch.randn(40, 2, 32), Attending(window=window), [span(1, 0, 40)]
    sound = attending.spans(query, keys, values, spans)
    values[1, 0, 20] = 3e38
    keys[1, 0, 20, 3] = NAN
    found = attending.spans(query, keys, values, spans)
    assert torch.equal(found[:20], sound[:20])
    assert found[20].isnan().all()
    if window:
        assert torch.equal(found[20 + window :], sound[20 + window :])


@devices
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("size", [0.0, 1000.0])
def test_scores_of_any_size_are_shared_out(size: float, softcap: float | None, device: Device) -> None:
    """Equal ones, and such that one position takes all."""
    keys, values = random_memory(1, 32)
    query, attending = torch.randn(10, 3, 32) * size, Attending(softcap=softcap)
    wanted = attending(query, keys, values, [1] * 10, range(180, 190))
    require_close(attending.singles(query[-1:], keys, values, [1], [189], device), wanted[-1:], 2e-4)
    require_close(attending.spans(query, keys, values, [span(1, 180, 10)], device), wanted, 2e-4)
