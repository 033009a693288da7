"""What a file's `tokenizer.ggml.pre` means: how text is cut into the words that are then merged, one by one.

The rules are those that llama.cpp applies (llama-vocab.cpp, `llm_tokenizer_bpe` and `impl::load`; its own splitters in
unicode.cpp do what their expressions say). Where they differ from the model's original tokenizer, llama.cpp's hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from inference.gguf.tokenizer.character_classes import Alphabet

__all__ = ["PRETOKENIZERS", "PreTokenizer", "Splitter"]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How one family of byte-pair vocabularies is used."""

    stages: tuple[str, ...]
    """Expressions for `Alphabet.pattern`, each applied to what the one before it left: a match becomes a piece, and so
    does what lies between two matches."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Sets of code points that the stages name."""
    ignore_merges: bool = False
    """A word that is a token is that token, whatever the merges say."""
    byte_level: bool = True
    """Tokens are written in GPT-2's characters for bytes; otherwise in plain text, with U+2581 for a space."""
    whole_newlines: bool = False
    """A run of new lines that is a token is that token, whatever the merges say."""
    add_bos: bool = False
    """Whether BOS comes first where the file does not say."""
    always_bos: bool = False
    """BOS comes first, whatever the file says."""
    default_bos: bool = True
    """Whether there is a BOS token where the file names none."""


class Splitter:
    """Cuts text into the words of a pre-tokenizer."""

    def __init__(self, rules: PreTokenizer) -> None:
        self._alphabet = Alphabet(rules.sets)
        self._stages = [self._alphabet.pattern(f"({stage})") for stage in rules.stages]

    def words(self, text: str) -> list[str]:
        """The words of `text`, which joined are `text`."""
        stand_ins = self._alphabet.stand_ins(text)
        pieces = [stand_ins] if stand_ins else []
        for stage in self._stages:
            pieces = [part for piece in pieces for part in stage.split(piece) if part]
        if stand_ins is text:
            return pieces
        words, start = [], 0
        for piece in pieces:
            end = start + len(piece)
            words.append(text[start:end])
            start = end
        return words


# Parts of the rules --------------------------------------------------------------------------------------------------

_LOWER_CONTRACTION = "'(?:[stmd]|re|ve|ll)"
_CONTRACTION = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_WORD = _LEAD + r"[\p{L}]+"
_MARKED_WORD = _LEAD + r"[\p{L}\p{M}]+"
_CASED_WORD = _LEAD + r"(?:[A-Z{0}]*[a-z{0}]+{1}|[A-Z{0}]+[a-z{0}]*{1})"
_OTHERS = r" ?[^\s\p{L}\p{N}]+"
_LINES = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"
_SPACES_BY_512 = "".join(rf"\s{{{2**power}}}(?!\S)|" for power in range(9, 1, -1)) + r"\s{1,2}(?!\S)|\s"
_LINES_ONCE = rf"(?<![^\S\r\n]){_LINES}"
"""Not tried again within a run of white space, which has no new line if its beginning did not match: that would take
the square of its length."""

_GPT2 = rf"{_LOWER_CONTRACTION}| ?[\p{{L}}]+| ?[\p{{N}}]+|{_OTHERS}|{_SPACES}"
_DIGIT = r"[\p{N}]"
_DIGITS = r"[\p{N}]+"
_THREE_DIGITS = r"[\p{N}]{1,3}"
_RIGHT_GROUPED_DIGITS = r"(?<=[\p{N}])[\p{N}]{3}|[^\p{N}]*+(?:[\p{N}]{1,3}(?=(?:[\p{N}]{3})*(?![\p{N}]))|\Z)"
"""Groups of three from the right; what comes before a number stays with its first group. (Behind a group of a number
the others are whole: without that alternative, long numbers would take their length squared.)"""
_ODD_DIGITS = r"\d{1,2}(?=(?:\d{3})*(?!\d))"
_UP_TO_GROUP = rf"(?:\D++(?:{_ODD_DIGITS})?)*"
_THREE_OF_A_NUMBER = r"(?:(?<=\d)\d{3}|(?<!\d)\d{3}(?=(?:\d{3})*(?!\d)))"
_CUTS_BEFORE_GROUPS = rf"{_THREE_OF_A_NUMBER}(?:(?=\d)|{_UP_TO_GROUP})|(?:{_ODD_DIGITS})?{_UP_TO_GROUP}"
"""A cut before every group of three ASCII digits from the right, and nowhere else: one to two digits that are left over
stay with what comes before them, and what comes behind a number stays with its last group."""
_NEWLINE_RUNS = r"[^\n]+|\n+"
_PUNCTUATION_RUNS = r"[\p{P}$+<=>\^~|]+"


