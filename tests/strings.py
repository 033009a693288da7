"""Text that tokenizers stumble over: any number of strings, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["strings"]

BLOCKS = [
    *((0x00, 0x7F), (0x20, 0x7E), (0x41, 0x7A), (0x80, 0xFF), (0x100, 0x24F), (0x250, 0x2FF), (0x370, 0x3FF)),
    *((0x400, 0x52F), (0x530, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0xE00, 0xFFF), (0x1000, 0x10FF)),
    *((0x1100, 0x11FF), (0x13A0, 0x13FF), (0x1680, 0x18AF), (0x1AB0, 0x1AFF), (0x1C80, 0x1CFF), (0x1D00, 0x1FFF)),
    *((0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x2BFF), (0x2C00, 0x2DFF), (0x2E00, 0x2FDF), (0x3000, 0x303F)),
    *((0x3040, 0x312F), (0x3130, 0x33FF), (0x3400, 0x4DBF), (0x4DC0, 0x4DFF), (0x4E00, 0x9FFF), (0xA000, 0xA8FF)),
    *((0xA900, 0xABFF), (0xAC00, 0xD7FF), (0xE000, 0xF8FF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFE6F)),
    *((0xFF00, 0xFFFF), (0x10000, 0x104FF), (0x10800, 0x10FFF), (0x11000, 0x11FFF), (0x16A00, 0x16FFF)),
    *((0x1BC00, 0x1D3FF), (0x1D400, 0x1D7FF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FAFF), (0x1FB00, 0x1FFFF)),
    *((0x20000, 0x2FA1F), (0x2FA20, 0x323AF), (0x40000, 0x4FFFF), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF)),
]
"""Letters, marks, numbers and signs of all sorts, and what is private or not assigned."""

MARKS = "\u0300\u0301\u0323\u034f\u0483\u0591\u064b\u093c\u0e38\u1ab0\u20d0\u20dd\u302a\ufe0f\ufe20\U0001e8d0\U000e0100"
DIGITS = "0123456789٠٣٩०९০৯๐๙໐༠၉០᠙０９²³¹⁴₀½¾Ⅷↀ①⓪㊉〇㆒௰𝟎𝟗𑁦🄀"  # noqa: RUF001
SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
CONTROLS = "\x00\x01\x03\x04\x07\x0b\x13\x1b\x1f\x7f\x80\x90\x9f\xad\u200c\u200d\u200e\u202e\ufff9\ufffd\uffff"
PUNCTUATION = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«¬°±·»¿×–—‘’“”…′€™←∀≠⌘─■☃✓、。「」〜・！，．：；？～\u0964\u06d4\u060c"  # noqa: RUF001
)
CONTRACTIONS = """
's 'S 't 'T 're 'Re 'RE 've 'vE 'm 'M 'll 'Ll 'LL 'd 'D '\u017f '\u017ft \u2019s \u2019ll 'l 'r 'v ''s 's's
'ss '\u212a '
""".split()  # noqa: SIM905
WORDS = """
the and of in that Hello World quick brown fox's naïve café über straße Ελλάδα москва नमस्ते สวัสดี 東京 中文 한국어 日本語
tiếng Việt İstanbul ﬁ ﷺ ǅ ʰʷ I'm DON'T we'Ll camelCaseWord HTTPServer snake_case XMLHttpRequest iOS 3rd 1st 2nd $100
3.14159 1,234,567.89 1e-10 0xFF 2024-01-02T03:04:05Z user@example.com https://example.org/a?b=c&d=e#f H₂O x² ½ ℵ₀ ███
IMGIMGABCDZ IMGIMGAZ <sentinel:12> [MASK]
""".split()  # noqa: SIM905
CODE = [
    *("def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n\t}\n", "if (a && !b) || c"),
    *('<div class="x">\r\n  <p>hi</p>\r\n</div>', "#include <stdio.h>\n\n\n", "x = {'a': [1, 2, 3]}", "a->b::c"),
    *("SELECT * FROM t WHERE id=1;--", "\\frac{1}{2}$$", "            deep", "\t\t\t", "/* ... */", "!!!???...", "==>"),
]
EMOJI = """
👋 👋🏽 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪 🇩 ❤️ ☺ 1️⃣ 🧑🏿\u200d🚀 🤷\u200d♂️ \U0001f3f4\U000e0067\U000e007f 🦙🫠
\u200d
""".split()  # noqa: SIM905
OTHERS = [
    *("\u2581", "\u2581\u2581", " \u2581 ", "<0x0A>", "<0xFF>", "Ġ", "Ċ", "\u0120the", "</", "<|", "|>", "<s>", "</s>"),
    *("[PAD]", "<unk>", ">\u2581</", "> </", "\n\n\n", "\r\n\r\n", "\ud800", "\udfff", "a\ud83db", "\ud83d\ude00"),
]
"""What vocabularies write in their own way, look-alikes, and lone surrogates."""


def strings(seed: int, count: int, texts: Sequence[str] = ()) -> Iterator[str]:
    """`count` strings of up to some hundred characters. `texts` are those of special tokens: they come in whole, in
    part, run together and cut into each other."""
    chance = random.Random(seed)
    kinds = _kinds(chance, texts)
    for _ in range(count):
        pieces = [chance.choice(kinds)() for _ in range(chance.choice((1, 1, 2, 3, 4, 6, 9)))]
        yield chance.choice(("", "", "", " ")).join(pieces)


def _kinds(chance: random.Random, texts: Sequence[str]) -> list[Callable[[], str]]:
    def run(characters: str, longest: int) -> str:
        return "".join(chance.choices(characters, k=chance.randint(1, longest)))

    def same(characters: str) -> str:
        return chance.choice(characters) * chance.randint(1, 12)

    def block() -> str:
        first, last = chance.choice(BLOCKS)
        codes = (chance.randint(first, last) for _ in range(chance.randint(1, 6)))
        return "".join(map(chr, codes))

    def anything() -> str:
        return chr(chance.randrange(0x110000))

    def words() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))

    def marked() -> str:
        base = chance.choice(("a", "e", "ん", "क", "1", " ", "", "؟", "\n"))
        return base + run(MARKS, 3) + chance.choice(("", "x", "s"))

    def contracted() -> str:
        return chance.choice(("I", "we", "", " ", "é", "1", "A")) + chance.choice(CONTRACTIONS)

    def special() -> str:
        if not texts:
            return block()
        text, other = chance.choice(texts), chance.choice(texts)
        start, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        return chance.choice(
            (text, text + other, text[start:end], text[:end] + other, f" {text} \n", text[1:] + text[:1], text * 2)
        )

    return [
        *(block, block, anything, words, words, marked, contracted, special, special),
        lambda: run(SPACES, 5),
        lambda: same(SPACES[:11]),
        lambda: run(" \n\r\t", 8),
        lambda: run(DIGITS, 9),
        lambda: run("0123456789", 12),
        lambda: run(CONTROLS, 3),
        lambda: run(PUNCTUATION, 4),
        lambda: same(PUNCTUATION),
        lambda: run("abcXYZ äÖ一ねπ", 8),
        lambda: chance.choice(CODE),
        lambda: chance.choice(EMOJI) + chance.choice(("", *EMOJI)),
        lambda: chance.choice(OTHERS),
    ]
