"""What decides the text of a batch, in a few digits: the model, and the options that change what it says."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from inference.cli.flags import Sampling
from inference.cli.report import json_text
from inference.options import GenerateOptions, LoadOptions

__all__ = ["run_fingerprint"]

SAMPLES = 64
SAMPLE_BYTES = 2**16
"""What is looked at of a model file: all of a large one would take minutes, and another training moves every tensor."""
OF_A_FOLDER = {".json", ".jinja", ".safetensors"}
"""What decides the text of a model that is a folder."""
CHANGE_THE_TEXT = ("chat_template", "kv_cache_type")
"""The load options that count. The others say where and how fast the model runs, and how long a text may be."""


def run_fingerprint(model: Path, sampling: Sampling, load: LoadOptions, others: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that tell a run from one with another model, other options or `others` that differ."""
    given = {name: getattr(GenerateOptions(**sampling.given), name) for name in sampling.given}
    if not sampling.from_model:  # a default that was written out changes nothing
        given = {name: value for name, value in given.items() if value != getattr(GenerateOptions(), name)}
    content = {
        "model": _folder(model) if model.is_dir() else _sampled(model),
        "options": dict(sorted(given.items())),
        "from_model": sampling.from_model,
        "load": {name: getattr(load, name) for name in CHANGE_THE_TEXT if name in load.changed()},
        **others,
    }
    return blake2b(json_text(content).encode(), digest_size=6).hexdigest()


def _folder(path: Path) -> dict[str, str]:
    """A digest of each of its files that count."""
    files = (file for file in sorted(path.iterdir()) if file.suffix in OF_A_FOLDER and file.is_file())
    return {file.name: _sampled(file) for file in files}


def _sampled(path: Path) -> str:
    """A digest of the file's size and of parts of it."""
    size = path.stat().st_size
    digest = blake2b(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(size * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