def _llama3(
    *,
    digits: str = _THREE_DIGITS,
    word: str = _WORD,
    contraction: str = _CONTRACTION + "|",
    others: str = _OTHERS + r"[\r\n]*",
    lines: str = _LINES,
    spaces: str = _SPACES,
) -> str:
    """The expression of GPT-4's tokenizer, which many others vary."""
    return f"{contraction}{word}|{digits}|{others}|{lines}|{spaces}"


def _gpt4o(letters: str, contraction: str, digits: str = _THREE_DIGITS) -> str:
    """Words are cut before a capital; letters without case are both. Case is known for ASCII alone."""
    word = _CASED_WORD.replace("{0}", letters).replace("{1}", contraction)
    return _llama3(digits=digits, word=word, contraction="", others=_OTHERS + r"[\r\n/]*")


def _deepseek3(others: str = r" ?[\p{P}\p{S}]+[\r\n]*", lines: str = _LINES) -> str:
    """What numbers and CJK left over. A number may begin a word."""
    return rf"[!-/:-@\[-`{{-~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+|{others}|{lines}|{_SPACES}"


_QWEN2 = _llama3(digits=_DIGIT)
_KANA_AND_HAN = {"CJK": "4E00-9FA5 3040-309F 30A0-30FF"}
_MARKED_WORDS = {"word": f"{_MARKED_WORD}(?:{_CONTRACTION})?", "contraction": "", "others": _OTHERS + r"[\r\n/]*"}
_BLOOM = r" ?[^(\s|.,!?)\p{Stops}]+"
_BLOOM_STOPS = {"Stops": "2026 3002 FF0C 3001 964 6D4 60C"}
_DEEPSEEK_HAN = "4E00-9FA5 800-4E00 AC00-D7FF"

# Sets of code points, as the expressions list them --------------------------------------------------------------------

