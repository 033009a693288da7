"""Vocabularies made by hand: what is rare in real files, and what must be refused."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf_files import F32, I32, STRING, array_of, write_model
from reference_tokenizer import assert_same_ids, reference_tokenizer
from strings import strings

from inference.errors import CorruptFileError, UnsupportedModelError
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import GGUFTokenizer, tokenizer_of
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS, byte_token

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [(byte_token(byte), BYTE) for byte in range(256)]


def sentencepiece(
    tokens: Sequence[tuple[str, int]], scores: Sequence[float] | None = None, **changes: Any
) -> dict[str, Any]:
    """A file of SentencePiece's kind: three control tokens, one for each byte, and `tokens` with their types."""
    everything = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *BYTES, *tokens]
    known = [0.0] * (len(everything) - len(tokens))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": array_of(STRING, [text for text, _ in everything]),
        "tokenizer.ggml.token_type": array_of(I32, [kind for _, kind in everything]),
        "tokenizer.ggml.scores": array_of(F32, [*known, *(scores or [0.0] * len(tokens))]),
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def byte_level(
    tokens: Sequence[tuple[str, int]] = (),
    merges: Sequence[str] = (),
    base: Sequence[str] = BYTE_CHARACTERS,
    **changes: Any,
) -> dict[str, Any]:
    """A file of GPT-2's kind: one token for each byte, those that the merges make, and `tokens` with their types."""
    everything = [(text, NORMAL) for text in (*base, *dict.fromkeys(merge.replace(" ", "") for merge in merges))] + [
        *tokens
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": array_of(STRING, [text for text, _ in everything]),
        "tokenizer.ggml.token_type": array_of(I32, [kind for _, kind in everything]),
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.merges": array_of(STRING, merges),
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def load(tmp_path: Path, metadata: Mapping[str, Any]) -> GGUFTokenizer:
    return tokenizer_of(read_header(write_model(tmp_path / "made.gguf", metadata)))


def assert_like_llama_cpp(tmp_path: Path, metadata: Mapping[str, Any], texts: Sequence[str]) -> GGUFTokenizer:
    """The same ids under all settings, and the same bytes, parts and ends for each token."""
    ours = load(tmp_path, metadata)
    with reference_tokenizer(tmp_path / "made.gguf") as reference:
        for turn in range(4):
            assert_same_ids(ours, reference, [""] * turn + [*texts])
        assert ours.control_texts() == reference.control_texts()
        assert (ours.bos_token, ours.eos_token) == (reference.bos_token, reference.eos_token)
        for token in range(reference.vocabulary_size):
            assert ours.token_bytes(token) == reference.token_bytes(token), token
            assert ours.control_text(token) == reference.control_text(token), token
            assert ours.is_end(token) == reference.is_end(token), ours.control_text(token)
    return ours


def mixed(letters: Sequence[str], count: int, longest: int = 14) -> list[str]:
    """Random texts of the given letters."""
    chance = random.Random(5)
    return ["".join(chance.choices(letters, k=chance.randint(0, longest))) for _ in range(count)]


# Which merge comes first ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_between_equal_scores_the_leftmost_pair_merges(seed: int, levels: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    tokens = {"".join(chance.choices("ab\u2581", k=chance.randint(1, 5))) for _ in range(60)}
    scores = [-float(chance.randrange(levels)) for _ in tokens]
    file = sentencepiece([(text, NORMAL) for text in sorted(tokens)], scores)
    assert_like_llama_cpp(tmp_path, file, [*mixed("ab ", 400), *mixed("aab  c\n\u2581", 400, 40)])


def test_a_vocabulary_without_scores_merges_from_the_left(tmp_path: Path) -> None:
    file = sentencepiece([(text, NORMAL) for text in ("ab", "bc", "abc", "\u2581a", "a", "b", "cc")])
    assert_like_llama_cpp(tmp_path, file | {"tokenizer.ggml.scores": None}, mixed("abc ", 300))


def test_white_space_and_new_lines_inside_tokens_are_merged_across(tmp_path: Path) -> None:
    texts = [
        "a\u2581",
        "\u2581a",
        ">\u2581",
        ">\u2581</",
        "\na",
        "b\n",
        "\n\n",
        "\u2581\u2581",
        "\n\u2581",
        "a\u2581b",
        "</",
        "a",
    ]
    scores = [-float(number) for number in range(len(texts))]
    for chosen in (texts, texts[:4], texts[4:7], texts[6:9], texts[2:]):
        file = sentencepiece([(text, NORMAL) for text in chosen], scores[: len(chosen)])
        assert_like_llama_cpp(tmp_path, file, mixed(["a", "b", " ", "\n", ">", "</", "  "], 500))


@pytest.mark.parametrize("seed", range(4))
def test_ranked_merges_come_in_their_order(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    known, merges = list("abĠĊ"), []
    for _ in range(60):
        left, right = chance.choice(known), chance.choice(known)
        if f"{left} {right}" not in merges and len(left + right) < 8:
            merges.append(f"{left} {right}")
            known.append(left + right)
    file = byte_level(merges=[*merges, merges[0]])  # the first of a merge that comes twice counts
    assert_like_llama_cpp(tmp_path, file, [*mixed("ab \n", 500), *mixed("aabb", 300, 40)])


def test_what_has_no_token_is_dropped_and_keeps_its_neighbours_apart(tmp_path: Path) -> None:
    base = [character for character in BYTE_CHARACTERS if character not in "xĉ"]
    file = byte_level(merges=["a b", "ab c"], base=base)
    ours = assert_like_llama_cpp(tmp_path, file, [*mixed(["a", "b", "c", "x", "é", "\t"], 300), *strings(41, 200)])
    assert ours.decode(ours.encode("axbc\tab")) == "abcab"


@pytest.mark.parametrize("pre", ["gemma4", "sarvam-moe"])
def test_plain_text_merges_fall_back_to_bytes(pre: str, tmp_path: Path) -> None:
    plain = ["\u2581", *"abé\n", *(byte_token(byte) for byte in range(256) if byte != 0xA9)]
    merges = ["\u2581 a", "a b", "\u2581 \u2581", "\n \n", "\n\n \n", "é a", "b \u2581", "\u2581a b"]
    file = byte_level(merges=merges, base=plain, pre=pre)
    kinds = [BYTE if text.startswith("<0x") else NORMAL for text in file["tokenizer.ggml.tokens"].value]
    file["tokenizer.ggml.token_type"] = array_of(I32, kinds)
    letters = ["a", "b", " ", "\n", "é", "©", "一", "\ud800", "\r", "\u2581"]
    assert_like_llama_cpp(tmp_path, file, [*mixed(letters, 500), *strings(42, 200)])


# Special tokens ------------------------------------------------------------------------------------------------------

OVERLAPPING = [
    *(("<a>", CONTROL), ("<a><b>", CONTROL), ("><", CONTROL), ("<b>", USER_DEFINED), ("b><a>", USER_DEFINED)),
    *(("aaaa", USER_DEFINED), ("aa", CONTROL), ("a\nb", USER_DEFINED), ("\n\n", USER_DEFINED), ("never", UNUSED)),
    *(("\n\n\n\n", USER_DEFINED), ("    <a>", USER_DEFINED), ("ééé<", USER_DEFINED), ("<a>     ", CONTROL)),
]
"""Those of the same length in bytes do not overlap: llama.cpp leaves open which of two comes first."""


@pytest.mark.parametrize("kind", [sentencepiece, byte_level])
def test_special_tokens_that_overlap_are_read_as_llama_cpp_reads_them(kind: Any, tmp_path: Path) -> None:
    letters = ["<a>", "<b>", "<", ">", "a", "b", " ", "    ", "\n", "é", "éé", "><", "<unk>", "never"]
    assert_like_llama_cpp(tmp_path, kind(OVERLAPPING), mixed(letters, 1500, 10))


def test_special_tokens_of_phi_3_swallow_the_white_space_behind_them(tmp_path: Path) -> None:
    special = [("<|end|>", CONTROL), ("<|endoftext|>", CONTROL), ("<|x|>", USER_DEFINED), (" y", USER_DEFINED)]
    file = sentencepiece(special) | {"general.name": "My Phi-3 mini"}
    letters = ["<|end|>", "<|endoftext|>", "<|x|>", "</s>", "<s>", " ", "\n", "\t", "\u00a0", "y", "\v"]
    ours = assert_like_llama_cpp(tmp_path, file, mixed(letters, 1000, 8))
    assert ours.encode("<|x|> \n", add_special=False) == ours.encode("<|x|>", add_special=False)


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("<mask>", {"tokenizer.ggml.pre": "jina-v2-code"}),
        ("[MASK]", {"tokenizer.ggml.pre": "modern-bert", "general.name": "modern-bert-base"}),
    ],
)
def test_masks_swallow_the_white_space_before_them(text: str, metadata: Mapping[str, str], tmp_path: Path) -> None:
    file = byte_level([(text, USER_DEFINED), ("<x>", CONTROL), ("  ", USER_DEFINED)]) | metadata
    assert_like_llama_cpp(tmp_path, file, mixed([text, "<x>", " ", "\n", "a", "  "], 500, 8))


