"""The divisors of the rope's frequencies: which files may have which, and which of them a context takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tiny_models import CONTEXT, HEAD, tiny_model

from inference.errors import UnsupportedModelError
from inference.gguf.architectures import ARCHITECTURES, Config, Part, config_of

FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
BOTH = (LONG, SHORT)
LONGROPE = {"rope.scaling.type": "longrope"}
LINEAR = {"rope.scaling.type": "linear"}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
with_freqs = pytest.mark.parametrize("architecture", ["llama", "granite"])

ReadConfig: TypeAlias = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> ReadConfig:
    """The config of a tiny model with these divisors."""

    def config(architecture: str, names: tuple[str, ...], keys: dict[str, Any], pairs: int = HEAD // 2) -> Config:
        return config_of(tiny_model(tmp_path / "model.gguf", architecture, keys, dict.fromkeys(names, (pairs,))))

    return config


@every_architecture
@pytest.mark.parametrize("keys", [{}, LONGROPE])
def test_a_file_need_not_have_divisors(architecture: str, keys: dict[str, Any], read: ReadConfig) -> None:
    assert read(architecture, (), keys).rope_factors(10**6) is None


@with_freqs
def test_the_divisors_of_llama_3_hold_for_every_context(architecture: str, read: ReadConfig) -> None:
    config = read(architecture, (FREQS,), {})
    assert config.rope_factors(1) == config.rope_factors(CONTEXT + 1) == Part(FREQS)


@every_architecture
@pytest.mark.parametrize("keys", [{}, LONGROPE])
def test_others_may_not_have_the_divisors_of_llama_3(architecture: str, keys: dict[str, Any], read: ReadConfig) -> None:
    if architecture in ("llama", "granite") and keys != LONGROPE:
        return
    with pytest.raises(UnsupportedModelError, match=f"tensor `{FREQS}`, which the architecture {architecture} has no"):
        read(architecture, (FREQS,), keys)


@pytest.mark.parametrize(
    ("architecture", "keys"), [("llama", LONGROPE), ("granite", LONGROPE), ("phi3", LONGROPE), ("phi3", {})]
)
def test_the_two_sets_of_longrope_are_chosen_by_the_context(
    architecture: str, keys: dict[str, Any], read: ReadConfig
) -> None:
    """Contexts count as multiples of 256."""
    original = {"rope.scaling.original_context_length": 1024}
    config = read(architecture, BOTH, keys | original)
    assert [config.rope_factors(length) for length in (1, 1024, 1025)] == [Part(SHORT), Part(SHORT), Part(LONG)]
    config = read(architecture, BOTH, keys | {"rope.scaling.original_context_length": 1000})
    assert [config.rope_factors(length) for length in (768, 769, 1000)] == [Part(SHORT), Part(LONG), Part(LONG)]
    config = read(architecture, BOTH, keys)
    assert [config.rope_factors(CONTEXT + more) for more in (0, 1)] == [Part(SHORT), Part(LONG)]


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"phi3"}))
@pytest.mark.parametrize("keys", [{}, LINEAR, LONGROPE])
def test_the_two_sets_are_refused_where_they_would_not_be_used(
    architecture: str, keys: dict[str, Any], read: ReadConfig
) -> None:
    if architecture in ("llama", "granite") and keys == LONGROPE:
        return
    with pytest.raises(UnsupportedModelError, match=f"a tensor `{LONG}` and 1 more, which the architecture"):
        read(architecture, BOTH, keys)


@pytest.mark.parametrize("architecture", ["llama", "granite", "phi3"])
def test_one_set_without_the_other_is_refused(architecture: str, read: ReadConfig) -> None:
    for here, missing in (BOTH, BOTH[::-1]):
        with pytest.raises(UnsupportedModelError, match=f"no tensor `{missing}`, which the architecture"):
            read(architecture, (here,), LONGROPE)


@with_freqs
def test_divisors_of_both_kinds_in_one_file_are_refused(architecture: str, read: ReadConfig) -> None:
    for keys, unused in (({}, LONG), (LONGROPE, FREQS)):
        with pytest.raises(UnsupportedModelError, match=f"a tensor `{unused}`"):
            read(architecture, (FREQS, *BOTH), keys)


def test_there_is_one_divisor_for_each_pair_that_turns(read: ReadConfig) -> None:
    assert read("phi3", BOTH, {"rope.dimension_count": 6}, pairs=3).rope_factors(1) == Part(SHORT)
    for architecture, names, keys in (("llama", (FREQS,), {}), ("llama", BOTH, LONGROPE), ("phi3", BOTH, {})):
        with pytest.raises(UnsupportedModelError, match=f"`{names[0]}` in the shape 3, where .* say 4"):
            read(architecture, names, keys, pairs=3)
