"""The command line on model folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from fakes import FakeBackend, FakeFolderBackend, FakeRunner
from folders import write_folder

from inference import registry
from inference.cli import bench
from inference.cli.fingerprint import run_fingerprint
from inference.cli.flags import Sampling
from inference.cli.model_name import is_model_name
from inference.errors import InferenceError
from inference.measuring import Case, Native
from inference.options import LoadOptions

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folders") / "tiny-llama", quantized=True).path


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFolderBackend]:
    """The only backend; its models say "Hello there" and end."""
    backend = FakeFolderBackend("fake", runner=lambda: FakeRunner(script=b"Hello there"))
    monkeypatch.setattr(registry, "_registered", {"fake": backend})
    monkeypatch.setattr(registry, "_installed", dict)
    yield backend


def test_info_shows_a_folder_as_it_shows_a_file(invoke: Invoke, folder: Path) -> None:
    result = invoke("info", folder)
    assert result.exit_code == 0
    assert dict(line.split(": ", 1) for line in result.stdout.splitlines()) == {
        "path": str(folder),
        "name": "tiny-llama",
        "kind": "model",
        "architecture": "llama",
        "quantization": "4-bit",
        "parameters": "123,200",
        "size": "91.2 KiB (93,440 bytes)",
        "layers": "2",
        "train context length": "512",
        "vocabulary size": "384",
        "KV bytes per token": "256",
        "chat template": "yes",
        "sampling": "do_sample True, temperature 0.7",
        "shards": "1",
    }


def test_the_metadata_of_a_folder_is_its_config(invoke: Invoke, folder: Path) -> None:
    shown = invoke("info", folder, "--metadata", "--tensors").stdout
    assert '\nquantization: {"group_size": 32, "bits": 4}\n' in shown
    assert "\narchitectures: ['LlamaForCausalLM']\n" in shown
    assert "\nmodel.layers.0.self_attn.q_proj.weight: U32; 64 x 8; 2.0 KiB\n" in shown
    document = json.loads(invoke("info", folder, "--metadata", "--tensors", "--json").stdout)
    assert document["metadata"] == json.loads((folder / "config.json").read_text())
    assert (document["quantization"], document["gguf_version"]) == ("4-bit", None)
    assert {"name": "model.norm.weight", "type": "F32", "shape": [64], "size_bytes": 256} in document["tensors"]


def test_a_prompt_is_completed_on_a_folder(invoke: Invoke, folder: Path, backend: FakeFolderBackend) -> None:
    result = invoke("run", folder, "hi")
    assert (result.exit_code, result.stdout) == (0, "Hello there\n")
    assert len(backend.loaded_folders) == 1
    assert invoke("run", folder, "hi", "--chat", "--model-sampling").stdout == "Hello there\n"
    assert "Hello there" in invoke("chat", folder, input="hi\n").stdout


def test_doctor_says_what_would_run_the_folder(invoke: Invoke, folder: Path, backend: FakeFolderBackend) -> None:
    result = invoke("doctor", folder)
    assert result.exit_code == 0
    assert f"model: {folder}\n" in result.stdout
    assert "runs on: fake on fake device" in result.stdout


def test_bench_measures_the_backends_that_load_folders(
    invoke: Invoke, folder: Path, backend: FakeFolderBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(FakeBackend("files only"))

    def measure(case: Case, competitors: Sequence[Native], **_: object) -> None:
        raise InferenceError(f"asked for {case.model} on {[competitor.backend for competitor in competitors]}")

    monkeypatch.setattr(bench, "measure", measure)
    assert f"asked for {folder} on ['fake']" in invoke("bench", folder).stderr


@pytest.mark.parametrize("command", ["run", "chat", "info", "doctor", "bench"])
def test_every_command_says_in_a_sentence_what_is_wrong_with_the_folder(
    invoke: Invoke, folder: Path, tmp_path: Path, backend: FakeFolderBackend, command: str
) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "bad"))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    result = invoke(command, path, input="hi")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {path} has its weights as pytorch_model.bin, a pickle")
    assert result.stderr.count("\n") == 1


def test_a_word_that_names_a_folder_is_a_model_and_no_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "plain").mkdir(exist_ok=True)
    assert is_model_name("tiny-llama")
    assert not is_model_name("plain")


def test_a_batch_resumes_on_the_same_folder_and_not_on_a_changed_one(folder: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        return run_fingerprint(path, Sampling({}, False), LoadOptions(), {})

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert fingerprint(copy) == fingerprint(folder)
    (copy / "README.md").write_text("Notes.")
    assert fingerprint(copy) == fingerprint(folder)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace("10000.0", "20000.0"))
    assert fingerprint(copy) != fingerprint(folder)
    (copy / "config.json").write_text(config)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert fingerprint(copy) != fingerprint(folder)
