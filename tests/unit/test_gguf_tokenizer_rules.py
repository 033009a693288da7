"""Every pre-tokenizer cuts text where llama.cpp cuts it, shown by vocabularies in which nearly any two bytes merge."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest
from gguf_files import I32, STRING, array_of, write_model
from reference_tokenizer import COUNT, assert_same_ids, reference_tokenizer
from strings import strings

from inference.errors import UnsupportedModelError
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import tokenizer_of
from inference.gguf.tokenizer.character_classes import Alphabet
from inference.gguf.tokenizer.pretokenizers import PRETOKENIZERS, Splitter
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS, byte_token

SPECIAL = ["<|im_end|>", "<|im_start|>"]
WHOLE = ["Hello", " World", "quick", "123", "\n\n\n", "\n\n\n\n", " the", "!!!", "    ", "???..."]
"""Words that are tokens, but that no merges make: some pre-tokenizers have them all the same."""
SPACES, LINES = {True: "Ġ", False: "\u2581"}, {True: "Ċ", False: "\n"}


@functools.cache
def pairs_vocabulary(byte_level: bool) -> dict[str, Any]:
    """Tokens for single characters and for pairs of them, which merge in a random order. Whether two neighbours merge
    depends on whether they are in the same word, so that hardly a cut in the wrong place goes unseen."""
    often = " \n\r\t'\"/.,<|_-$`~09aestvlmdrZSTA" + "é한क١一\u3000\u2028\u00a0\u0301👋"
    if byte_level:
        kept = {*often.encode(), *range(0x80, 0xF5, 3)}
        base, joined = BYTE_CHARACTERS, [BYTE_CHARACTERS[byte] for byte in kept]
        types = [1] * len(base)
    else:
        joined = ["\u2581", *often.replace(" ", "")]
        base = [*joined, *map(byte_token, range(256))]
        types = [1] * len(joined) + [6] * 256
    pairs = [(left, right) for left in joined for right in joined]
    random.Random(1).shuffle(pairs)
    whole = [word.replace(" ", SPACES[byte_level]).replace("\n", LINES[byte_level]) for word in WHOLE]
    tokens = [*base, *(left + right for left, right in pairs), *whole, *SPECIAL]
    return {
        "tokenizer.ggml.tokens": array_of(STRING, tokens),
        "tokenizer.ggml.token_type": array_of(I32, [*types, *[1] * (len(pairs) + len(whole)), 3, 3]),
        "tokenizer.ggml.merges": array_of(STRING, [f"{left} {right}" for left, right in pairs]),
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.bos_token_id": len(tokens) - 1,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_each_name_of_a_pre_tokenizer_means_what_llama_cpp_means_by_it(name: str, tmp_path: Path) -> None:
    vocabulary = pairs_vocabulary(PRETOKENIZERS[name].byte_level)
    path = write_model(tmp_path / "pairs.gguf", vocabulary | {"tokenizer.ggml.pre": name})
    with reference_tokenizer(path) as reference:
        assert_same_ids(tokenizer_of(read_header(path)), reference, [*strings(30, COUNT // 8, SPECIAL)])


@pytest.mark.parametrize("name", ["qwen35", "deepseek-v3"])
def test_every_code_point_is_in_the_classes_that_llama_cpp_has_it_in(name: str, tmp_path: Path) -> None:
    """By rules that tell letters, marks, numbers and white space apart, and punctuation and symbols."""
    path = write_model(tmp_path / "pairs.gguf", pairs_vocabulary(True) | {"tokenizer.ggml.pre": name})
    codes = [*range(0x20_000 if COUNT < 20_000 else 0x110_000), *range(0xE_0000, 0xE_0200)]
    texts = [
        "".join(f"a{chr(code)} {chr(code)}\n" for code in codes[start : start + 256])
        for start in range(0, len(codes), 256)
    ]
    with reference_tokenizer(path) as reference:
        ours = tokenizer_of(read_header(path))
        for text in texts:
            assert ours.encode(text) == reference.encode(text), f"U+{ord(text[1]):04X} and the 255 behind it"


def test_a_file_without_a_pre_tokenizer_is_read_as_llama_cpp_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_model(tmp_path / "pairs.gguf", pairs_vocabulary(True))
    with reference_tokenizer(path) as reference:
        assert_same_ids(tokenizer_of(read_header(path)), reference, [*strings(31, COUNT // 8, SPECIAL)])
    assert "names no pre-tokenizer" in caplog.text


def test_an_unknown_pre_tokenizer_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "new.gguf", pairs_vocabulary(True) | {"tokenizer.ggml.pre": "gpt-9"})
    with pytest.raises(
        UnsupportedModelError, match=r"new\.gguf .* the pre-tokenizer 'gpt-9' in `tokenizer\.ggml\.pre`"
    ):
        tokenizer_of(read_header(path))


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_the_words_of_a_text_joined_are_the_text(name: str) -> None:
    splitter = Splitter(PRETOKENIZERS[name])
    for text in strings(32, 100):
        words = splitter.words(text)
        assert "".join(words) == text
        assert "" not in words


def test_a_class_beyond_ascii_is_that_of_llama_cpps_table() -> None:
    alphabet = Alphabet({"Low": "41-44 E9 3000"})
    samples = {"L": "aZé一\u02b0", "N": "7½\u0660", "P": "!_\u3001", "S": "$\u20ac~", "M": "\u0301\u093c", "Low": "Aé"}
    for name, members in samples.items():
        pattern = alphabet.pattern(rf"[\p{{{name}}}]")
        everything = "".join(samples.values()) + " \n\u3000\x00\U000e0fff\U0010fffd"
        found = {c for c in everything if pattern.fullmatch(alphabet.stand_ins(c))}
        assert found >= set(members)
        if name != "Low":
            others = (set(everything) - set(members)) - set("AaZé")
            assert not found & others, name
    assert alphabet.pattern(r"\s+").fullmatch(alphabet.stand_ins(" \n\u3000\u2028\x85"))
    assert not alphabet.pattern(r"\s").search(alphabet.stand_ins("\u200b\x1c\u180e"))


def test_white_space_in_long_runs_does_not_take_forever() -> None:
    for name, rules in PRETOKENIZERS.items():
        for text in (" " * 20_000 + "x", "\u3000" * 20_000, "\n " * 10_000 + "x", "x" * 20_000, "1" * 20_000):
            assert "".join(Splitter(rules).words(text)) == text, name
