"""`inference tune`, on engines that are not there and figures that nobody measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from fakes import FakeBackend

from inference import registry
from inference.measuring import Cell, Entry, Native, tuning
from inference.measuring.case import Case

Invoke = Callable[..., Result]
RATES = {"decode greedy": (30, 20), "decode 8 together": (60, 50), "prefill": (100, 400)}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, tuple[float | None, ...]]:
    """Two engines and their figures by case, which a test may change: None is for no round in time, -1 for failure."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {name: FakeBackend(name) for name in ("llama_cpp", "torch")})
    rates: dict[str, tuple[float | None, ...]] = dict(RATES)

    def measure(case: Case, engines: Sequence[Native], *, repeats: int, seconds: float) -> Cell:
        cell = Cell(case.name, None, case.unit, {})
        for engine, rate in zip(engines, rates[case.name], strict=True):
            entry = Entry(engine.name, ours=True)
            if rate == -1:
                entry.error = "it broke"
            elif rate is not None:
                entry.samples = {1: rate}
            cell.entries.append(entry)
        return cell

    monkeypatch.setattr(tuning, "measure", measure)
    return rates


def test_the_table_shows_each_engines_rates_and_the_fastest_runs_the_model_from_then_on(
    invoke: Invoke, tiny_path: Path, measured: object
) -> None:
    result = invoke("tune", tiny_path)
    assert result.exit_code == 0
    assert "decode, 1 sequence: 30 tokens/s; 20 tokens/s" in result.stdout
    assert "prefill, 512 tokens: 100 tokens/s; 400 tokens/s" in result.stdout
    assert "fastest for decode: llama_cpp\nfastest for prefill: torch\n" in result.stdout
    assert "Measuring prefill, 16 tokens ..." in result.stderr
    doctor = invoke("doctor", tiny_path, "--workload", "prefill")
    assert "model on torch cpu: 400 tokens/s measured; it runs anything." in doctor.stdout
    assert "runs on: torch on torch device: " in doctor.stdout
    assert json.loads(invoke("doctor", tiny_path, "--json").stdout)["model"]["backend"] == "llama_cpp"


def test_json_holds_the_figures_and_the_choice(invoke: Invoke, tiny_path: Path, measured: object) -> None:
    document = json.loads(invoke("tune", tiny_path, "--json").stdout)
    assert document["chosen"] == {"decode": "llama_cpp", "prefill": "torch"}
    assert [each["rates"]["decode"] for each in document["speeds"]] == [
        {"1 sequence": 30, "8 sequences": 60},
        {"1 sequence": 20, "8 sequences": 50},
    ]
    assert Path(document["kept_in"]).is_file()


def test_an_engine_that_fails_at_a_work_comes_last_in_it_and_a_warning_says_why(
    invoke: Invoke, tiny_path: Path, measured: dict[str, tuple[float | None, ...]]
) -> None:
    measured["decode 8 together"] = (-1, 5)
    result = invoke("tune", tiny_path)
    assert "fastest for decode: torch\n" in result.stdout
    assert "decode, 8 sequences: failed; 5 tokens/s" in result.stdout
    assert "Warning: decode, 8 sequences, inference llama_cpp: it broke" in result.stderr


@pytest.mark.parametrize("figures", [(None, 5), (-1, -1)])
def test_what_was_not_measured_to_the_end_is_not_kept(
    invoke: Invoke, tiny_path: Path, tmp_path: Path, measured: dict[str, tuple[float | None, ...]], figures: tuple[int]
) -> None:
    for name in measured:
        measured[name] = figures
    result = invoke("tune", tiny_path)
    assert result.exit_code == 1
    assert "nothing is kept" in result.stderr
    assert not (tmp_path / "cache").exists()
