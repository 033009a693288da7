"""MLX's limits are the process's: the first model sets them, the last one puts back what was before."""

from __future__ import annotations

import pytest

mx = pytest.importorskip("mlx.core")

import inference_mlx.limits as limits  # noqa: E402 - after mlx is known to be there
from inference_mlx.limits import Limits  # noqa: E402

RECOMMENDED = 16 * 2**30


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The limits that MLX has: "wired" and "cache"."""
    values = {"wired": 0, "cache": 99}

    def setter(name: str) -> object:
        def set_limit(value: int) -> int:
            before, values[name] = values[name], value
            return before

        return set_limit

    monkeypatch.setattr(mx, "set_wired_limit", setter("wired"))
    monkeypatch.setattr(mx, "set_cache_limit", setter("cache"))
    monkeypatch.setattr(limits, "_models", [])
    return values


def test_the_last_model_that_goes_puts_back_what_was_before_the_first(current: dict[str, int]) -> None:
    first, second = Limits(RECOMMENDED), Limits(RECOMMENDED)
    assert current == {"wired": RECOMMENDED, "cache": RECOMMENDED // 8}
    first.release()
    first.release()
    assert current["wired"] == RECOMMENDED
    second.release()
    assert current == {"wired": 0, "cache": 99}


def test_a_model_on_the_cpu_device_neither_sets_nor_keeps_them(current: dict[str, int]) -> None:
    on_cpu, on_metal = Limits(0), Limits(RECOMMENDED)
    assert current["wired"] == RECOMMENDED
    on_metal.release()
    assert current == {"wired": 0, "cache": 99}
    on_cpu.release()


def test_a_device_that_recommends_nothing_has_no_limits(current: dict[str, int]) -> None:
    Limits(0).release()
    assert current == {"wired": 0, "cache": 99}


def test_the_peak_counts_from_the_first_models_loading(current: dict[str, int]) -> None:
    mx.eval(mx.zeros(10_000_000))
    one = Limits(0)
    assert one.memory().peak_bytes < mx.get_active_memory() + 10_000_000
    one.release()
