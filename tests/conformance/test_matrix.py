"""docs/conformance.md says of every architecture, block format and backend what is so."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conformance.cases import BLOCK_FORMATS
from conformance.matrix import MORE_POSITIONS, measured
from conformance.matrix_page import PAGE, page, unsupported
from conformance.matrix_rows import BACKENDS, LLAMA_CPP, POSITIONS, Key, Row, key, read, wanted
from inference.gguf.architectures import ARCHITECTURES
from inference.gguf.block_formats import DECODED

pytestmark = pytest.mark.real_model

ROOT = Path(__file__).parents[2]
everywhere = pytest.mark.skipif(
    find_spec("triton") is None, reason="what `rocm` refuses is asked of Triton's interpreter, which is not installed"
)
STALE = "docs/conformance.md is stale: run `make matrix`"


def test_every_architecture_and_format_is_there_for_every_backend_and_nothing_else() -> None:
    assert [key(row) for row in read()] == sorted(wanted()), STALE
    assert set(BLOCK_FORMATS) == set(DECODED)


def test_every_row_is_within_its_bound_or_level_with_it() -> None:
    assert [key(row) for row in read() if not row.level] == []
    beyond = {(row.backend, row.positions) for row in read() if not row.passed}
    assert beyond <= {("torch", MORE_POSITIONS)}, "what twelve tokens put beyond the bound is measured again with more"


@everywhere
def test_the_page_is_what_the_rows_render_to() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read()), "docs/conformance.md: run `make matrix`"


def test_rows_were_measured_with_versions_that_are_asked_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, (line for lines in extras.values() for line in lines)):
        asked.setdefault(requirement.name, []).append(requirement)
    for row in read():
        for package, found in row.versions.items():
            for requirement in asked.get(package, []):
                message = f"{key(row)}, {package} {found}: {STALE}"
                assert requirement.specifier.contains(found, prereleases=True), message


@everywhere
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_backend_takes_what_the_page_says_it_computes(architecture: str) -> None:
    refused = {
        (backend, form): reason
        for backend in BACKENDS
        for form in BLOCK_FORMATS
        if (reason := unsupported(backend, architecture, form)) is not None
    }
    assert refused == {}


@pytest.mark.parametrize("each", [("torch", "qwen3", "Q4_K"), (LLAMA_CPP, "gemma3", "Q5_0"), ("metal", "phi3", "Q8_0")])
def test_a_row_measured_anew_is_near_the_one_that_is_kept(each: Key, tmp_path: Path) -> None:
    (now,) = measured([each], tmp_path)
    (kept,) = (row for row in read() if key(row) == each)
    assert now.passed
    assert now.bound == pytest.approx(kept.bound, rel=0.5), STALE  # other processors round otherwise
    assert now.measured < 10 * kept.measured + 0.01 * kept.bound, STALE


def test_a_share_beyond_the_bound_is_seen_on_the_page() -> None:
    rows = [
        Row("torch", "llama", form, 2.0 if form == "F32" else 0.1, 1.0, POSITIONS, {"torch": "2"})
        for form in BLOCK_FORMATS
    ]
    text = page(rows)
    assert f"{len(rows) - 1} of {len(rows)} passed, the largest at 2.00." in text
    assert "| F32 | 2 |" in text
    assert "| F16 | 0.1 |" in text
