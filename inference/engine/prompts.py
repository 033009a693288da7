"""What a caller passes as a prompt, checked and turned into token ids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet

from inference.errors import (
    EmptyPromptError,
    InvalidTokenError,
    OptionValueError,
    PromptError,
    PromptTooLongError,
    quoted,
)
from inference.options import GenerateOptions
from inference.protocols import Prompt, Tokenizer

__all__ = ["Prompts"]


class Prompts:
    """The rules for prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """The ids of text (special tokens in it are recognised, BOS is put in front), or the ids given.

        Raises:
            PromptError: it is neither, it is empty, or it has an id that is not in the vocabulary.
        """
        if not isinstance(prompt, str):
            return self._checked(prompt)
        if not prompt:
            raise EmptyPromptError("The prompt is empty. Give some text, or the id of the BOS token.")
        return self._tokenizer.encode(prompt, parse_special=True)

    def require_room(self, tokens: Sequence[int], after: int = 1, what: str = ", one of them to be generated") -> None:
        """Refuse a prompt that has no tokens, or that leaves no room for `after` more; `what` says what these are for.

        Raises:
            PromptError: so it is.
        """
        if not tokens:
            raise EmptyPromptError("The prompt has no tokens. Give some text, or the id of the BOS token.")
        if len(tokens) + after > self._context_length:
            raise PromptTooLongError(
                f"The prompt has {len(tokens)} tokens, and the context holds {self._context_length}{what}. Shorten "
                f"the prompt, or load the model with a larger `context_length`."
            )

    def require_known(self, options: GenerateOptions) -> None:
        """Refuse options that name tokens which do not exist, or that forbid all.

        Raises:
            InvalidTokenError, OptionValueError: so it is.
        """
        for option, ids in (("stop_tokens", options.stop_tokens), ("logit_bias", options.logit_bias)):
            for token in ids:
                self._require_known(token, f"`{option}`")
        forbidden = sum(bias == -math.inf for bias in options.logit_bias.values())
        if forbidden == self._tokenizer.vocabulary_size:
            raise OptionValueError("`logit_bias` forbids every token of the vocabulary.")

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        is_sequence = isinstance(prompt, Iterable) and isinstance(prompt, Sized)  # numpy's arrays are no Sequence
        if not is_sequence or isinstance(prompt, bytes | bytearray | Mapping | AbstractSet):
            raise PromptError(f"The prompt must be text or a sequence of token ids, got {type(prompt).__name__}.")
        tokens = list(prompt)
        for position, token in enumerate(tokens):
            if isinstance(token, bool) or not isinstance(token, int):
                raise InvalidTokenError(f"The prompt's item {position} is {quoted(token)}, not a token id.")
            self._require_known(token, f"the prompt, position {position}")
        return tokens

    def _require_known(self, token: int, where: str) -> None:
        size = self._tokenizer.vocabulary_size
        if not 0 <= token < size:
            raise InvalidTokenError(
                f"Token {quoted(token)} in {where} is not in the vocabulary, whose ids go from 0 to {size - 1}."
            )
