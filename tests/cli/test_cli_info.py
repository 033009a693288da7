"""`inference info`: what the header says, without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def rows(result: Result) -> dict[str, str]:
    assert result.exit_code == 0
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def test_piped_it_is_key_and_value_lines(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("info", tiny_path)
    assert rows(result) == {
        "path": str(tiny_path),
        "name": "tiny",
        "kind": "model",
        "architecture": "fake",
        "quantization": "F32",
        "parameters": "32",
        "size": "128 bytes (128 bytes)",
        "chat template": "no",
        "sampling": "none",
        "GGUF version": "3",
        "shards": "1",
    }
    assert "\x1b" not in result.output


def test_json_has_the_same_figures_and_null_where_the_file_is_silent(invoke: Invoke, tiny_path: Path) -> None:
    document = json.loads(invoke("info", tiny_path, "--json").stdout)
    assert document["parameters"] == 32
    assert document["size_bytes"] == 128
    assert document["layers"] is None
    assert document["chat_template"] is False
    assert "metadata" not in document
    assert "tensors" not in document


def test_metadata_and_tensors_are_shown_when_asked_for(invoke: Invoke, write_gguf: Callable[..., Path]) -> None:
    path = write_gguf("two.gguf", general_name="Two\x1b[31m\nlines")
    shown = rows(invoke("info", path, "--metadata", "--tensors"))
    assert shown["general.name"] == r"Two\x1b[31m\nlines"
    assert shown["weight"] == "F32; 32; 128 bytes"
    document = json.loads(invoke("info", path, "--metadata", "--tensors", "--json").stdout)
    assert document["metadata"]["general.name"] == "Two\x1b[31m\nlines"
    assert document["tensors"] == [{"name": "weight", "type": "F32", "shape": [32], "size_bytes": 128}]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"architecture": "clip", "general_type": "mmproj"}, "projector"),
        ({"architecture": "llama", "general_type": "adapter"}, "adapter"),
    ],
)
def test_a_file_that_is_no_language_model_is_shown_as_what_it_is(
    invoke: Invoke, write_gguf: Callable[..., Path], content: dict[str, str], kind: str
) -> None:
    path = write_gguf("other.gguf", **content)
    assert rows(invoke("info", path))["kind"] == kind
    refused = invoke("run", path, "x")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"Error: {path} is a")


def test_no_engine_is_loaded(tiny_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['inference', 'info', sys.argv[1]]\n"
        "from inference.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'llama_cpp', 'numpy', 'inference_llama_cpp', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tiny_path)], capture_output=True, check=True)


@pytest.mark.real_model
def test_a_real_models_figures(invoke: Invoke, smollm_path: Path) -> None:
    shown = rows(invoke("info", smollm_path))
    assert shown["architecture"] == "llama"
    assert shown["quantization"] == "Q4_1"
    assert shown["parameters"] == "134,515,008"
    assert shown["train context length"] == "8,192"
    assert shown["vocabulary size"] == "49,152"
    assert shown["KV bytes per token"] == "23,040"  # 30 layers x 2 x 3 heads x 64 x 2 bytes
    assert shown["chat template"] == "yes"


@pytest.mark.real_model
def test_long_arrays_are_cut(invoke: Invoke, smollm_path: Path) -> None:
    tokens = rows(invoke("info", smollm_path, "--metadata"))["tokenizer.ggml.tokens"]
    assert tokens.startswith("['<|endoftext|>', ")
    assert tokens.endswith(", ... 49,152 in all]")
    document = json.loads(invoke("info", smollm_path, "--metadata", "--json").stdout)
    assert document["metadata"]["llama.block_count"] == 30
    assert document["metadata"]["tokenizer.ggml.tokens"]["length"] == 49_152
