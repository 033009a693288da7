"""The repository's benchmarks: their plan, their peers' adapters, their command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import LlamaCppLlama, all_peers
from benchmarks.plan import CASES, plan
from benchmarks.startup import ForeignModules, HeaderRead, Import, Package
from benchmarks.wanted import Wanted
from inference.choosing import choose
from inference.gguf.blocks import BLOCK_LAYOUTS
from inference.loading import read_model
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Cell,
    Competitor,
    Decode,
    Load,
    Native,
    Sampling,
    Settings,
    measure,
)
from inference.options import LoadOptions

ROOT = Path(__file__).parent.parent.parent
SETTINGS = Settings(threads=1, context_length=256, batch_size=64)
OURS = Package("inference", True, "inference", ())


def test_the_cases_have_these_names() -> None:
    engine = ["decode", "prefill", "load", "import", "batch", "overhead", "classify", "turn", "gap", "memory"]
    assert list(CASES) == ["overview", *engine, "blocks", "tokenizer", "torch", "torch-memory", "mlx", "mlx-memory"]


def test_decoding_has_to_reach_98_percent_of_both_peers_greedy_and_sampled() -> None:
    cells = [entry.case for entry in plan(["decode"], Wanted([Path("m.gguf")], SETTINGS))]
    assert [cell.name for cell in cells] == ["decode greedy", "decode sampled"]
    for cell in cells:
        assert {name: bar.at_least for name, bar in cell.bars.items()} == {peer.name: 0.98 for peer in all_peers()}


@pytest.mark.real_model
def test_the_overview_measures_every_engine_that_may_be_chosen_beside_peers_on_each_kind_of_work(
    smollm_path: Path,
) -> None:
    entries = list(plan(["overview"], Wanted([smollm_path], SETTINGS)))
    names = [entry.case.name for entry in entries]
    batches = [f"decode {many} together" for many in (2, 4, 8, 16, 32, 64)]
    assert names == [
        *("prefill", "decode greedy", "decode at 512", "decode at 1536", *batches),
        *("second chat turn", "classify", "load to first token", "start to first token", "peak memory", "import"),
    ]
    ours = [engine.name for engine in engines_of(smollm_path)]
    for entry in entries[:-1]:
        assert [competitor.name for competitor in entry.competitors if competitor.ours] == ours
        assert any(not competitor.ours for competitor in entry.competitors)
        assert entry.seconds == 15


def engines_of(path: Path) -> list[Native]:
    return [Native.of(each) for each in choose(read_model(path), LoadOptions())]


def test_loading_has_to_stay_within_5_percent_of_the_peer() -> None:
    entries = [entry for entry in plan(["load"], Wanted([Path("m.gguf")], SETTINGS)) if isinstance(entry.case, Load)]
    assert [entry.case.bars[LlamaCppLlama.name].at_most for entry in entries] == [1.05]


def test_starting_has_its_bars() -> None:
    cells = {entry.case.name: entry.case for entry in plan(["import"], Wanted([Path("m.gguf")], SETTINGS))}
    limits = {name: cell.bars[ABSOLUTE].at_most for name, cell in cells.items() if cell.bars}
    assert limits == {"import": 40, "import, foreign modules": 0, "inference --help": 300, "header": 60} | {
        "choosing": 10,
        "choosing for a file": 80,
        "checks of a known file": 20,
    }


def test_every_block_format_has_to_decode_at_half_a_gigabyte_a_second_and_as_the_peer_does() -> None:
    entries = list(plan(["blocks"], Wanted([], SETTINGS, quick=True)))
    assert [entry.case.name for entry in entries] == [f"decode {name}" for name in BLOCK_LAYOUTS]
    for entry in entries:
        assert entry.case.bars[ABSOLUTE].at_least == 0.5
        ours, peer = measure(entry.case, entry.competitors, repeats=1).entries
        assert (ours.error, peer.error) == (None, None)  # which they would have if they had decoded other weights


def test_every_peer_is_told_the_same_settings() -> None:
    script = LlamaCppLlama().first_token_script(Path("m.gguf"), Settings(threads=3, context_length=768), "x")
    for word in ("'n_threads': 3", "'n_threads_batch': 3", "'n_ctx': 768", "'flash_attn': True"):
        assert word in script
    compile(script, "script", "exec")


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for peer in all_peers():
        assert peer.reason_unavailable() == "llama-cpp-python is not installed."


@pytest.mark.real_model
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=lambda sampling: sampling.name)
def test_ours_and_both_peers_do_the_same_work(sampling: Sampling, smollm_path: Path) -> None:
    (entry, *_) = plan(["decode"], Wanted([smollm_path], SETTINGS))
    cell = measure(Decode(smollm_path, SETTINGS, sampling=sampling, tokens=8), entry.competitors, repeats=2)
    assert [entry.error for entry in cell.entries] == [None, None, None]
    assert [len(ratio.per_round) for ratio in cell.ratios] == [2, 2]


def test_importing_the_library_brings_in_nothing_foreign() -> None:
    competitors: list[Competitor] = [
        OURS,
        Package("click", False, "click", ()),
        Package("x", False, "no_such_module", ()),
    ]
    cell = measure(ForeignModules(), competitors, repeats=1)
    assert cell.entries[0].samples == {1: 0.0}
    assert cell.entries[1].error is None
    assert cell.entries[2].skipped == "no_such_module is not installed."


def test_the_import_and_a_header_are_timed_in_fresh_processes(smollm_path: Path) -> None:
    for case in (Import(), HeaderRead(smollm_path)):
        (entry,) = measure(case, [OURS], repeats=1).entries
        assert entry.error is None
        assert entry.samples[1] > 0


@pytest.mark.real_model
def test_the_command_prints_a_table_and_a_json_line_for_each_cell(smollm_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    arguments = ["--cases", "prefill", "--model", str(smollm_path), "--quick", "--repeats", "1", "--threads", "1"]
    arguments += ["--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| case")
    assert done.stdout.count("| prefill") == 3
    cells = [Cell.from_json(line) for line in path.read_text().splitlines()]
    assert [cell.case for cell in cells] == ["prefill"]
    assert json.loads(path.read_text())["surroundings"]["arguments"] == arguments


@pytest.mark.real_model
def test_inference_bench_prints_a_json_line_for_each_figure(smollm_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "inference",
        "bench",
        str(smollm_path),
        "--json",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    cells = [Cell.from_json(line) for line in done.stdout.splitlines()]
    assert [cell.case for cell in cells] == ["decode greedy", "decode sampled", "prefill", "load to first token"]
    assert all(entry.ours and entry.spread for cell in cells for entry in cell.entries)
    assert cells[0].facts["settings"]["threads"] == 1


def test_inference_bench_refuses_an_unknown_backend(smollm_path: Path) -> None:
    command = [sys.executable, "-m", "inference", "bench", str(smollm_path), "--backend", "steam"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: No backend is called 'steam'.")


def test_an_unknown_case_is_refused_with_the_names_that_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--cases", "decode,flight"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "flight" in done.stderr
    assert "prefill" in done.stderr
