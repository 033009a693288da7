"""The repository's benchmarks of many at once: their bars, their peers, their arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf_files import Tensor, write_model

from benchmarks import wanted as plans
from benchmarks.bound import NEW_TOKENS, ClassifyBound, bound, gpu_remark, new_tokens
from benchmarks.overhead import Computing, cpu_between, overhead
from benchmarks.peers import LlamaCppBatched, LlamaCppChat, OneByOne
from benchmarks.plan import plan
from benchmarks.quantized import q4_0
from benchmarks.wanted import LLAMA_CPP, Wanted
from inference.gguf.reader import read_header
from inference.measuring import ABSOLUTE, BatchDecode, Cell, Classify, Entry, Settings, measure

SETTINGS = Settings(threads=1, context_length=256, batch_size=64)
MODEL = Path("m.gguf")


# Bars ----------------------------------------------------------------------------------------------------------------


def test_a_batch_has_to_reach_95_percent_of_the_bare_loop_and_many_times_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "demo_model", lambda: MODEL)
    monkeypatch.setattr(plans, "q4_0", lambda model, _: model.with_suffix(".Q4_0.gguf"))
    cases = [entry.case for entry in plan(["batch"], Wanted([MODEL, Path("other.gguf")], SETTINGS))]
    bars = [{name: bar.at_least for name, bar in case.bars.items()} for case in cases]
    loop, alone = LlamaCppBatched().name, OneByOne(LLAMA_CPP).name
    assert [case.model.name for case in cases if case.model] == ["m.gguf", "m.Q4_0.gguf", "other.gguf"]
    assert bars == [{loop: 0.95, alone: 1.8}, {loop: 0.95, alone: 3.2}, {loop: 0.95}]
    assert all(isinstance(case, BatchDecode) and case.sequences == 32 for case in cases)


def test_the_other_cases_have_the_bars_that_were_promised() -> None:
    wanted = Wanted([MODEL], SETTINGS)
    overheads = [entry.case for entry in plan(["overhead"], wanted)]
    assert [(case.unit, case.bars[ABSOLUTE].at_most) for case in overheads] == [
        ("microseconds", 150),
        ("% of the step", 3),
    ]
    (classify,) = plan(["classify"], wanted)
    assert isinstance(classify.case, Classify)
    assert classify.case.sentences == 2000
    assert {name: bar.at_least for name, bar in classify.case.bars.items()} == {ClassifyBound(LLAMA_CPP).name: 0.85}
    limits = {name: next(plan([name], wanted)).case.bars[ABSOLUTE].at_most for name in ("gap", "memory")}
    assert limits == {"gap": 300, "memory": 4}
    (turn,) = plan(["turn"], wanted)
    assert {name: bar.at_most for name, bar in turn.case.bars.items()} == {LlamaCppChat.name: 1.15}
    assert next(plan(["memory"], wanted)).repeats == 1


# Arithmetic ----------------------------------------------------------------------------------------------------------


def computing(began: float, ended: float) -> Computing:
    """A call in a thread that does nothing but to call, at once, 0.2 s of CPU time later."""
    return Computing(began, ended, began, ended - 0.2, thread=1)


def test_overhead_is_what_is_not_computed_in_the_window_and_the_consumers_cpu_time() -> None:
    calls = [computing(0, 9), computing(9.5, 12), computing(12.5, 15), computing(15.5, 18)]
    # Within 10 to 16: 0.5 between the second call and the third, 0.5 between the third and the fourth.
    assert overhead(calls, (10, 16), 0.25) == (1.25, 2)
    assert cpu_between(calls, (10, 16)) == pytest.approx(2 * 0.7)


def test_an_engine_that_computes_by_another_function_is_not_taken_for_free() -> None:
    with pytest.raises(RuntimeError, match="no llama_decode was seen"):
        overhead([computing(0, 1)], (10, 20), 0)


def test_the_bound_is_the_new_tokens_at_the_prefill_rate_and_a_row_of_the_head() -> None:
    assert bound(16, 320, 0.0) == pytest.approx(20)
    assert bound(16, 320, 0.05) == pytest.approx(10)


def test_the_beginning_that_all_prompts_share_is_not_new() -> None:
    assert new_tokens([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5, 6]]) == 2
    assert new_tokens([[1, 2, 3], [1, 2, 3, 4, 5]]) == 1


def test_the_remark_on_one_gpu_says_what_it_assumes(tmp_path: Path) -> None:
    tensors = (Tensor("token_embd.weight", (64, 4), "F32"), Tensor("blk.0.attn_q.weight", (64, 1000), "F32"))
    model = write_model(tmp_path / "tiny.gguf", tensors=tensors)
    entry = Entry("bound", False, beside={NEW_TOKENS: [10.0, 10.0]})
    remark = gpu_remark(model, Cell("classify", model.name, "sentences/s", {}, {}, [entry]))
    assert remark is not None
    # 2 * (10 * 64,000 + 64 * 4) operations at 0.3 * 122.8e12 a second.
    assert "28,769,742 sentences/s" in remark
    assert "assumed and not measured" in remark
    assert gpu_remark(model, Cell("classify", model.name, "sentences/s", {}, {}, [])) is None


# Peers ---------------------------------------------------------------------------------------------------------------


def test_the_peers_say_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert LlamaCppBatched().reason_unavailable() == "llama-cpp-python is not installed."
    assert "one by one" in OneByOne(LLAMA_CPP).name


@pytest.mark.real_model
def test_the_demo_model_becomes_q4_0_once(smollm_path: Path, tmp_path: Path) -> None:
    made = q4_0(smollm_path, tmp_path)
    assert read_header(made).quantization == "Q4_0"
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    written = made.stat().st_mtime_ns
    assert q4_0(smollm_path, tmp_path) == made
    assert made.stat().st_mtime_ns == written


@pytest.mark.real_model
def test_together_and_one_by_one_all_do_the_same_work(smollm_path: Path) -> None:
    competitors = next(plan(["batch"], Wanted([smollm_path], SETTINGS, quick=True))).competitors
    cell = measure(BatchDecode(smollm_path, SETTINGS, sequences=3, tokens=16, alone=1), competitors, repeats=1)
    assert [entry.error for entry in cell.entries] == [None] * 5
    assert len(cell.ratios) == 4


SMALL: dict[str, dict[str, Any]] = {
    "overhead": {"tokens": 16},
    "classify": {"sentences": 10},
    "turn": {"histories": (10, 30)},
    "gap": {"prompt_tokens": 60},
    "memory": {"requests": 60},
}


@pytest.mark.real_model
@pytest.mark.parametrize("name", SMALL)
def test_each_case_runs_on_a_real_model(name: str, smollm_path: Path) -> None:
    for entry in plan([name], Wanted([smollm_path], SETTINGS, quick=True)):
        case = replace(entry.case, **SMALL[name])  # type: ignore[type-var]
        cell = measure(case, entry.competitors, repeats=1)
        assert [entry.error for entry in cell.entries] == [None] * len(entry.competitors)
        assert all(entry.spread for entry in cell.entries)
        assert bool(entry.remark and entry.remark(cell)) is (name == "classify")
