"""Rotary positions: how fast each pair turns, in which order, and what a file's keys make of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import CONTEXT, HEAD, PARTIAL_ROTARY, tiny_model
from transformers import modeling_rope_utils

from inference.gguf.architectures import ARCHITECTURES, Rope, Yarn, config_of
from inference.gguf.architectures.rope import PairOrder

Array: TypeAlias = NDArray[np.float64]
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 1024}

bases = st.floats(100.0, 1e7)
dimensions = st.integers(1, 64).map(lambda pairs: 2 * pairs)
factors = st.floats(1.0, 64.0)
originals = st.sampled_from([1024, 4096, 8192, 32_768, 131_072])


# Order ---------------------------------------------------------------------------------------------------------------


def turned(head: Array, rope: Rope, order: PairOrder, position: int) -> Array:
    """Each pair as a complex number times exp(i x angle)."""
    turning = head[: rope.dimensions]
    pairs = turning.reshape(-1, 2).T if order == "interleaved" else turning.reshape(2, -1)
    numbers = (pairs[0] + 1j * pairs[1]) * np.exp(1j * position * np.array(rope.frequencies())) * rope.magnitude
    both = np.array([numbers.real, numbers.imag])
    return np.concatenate([(both.T if order == "interleaved" else both).ravel(), head[rope.dimensions :]])


@given(
    order=st.sampled_from(["interleaved", "halves"]),
    pairs=st.integers(1, 16),
    rest=st.integers(0, 5),
    positions=st.tuples(st.integers(0, 4000), st.integers(0, 4000)),
    seed=st.integers(0, 2**32 - 1),
)
def test_scores_are_the_same_with_rows_in_the_order_of_halves(
    order: PairOrder, pairs: int, rest: int, positions: tuple[int, int], seed: int
) -> None:
    rope = Rope(order, 2 * pairs, 10_000.0, scale=0.5, magnitude=1.25)
    vectors = np.random.default_rng(seed).normal(size=(2, 2 * pairs + rest))
    rows = rope.halves_order(2 * pairs + rest)
    plain = [turned(one, rope, order, position) for one, position in zip(vectors, positions, strict=True)]
    halves = [turned(one[rows], rope, "halves", position) for one, position in zip(vectors, positions, strict=True)]
    np.testing.assert_allclose([one[rows] for one in plain], halves, atol=1e-12)
    assert halves[0] @ halves[1] == pytest.approx(plain[0] @ plain[1], abs=1e-9)


def test_the_order_of_halves_is_even_rows_then_odd_ones_then_those_that_do_not_turn() -> None:
    assert Rope("interleaved", 6, 10_000.0).halves_order(8) == [0, 2, 4, 1, 3, 5, 6, 7]
    assert Rope("halves", 6, 10_000.0).halves_order(8) == list(range(8))


# Frequencies ---------------------------------------------------------------------------------------------------------


@given(bases, dimensions, factors)
def test_frequencies_fall_from_1_by_equal_ratios_and_are_divided_by_the_factor(
    base: float, dimensions: int, factor: float
) -> None:
    frequencies = Rope("halves", dimensions, base, scale=1 / factor).frequencies()
    pairs = np.arange(dimensions // 2)
    np.testing.assert_allclose(frequencies, np.exp(-np.log(base) * pairs * 2 / dimensions) / factor, rtol=1e-12)


@given(bases, dimensions, originals)
def test_yarn_with_a_factor_of_1_changes_nothing(base: float, dimensions: int, original: int) -> None:
    plain, yarn = (Rope("halves", dimensions, base, yarn=yarn) for yarn in (None, Yarn(original)))
    np.testing.assert_allclose(yarn.frequencies(), plain.frequencies(), rtol=1e-12)


@given(bases, dimensions, originals, factors)
def test_yarn_keeps_fast_pairs_and_divides_slow_ones(
    base: float, dimensions: int, original: int, factor: float
) -> None:
    plain = Rope("halves", dimensions, base).frequencies()
    yarn = Rope("halves", dimensions, base, scale=1 / factor, yarn=Yarn(original)).frequencies()
    turns = [original * frequency / (2 * math.pi) for frequency in plain]
    for pair, (one, other) in enumerate(zip(plain, yarn, strict=True)):
        if turns[min(pair + 1, len(turns) - 1)] > 32:
            assert other == pytest.approx(one)
        elif turns[pair - 1 if pair else 0] < 1:
            assert other == pytest.approx(one / factor)
        else:
            assert one / factor <= other * (1 + 1e-12)
            assert other <= one * (1 + 1e-12)


def test_the_divisors_of_a_file_come_before_yarn() -> None:
    rope = Rope("halves", 8, 10_000.0, scale=0.25, yarn=Yarn(4096))
    divided = [one / divisor for one, divisor in zip(rope.frequencies(), (1, 2, 4, 8), strict=True)]
    assert rope.frequencies([1, 2, 4, 8]) == pytest.approx(divided)


def test_as_many_divisors_as_pairs_are_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Rope("halves", 8, 10_000.0).frequencies([1.0, 1.0])


# Against transformers ------------------------------------------------------------------------------------------------


class Numbers(np.ndarray):
    """An array with the two methods of PyTorch's that the formulas call."""

    def to(self, **_: object) -> Numbers:
        return self

    def float(self) -> Numbers:
        return self


