"""No text ends the process, whatever llama.cpp's tokenizer thinks of it, and none makes other callers wait."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conformance.files import Recipe, write
from gguf_files import F32, I32, STRING, U8, array_of, gguf_bytes
from inference_llama_cpp import charsmap
from inference_llama_cpp.library import bindings
from inference_llama_cpp.tokenizer import LlamaTokenizer

from inference import load_model
from inference.errors import CorruptFileError, ModelClosedError, PromptError
from inference.gguf.reader import read_header
from inference.worker import Worker, WorkerDiedError

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("nothing_is_known")]


@contextmanager
def other_process(function: str) -> Iterator[Worker]:
    worker = Worker(f"test_llama_hostile_text:{function}")
    yield worker
    worker.close()


# Long runs ------------------------------------------------------------------------------------------------------------


def encoded(wanted: tuple[str, str, int]) -> int | str:
    """In a worker's process: how many tokens a text is, of so many equal characters."""
    path, character, count = wanted
    with load_model(path, backend="llama_cpp", context_length=128, trial_load=False) as model:
        try:
            return len(model.tokenizer.encode(character * count))
        except PromptError as error:
            return str(error)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("character", ["a", " ", "!", "中"])
def test_a_run_of_equal_characters_does_not_overflow_llama_cpps_stack(character: str, tiny_llama: Path) -> None:
    tiny_llama.write_bytes(tiny_llama.read_bytes().replace(b"smollm", b"tekken"))  # split by C++'s regular expressions
    with other_process("encoded") as worker:
        found = worker.call((str(tiny_llama), character, 200_000), 60)
        assert isinstance(found, int)
        assert found > 0
        assert "1,048,577 characters" in worker.call((str(tiny_llama), character, 2**20 + 1), 60)


