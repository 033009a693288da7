"""What is fuzzed: each takes any bytes, and raises only where the code under test is at fault.

`fuzz.py` looks for such bytes; those that were found lie in `found/`, and a test gives them back to the targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from gguf_files import BOOL, F32, I32, STRING, U32, Typed, array_of, gguf_bytes, write_model

from inference.errors import InferenceError
from inference.gguf.architectures import ARCHITECTURES, config_of
from inference.gguf.reader import read_header, require_language_model
from inference.gguf.soundness import require_sound
from inference.gguf.tokenizer import tokenizer_of
from inference.gguf.tokenizer.pretokenizers import PRETOKENIZERS

__all__ = ["FOUND", "TARGETS", "Target", "seeds"]

FOUND = Path(__file__).parent / "found"
"""A folder for each target, with the inputs at which it once failed."""
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(gettempdir())
"""In memory where the system has that."""
MODELS = ("gpt2", "llama", "gemma4", "bert", "")
PRES = (*sorted(PRETOKENIZERS), "default", "no-such-pre")
PROPERTIES = (
    *("kind", "name", "size_bytes", "parameters", "quantization", "layers", "train_context_length", "head_count"),
    *("head_count_kv", "key_length", "value_length", "vocabulary_size", "chat_template", "sampling", "digest"),
)
"""What is asked of a header."""

Target = Callable[[bytes], None]


def reader(data: bytes) -> None:
    """A whole file: read, every value decoded, all that follows from it."""
    path = _written(data)
    with suppress(InferenceError):
        header = read_header(path)
        for key in header.metadata:
            header.metadata[key]
            header.metadata.type_name(key)
        for name in PROPERTIES:
            with suppress(InferenceError):
                getattr(header, name)
        with suppress(InferenceError):
            header.kv_bytes_per_token("q8_0")
        with suppress(InferenceError):
            config_of(header)
        require_language_model(header)
        require_sound(header)


def tokenizer(data: bytes) -> None:
    """A vocabulary: choices in the first four bytes, then, between zeros, a text, tokens, merges, and types of tokens.

    What it encodes must come back as ids that it knows.
    """
    model, pre, switches, special = (*data[:4], 0, 0, 0, 0)[:4]
    text, tokens, merges, types, *_ = [*data[4:].split(b"\0"), b"", b"", b"", b""]
    words = tokens.split(b"\n")
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": MODELS[model % len(MODELS)],
        "tokenizer.ggml.pre": PRES[pre % len(PRES)],
        "tokenizer.ggml.tokens": array_of(STRING, words),
    }
    if switches & 1:
        keys["tokenizer.ggml.merges"] = array_of(STRING, merges.split(b"\n"))
    if switches & 2:
        keys["tokenizer.ggml.token_type"] = array_of(
            I32, [byte % 8 for byte in types.ljust(len(words), b"\1")][: len(words)]
        )
    if switches & 4:
        keys["tokenizer.ggml.scores"] = array_of(F32, [-float(index % 7) for index in range(len(words))])
    for bit, name in ((8, "add_bos_token"), (16, "add_eos_token"), (32, "add_space_prefix")):
        keys[f"tokenizer.ggml.{name}"] = Typed(BOOL, bool(switches & bit))
    for name in ("bos", "eos", "unknown"):
        keys[f"tokenizer.ggml.{name}_token_id"] = Typed(U32, special)
    path = _written(gguf_bytes(keys))
    with suppress(InferenceError):
        built = tokenizer_of(read_header(path))
        for string in (text.decode("utf-8", "replace"), text.decode("utf-8", "surrogateescape")):
            for parse_special in (True, False):
                ids = built.encode(string, parse_special=parse_special)
                assert all(0 <= token < len(words) for token in ids)
                built.decode(ids)
        for token in range(len(words)):
            built.token_bytes(token)
            built.control_text(token)
            built.is_end(token)
        built.control_texts()


TARGETS: dict[str, Target] = {"reader": reader, "tokenizer": tokenizer}


def seeds(target: str, folder: Path) -> None:
    """Sound inputs to begin with."""
    if target == "reader":
        write_model(folder / "model")
        for architecture in ARCHITECTURES:
            (folder / architecture).write_bytes(gguf_bytes({"general.architecture": architecture, "split.count": 1}))
        return
    byte_level = "\n".join([*map(chr, range(33, 127)), "Ġ", "th", "Ġth", "<|end|>"]).encode()
    pieces = "\n".join(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "t"]).encode()
    for pre in range(len(PRES)):
        merges = "t h\nĠ th".encode()
        (folder / f"byte-level {pre}").write_bytes(
            bytes([0, pre, 1, 1]) + b"\0".join([b"the <|end|> 12!", byte_level, merges])
        )
    (folder / "pieces").write_bytes(
        bytes([1, 0, 2 | 4 | 8, 1]) + b"\0".join([b"the t\xff", pieces, b"", b"\2\3\3" + b"\6" * 256])
    )


def _written(data: bytes) -> Path:
    path = SCRATCH / f"hostile-{os.getpid()}.gguf"
    path.write_bytes(data)
    return path