TORCH = SimpleNamespace(
    arange=lambda *ends, **_: np.arange(*ends, dtype=np.float64).view(Numbers),
    tensor=lambda values, **_: np.array(values).view(Numbers),
    clamp=np.clip,
    where=np.where,
    float=float,
    float32=float,
    int64=int,
)
"""numpy in PyTorch's place, which `transformers` needs for its formulas and the tests do not have."""


def theirs(kind: str, dimensions: int, base: float, original: int, length: int, **more: object) -> tuple[Array, float]:
    """Frequencies and magnitude as `transformers` computes them."""
    parameters = {"rope_theta": base, "original_max_position_embeddings": original, **more}
    config = SimpleNamespace(
        rope_parameters=parameters,
        standardize_rope_params=lambda: None,
        head_dim=dimensions,
        hidden_size=dimensions,
        num_attention_heads=1,
        max_position_embeddings=length,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_rope_utils, "torch", TORCH, raising=False)
        frequencies, magnitude = modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
    return np.asarray(frequencies), magnitude


@given(bases, dimensions, originals, factors)
def test_yarn_is_that_of_transformers(base: float, dimensions: int, original: int, factor: float) -> None:
    wanted, _ = theirs("yarn", dimensions, base, original, 1, factor=factor)
    ours = Rope("halves", dimensions, base, scale=1 / factor, yarn=Yarn(original))
    np.testing.assert_allclose(ours.frequencies(), wanted, rtol=1e-9)


def test_yarns_magnitude_is_that_of_transformers(read_ropes: ReadRopes) -> None:
    _, wanted = theirs("yarn", HEAD, 50_000.0, 1024, 1, factor=4.0)
    assert [rope.magnitude for rope in read_ropes("llama", YARN) if rope] == pytest.approx([wanted] * 2)


@given(bases, dimensions, originals, factors, st.data())
def test_longrope_is_that_of_transformers(
    base: float, dimensions: int, original: int, factor: float, data: st.DataObject
) -> None:
    divisors = st.lists(st.floats(1.0, 64.0), min_size=dimensions // 2, max_size=dimensions // 2)
    both = {"long_factor": data.draw(divisors), "short_factor": data.draw(divisors)}
    for length, name in ((original, "short_factor"), (original + 1, "long_factor")):
        wanted, _ = theirs("longrope", dimensions, base, original, length, factor=factor, **both)
        np.testing.assert_allclose(Rope("halves", dimensions, base).frequencies(both[name]), wanted, rtol=1e-9)


@given(dimensions)
def test_llama_3s_divisors_give_the_frequencies_of_transformers(dimensions: int) -> None:
    """The converter stores 1, the factor, and what lies between; it tells them apart by their wavelengths."""
    rope, divisors = Rope("interleaved", dimensions, 500_000.0), []
    for frequency in rope.frequencies():
        smooth = min(1.0, max(0.0, (8192 * frequency / (2 * math.pi) - 1) / 3))
        divisors.append(1 / ((1 - smooth) / 8 + smooth))
    more = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    wanted, _ = theirs("llama3", dimensions, 500_000.0, 8192, 1, **more)
    np.testing.assert_allclose(rope.frequencies(divisors), wanted, rtol=1e-9)


# A file's keys -------------------------------------------------------------------------------------------------------

ReadRopes: TypeAlias = Callable[..., list[Rope | None]]


@pytest.fixture
def read_ropes(tmp_path: Path) -> ReadRopes:
    """The rope of each layer of a tiny model, with some keys changed."""

    def ropes(architecture: str, keys: dict[str, Any]) -> list[Rope | None]:
        return [layer.rope for layer in config_of(tiny_model(tmp_path / "model.gguf", architecture, keys)).layers]

    return ropes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_turn_whole_by_the_files_base_in_the_architectures_order(
    architecture: str, read_ropes: ReadRopes
) -> None:
    order: PairOrder = "interleaved" if architecture in ("llama", "granite", "smollm3") else "halves"
    windowed = Rope(order, HEAD, 10_000.0 if architecture == "gemma3" else 50_000.0)
    assert read_ropes(architecture, {}) == [windowed, windowed]
    assert read_ropes(architecture, {"rope.freq_base": None}) == [Rope(order, HEAD, 10_000.0)] * 2
    if architecture in PARTIAL_ROTARY:
        assert read_ropes(architecture, {"rope.dimension_count": 6}) == [Rope(order, 6, windowed.base)] * 2


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"rope.scaling.factor": 4.0}, 0.25),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, 0.25),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, 1.0),
        ({"rope.scaling.factor": 0.0}, 1.0),
        ({"rope.scale_linear": 4.0}, 0.25),
        ({"rope.scale_linear": 4.0, "rope.scaling.factor": 2.0}, 0.5),
    ],
)
def test_frequencies_are_divided_by_the_files_factor(keys: dict[str, Any], scale: float, read_ropes: ReadRopes) -> None:
    assert read_ropes("llama", keys) == [Rope("interleaved", HEAD, 50_000.0, scale=scale)] * 2


