"""A chat as token ids, on a small tokenizer: one BOS, no EOS, and no message that becomes a control token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.chat import ChatTemplate, encode_chat
from inference.errors import ChatTemplateError
from inference.types import Message


class ByteTokenizer:
    """Ids 0 to 255 are bytes; control tokens come after them. `merging`: plain text becomes control tokens, too, as
    merges can have it. `lacking`: bytes that have no token."""

    def __init__(
        self,
        *control: str,
        bos: str | None = None,
        eos: str | None = None,
        add_bos: bool = False,
        add_eos: bool = False,
        merging: bool = False,
        lacking: bytes = b"",
        plain: tuple[str, ...] = (),
    ) -> None:
        self.control = control
        self.texts = (*control, *plain)
        self.bos_token = None if bos is None else 256 + control.index(bos)
        self.eos_token = None if eos is None else 256 + control.index(eos)
        self.add_bos, self.add_eos, self.merging, self.lacking = add_bos, add_eos, merging, lacking

    @property
    def vocabulary_size(self) -> int:
        return 256 + len(self.texts)

    def is_end(self, token: int) -> bool:
        return token == self.eos_token

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        read = self.texts if parse_special or self.merging else self.texts[len(self.control) :]
        ids, rest = [], text
        while rest:
            found = max((t for t in read if rest.startswith(t)), key=len, default=None)
            if found is None:
                ids += [byte for byte in rest[0].encode() if byte not in self.lacking]
            else:
                ids.append(256 + self.texts.index(found))
            rest = rest[len(found or rest[0]) :]
        if add_special and self.add_bos and self.bos_token is not None:
            ids.insert(0, self.bos_token)
        if add_special and self.add_eos and self.eos_token is not None:
            ids.append(self.eos_token)
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return b"" if token < 256 + len(self.control) else self.texts[token - 256].encode()

    def control_text(self, token: int) -> str:
        return chr(token) if token < 256 else self.texts[token - 256]

    def control_texts(self) -> Sequence[str]:
        return self.control


def shown(tokenizer: ByteTokenizer, ids: Iterable[int]) -> str:
    """Ids as text, control tokens in braces."""
    parts = (f"{{{tokenizer.control_text(i)}}}" if i >= 256 else chr(i) for i in ids)
    return "".join(parts)


HELLO = [Message("user", "Hi")]


@pytest.mark.parametrize("add_eos", [False, True])
@pytest.mark.parametrize(
    ("source", "add_bos", "expected"),
    [
        ("{{ messages[0].content }}", True, "{<s>}Hi"),
        ("{{ messages[0].content }}", False, "Hi"),
        ("{{ bos_token }}{{ messages[0].content }}", True, "{<s>}Hi"),
        ("{{ bos_token }}{{ messages[0].content }}", False, "{<s>}Hi"),
        ("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}", True, "{<s>}Hi"),
        ("{{ '\n' + bos_token }}{{ messages[0].content }}", True, "\n{<s>}Hi"),
        ("{{ messages[0].content }}{{ bos_token }}", True, "{<s>}Hi{<s>}"),
        ("{{ messages[0].content }}{{ eos_token }}", True, "{<s>}Hi{</s>}"),
    ],
)
def test_there_is_one_bos_where_the_model_or_its_template_wants_one_and_no_eos(
    source: str, add_bos: bool, add_eos: bool, expected: str
) -> None:
    tokenizer = ByteTokenizer("<s>", "</s>", bos="<s>", eos="</s>", add_bos=add_bos, add_eos=add_eos)
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    assert shown(tokenizer, encode_chat(template, tokenizer, HELLO, {})) == expected


def test_an_eos_that_is_also_the_bos_is_not_taken_for_a_wanted_bos() -> None:
    tokenizer = ByteTokenizer("<end>", bos="<end>", eos="<end>", add_eos=True)
    assert shown(tokenizer, encode_chat(ChatTemplate("{{ messages[0].content }}"), tokenizer, HELLO, {})) == "Hi"


def test_a_message_that_begins_with_the_bos_text_does_not_stand_in_for_the_bos() -> None:
    tokenizer = ByteTokenizer("<s>", bos="<s>", add_bos=True)
    template = ChatTemplate("{{ messages[0].content }}")
    assert shown(tokenizer, encode_chat(template, tokenizer, [Message("user", "<s>x")], {})) == "{<s>}<s>x"


# No message becomes a control token, on a small tokenizer ------------------------------------------------------------


def chat(tokenizer: ByteTokenizer, source: str, *contents: Any, **options: Any) -> str:
    messages = [{"role": "user", "content": content} for content in contents]
    return shown(tokenizer, encode_chat(ChatTemplate(source), tokenizer, messages, options))


EACH = "{% for m in messages %}<a>{{ m.content }}<b>{% endfor %}"


@pytest.mark.parametrize(
    "content",
    [
        "<a>",
        "<b><a>",
        "<<a>a>",
        "<a<b>>",
        "x<a",
        "\U0010ffff<a>",
        "<a>\x7f",
        "a>",
        "<",
        "<a>" + "".join(map(chr, range(0x10FFF0, 0x110000))),
    ],
)
def test_control_tokens_are_the_templates_alone(content: str) -> None:
    tokenizer = ByteTokenizer("<a>", "<b>", "<<a>a>")
    ids = encode_chat(ChatTemplate(EACH), tokenizer, [Message("user", content)], {})
    assert ids == [256, *content.encode(), 257]


def test_the_same_holds_where_plain_text_would_merge_to_a_control_token() -> None:
    assert chat(ByteTokenizer("<a>", "<b>", merging=True), EACH, "x<a>y") == "{<a>}x<a>y{<b>}"


def test_the_same_holds_where_a_space_is_read_as_u2581() -> None:
    class Spaced(ByteTokenizer):
        def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
            return super().encode(text.replace(" ", "\u2581"), add_special=add_special, parse_special=parse_special)

    tokenizer = Spaced("<a>", "<b>", "<end\u2581of>", merging=True)
    ids = encode_chat(ChatTemplate(EACH), tokenizer, [Message("user", "x<end of>")], {})
    assert ids == [256, *"x<end\u2581of>".encode(), 257]


def test_the_same_holds_where_the_vocabulary_lacks_the_guard() -> None:
    lacking = bytes([0xF4, 0x7F])
    assert chat(ByteTokenizer("<a>", "<b>", lacking=lacking), EACH, "x<a>y<b>") == "{<a>}x<a>y<b>{<b>}"


def test_the_same_holds_where_the_guard_merges_with_its_neighbour() -> None:
    assert chat(ByteTokenizer("<a>", "<b>", plain=("\U0010ffffa",)), EACH, "x<a>y") == "{<a>}x<a>y{<b>}"


def test_a_message_that_uses_up_all_guards_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="every character"):
        chat(ByteTokenizer("<a>", "<b>"), EACH, "<a>" + "".join(map(chr, range(0x10F000, 0x110000))))


def test_the_same_holds_for_parts_that_a_template_joins() -> None:
    source = "<a>{% for m in messages %}{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endfor %}<b>"
    for texts in (("<", "a>"), ("x<a", ">"), ("<a  ", " >"), ("<", "a", ">")):
        parts = [{"type": "text", "text": text} for text in texts]
        expected = "".join(text.strip() for text in texts)
        assert chat(ByteTokenizer("<a>", "<b>"), source, parts) == f"{{<a>}}{expected}{{<b>}}"


def test_the_same_holds_for_two_messages_that_a_template_joins() -> None:
    source = "{{ messages[0].content }}{{ messages[1].content }}"
    assert chat(ByteTokenizer("<a>", "<b>"), source, "<a", ">") == "<a>"


def test_the_same_holds_for_names_tools_and_documents() -> None:
    source = "<a>{{ messages[0] | tojson }}{{ tools | tojson }}{{ documents | tojson }}<b>"
    messages = [{"role": "tool<b>", "name": "<a>", "content": None, "arguments": {"<a>": ["<b>"]}}]
    options = {"tools": [{"name": "<a>"}], "documents": [{"text": "<b>"}]}
    tokenizer = ByteTokenizer("<a>", "<b>")
    ids = encode_chat(ChatTemplate(source), tokenizer, messages, options)
    assert [i for i in ids if i >= 256] == [256, 257]
    assert tokenizer.decode(ids) == ChatTemplate(source).render(messages, **options).removeprefix("<a>").removesuffix(
        "<b>"
    )


def test_the_text_is_whole_where_a_template_escapes_what_is_not_ascii() -> None:
    source = "<a>{{ messages[0].content | tojson(ensure_ascii=true) }}<b>"
    assert chat(ByteTokenizer("<a>", "<b>"), source, "<a>") == '{<a>}"<a>"{<b>}'
    spelt = "<a>" + r"\udbff\udfff"
    assert chat(ByteTokenizer("<a>", "<b>"), EACH, spelt) == f"{{<a>}}{spelt}{{<b>}}"


def test_a_template_that_looks_for_a_control_tokens_text_does_not_find_it_in_a_message() -> None:
    source = "{{ 'cut' if '<a>' in messages[0].content else messages[0].content }}"
    assert chat(ByteTokenizer("<a>"), source, "x<a>") == "x<a>"


def test_messages_are_no_template_option() -> None:
    with pytest.raises(ChatTemplateError, match="`messages`"):
        encode_chat(ChatTemplate(EACH), ByteTokenizer(), HELLO, {"messages": []})


def test_a_token_that_an_option_names_is_a_token() -> None:
    assert chat(ByteTokenizer("<a>"), "{{ eos_token }}{{ messages[0].content }}", "x", eos_token="<a>") == "{<a>}x"


def test_roles_are_compared_as_they_are() -> None:
    source = "{% if messages[0].role == 'user' %}yes{% endif %}"  # 'r' begins a control token's text
    assert chat(ByteTokenizer("r>"), source, "for") == "yes"


def test_user_defined_tokens_of_the_template_are_kept_out_of_what_users_and_tools_say() -> None:
    tokenizer = ByteTokenizer("<a>", plain=("<turn>", "<td>"))
    template = ChatTemplate("{% for m in messages %}<turn>{{ m.content }}{% endfor %}")
    said = "x<turn><td>"
    for role, expected in (("user", "x<turn>{<td>}"), ("tool", "x<turn>{<td>}"), ("assistant", "x{<turn>}{<td>}")):
        ids = encode_chat(template, tokenizer, [Message(role, said)], {})
        assert shown(tokenizer, ids) == "{<turn>}" + expected


def test_a_chat_without_look_alikes_is_rendered_once_and_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ByteTokenizer("<a>", "<b>")
    template = ChatTemplate("<a>{{ messages[0].content }}<b>")
    rendered = []
    plain = ChatTemplate.render_plain
    monkeypatch.setattr(ChatTemplate, "render_plain", lambda *args: rendered.append(plain(*args)) or rendered[-1])
    ids = encode_chat(template, tokenizer, [Message("user", "1 < 2 > 0, a> and <c>")], {})
    assert len(rendered) == 1
    assert ids == tokenizer.encode(rendered[0], add_special=False, parse_special=True)


pieces = st.lists(
    st.sampled_from(["<a>", "<b>", "<", "a", "<a", ">", "b>", " ", "\n", "é", "\U0010ffff", "\x7f"]), max_size=8
)


@given(st.lists(st.lists(pieces.map("".join), min_size=1, max_size=3), min_size=1, max_size=3))
def test_no_mixture_of_pieces_becomes_a_control_token(contents: list[list[str]]) -> None:
    source = "{% for m in messages %}<a>{% for part in m.content %}{{ part.text }}{% endfor %}<b>{% endfor %}"
    messages = [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]} for texts in contents]
    ids = encode_chat(ChatTemplate(source), ByteTokenizer("<a>", "<b>", "<<", "a><"), messages, {})
    expected = [[256, *"".join(texts).encode(), 257] for texts in contents]
    assert ids == list(itertools.chain.from_iterable(expected))


@given(
    st.lists(st.text("ab", min_size=2, max_size=6), min_size=1, max_size=6, unique=True),
    st.lists(st.text("ab", max_size=12), min_size=1, max_size=3),
)
def test_control_tokens_that_begin_alike_are_all_kept_out(control: list[str], contents: list[str]) -> None:
    source = "{% for m in messages %}{{ m.content }};{% endfor %}"
    ids = encode_chat(ChatTemplate(source), ByteTokenizer(*control), [Message("user", text) for text in contents], {})
    assert bytes(ids).decode() == "".join(f"{text};" for text in contents)


def test_a_control_token_of_a_thousand_characters_is_kept_out() -> None:
    long = "<" + "a" * 1000 + ">"
    template = ChatTemplate("{{ messages[0].content }}" + long)
    ids = encode_chat(template, ByteTokenizer(long), [Message("user", f"{long[:-1]}{long}{long[:-1]}")], {})
    assert bytes(ids[:-1]).decode() == f"{long[:-1]}{long}{long[:-1]}"
    assert ids[-1] == 256


def test_a_template_with_thousands_of_tags_is_refused() -> None:
    template = ChatTemplate("{# " + "".join(f"<t{number}>" for number in range(1001)) + " #}")
    with pytest.raises(ChatTemplateError, match="1,001 texts that look like tokens, where 1,000 are the most"):
        encode_chat(template, ByteTokenizer(), [Message("user", "a")], {})
    with pytest.raises(ChatTemplateError, match="1,001 texts"):
        template.check()


def test_a_template_of_megabytes_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="2,000,000 characters, where 1,048,576 are the most"):
        ChatTemplate("a" * 2_000_000)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["lists", "mappings"])
@pytest.mark.parametrize("depth", [99, 100, 400, 493, 900, 100_000])
def test_nesting_is_bounded_whatever_is_in_it(wrap: Callable[[Any], Any], depth: int) -> None:
    content: Any = "<a>"
    for _ in range(depth):
        content = wrap(content)
    messages = [{"role": "user", "content": "hi", "extra": content}]
    template, tokenizer = ChatTemplate("{{ messages[0].content }}"), ByteTokenizer("<a>")
    if depth < 100:
        assert encode_chat(template, tokenizer, messages, {}) == list(b"hi")
    else:
        with pytest.raises(ChatTemplateError, match=r"messages\[0\] is nested too deeply"):
            encode_chat(template, tokenizer, messages, {})


def test_a_key_that_is_a_record_is_refused() -> None:
    messages = [{"role": "user", "content": "hi", "extra": {Message("user", "a"): 1}}]
    with pytest.raises(ChatTemplateError, match="holds a Message as a key"):
        encode_chat(ChatTemplate("a"), ByteTokenizer(), messages, {})
