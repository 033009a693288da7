"""Which 16-bit type suits a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conformance.cases import CASES
from conformance.files import write

from inference.gguf.half_types import half_type
from inference.gguf.reader import read_header


@pytest.mark.parametrize(
    ("name", "formats", "wanted"),
    [
        ("llama-Q4_K", ("Q4_K",), "float16"),
        ("llama-F32", ("F32",), "float32"),
        ("llama-BF16", ("BF16",), "bfloat16"),
        ("gemma3-every-format", ("Q4_0",), "bfloat16"),
        ("qwen3-every-format", ("Q8_0",), "bfloat16"),
    ],
)
def test_float16_unless_activations_may_leave_its_range_or_nothing_is_quantised(
    name: str, formats: tuple[str, ...], wanted: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write(replace(CASES[name], block_formats=formats, tied=True), path)
    assert half_type(read_header(path)) == wanted