def test_a_long_text_is_the_same_tokens_on_a_deeper_stack(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the thin " * 50 + "t" * 3000
    with load_model(tiny_llama, backend="llama_cpp") as model:
        deep = model.tokenizer.encode(text)
        monkeypatch.setattr("inference_llama_cpp.deep_stack.SHORT", 10_000)
        assert model.tokenizer.encode(text) == deep


def test_without_memory_for_the_stack_the_prompt_is_refused_and_the_model_goes_on(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    usual = threading.stack_size()
    with load_model(tiny_llama, backend="llama_cpp") as model:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none)
            with pytest.raises(PromptError, match=r"no memory for the stack that 3,000 characters.*character 4\."):
                model.tokenizer.encode("the " + "t" * 3000)
        assert threading.stack_size() == usual
        assert model.tokenizer.encode("the " + "t" * 3000)


# Slow texts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_text(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """`slow` takes until the second event is set, and sets the first when it has begun."""
    begun, may_end = threading.Event(), threading.Event()
    tokenize = bindings.llama_tokenize

    def slowly(vocabulary: Any, text: bytes, *others: Any) -> int:
        if text == b"slow":
            begun.set()
            may_end.wait(30)
        return int(tokenize(vocabulary, text, *others))

    monkeypatch.setattr(bindings, "llama_tokenize", slowly)
    return begun, may_end


def test_a_text_that_takes_long_is_waited_for_by_its_caller_alone(
    tiny_llama: Path, slow_text: tuple[threading.Event, threading.Event]
) -> None:
    begun, may_end = slow_text
    with load_model(tiny_llama, backend="llama_cpp") as model:
        alone = model.generate("the thin", max_tokens=8, ignore_eos=True).text()
        slow = threading.Thread(target=model.tokenizer.encode, args=("slow",))
        slow.start()
        assert begun.wait(30)
        assert model.generate("the thin", max_tokens=8, ignore_eos=True).text() == alone
        assert not may_end.is_set()
        may_end.set()
        slow.join()


def test_the_vocabulary_is_not_freed_under_a_text_that_takes_long(
    tiny_llama: Path, slow_text: tuple[threading.Event, threading.Event]
) -> None:
    begun, may_end = slow_text
    model = load_model(tiny_llama, backend="llama_cpp")
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, LlamaTokenizer)
    found: list[list[int]] = []
    slow = threading.Thread(target=lambda: found.append(tokenizer.encode("slow")))
    slow.start()
    assert begun.wait(30)
    closing = threading.Thread(target=model.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    with pytest.raises(ModelClosedError):
        tokenizer.encode("the")
    may_end.set()
    slow.join()
    closing.join()
    assert found


# The table of replacements of Unigram vocabularies --------------------------------------------------------------------

LEAF, WIDE = charsmap.LEAF, charsmap.WIDE
REPLACEMENTS = b"b\0"


def trie(**units: int) -> bytes:
    """A trie in which "A" is replaced by "b", and units of it changed: `_65` is that of "A"."""
    sound = {0: 256 << 10, 256 ^ 65: 65 | LEAF | (256 ^ 65 ^ 400) << 10, 400: 1 << 31}
    changed = {(256 ^ int(name[1:])): unit for name, unit in units.items()}
    found = {**sound, **changed}
    return struct.pack("<512I", *(found.get(place, 0) for place in range(512)))


def table(units: bytes, replacements: bytes = REPLACEMENTS) -> bytes:
    return struct.pack("<I", len(units)) + units + replacements


def unigram_file(path: Path, charsmap: bytes) -> Path:
    tokens = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefgh"]
    vocabulary = path.with_name("vocabulary.gguf")
    vocabulary.write_bytes(
        gguf_bytes(
            {
                "general.architecture": "llama",
                "tokenizer.ggml.model": "t5",
                "tokenizer.ggml.tokens": array_of(STRING, tokens),
                "tokenizer.ggml.scores": array_of(F32, [-float(index) for index in range(len(tokens))]),
                "tokenizer.ggml.token_type": array_of(I32, [2, 3, 3] + [1] * (len(tokens) - 3)),
                "tokenizer.ggml.unknown_token_id": 0,
                "tokenizer.ggml.precompiled_charsmap": array_of(U8, charsmap),
            }
        )
    )
    write(
        Recipe(
            architecture="llama",
            embedding_length=32,
            head_length=16,
            heads=2,
            feed_forward_length=48,
            vocabulary=vocabulary,
        ),
        path,
    )
    return path


def encode_text(path: str) -> list[int]:
    """In a worker's process: a text by llama.cpp."""
    with load_model(path, backend="llama_cpp", context_length=128, trial_load=False) as model:
        return model.tokenizer.encode("AAA\xe9")


BROKEN = {
    "a node beyond the trie": table(trie(_65=65 | 3 << 20)),
    "a node far beyond the trie": table(trie(_65=65 | WIDE | 3 << 12)),
    "a replacement that is not there": table(trie(_65=65 | LEAF | (256 ^ 65 ^ 401) << 10, _145=(1 << 31) + 99)),
    "a replacement without an end": table(trie(), b"b"),
    "a trie whose end is missing": table(trie()[: 4 * 440]),
    "no root": table(struct.pack("<I", 2**21 << 10)),
}


def test_a_table_of_replacements_is_used(tiny_llama: Path) -> None:
    unigram_file(tiny_llama, table(trie()))
    with load_model(tiny_llama, backend="llama_cpp") as model:
        encode = model.tokenizer.encode
        assert encode("A", add_special=False) == encode("b", add_special=False)


def test_a_trie_that_takes_long_to_walk_is_refused(tiny_llama: Path) -> None:
    places = range(0, 256 * 600, 256)
    chain = [0] * (256 * 601)
    chain[0] = 256 << 10
    for place in places[1:-1]:  # each node's only child, by "A", leads to the next one
        chain[place ^ 65] = 65 | ((place ^ 65) ^ (place + 256)) << 10
    unigram_file(tiny_llama, table(struct.pack(f"<{len(chain)}I", *chain)))
    with pytest.raises(CorruptFileError, match="more than 512 bytes to be replaced"):
        load_model(tiny_llama, backend="llama_cpp")


def test_a_trie_that_is_larger_than_any_is_refused(tiny_llama: Path) -> None:
    unigram_file(tiny_llama, table(bytes(4 * (charsmap.MOST + 1))))
    with pytest.raises(CorruptFileError, match="a trie of 2,097,153 units"):
        load_model(tiny_llama, backend="llama_cpp")


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_table_of_replacements_is_refused_at_which_llama_cpp_aborts(broken: bytes, tiny_llama: Path) -> None:
    unigram_file(tiny_llama, broken)
    with pytest.raises(CorruptFileError, match="precompiled_charsmap` leads nowhere"):
        load_model(tiny_llama, backend="llama_cpp")
    with other_process("encode_text") as worker, pytest.raises(WorkerDiedError):
        worker.call(str(tiny_llama), 60)


def test_a_table_that_is_shorter_than_its_trie_is_refused(tiny_llama: Path) -> None:
    unigram_file(tiny_llama, struct.pack("<I", 4096) + trie())
    with pytest.raises(CorruptFileError, match="its trie has 4,096 bytes, and the table 2,052"):
        load_model(tiny_llama, backend="llama_cpp")


def test_the_table_of_a_real_model_is_sound(llama_cpp_sources: Path) -> None:
    header = read_header(llama_cpp_sources / "models/ggml-vocab-nomic-bert-moe.gguf")
    assert header.metadata.length(charsmap.KEY) == 237_539
    charsmap.require_sound_charsmap(header)
