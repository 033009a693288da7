"""What a chat's next turn costs with a long history behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import Chats, ChatSession, Competitor
from inference.measuring.on_model import STORY, OnModel, text_digest

__all__ = ["SecondTurn"]

QUESTION = "And what do the children find in the gravel under the bridge when they swim there in the summer?"
REPLY_TOKENS = 8


@dataclass(frozen=True, slots=True)
class SecondTurn(OnModel):
    """Milliseconds to the first token of a chat's second turn behind the longest history. The first turn, a text of so
    many tokens and a short answer, was computed before; only what was added to it is new. Beside: the same behind
    shorter histories, how many times longer it takes behind the longest than behind the shortest, and what it takes
    with nothing computed before.
    """

    histories: tuple[int, ...] = (200, 800, 2000)
    """Tokens of the first turn's text, shortest first. The context must hold some 100 more than the longest."""
    name: ClassVar[str] = "second chat turn"
    unit: ClassVar[str] = "ms"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        from inference.loading import read_model

        if not isinstance(competitor, Chats):
            return "it has no chat"
        return None if read_model(self.model).chat_template else "the file carries no chat template"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Chats)
        with closing(competitor.load_chat(self.model, self.settings)) as session:
            texts = [_text(session, tokens) for tokens in self.histories]

            def repeat(number: int) -> Sample:
                times = []
                for place, text in enumerate(texts):
                    scope = f"round {number}, text {place}"
                    reply = "".join(map(str, session.chat([text], REPLY_TOKENS, scope)))
                    turns = [text, reply, QUESTION]
                    times.append(_first_token(session, turns, scope))
                beside = {f"{tokens} tokens, ms": ms for tokens, ms in zip(self.histories, times, strict=True)}
                beside["longest / shortest"] = times[-1] / times[0]
                beside["computed anew, ms"] = _first_token(session, turns, f"round {number}, anew")
                return Sample(times[-1], f"texts {text_digest(*texts)}", beside)

            yield repeat


def _text(session: ChatSession, tokens: int) -> str:
    """The beginning of a story, of about so many tokens."""
    words = (STORY * (tokens // 64 + 1)).split()
    each = len(session.encode(" ".join(words))) / len(words)
    return " ".join(words[: max(1, round(tokens / each))])


def _first_token(session: ChatSession, turns: list[str], scope: str) -> float:
    """Milliseconds."""
    began = perf_counter()
    pieces = iter(session.chat(turns, 1, scope))
    next(pieces, None)
    milliseconds = 1000 * (perf_counter() - began)
    for _ in pieces:
        pass
    return milliseconds
