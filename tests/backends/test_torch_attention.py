"""Attention in C, of one token of each of several slots and of many in one slot: it is its definition."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from inference_rocm.cpu.kernels import Kernels  # noqa: E402 - after torch is known to be there
from inference_rocm.cpu.library import LONGEST_HEAD  # noqa: E402
from kernel_definitions import Attending, kernels_on, require_close  # noqa: E402
from torch import Tensor  # noqa: E402

SINGLE, SPAN = 1e-5, 5e-3
"""Shares of the largest: sums in float32; what each value takes part with is rounded to bfloat16 in spans."""
CAPACITY = 320


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return kernels_on()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_memory(kv_heads: int, length: int, slots: int = 3, capacity: int = CAPACITY) -> tuple[Tensor, Tensor]:
    keys, values = (torch.randn(slots, kv_heads, capacity, length).bfloat16() for _ in range(2))
    return keys, values


def require_singles(kernels: Kernels, attending: Attending, heads: int, kv_heads: int, length: int) -> None:
    keys, values = random_memory(kv_heads, length, slots=7)
    slots, positions = [4, 0, 2, 6, 3], [0, 39, 17, 319, 100]
    query = torch.randn(len(slots), heads, length)
    found = attending.by(kernels, query, keys, values, slots, positions, span=False)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        wanted = attending(query[row : row + 1], keys[slot], values[slot], [position], span=False)
        require_close(found[row : row + 1], wanted, SINGLE)


def require_span(
    kernels: Kernels, attending: Attending, heads: int, kv_heads: int, length: int, start: int, count: int
) -> None:
    keys, values = random_memory(kv_heads, length)
    query, positions = torch.randn(count, heads, length), range(start, start + count)
    found = attending.by(kernels, query, keys, values, [1] * count, positions, span=True)
    require_close(found, attending(query, keys[1], values[1], positions, span=True), SPAN)


def attending_of(heads: int, softcap: float | None, window: int | None, with_sinks: bool) -> Attending:
    return Attending(softcap=softcap, window=window, sinks=torch.randn(heads) * 3 if with_sinks else None)


rules = [
    pytest.mark.parametrize("softcap", [None, 3.0]),
    pytest.mark.parametrize("window", [None, 1, 7, 100]),
    pytest.mark.parametrize("with_sinks", [False, True]),
]
shapes = [
    pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 1)]),
    pytest.mark.parametrize("length", [16, 24, 48, 64, 80, 256, LONGEST_HEAD]),
]


@rules[0]
@rules[1]
@rules[2]
def test_single_tokens_attend_by_every_rule(
    softcap: float | None, window: int | None, with_sinks: bool, kernels: Kernels
) -> None:
    require_singles(kernels, attending_of(6, softcap, window, with_sinks), 6, 2, 48)


@shapes[0]
@shapes[1]
def test_single_tokens_attend_with_heads_of_every_shape(
    heads: int, kv_heads: int, length: int, kernels: Kernels
) -> None:
    require_singles(kernels, Attending(scale=length**-0.5), heads, kv_heads, length)


@rules[0]
@rules[1]
@rules[2]
@pytest.mark.parametrize("start", [0, 37])
def test_spans_attend_by_every_rule(
    softcap: float | None, window: int | None, with_sinks: bool, start: int, kernels: Kernels
) -> None:
    require_span(kernels, attending_of(6, softcap, window, with_sinks), 6, 2, 48, start, 150)


@pytest.mark.parametrize("count", [2, 15, 16, 17, 40, 200])
@pytest.mark.parametrize("start", [0, 1, 16, 37, 112])
@pytest.mark.parametrize("window", [None, 1, 7, 100])
def test_spans_of_any_length_attend_from_anywhere(count: int, start: int, window: int | None, kernels: Kernels) -> None:
    require_span(kernels, Attending(window=window), 3, 1, 32, start, count)


@shapes[0]
@shapes[1]
def test_spans_attend_with_heads_of_every_shape(heads: int, kv_heads: int, length: int, kernels: Kernels) -> None:
    require_span(kernels, Attending(scale=length**-0.5), heads, kv_heads, length, 21, 40)


def test_a_history_too_long_to_be_packed_at_once_is_packed_head_by_head(kernels: Kernels) -> None:
    keys, values = random_memory(2, LONGEST_HEAD, slots=1, capacity=17000)
    query, positions, attending = torch.randn(3, 4, LONGEST_HEAD), range(16997, 17000), Attending(scale=0.04)
    found = attending.by(kernels, query, keys, values, [0] * 3, positions, span=True)
    one_by_one = attending.by(kernels, query, keys, values, [0] * 3, positions, span=False)
    require_close(found, one_by_one.double().numpy(), SPAN)


@pytest.mark.parametrize("span", [False, True])
@pytest.mark.parametrize("size", [0.0, 30.0, 1000.0])
def test_scores_of_any_size_are_shared_out(size: float, span: bool, kernels: Kernels) -> None:
    """Equal ones, and such that one position takes all."""
    keys, values = random_memory(1, 64)
    query, positions, attending = torch.randn(40, 2, 64) * size, range(100, 140), Attending()
    if span:
        found = attending.by(kernels, query, keys, values, [1] * 40, positions, span=True)
        wanted = attending(query, keys[1], values[1], positions, span=True)
    else:
        found = attending.by(kernels, query[:1], keys, values, [1], [139], span=False)
        wanted = attending(query[:1], keys[1], values[1], [139], span=False)
    require_close(found, wanted, SPAN)


# What is not seen ----------------------------------------------------------------------------------------------------


def hidden_but(keys: Tensor, values: Tensor, slot: int, seen: slice) -> tuple[Tensor, Tensor]:
    """The same memory with NaN wherever that slot's tokens do not look."""
    hidden = []
    for part in (keys, values):
        copy = torch.full_like(part, torch.nan)
        copy[slot, :, seen] = part[slot, :, seen]
        hidden.append(copy)
    return hidden[0], hidden[1]


