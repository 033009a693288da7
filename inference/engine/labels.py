"""The labels of a classification, as a tree of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.errors import OptionValueError, quoted
from inference.protocols import Tokenizer

__all__ = ["Labels", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """One point of the tree at which the device is asked."""

    path: tuple[int, ...]
    """The tokens that follow the prompt there."""
    score: tuple[int, ...]
    """The tokens that go on from there in some label."""


class Labels:
    """Which questions to ask after a prompt, and what the answers make of each label.

    A beginning that several labels share is asked once. Questions come depth first, so that each path repeats as much
    as it can of the one before.
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
        self._tokens: dict[str, tuple[int, ...]] = {}
        for position, label in enumerate(labels):
            if not isinstance(label, str):
                raise OptionValueError(f"`labels` must hold strings; item {position} is {quoted(label)}.")
            if label in self._tokens:
                raise OptionValueError(
                    f"The label {quoted(label)} is there twice: items {labels.index(label)} and {position}."
                )
            self._tokens[label] = _written(label, tokenizer)
        branches: dict[tuple[int, ...], dict[int, None]] = {}
        for tokens in sorted(self._tokens.values()):
            for depth, token in enumerate(tokens):
                branches.setdefault(tokens[:depth], {})[token] = None
        # Sorted by path, which is depth first.
        self.questions = tuple(Question(path, tuple(branches[path])) for path in sorted(branches))
        self.longest = max(len(question.path) for question in self.questions)
        """Tokens of the longest path, which the context must hold beside the prompt."""

    def logprobs(self, answers: Sequence[Sequence[float]]) -> dict[str, float]:
        """The natural log-probability of each label, given the scores that each question was answered with."""
        known = {
            (*question.path, token): score
            for question, scores in zip(self.questions, answers, strict=True)
            for token, score in zip(question.score, scores, strict=True)
        }
        return {
            label: math.fsum(known[tokens[: depth + 1]] for depth in range(len(tokens)))
            for label, tokens in self._tokens.items()
        }

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