ENDS = (
    *(
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "[e~[",
    ),
    *(
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<eos>",
        "<turn|>",
    ),
    *("<|tool_response>", "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|plamo:eos|>"),
    *("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|eos|>", "<END>", "<|unused1|>"),
)
FILL_IN = (
    *("<|fim_prefix|>", "<fim_suffix>", "<|code_middle|>", "<fim_pad>", "<|repo_name|>", "<|file_sep|>"),
    *("<PRE>", "<SUF>", "<MID>", "<PAD>", "<REPO>", "<\uff5cfim\u2581hole\uff5c>"),
)


@pytest.mark.parametrize("seed", range(25))
def test_the_ends_of_a_generation_are_those_that_llama_cpp_finds(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    texts = chance.sample(ENDS, chance.randint(1, len(ENDS)))
    texts += chance.choice((FILL_IN[:6], FILL_IN[6:]))[: chance.randint(0, 6)]  # two for one part: any may be taken
    kinds = [chance.choice((NORMAL, CONTROL, CONTROL, USER_DEFINED)) for _ in texts]
    named = chance.sample(["eos", "eot", "eom", "bos", "fim_pad", "fim_sep", "prefix"], chance.randint(0, 4))
    ids = {f"{name}_token_id": 256 + chance.randrange(len(texts)) for name in named}
    file = byte_level([*zip(texts, kinds, strict=True)], **ids)
    assert_like_llama_cpp(tmp_path, file, ["", *texts, "".join(texts)])


@pytest.mark.parametrize("kind", [sentencepiece, byte_level])
@pytest.mark.parametrize("add_bos", [None, False, True])
@pytest.mark.parametrize("add_eos", [None, False, True])
@pytest.mark.parametrize("add_space_prefix", [None, False, True])
def test_bos_eos_and_a_leading_space_are_added_as_the_file_says(
    kind: Any, add_bos: bool | None, add_eos: bool | None, add_space_prefix: bool | None, tmp_path: Path
) -> None:
    wishes = {"add_bos_token": add_bos, "add_eos_token": add_eos, "add_space_prefix": add_space_prefix}
    file = kind([("<x>", USER_DEFINED), ("\u2581a", NORMAL)], **{key: v for key, v in wishes.items() if v is not None})
    assert_like_llama_cpp(tmp_path, file, ["", "a", " a", "<x>", "<x>a", "a<x>a<x>", "<s>a", "</s>"])


# What must be refused ------------------------------------------------------------------------------------------------

A_FILE = byte_level([("<x>", CONTROL)], ["a b"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokenizer.ggml.model": None}, "no vocabulary (no `tokenizer.ggml.model`)"),
        (
            {"tokenizer.ggml.model": "no_vocab"},
            "the tokenizer 'no_vocab' in `tokenizer.ggml.model`. They know llama, gpt2",
        ),
        ({"tokenizer.ggml.model": "rwkv"}, "the tokenizer 'rwkv'"),
        ({"tokenizer.ggml.model": "plamo2"}, "the tokenizer 'plamo2'"),
        (
            {"tokenizer.ggml.pre": "whitespace"},
            "the pre-tokenizer 'whitespace' in `tokenizer.ggml.pre`. They know a.x-4.0",
        ),
        ({"tokenizer.ggml.tokens": None}, "no vocabulary (no `tokenizer.ggml.tokens`)"),
        ({"tokenizer.ggml.tokens": array_of(STRING, [])}, "no vocabulary (no `tokenizer.ggml.tokens`)"),
        ({"tokenizer.ggml.tokens": array_of(STRING, [*"abc"])}, "258 values in `tokenizer.ggml.token_type`, but 3 in"),
        (byte_level([("<x>", CONTROL)] * 2), "the token '<x>' 2 times in `tokenizer.ggml.tokens`"),
        (byte_level([("x y", BYTE)]), "the token 256 of a byte in `tokenizer.ggml.token_type`, but 'x y' for it"),
        ({"tokenizer.ggml.merges": None}, "no merges (`tokenizer.ggml.merges`)"),
        ({"tokenizer.ggml.merges": array_of(STRING, ["ab"])}, "the merge 'ab', which is not two tokens"),
        ({"tokenizer.ggml.merges": array_of(STRING, ["a "])}, "the merge 'a ', which is not two tokens"),
        ({"tokenizer.ggml.merges": array_of(STRING, [""])}, "the merge '', which is not two tokens"),
        ({"tokenizer.ggml.merges": array_of(STRING, ["a b", "a c"])}, "the merge 'a c', but no token 'ac', in"),
        ({"tokenizer.ggml.merges": array_of(STRING, ["a qq"])}, "the merge 'a qq', but no token 'qq', in"),
        (
            byte_level(merges=["a b"], base=[*BYTE_CHARACTERS[: ord("b")], *BYTE_CHARACTERS[ord("c") :]]),
            "no token 'b', in",
        ),
        ({"tokenizer.ggml.merges": array_of(STRING, [" a b"])}, "the merge ' a b', but no token ' a', in"),
        (
            {"tokenizer.ggml.eos_token_id": 258},
            "the token 258 in `tokenizer.ggml.eos_token_id`, but a vocabulary of 258",
        ),
        ({"tokenizer.ggml.padding_token_id": 999}, "the token 999 in `tokenizer.ggml.padding_token_id`"),
        ({"tokenizer.ggml.fim_pre_token_id": 999}, "the token 999 in `tokenizer.ggml.fim_pre_token_id`"),
        (
            {"tokenizer.ggml.pre": "glm4", "tokenizer.ggml.add_bos_token": True},
            "prompts with BOS, but no such token (`tokenizer.ggml.bos_token_id`)",
        ),
        (sentencepiece([("a", NORMAL)], [0.0, 1.0]), "261 values in `tokenizer.ggml.scores`, but 260 in"),
        (sentencepiece([("a", NORMAL)], [float("nan")]), "a score that is no number in `tokenizer.ggml.scores`"),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.bos_token_id": 1},
            "no token for the byte <0x00> in `tokenizer.ggml.tokens`",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_told_why(
    changes: Mapping[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(named)) as refused:
        load(tmp_path, A_FILE | changes)
    assert str(tmp_path / "made.gguf") in str(refused.value)
    assert "llama_cpp" in str(refused.value)


def test_a_value_of_another_type_is_damage_and_named(tmp_path: Path) -> None:
    for key in ("tokens", "merges", "token_type", "bos_token_id", "add_bos_token", "pre"):
        with pytest.raises(CorruptFileError, match=f"`tokenizer.ggml.{key}` must be"):
            load(tmp_path, A_FILE | {f"tokenizer.ggml.{key}": 1.5})


def test_an_id_of_minus_one_means_that_there_is_none(tmp_path: Path) -> None:
    none = {"tokenizer.ggml.padding_token_id": 0xFFFF_FFFF, "tokenizer.ggml.eot_token_id": 0xFFFF_FFFF}
    assert_like_llama_cpp(tmp_path, A_FILE | none, ["", "ab"])


def test_empty_tokens_get_a_name(tmp_path: Path) -> None:
    ours = assert_like_llama_cpp(tmp_path, byte_level([("", NORMAL), ("<x>", CONTROL), ("", UNUSED)]), ["ab", "<x>"])
    assert ours.control_text(256) == "[EMPTY_256]"
