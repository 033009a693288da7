"""Try an installed package: the import, the version, the command line, a tiny model on each engine that came with it.

    python -I scripts/smoke_test.py cli,llama-cpp

Run by `make package`, in an environment that has nothing but the package and the named extras.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from array import array
from importlib.metadata import version
from math import prod
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGINES = {"llama-cpp": "llama_cpp", "mlx": "metal", "torch": "torch"}
"""The backend that an extra serves."""
BYTES = 256
LENGTH, FORWARD, HEADS, LAYERS = 64, 128, 2, 2


def main(extras: list[str]) -> None:
    import inference

    place = Path(inference.__file__)
    if not place.is_relative_to(sys.prefix):
        sys.exit(f"{place} is not the installed package.")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if version(project["name"]) != project["version"]:
        sys.exit(f"The installed version is {version(project['name'])}, and {project['version']} was built.")
    say(f"{project['name']} {project['version']}, Python {sys.version.split()[0]} on {sys.platform}")

    wanted = [ENGINES[extra] for extra in extras if extra in ENGINES]
    available = doctor() if "cli" in extras else set(wanted)
    say(f"backends that can run here: {', '.join(sorted(available)) or 'none'}")
    if missing := set(wanted) - available:
        sys.exit(f"Installed, and unusable: {', '.join(sorted(missing))}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny_model(path)
        for backend in wanted:
            generate(path, backend)
        if not available:
            refuse(path)


def doctor() -> set[str]:
    """The backends that `inference doctor` finds available. Its exit code is 1 if there are none."""
    program = shutil.which("inference", path=str(Path(sys.executable).parent))
    if program is None:
        sys.exit("The command `inference` is not installed.")
    done = subprocess.run([program, "doctor", "--json"], stdout=subprocess.PIPE, encoding="utf-8")
    backends = json.loads(done.stdout)["backends"]
    available = {each["backend"] for each in backends if any(device["available"] for device in each["devices"])}
    if done.returncode != (0 if available else 1):
        sys.exit(f"`inference doctor` ended with {done.returncode}.")
    return available


def generate(path: Path, backend: str) -> None:
    from inference import load_model

    with load_model(path, backend=backend, context_length=64) as model:
        tokens = list(model.generate("Hello", max_tokens=8, ignore_eos=True))
    if len(tokens) != 8:
        sys.exit(f"{backend} made {len(tokens)} tokens instead of 8.")
    say(f"{backend} loaded a model and made 8 tokens")


def refuse(path: Path) -> None:
    """Without an engine the error says what to install."""
    from inference import InferenceError, load_model

    try:
        load_model(path)
    except InferenceError as error:
        if "pip install" not in str(error):
            sys.exit(f"This does not help: {error}")
        say("without an engine, load_model says what to install")
    else:
        sys.exit("load_model found an engine that `inference doctor` did not.")


def write_tiny_model(path: Path) -> None:
    """A llama with random weights, whose vocabulary is the bytes."""
    sys.path.append(str(ROOT / "tests"))
    from gguf_files import I32, Tensor, array_of, gguf_bytes

    normal, byte, unknown, control = 1, 6, 2, 3
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(BYTES)), "▁"]
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": LENGTH,
        "llama.feed_forward_length": FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": LENGTH // HEADS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": array_of(I32, [unknown, control, control, *[byte] * BYTES, normal]),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    shapes = {"token_embd.weight": (LENGTH, len(tokens)), "output_norm.weight": (LENGTH,)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": (LENGTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.attn_{name}.weight": (LENGTH, LENGTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}.weight": (LENGTH, FORWARD) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down.weight"] = (FORWARD, LENGTH)
    empty = gguf_bytes(metadata, [Tensor(name, shape) for name, shape in shapes.items()])
    draw = random.Random(0)
    weights = array("f", (draw.gauss(0.0, 0.2) for _ in range(sum(map(prod, shapes.values())))))
    path.write_bytes(empty[: -len(weights) * weights.itemsize] + weights.tobytes())


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1].split(",") if len(sys.argv) > 1 else ["cli"])
