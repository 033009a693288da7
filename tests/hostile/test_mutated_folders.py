"""No model folder ends the process: it loads, or an error says what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import random
from pathlib import Path

import pytest
from folders import write_folder
from inference_mlx import vetting

from hostile.folder_mutations import folder_mutations
from hostile.trials import try_folders
from inference import load_model
from inference.errors import LoadError
from inference.folder import read_folder

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("nothing_is_known")]

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
COUNT = 400


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", quantized=True).path


@pytest.mark.parametrize("is_quantized", [False, True])
def test_every_mutated_folder_loads_or_is_refused_by_name(is_quantized: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", quantized=is_quantized).path
    tally = try_folders(random.Random(SEED).sample(list(folder_mutations(folder)), COUNT), folder)
    assert tally.bad == [], f"with HOSTILE_SEED={SEED}"
    assert sum(tally.came.values()) == COUNT
    assert tally.came["loaded"] > 0


def test_every_file_of_the_folder_is_changed(quantized: Path) -> None:
    files = {mutation.file for mutation in folder_mutations(quantized)}
    assert files == {file.name for file in quantized.iterdir()}


def with_too_narrow_matrices(folder: Path) -> Path:
    """A folder at which MLX divides by zero: it reckons groups of 64 x 3 weights from scales for 64 x 128."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 3}), "utf-8")
    return folder


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors divide by zero and go on")
def test_a_folder_that_would_end_the_process_is_refused(quantized: Path) -> None:
    for _ in range(2):  # it is never taken for good
        with pytest.raises(LoadError, match=r"MLX would have ended this process on this model.*SIGFPE"):
            load_model(with_too_narrow_matrices(quantized), backend="metal", device="cpu")


def test_a_folder_is_tried_once_and_known_by_what_it_says(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    worker = vetting.TRIALS.worker
    call = worker.call
    monkeypatch.setattr(worker, "call", lambda *arguments: tried.append(arguments) or call(*arguments))
    for _ in range(2):
        load_model(quantized, backend="metal", device="cpu").close()
    assert len(tried) == 1
    load_model(quantized, backend="metal", device="cpu", trial_load=False).close()
    before = vetting.digest_of(read_folder(quantized), "cpu")
    assert vetting.digest_of(read_folder(quantized), "metal") != before
    (quantized / "hf_quant_config.json").write_text("{}", "utf-8")
    assert vetting.digest_of(read_folder(quantized), "cpu") != before
    load_model(quantized, backend="metal", device="cpu").close()
    assert len(tried) == 2, "another folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_what_else_lies_in_the_folder_is_not_read(quantized: Path) -> None:
    (quantized / "notes.json").mkdir()
    (quantized / "gone.json").symlink_to("/nowhere/gone.json")
    os.mkfifo(quantized / "pipe.json")
    load_model(quantized, backend="metal", device="cpu").close()