@pytest.mark.parametrize("position", [0, 14, 15, 16, 130])
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("length", [24, 64])
def test_a_single_token_knows_nothing_of_what_it_does_not_see(
    position: int, window: int | None, length: int, kernels: Kernels
) -> None:
    keys, values = random_memory(2, length)
    first = max(0, position + 1 - window) if window else 0
    hidden, query, attending = (
        hidden_but(keys, values, 1, slice(first, position + 1)),
        torch.randn(1, 4, length),
        Attending(window=window),
    )
    found = attending.by(kernels, query, *hidden, [1], [position], span=False)
    assert torch.equal(found, attending.by(kernels, query, keys, values, [1], [position], span=False))


@pytest.mark.parametrize(("start", "count"), [(0, 2), (0, 17), (37, 16), (112, 40)])
@pytest.mark.parametrize("window", [None, 1, 7, 30])
@pytest.mark.parametrize("length", [24, 64])
def test_a_span_knows_nothing_of_what_it_does_not_see(
    start: int, count: int, window: int | None, length: int, kernels: Kernels
) -> None:
    keys, values = random_memory(2, length)
    first = max(0, start + 1 - window) if window else 0
    hidden, query, attending = (
        hidden_but(keys, values, 1, slice(first, start + count)),
        torch.randn(count, 4, length),
        Attending(window=window),
    )
    positions = range(start, start + count)
    found = attending.by(kernels, query, *hidden, [1] * count, positions, span=True)
    assert torch.equal(found, attending.by(kernels, query, keys, values, [1] * count, positions, span=True))


@pytest.mark.parametrize("window", [None, 7])
def test_a_token_takes_nothing_of_others_of_its_span_that_it_does_not_see(window: int | None, kernels: Kernels) -> None:
    """However large it is."""
    keys, values = random_memory(1, 64)
    query, positions, attending = torch.randn(40, 2, 64), range(40), Attending(window=window)
    sound = attending.by(kernels, query, keys, values, [1] * 40, positions, span=True)
    values[1, 0, 20] = 3e38
    found = attending.by(kernels, query, keys, values, [1] * 40, positions, span=True)
    assert torch.equal(found[:20], sound[:20])
    assert found[20].abs().min() > 1e30
    if window:
        assert torch.equal(found[20 + window :], sound[20 + window :])


@pytest.mark.parametrize("count", [5, 40])
def test_a_damaged_query_damages_its_own_token_alone(count: int, kernels: Kernels) -> None:
    keys, values = random_memory(2, 64)
    query, positions, attending = torch.randn(count, 4, 64), range(20, 20 + count), Attending()
    sound = attending.by(kernels, query, keys, values, [1] * count, positions, span=True)
    query[2, 1, 7] = torch.nan
    found = attending.by(kernels, query, keys, values, [1] * count, positions, span=True)
    assert found[2, 64:128].isnan().all()
    found[2, 64:128] = sound[2, 64:128]
    assert torch.equal(found, sound)


@pytest.mark.parametrize("span", [False, True])
def test_what_is_seen_and_no_number_is_passed_on(span: bool, kernels: Kernels) -> None:
    keys, values = random_memory(1, 64)
    keys[1, 0, 20, 3] = torch.nan
    query = torch.randn(30, 1, 64)
    rows = slice(30) if span else slice(1)
    positions = range(30)[rows] if span else [29]
    found = Attending().by(kernels, query[rows], keys, values, [1] * len(positions), positions, span=span)
    assert found[[position >= 20 for position in positions]].isnan().all()
    assert found[[position < 20 for position in positions]].isfinite().all()


@pytest.mark.parametrize("window", [320, 2**31, 2**32 - 1, 2**63])
@pytest.mark.parametrize("span", [False, True])
def test_a_window_as_long_as_the_memory_is_none(window: int, span: bool, kernels: Kernels) -> None:
    keys, values = random_memory(2, 64)
    query, positions = torch.randn(40, 2, 64), range(200, 240)
    plain, windowed = (
        Attending(window=width).by(kernels, query, keys, values, [1] * 40, positions, span=span)
        for width in (None, window)
    )
    assert torch.equal(plain, windowed)
