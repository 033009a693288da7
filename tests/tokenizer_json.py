"""A GGUF file's vocabulary as a tokenizer of the `tokenizers` library: what a model folder has for the same model."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from inference.gguf.reader import Header

__all__ = ["byte_level_tokenizer", "sentencepiece_tokenizer"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def byte_level_tokenizer(header: Header) -> Tokenizer:
    """Of a vocabulary in GPT-2's characters whose words are SmolLM's."""
    tokens = header.texts("tokenizer.ggml.tokens")
    merges = [tuple(line.split(" ")) for line in header.texts("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer, header)


def sentencepiece_tokenizer(header: Header) -> Tokenizer:
    """Of a SentencePiece vocabulary: its scores become ranks of merges, as in `transformers`' converter for Llama."""
    tokens, scores = header.texts("tokenizer.ggml.tokens"), header.metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, Sequence)
    ids = {token: number for number, token in enumerate(tokens)}
    types = header.integers("tokenizer.ggml.token_type")
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind in (NORMAL, USER_DEFINED)}
    ranked = sorted(
        (-scores[ids[token]], ids[token[:cut]], ids[token[cut:]], (token[:cut], token[cut:]))
        for token in plain
        for cut in range(1, len(token))
        if token[:cut] in plain and token[cut:] in plain
    )
    merges = [pair for *_, pair in ranked]
    tokenizer = Tokenizer(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return _with_added(tokenizer, header)


def _with_added(tokenizer: Tokenizer, header: Header) -> Tokenizer:
    types = header.integers("tokenizer.ggml.token_type")
    of_kind = list(zip(header.texts("tokenizer.ggml.tokens"), types, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text, kind in of_kind if kind in (UNKNOWN, CONTROL)]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, kind in of_kind if kind == USER_DEFINED])
    return tokenizer
