"""What `python -m benchmarks --cases mlx,mlx-memory` measures, and which bars it has to clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.cases import CASES
from conformance.files import write
from inference_mlx.forms import FORMS

from benchmarks import wanted as plans
from benchmarks.peers import MLXLm
from benchmarks.plan import plan
from benchmarks.plan_mlx import EXACT
from benchmarks.wanted import REPOSITORY, Wanted
from inference import load_model
from inference.gguf.blocks import BLOCK_LAYOUTS
from inference.measuring import ABSOLUTE, GREEDY, SAMPLED, Settings, measure

DEMO, OTHER = Path("demo.gguf"), Path("other.gguf")
SETTINGS = Settings(threads=2)


def test_mlx_lms_own_loops_on_the_same_weights_are_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "demo_model", lambda: DEMO)
    bars = {
        (str(entry.case.model), entry.case.name): {
            name: (bar.at_least, bar.at_most) for name, bar in entry.case.bars.items()
        }
        for entry in plan(["mlx"], Wanted([DEMO, OTHER], SETTINGS))
    }
    level = {MLXLm.name: (0.98, None)}
    for model in ("demo.gguf", "other.gguf"):
        for case in ("prefill", "decode greedy", "decode sampled", "decode 8 together"):
            assert bars.pop((model, case)) == level
    assert bars == {("demo.gguf", "load"): {ABSOLUTE: (None, 0.5)}, ("other.gguf", "load"): {}}


def test_every_block_format_has_its_line_and_those_that_mlx_holds_exactly_the_bar() -> None:
    entries = list(plan(["mlx-memory"], Wanted([], SETTINGS)))
    assert [entry.case.name for entry in entries] == [f"weights in memory, {name}" for name in BLOCK_LAYOUTS]
    barred = {entry.case.name.split(", ")[1] for entry in entries if entry.case.bars}
    assert barred == set(EXACT)
    assert all(FORMS[name].exact for name in EXACT)
    for entry in entries:
        assert not measure(entry.case, entry.competitors, repeats=1).missed


def test_the_table_in_the_backends_readme_is_what_is_reckoned() -> None:
    lines = (REPOSITORY / "backends/mlx/README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| Q4_0"))
    names, _, factors = (line.strip("| ").split(" | ") for line in lines[start : start + 3])
    told = {name: factor for entry, factor in zip(names, factors, strict=True) for name in entry.split(", ")}
    reckoned = {
        entry.case.name.split(", ")[1]: measure(entry.case, entry.competitors, repeats=1).entries[0].spread
        for entry in plan(["mlx-memory"], Wanted([], SETTINGS))
    }
    assert told == {name: f"{spread.median:.2f}" for name, spread in reckoned.items() if spread}


@pytest.mark.real_model
def test_mlx_lms_loops_make_the_tokens_that_our_engine_makes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES["llama-Q4_0"], path)
    prompts = [[5, 6, 7], [300, 4, 5, 6, 9]]
    with load_model(path, backend="metal", device="cpu", context_length=64) as model:
        expected = [token.id for token in model.generate(prompts[0], max_tokens=6, ignore_eos=True)]
    session = MLXLm("cpu").load(path, SETTINGS)
    assert list(session.stream(prompts[0], 6, GREEDY)) == expected
    assert len(list(session.stream(prompts[0], 6, SAMPLED))) == 6
    assert sorted(session.batch(prompts, 4)) == [0, 0, 0, 0, 1, 1, 1, 1]
    session.close()
