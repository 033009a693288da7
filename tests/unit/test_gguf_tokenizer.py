"""The tokenizer that is read from a GGUF file gives the ids that llama.cpp gives, on real vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from reference_tokenizer import COUNT, assert_same_ids, reference_tokenizer
from strings import strings

from inference.engine.detokenizer import Detokenizer
from inference.errors import InvalidTokenError, PromptError, UnsupportedModelError
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import GGUFTokenizer, tokenizer_of
from inference.gguf.tokenizer.special_tokens import Attribute, tokens_with
from inference.protocols import Tokenizer

VOCABULARIES = [
    *("aquila", "baichuan", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "gpt-neox"),
    *("llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
    *(pytest.param(name, marks=pytest.mark.real_model) for name in ("SmolLM2", "Gemma-3")),
]
WITH_VECTORS = [name for name in VOCABULARIES if name not in ("aquila", "baichuan", "gpt-neox")][:-2]
EVERY_BYTE = ["aquila", "command-r", "gpt-2", "llama-bpe", "qwen2", "qwen35"]
"""Byte-level vocabularies that have a token for every byte."""


WHOLE = COUNT >= 20_000


class Opened(NamedTuple):
    path: Path
    ours: GGUFTokenizer
    reference: Tokenizer


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The vocabulary that the test names; one is open at a time."""
    real = {"SmolLM2": "smollm_path", "Gemma-3": "gemma_path"}
    if request.param in real:
        path = request.getfixturevalue(real[request.param])
    else:
        path = request.getfixturevalue("llama_cpp_sources") / f"models/ggml-vocab-{request.param}.gguf"
    with reference_tokenizer(path) as reference:
        yield Opened(path, tokenizer_of(read_header(path)), reference)


def of(names: Sequence[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", names, indirect=True)


@of(WITH_VECTORS)
def test_the_vectors_of_llama_cpp_give_the_ids_it_lists(opened: Opened) -> None:
    mark = "\n__ggml_vocab_test__\n"
    texts = Path(f"{opened.path}.inp").read_bytes().decode().removesuffix(mark).split(mark)
    ids = [[int(token) for token in line.split()] for line in Path(f"{opened.path}.out").read_text().splitlines()]
    assert len(texts) == len(ids) > 40
    for text, expected in zip(texts, ids, strict=True):
        assert opened.ours.encode(text, add_special=False) == expected, repr(text)


@of(VOCABULARIES)
def test_generated_strings_give_the_ids_of_llama_cpp(opened: Opened) -> None:
    texts = [*opened.ours.control_texts(), *user_defined(opened.ours)]
    assert_same_ids(opened.ours, opened.reference, [*strings(20, COUNT, texts)])


@of(VOCABULARIES)
def test_long_texts_give_the_ids_of_llama_cpp(opened: Opened) -> None:
    source, joined = Path(__file__).read_text("utf-8"), " ".join(strings(21, 100))
    texts = [source, joined, joined[::-1], "x" * 3000, " " * 3000, "\n" * 500, "word " * 500, "一二三" * 500]
    assert_same_ids(opened.ours, opened.reference, texts)


@of(VOCABULARIES)
def test_every_token_has_the_bytes_and_the_part_that_llama_cpp_gives_it(opened: Opened) -> None:
    ours, reference = opened.ours, opened.reference
    assert ours.vocabulary_size == reference.vocabulary_size
    assert (ours.bos_token, ours.eos_token) == (reference.bos_token, reference.eos_token)
    assert ours.control_texts() == reference.control_texts()
    # Asking llama.cpp takes microseconds: of large vocabularies, some of the plain tokens.
    attributes = ours._vocabulary.attributes
    apart = [*tokens_with(attributes, 0xFF & ~Attribute.NORMAL)]
    tokens = {
        *range(0, len(attributes), 1 if WHOLE else len(attributes) // 20_000 + 1),
        *apart[:: len(apart) // 1000 + 1],
    }
    for about in ("token_bytes", "control_text", "is_end"):
        mine, theirs = getattr(ours, about), getattr(reference, about)
        assert [token for token in tokens if mine(token) != theirs(token)] == [], about


@of(EVERY_BYTE)
def test_the_bytes_of_a_texts_tokens_are_those_of_the_text(opened: Opened) -> None:
    for text in strings(22, 500):
        data = b"".join(map(opened.ours.token_bytes, opened.ours.encode(text, add_special=False)))
        assert data == text.encode("utf-8", "surrogatepass")


@of(["gpt-2", "llama-bpe", "gemma-4", "llama-spm"])
def test_text_that_is_streamed_token_by_token_is_the_text_decoded_at_once(opened: Opened) -> None:
    for text in strings(23, 300):
        ids = opened.ours.encode(text, add_special=False)
        stream = Detokenizer()
        parts = [stream.feed(opened.ours.token_bytes(token)) for token in ids]
        assert "".join([*parts, stream.flush()]) == opened.ours.decode(ids)


def test_many_threads_at_once_get_the_ids_that_one_gets(llama_cpp_sources: Path) -> None:
    path = llama_cpp_sources / "models/ggml-vocab-llama-spm.gguf"
    texts = [*strings(24, 400)]
    alone, shared = tokenizer_of(read_header(path)), tokenizer_of(read_header(path))
    expected = [alone.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        rounds = [pool.submit(lambda: [shared.encode(text) for text in texts]) for _ in range(8)]
        assert all(one.result() == expected for one in rounds)


def test_it_is_a_tokenizer_as_engines_want_it(llama_cpp_sources: Path) -> None:
    tokenizer: Tokenizer = tokenizer_of(read_header(llama_cpp_sources / "models/ggml-vocab-gpt-2.gguf"))
    assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
    for wrong in (-1, tokenizer.vocabulary_size):
        for ask in (tokenizer.token_bytes, tokenizer.control_text, tokenizer.is_end):
            with pytest.raises(InvalidTokenError, match=f"Token {wrong} is not in the vocabulary"):
                ask(wrong)
        with pytest.raises(InvalidTokenError):
            tokenizer.decode([wrong])
    with pytest.raises(PromptError, match="takes text, got bytes"):
        tokenizer.encode(b"Hello")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kind"), [("bert-bge", "'bert' (WordPiece)"), ("nomic-bert-moe", "'t5' (Unigram)")])
def test_vocabularies_of_other_kinds_are_refused_by_name(name: str, kind: str, llama_cpp_sources: Path) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        tokenizer_of(read_header(llama_cpp_sources / f"models/ggml-vocab-{name}.gguf"))
    assert kind in str(refused.value)
    assert "llama, gpt2, gemma4" in str(refused.value)


def user_defined(tokenizer: GGUFTokenizer) -> list[str]:
    """The texts of tokens that are read without `parse_special` too, a hundred or two of them."""
    found = [*tokens_with(tokenizer._vocabulary.attributes, Attribute.USER_DEFINED)]
    return [tokenizer.control_text(token) for token in found[:: len(found) // 100 + 1]]
