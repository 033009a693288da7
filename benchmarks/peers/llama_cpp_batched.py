"""The least that Python can do with llama.cpp for many sequences: one `llama_decode` for a token of each, again and
again.

It does what llama.cpp's own `llama-batched-bench` does, with the same context: a KV stream for each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peers.llama_cpp_bare import BareSession, reason_unavailable
from inference.measuring import Settings

__all__ = ["BatchedSession", "LlamaCppBatched"]


@dataclass(frozen=True, slots=True)
class LlamaCppBatched:
    """The C API by ctypes. Without `samples` it feeds tokens of no meaning and looks at no logits, as
    `llama-batched-bench` does: what any engine can reach at most. With it, the likeliest token is found for each."""

    samples: bool = False
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("llama-cpp-python",)

    @property
    def name(self) -> str:
        return "batched llama_decode loop, greedy" if self.samples else "batched llama_decode loop"

    def reason_unavailable(self) -> str | None:
        return reason_unavailable()

    def load_batches(self, model: Path, settings: Settings) -> BatchedSession:
        return BatchedSession(model, settings, self.samples)


class BatchedSession(BareSession):
    """A context with a KV stream for each of `settings.parallel` sequences."""

    def __init__(self, path: Path, settings: Settings, samples: bool) -> None:
        super().__init__(path, settings)
        self._samples = samples
        self._vocabulary_size = self._library.llama_vocab_n_tokens(self._vocabulary)
        self._batch_size = settings.batch_size
        self._batch = self._library.llama_batch_init(settings.batch_size, 0, 1)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), False)
        rows = range(len(prompts))
        last = self._prefill(prompts)
        yield from rows
        batch = self._batch
        for number in rows:
            batch.n_seq_id[number], batch.seq_id[number][0], batch.logits[number] = 1, number, 1
        ids, positions = batch.token, batch.pos  # ctypes makes an object each time that a field is read
        lengths = [len(prompt) for prompt in prompts]
        for step in range(tokens - 1):
            for number in rows:
                ids[number] = last[number]
                positions[number] = lengths[number] + step
            self._decode(len(prompts))
            if self._samples:
                last = self._likeliest(len(prompts))
            yield from rows

    def close(self) -> None:
        self._library.llama_batch_free(self._batch)
        super().close()

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Whole prompts, as many as a batch holds, until all are computed; the token to go on with for each."""
        batch = self._batch
        last: list[int] = []
        waiting = list(enumerate(prompts))
        while waiting:
            count = outputs = 0
            while waiting and count + len(waiting[0][1]) <= self._batch_size:
                number, prompt = waiting.pop(0)
                for position, token in enumerate(prompt):
                    batch.token[count], batch.pos[count] = token, position
                    batch.n_seq_id[count], batch.seq_id[count][0] = 1, number
                    batch.logits[count] = position == len(prompt) - 1
                    count += 1
                outputs += 1
            if not count:
                raise RuntimeError(f"a prompt is longer than the batch of {self._batch_size} tokens")
            self._decode(count)
            last += self._likeliest(outputs) if self._samples else [prompts[0][-1]] * outputs
        return last

    def _decode(self, count: int) -> None:
        self._batch.n_tokens = count
        if self._library.llama_decode(self._context, self._batch) != 0:
            raise RuntimeError("llama_decode failed")
        self._library.llama_synchronize(self._context)

    def _likeliest(self, outputs: int) -> Any:
        import numpy as np

        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (outputs, self._vocabulary_size)).argmax(axis=1).tolist()
