"""The labels of a classification, as a tree of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from inference.engine.generation import NO_TOKEN
from inference.engine.trie import Trie
from inference.errors import OptionValueError, quoted
from inference.protocols import Tokenizer

__all__ = ["Labels", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """One point of the tree at which the device is asked."""

    depth: int
    """How many tokens of labels follow the prompt there."""
    token: int
    """The last of them; `NO_TOKEN` behind the prompt itself."""
    score: tuple[int, ...]
    """The tokens that go on from there in some label."""


class Labels:
    """Which questions to ask after a prompt, and what the answers make of each label.

    A beginning that several labels share is asked once. Questions come depth first: what follows the prompt there is
    `depth - 1` tokens of the question before, and one more.
    """

    def __init__(self, labels: Sequence[str], tokenizer: Tokenizer) -> None:
        """
        Raises:
            OptionValueError: there are no labels, one is there twice, or cannot be written in the vocabulary.
        """
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            raise OptionValueError(f"`labels` must be a sequence of strings, got {quoted(labels)}.")
        if not labels:
            raise OptionValueError("`labels` is empty. Give two or more, or None for the likeliest next token.")
        written: dict[str, tuple[int, ...]] = {}
        for position, label in enumerate(labels):
            if not isinstance(label, str):
                raise OptionValueError(f"`labels` must hold strings; item {position} is {quoted(label)}.")
            if label in written:
                raise OptionValueError(
                    f"The label {quoted(label)} is there twice: items {labels.index(label)} and {position}."
                )
            written[label] = _written(label, tokenizer)
        trie = Trie[int]()
        nodes = {label: trie.add(written[label]) for label in sorted(written, key=written.__getitem__)}
        asked = {node: number for number, node in enumerate(node for node, ways in enumerate(trie.ways) if ways)}
        tokens = {node: token for ways in trie.ways for token, node in ways.items()}
        self.questions = tuple(
            Question(trie.depths[node], tokens.get(node, NO_TOKEN), tuple(trie.ways[node])) for node in asked
        )
        self.longest = max(question.depth for question in self.questions)
        """Most tokens that follow the prompt when something is asked, which the context must hold beside it."""
        places = {node: place for ways in trie.ways for place, node in enumerate(ways.values())}
        self._ways = {
            label: [(asked[node], places[after]) for node, after in pairwise(nodes[label])] for label in written
        }
        """For each label the questions on its way, and the place of its answer in each."""

    def logprobs(self, answers: Sequence[Sequence[float]]) -> dict[str, float]:
        """The natural log-probability of each label, given the scores that each question was answered with."""
        return {label: math.fsum(answers[number][place] for number, place in way) for label, way in self._ways.items()}

    @staticmethod
    def shares(logprobs: Mapping[str, float]) -> dict[str, float]:
        """Probabilities normalised over the labels."""
        highest = max(logprobs.values())
        if highest == -math.inf:  # all impossible: none is likelier than another
            return dict.fromkeys(logprobs, 1 / len(logprobs))
        weights = {label: math.exp(logprob - highest) for label, logprob in logprobs.items()}
        total = math.fsum(weights.values())
        return {label: weight / total for label, weight in weights.items()}


def _written(label: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of the label, exactly as it is spelled.

    Some vocabularies put a space in front of a text. Behind a line break they do not, and no vocabulary joins a line
    break with the word that follows it; where one does, the bytes tell.
    """
    data = label.encode("utf-8", "surrogatepass")
    for lead in ("", "\n"):
        before = tokenizer.encode(lead, add_special=False) if lead else []
        tokens = tokenizer.encode(lead + label, add_special=False)
        if tokens[: len(before)] != before:
            continue
        tokens = tokens[len(before) :]
        if tokens and b"".join(map(tokenizer.token_bytes, tokens)) == data:
            return tuple(tokens)
    what = "has no tokens" if not label else "cannot be written exactly in this model's vocabulary"
    raise OptionValueError(f"The label {quoted(label)} {what}. Take another one.")
