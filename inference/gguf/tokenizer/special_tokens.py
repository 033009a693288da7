"""Which tokens have a part to play: what they are, which begin a text, and which end one.

All of it follows llama.cpp (`llama_vocab::impl::load`), which goes by ids where the file gives them and by the tokens'
texts where it does not. Where several tokens have texts for the same part, it takes any; here the lowest id is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, repeat

from inference.gguf.header import Header
from inference.gguf.unsupported import unsupported

__all__ = ["CHANNELS", "Attribute", "attributes_of", "end_tokens", "mark_stripping", "special_id", "tokens_with"]


class Attribute:
    """What a token is: bits, since it may be several things. (Plain numbers: an enum's `&` would take a second.)"""

    UNKNOWN = 1
    UNUSED = 2
    NORMAL = 4
    CONTROL = 8
    USER_DEFINED = 16
    BYTE = 32
    SWALLOWS_BEFORE = 64
    SWALLOWS_AFTER = 128


_TYPES = {
    1: Attribute.NORMAL,
    2: Attribute.UNKNOWN,
    3: Attribute.CONTROL,
    4: Attribute.USER_DEFINED,
    5: Attribute.UNUSED,
    6: Attribute.BYTE,
}
"""By the numbers of `tokenizer.ggml.token_type`; any other number is a token of no kind, which has no text."""

_KEY = "tokenizer.ggml.{}_token_id"
_NO_TOKEN = (-1, 0xFFFF_FFFF)
"""How some converters write that there is none."""
_CHECKED = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "cls", "mask", "prefix", "suffix", "middle"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
)
_FILL_IN = {
    ("fim_pre", "prefix"): (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>", "\u2581<PRE>"),
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    ("fim_suf", "suffix"): (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>", "\u2581<SUF>"),
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    ("fim_mid", "middle"): (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>", "\u2581<MID>"),
        *("<|code_middle|>", "<|middle|>"),
    ),
    ("fim_pad",): ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("fim_rep",): ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("fim_sep",): ("<|file_sep|>",),
}
"""The parts of filling in the middle: their keys, and the texts that tell them where a file has no such key."""
_FILL_IN_ENDS = ("fim_pad", "fim_rep", "fim_sep")

_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~["),
)
"""The texts of tokens that end a generation, whatever the file calls them."""
CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""gpt-oss's marks inside a reply, which are shown."""


def special_id(header: Header, name: str, size: int) -> int | None:
    """The id that the file gives to the part `name` ("bos"), None if it gives none.

    Raises:
        UnsupportedModelError: it is beyond the vocabulary, of `size` tokens.
    """
    key = _KEY.format(name)
    if key not in header.metadata:
        return None
    token = header.integer(key)
    if token in _NO_TOKEN:
        return None
    if not 0 <= token < size:
        raise unsupported(header.path, f"the token {token} in `{key}`, but a vocabulary of {size:,} tokens")
    return token


def attributes_of(types: Sequence[int] | None, size: int) -> bytearray:
    """One `Attribute` for each token, from the file's token types; without any, all are normal."""
    if types is None:
        return bytearray([Attribute.NORMAL]) * size
    return bytearray(map(_TYPES.get, types, repeat(0)))


def tokens_with(attributes: bytes | bytearray, kind: int) -> Iterator[int]:
    """The ids of the tokens that have any of the attributes in `kind`."""
    return compress(range(len(attributes)), attributes.translate(bytes(bool(value & kind) for value in range(256))))


def end_tokens(header: Header, ids: Mapping[str, int], attributes: bytearray, eos: int | None) -> frozenset[int]:
    """The ids that end a generation. What a token's text tells about it is noted in `attributes`.

    Raises:
        UnsupportedModelError: an id of the file is beyond the vocabulary.
    """
    given = {name: special_id(header, name, len(attributes)) for name in _CHECKED}
    ends = set()
    for names, texts in _FILL_IN.items():
        token = next((given[name] for name in reversed(names) if given[name] is not None), None)
        if token is None:
            token = min((ids[text] for text in texts if text in ids), default=None)
            if token is not None:
                attributes[token] |= Attribute.CONTROL
        if token is not None and names[0] in _FILL_IN_ENDS:
            ends.add(token)
    for token in (ids[text] for text in _ENDS if text in ids):
        attributes[token] |= Attribute.CONTROL
        ends.add(token)
    for token in (ids[text] for text in CHANNELS if text in ids):
        attributes[token] = Attribute.USER_DEFINED
    ends.update(token for token in (eos, given["eot"], given["eom"]) if token is not None)
    _take_back(ids, attributes, ends)
    return frozenset(ends)


def _take_back(ids: Mapping[str, int], attributes: bytearray, ends: set[int]) -> None:
    """Two texts end a generation in most vocabularies, but not beside certain others."""

    def is_end(*texts: str) -> bool:
        return any(ids.get(text, -1) in ends for text in texts)

    # gpt-oss and Solar have other tokens for it.
    if is_end("<|end|>") and is_end("<|call|>", "<|calls|>") and is_end("<|return|>", "<|flush|>"):
        ends.remove(ids["<|end|>"])
        attributes[ids["<|end|>"]] = Attribute.USER_DEFINED
    # Gemma 4 has HTML's tag as a plain token.
    if is_end("</s>") and is_end("<|tool_response>", "<|plamo:eos|>"):
        ends.remove(ids["</s>"])
        attributes[ids["</s>"]] = Attribute.NORMAL


def mark_stripping(header: Header, ids: Mapping[str, int], attributes: bytearray) -> None:
    """Note the tokens that swallow white space beside them: files do not say it, the model's name does."""
    pre, name = header.text("tokenizer.ggml.pre", ""), header.text("general.name", "").lower()
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        swallowing = "<mask>"
    elif "phi-3" in name or "phi3" in name:
        special = Attribute.CONTROL | Attribute.USER_DEFINED | Attribute.UNKNOWN
        for token in tokens_with(attributes, special):
            attributes[token] |= Attribute.SWALLOWS_AFTER
        if "</s>" in ids:
            attributes[ids["</s>"]] |= Attribute.SWALLOWS_AFTER
        for text in ("<unk>", "<s>", "<|endoftext|>"):
            if text in ids:
                attributes[ids[text]] &= ~Attribute.SWALLOWS_AFTER & 0xFF
        return
    elif "modern-bert" in name:
        swallowing = "[MASK]"
    else:
        return
    if swallowing in ids:
        attributes[ids[swallowing]] |= Attribute.SWALLOWS_BEFORE
