"""What of a wish can be had: options that make sense on a machine, and a context and slots that its memory holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from inference.errors import ContextTooLargeError, InferenceError, InsufficientMemoryError, OptionValueError
from inference.hardware import physical_cores
from inference.options import LoadOptions

__all__ = ["Demand", "bad_number"]

MOST_SLOTS = 32
"""Most sequences at once by default."""
MAX_BATCH = 2**16
CONTEXT_STEP = 256
"""A context that memory cuts is a multiple of this many tokens."""
THREADS_PER_CORE = 4
"""More threads than this for each core only wait for each other; thousands end the process."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model takes on a device, and what is free there."""

    name: str
    """The file's, for messages."""
    train_context_length: int
    weight_bytes: int
    kv_bytes_per_token: int
    """Of one sequence."""
    free_bytes: int
    """0 where it is not known: then everything fits."""
    headroom: int
    """Bytes that the engine takes beside weights and KV memory."""
    advice: str = "Lower `context_length` or `parallel`."
    """What to do about a context that is too large."""

    def refusal(self, options: LoadOptions) -> InferenceError | None:
        """Why memory does not suffice for these options, or None."""
        if not self.free_bytes:
            return None
        room = self._room
        if room < 0:
            return InsufficientMemoryError(
                f"{self.name} needs {_gib(self.weight_bytes)} for its weights and {_gib(self.headroom)} to compute "
                f"with, and {_gib(self.free_bytes)} are free. "
                "Close other programs, or take a file with fewer bits per weight."
            )
        length = options.context_length or min(self.train_context_length, CONTEXT_STEP)
        slots = options.parallel or 1
        wanted = length * self.sequences(slots) * self.kv_bytes_per_token
        if wanted > room:
            most = room // (self.kv_bytes_per_token * self.sequences(slots))
            return ContextTooLargeError(
                f"{slots} x {length} tokens of context need {_gib(wanted)} of KV memory beside the weights, and "
                f"{_gib(room)} are free: {most} tokens fit. {self.advice}"
            )
        return None

    def fit(self, options: LoadOptions) -> tuple[int, int]:
        """Tokens for each slot, and how many slots there may be, where `refusal` has nothing to say. The log says what
        memory cuts."""
        trained = self.train_context_length
        length = options.context_length or trained
        tokens = self._room // max(self.kv_bytes_per_token, 1) if self.free_bytes else None
        if tokens is not None and not options.context_length:
            most = tokens // self.sequences(options.parallel or 1)
            if length > most:
                length = max(most // CONTEXT_STEP, 1) * CONTEXT_STEP
                self._warn("the context is cut to %d tokens of %d, which is what memory allows", length)
        if length > trained > 0:
            self._warn("a context of %d tokens is longer than the %d that the model was trained for", length)
        if options.parallel:
            return length, options.parallel
        fitting = (n for n in range(MOST_SLOTS, 0, -1) if tokens is None or self.sequences(n) * length <= tokens)
        return length, next(fitting, 1)

    def sequences(self, slots: int) -> int:
        """How many sequences' KV memory there may be at once, for so many slots."""
        return slots

    @property
    def _room(self) -> int:
        return self.free_bytes - self.weight_bytes - self.headroom

    def _warn(self, message: str, length: int) -> None:
        _log.warning(f"%s: {message}", self.name, length, self.train_context_length)


def bad_number(options: LoadOptions, engine: str, max_slots: int) -> OptionValueError | None:
    """What is wrong with the sizes asked for, or None. `engine` is its name in words."""
    for name, value, limit in (
        ("threads", options.threads, THREADS_PER_CORE * physical_cores()),
        ("parallel", options.parallel, max_slots),
        ("batch_size", options.batch_size, MAX_BATCH),
    ):
        if value > limit:
            return OptionValueError(f"`{name}` must be at most {limit} for {engine} on this machine, got {value}.")
    if 0 < options.batch_size < options.parallel:
        return OptionValueError(
            f"`batch_size` must be at least `parallel`: a step takes a token of each sequence. "
            f"Got {options.batch_size} and {options.parallel}."
        )
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