_CASED_LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5
3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15
1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3
1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139
213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787
A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2
118A0-118DF 1E900-1E943
"""
_HAN = "4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF 2CEB0-2EBEF F900-FAFF 2F800-2FA1F"
_ASIAN_SCRIPTS = """
4E00-9FFF 3400-4DBF 8C48-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF 1000-109F AA60-AA7F
A9E0-A9FF AC00-D7AF 1100-11FF
"""

# The rules -----------------------------------------------------------------------------------------------------------

_DEFAULT = PreTokenizer((_PUNCTUATION_RUNS, _GPT2, _DIGITS, "[0-9]{3}"))
_PLAIN_GPT2 = PreTokenizer((_GPT2,))
_SINGLE_DIGITS = PreTokenizer((_DIGIT, _GPT2))
_LLAMA3 = PreTokenizer((_llama3(),))
_LLAMA3_BPE = PreTokenizer((_llama3(),), ignore_merges=True, add_bos=True)
_PLAIN_QWEN2 = PreTokenizer((_QWEN2,))
_DEEPSEEK3 = PreTokenizer((_THREE_DIGITS, r"[\p{CJK}]+", _deepseek3()), _KANA_AND_HAN)
_GPT4O = PreTokenizer((_gpt4o(r"\p{L-ASCII}", f"(?:{_CONTRACTION})?"),))
_TINY_AYA = PreTokenizer((_RIGHT_GROUPED_DIGITS, _llama3(**_MARKED_WORDS)))
_BAILING = PreTokenizer((_llama3(digits=_DIGIT, lines=r"\s*[\r\n]"),))
_BLOOM_LIKE = PreTokenizer((_BLOOM,), _BLOOM_STOPS)
_GEMMA4 = PreTokenizer((_NEWLINE_RUNS,), byte_level=False, whole_newlines=True, always_bos=True)

_RULES: list[tuple[PreTokenizer, str]] = [
    (_DEFAULT, "default"),
    (_LLAMA3_BPE, "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (_LLAMA3, "dbrx smaug-bpe"),
    (PreTokenizer((_llama3(),), default_bos=False), "chatglm-bpe"),
    (PreTokenizer((_llama3(),), default_bos=False, ignore_merges=True), "glm4 glm5"),
    (
        PreTokenizer((_llama3(lines=_LINES_ONCE, spaces=_SPACES_BY_512),)),
        "jais-2",
    ),
    (_PLAIN_QWEN2, "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2"),
    (
        PreTokenizer((_llama3(digits=_DIGIT, word=_MARKED_WORD, others=r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),)),
        "qwen35",
    ),
    (PreTokenizer((_llama3(digits=_DIGIT, contraction=""),)), "ufakzeka"),
    (PreTokenizer((_llama3(digits=_DIGIT, others=r" ?[^\s\p{L}\p{N}\r\n]+"),)), "seed-coder"),
    (PreTokenizer((_THREE_DIGITS, _llama3(digits=_DIGITS)), ignore_merges=True), "minicpm5"),
    (PreTokenizer((_NEWLINE_RUNS, _QWEN2)), "laguna"),
    (_BAILING, "bailingmoe bailingmoe2 llada-moe"),
    (
        PreTokenizer(
            (
                _llama3(
                    digits=_DIGIT,
                    word=_LEAD + r"(?:[\p{L}][\p{M}]*(?: [\p{L}][\p{M}]*)*)+",
                    others=_OTHERS + r"[\r\n/]?",
                    lines=r"\s*[\r\n]",
                ),
            )
        ),
        "exaone-moe",
    ),
    (
        PreTokenizer(
            (r"[\p{Han}]+|" + _llama3(word=rf"{_LEAD}[\p{{L-Han}}]+(?:{_CONTRACTION})?", contraction=""),),
            {"Han": _HAN},
        ),
        "kimi-k2",
    ),
    (
        PreTokenizer(
            (
                r"[\r\n]",
                r"\s?[\p{Cased}]+",
                r"\s?[\p{Stops}]+",
                r"(?<!\s)\s+\Z",
                r"[\p{CJK}]+",
                _DIGITS,
            ),
            {
                "Cased": _CASED_LETTERS,
                "Stops": "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002",
                "CJK": _DEEPSEEK_HAN,
            },
        ),
        "deepseek-llm",
    ),
    (
        PreTokenizer((r"[\r\n]", r"\s?[\p{L}]+", r"\s?[\p{P}]+", r"[\p{CJK}]+", _DIGIT), {"CJK": _DEEPSEEK_HAN}),
        "deepseek-coder",
    ),
    (_DEEPSEEK3, "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (
        PreTokenizer(
            (
                _THREE_DIGITS,
                r"[\p{CJK}]+",
                _deepseek3(r" ?[\p{P}\p{S}]+", r"[\r\n]"),
                _DIGIT,
            ),
            _KANA_AND_HAN,
        ),
        "spark2_5",
    ),
    (
        PreTokenizer(
            (
                r"[\p{Hangul}]+|[\p{Stops}]+|[\p{Bopomofo}]+|[\p{CJK}]+",
                _llama3(digits=_DIGIT, **_MARKED_WORDS),
            ),
            {
                "Hangul": "AC00-D7A3 3131-318E",
                "Stops": "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F",
                "Bopomofo": "3105-312F",
                **_KANA_AND_HAN,
            },
            ignore_merges=True,
        ),
        "youtu",
    ),
    (PreTokenizer((r"[\p{P}$+<=>\^~|`]+", _GPT2, "[0-9]{3}")), "falcon"),
    (_PLAIN_GPT2, "gpt-2 phi-2 exaone4 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum modern-bert"),
    (_PLAIN_GPT2, "roberta-bpe jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code"),
    (_SINGLE_DIGITS, "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"),
    (_BLOOM_LIKE, "poro-chat bloom gpt3-finnish"),
    (PreTokenizer((_BLOOM, _DIGIT), _BLOOM_STOPS), "viking"),
    (
        PreTokenizer((_gpt4o(r"\p{L-ASCII}", "", digits=_DIGIT),), ignore_merges=True, add_bos=True),
        "tekken",
    ),
    (_GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (
        PreTokenizer((_gpt4o(r"\p{L-ASCII}\p{M}", f"(?:{_CONTRACTION})?"),), ignore_merges=True),
        "granite-embed-multi-97m",
    ),
    (_TINY_AYA, "tiny_aya cohere2moe"),
    (
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "IMGIMG[A-I]{1,4}Z",
                "[\t\n]|    |  ",
                _DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
        "chameleon",
    ),
    (PreTokenizer((_DIGITS, _CUTS_BEFORE_GROUPS)), "superbpe"),
    (
        PreTokenizer((_RIGHT_GROUPED_DIGITS, r"[\p{Asian}]+", _deepseek3()), {"Asian": _ASIAN_SCRIPTS}),
        "afmoe",
    ),
    (_GEMMA4, "gemma4 granite-embed-multi-311m"),
    (PreTokenizer((_NEWLINE_RUNS,), byte_level=False), "sarvam-moe"),
]

PRETOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {name: rules for rules, names in _RULES for name in names.split()}
)
"""By the names that `tokenizer.ggml.pre` takes."""
