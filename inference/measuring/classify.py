"""Short sentences classified behind one instruction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import Classifies, Competitor
from inference.measuring.on_model import OnModel, text_digest

__all__ = ["LABELS", "Classify", "classify_prompts", "sentences"]

LABELS = (" positive", " negative")
INSTRUCTION = (
    "Read what a guest wrote about an evening at a small restaurant, and decide whether the guest was pleased. Answer "
    "with one word: positive if the guest liked it on the whole, negative if not. Weigh the food, the service, the "
    "room and the bill alike, and take irony for what it means. A sentence that praises one thing and blames another "
    "counts as what its last words say. Do not explain the answer, do not repeat the sentence, and "
    "do not add a full stop behind the word.\n\n"
)
OPENINGS = ("", "", "Honestly, ", "All in all, ", "For once, ", "To my surprise, ", "As so often, ")
SUBJECTS = (
    "the soup",
    "our waiter",
    "the old dining room",
    "the wine list",
    "my fish",
    "the bill",
    "dessert",
    "the bread",
)
VERBS = ("was", "was", "seemed", "turned out", "remained", "looked")
DEGREES = ("", "", "rather ", "very ", "quite ", "far too ", "wonderfully ")
JUDGEMENTS = ("cold", "friendly", "slow", "bright", "fresh", "dull", "generous", "careless", "perfect", "loud")
ENDINGS = (
    "",
    "",
    " tonight",
    " from beginning to end",
    ", and we will come back",
    ", and nobody said sorry",
    ", as my mother told us all",
    " although we had waited for an hour",
)


@dataclass(frozen=True, slots=True)
class Classify(OnModel):
    """Sentences per second: short ones of 6 to 20 tokens, each behind the same instruction of about 100, two labels.
    What an earlier round computed is not used again; that all sentences share their instruction may be.

    The warm-up takes a tenth of the sentences.
    """

    sentences: int = 2000
    name: ClassVar[str] = "classify"
    unit: ClassVar[str] = "sentences/s"

    def facts(self) -> Mapping[str, Any]:
        return {"settings": asdict(self.settings), "sentences": self.sentences, "labels": LABELS}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Classifies) else "it does not classify"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Classifies)
        prompts = classify_prompts(self.sentences)
        with closing(competitor.load_classifier(self.model, self.settings)) as session:

            def repeat(number: int) -> Sample:
                wanted = prompts if number else prompts[: -(-len(prompts) // 10)]
                rate = session.rate(wanted, LABELS)
                return Sample(rate.per_second, f"{len(wanted)} prompts {text_digest(*wanted)}", rate.beside)

            yield repeat


def classify_prompts(count: int) -> list[str]:
    """The instruction with a sentence behind it, `count` times; always the same."""
    return [f"{INSTRUCTION}Sentence: {sentence}\nAnswer:" for sentence in sentences(count)]


def sentences(count: int) -> list[str]:
    """Made-up sentences, all different; always the same, and the first of them whatever the count."""
    random = Random(1)
    parts = (OPENINGS, SUBJECTS, VERBS, DEGREES, JUDGEMENTS, ENDINGS)
    found: dict[str, None] = {}
    while len(found) < count:
        opening, subject, verb, degree, judgement, ending = map(random.choice, parts)
        sentence = f"{opening}{subject} {verb} {degree}{judgement}{ending}."
        found[sentence[0].upper() + sentence[1:]] = None
    return list(found)
