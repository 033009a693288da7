"""llama-bench and llama-batched-bench as peers: programs that time themselves. Stand-ins take their place here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks.peers import LlamaBatchedBench, LlamaBench, llama_bench
from inference.measuring import (
    SAMPLED,
    BatchDecode,
    Case,
    Decode,
    DecodeAtDepth,
    Load,
    Passes,
    Prefill,
    Sample,
    Settings,
    measure,
)

MODEL = Path("m.gguf")
SETTINGS = Settings(threads=3, context_length=128, batch_size=64, kv_cache_type="q8_0", flash_attention=False)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a Python program in the place of both; what it was asked is in the file returned."""
    asked = tmp_path / "asked.json"

    def put(code: str) -> Path:
        script = tmp_path / "program.py"
        script.write_text(f"import json, sys\njson.dump(sys.argv[1:], open({str(asked)!r}, 'w'))\n{code}\n")
        shell = tmp_path / "program"
        shell.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        shell.chmod(0o755)
        monkeypatch.setattr(llama_bench, "built", lambda _: shell)
        return asked

    return put


def options(asked: Path) -> dict[str, str]:
    words = json.loads(asked.read_text())
    return dict(zip(words[::2], words[1::2], strict=True))


def test_llama_bench_is_asked_for_the_case_with_the_settings_of_all(program: Callable[[str], Path]) -> None:
    asked = program("print('noise'); print(json.dumps({'avg_ts': 12.5}))")
    assert LlamaBench().own_rate(MODEL, SETTINGS, Passes(tokens=32, depth=512)) == 12.5
    found = options(asked)
    assert (found["-m"], found["-t"], found["-b"], found["-ub"], found["-ngl"]) == ("m.gguf", "3", "64", "64", "999")
    assert (found["-p"], found["-n"], found["-d"], found["-r"]) == ("0", "32", "512", "1")
    assert (found["-ctk"], found["-ctv"], found["-fa"], found["-o"]) == ("q8_0", "q8_0", "0", "jsonl")


def test_llama_batched_bench_has_room_for_every_sequence(program: Callable[[str], Path]) -> None:
    asked = program("print(json.dumps({'speed_tg': 99.0, 'speed_pp': 1.0}))")
    assert LlamaBatchedBench().own_rate(MODEL, SETTINGS, Passes(prompt=6, tokens=24, sequences=8)) == 99.0
    found = options(asked)
    assert (found["-npp"], found["-ntg"], found["-npl"], found["-c"]) == ("6", "24", "8", str(8 * 128))
    assert (found["-fa"], found["--output-format"]) == ("off", "jsonl")


def test_a_program_that_fails_is_told_with_its_last_words(program: Callable[[str], Path]) -> None:
    program("sys.stderr.write('loading\\nno such model\\n'); sys.exit(3)")
    with pytest.raises(RuntimeError, match="llama-bench failed with exit code 3: no such model"):
        LlamaBench().own_rate(MODEL, SETTINGS, Passes(prompt=8))


def test_a_program_that_prints_no_figure_has_failed(program: Callable[[str], Path]) -> None:
    program("print('nothing to do')")
    with pytest.raises(RuntimeError, match="llama-batched-bench failed"):
        LlamaBatchedBench().own_rate(MODEL, SETTINGS, Passes(prompt=8))


def test_programs_that_are_not_built_say_how_to_build_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_bench, "built", lambda name: tmp_path / name)
    assert LlamaBench().reason_unavailable() == "llama-bench is not built: run `make peers`."
    (tmp_path / "llama-bench").touch()
    assert LlamaBench().reason_unavailable() is None


@dataclass(frozen=True, slots=True)
class SelfTimedOne:
    """Tells what it was asked for as its rate."""

    name: ClassVar[str] = "a program"
    ours: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()

    def reason_unavailable(self) -> str | None:
        return None

    def own_rate(self, model: Path, settings: Settings, passes: Passes) -> float:
        return passes.prompt + 1e3 * passes.tokens + 1e6 * passes.depth + 1e9 * passes.sequences


@pytest.mark.parametrize(
    ("case", "passes"),
    [
        (Prefill(MODEL, SETTINGS, tokens=100), Passes(prompt=100)),
        (Decode(MODEL, SETTINGS, tokens=7), Passes(tokens=7)),
        (DecodeAtDepth(MODEL, SETTINGS, depth=50, tokens=7), Passes(tokens=7, depth=50)),
        (BatchDecode(MODEL, SETTINGS, sequences=5, tokens=7, longest=9), Passes(prompt=9, tokens=7, sequences=5)),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_a_case_asks_a_program_for_the_work_that_it_measures_of_others(case: Case, passes: Passes) -> None:
    cell = measure(case, [SelfTimedOne()], repeats=2)
    rate = SelfTimedOne().own_rate(MODEL, SETTINGS, passes)
    assert cell.entries[0].samples == {1: rate, 2: rate}


def test_a_program_chooses_its_tokens_and_is_no_error_for_that() -> None:
    class Seat:
        def __init__(self, work: str | None) -> None:
            self.work = work

        def repeat(self, _: int) -> Sample:
            return Sample(1.0, self.work)

        def close(self) -> None:
            pass

    works = iter([None, "these tokens", "other tokens"])
    competitors: list[Any] = [SelfTimedOne(), Named("one"), Named("two")]
    cell = measure(Decode(MODEL, SETTINGS), competitors, repeats=1, seat=lambda *_: Seat(next(works)))
    assert [bool(entry.error) for entry in cell.entries] == [False, False, True]


@dataclass(frozen=True, slots=True)
class Named:
    name: str
    ours: bool = True
    packages: tuple[str, ...] = ()

    def reason_unavailable(self) -> str | None:
        return None

    def load(self, model: Path, settings: Settings) -> object:
        raise AssertionError


@pytest.mark.parametrize("case", [Decode(MODEL, SETTINGS, sampling=SAMPLED), Load(MODEL, SETTINGS)])
def test_work_that_no_program_does_is_skipped_and_said(case: Case) -> None:
    assert measure(case, [SelfTimedOne()], repeats=1).entries[0].skipped == "it does no such work"