def test_layers_with_a_window_have_a_rope_of_their_own(read_ropes: ReadRopes) -> None:
    linear = {"rope.scaling.factor": 4.0, "attention.sliding_window_pattern": 2}
    scaled, plain = Rope("halves", HEAD, 50_000.0, scale=0.25), Rope("halves", HEAD, 50_000.0)
    other = Rope("halves", HEAD, 7_000.0)
    assert read_ropes("gemma2", linear) == read_ropes("gpt-oss", linear) == [scaled, scaled]
    assert read_ropes("gemma3", linear) == [Rope("halves", HEAD, 10_000.0), scaled]
    assert read_ropes("gemma3", linear | {"rope.freq_base_swa": 7_000.0}) == [other, scaled]
    assert read_ropes("olmo2", linear | {"rope.freq_base_swa": 7_000.0}) == [plain, scaled]


def test_yarn_reaches_the_layers_that_the_architecture_says(read_ropes: ReadRopes) -> None:
    keys = YARN | {"attention.sliding_window_pattern": 2}
    magnitude: Any = pytest.approx(1 + 0.1 * math.log(4))
    one: Any = pytest.approx(1.0)
    full = Rope("halves", HEAD, 50_000.0, 0.25, Yarn(1024), magnitude)
    assert read_ropes("gpt-oss", keys) == [full, full]
    assert read_ropes("olmo2", keys) == [Rope("halves", HEAD, 50_000.0), full]
    assert read_ropes("gemma3", keys) == [Rope("halves", HEAD, 10_000.0, 1.0, Yarn(1024), one), full]


def test_a_file_may_name_a_magnitude_which_multiplies_yarns(read_ropes: ReadRopes) -> None:
    plain, yarn = ({"rope.scaling.attn_factor": 1.5} | keys for keys in ({}, YARN))
    assert [rope.magnitude for rope in read_ropes("phi3", plain) if rope] == [1.5, 1.5]
    wanted = 1.5 * (1 + 0.1 * math.log(4))
    assert [rope.magnitude for rope in read_ropes("phi3", yarn) if rope] == pytest.approx([wanted, wanted])


def test_yarns_original_context_is_the_models_where_the_file_names_none(read_ropes: ReadRopes) -> None:
    for original in (None, 0):
        keys = YARN | {"rope.scaling.original_context_length": original}
        assert [rope.yarn for rope in read_ropes("llama", keys) if rope] == [Yarn(CONTEXT)] * 2


def test_smollm3_knows_no_positions_in_every_fourth_layer(read_ropes: ReadRopes) -> None:
    without = [layer for layer, rope in enumerate(read_ropes("smollm3", {"block_count": 9})) if rope is None]
    assert without == [3, 7]


@pytest.mark.parametrize(("architecture", "knows"), [("granite", False), ("llama", True)])
def test_granite_may_be_made_to_know_no_positions(architecture: str, knows: bool, read_ropes: ReadRopes) -> None:
    assert all(read_ropes(architecture, {"rope.scaling.finetuned": True}))
    assert [rope is not None for rope in read_ropes(architecture, {"rope.scaling.finetuned": False})] == [knows] * 2
