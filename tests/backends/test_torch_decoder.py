"""The PyTorch decoder computes what the numpy decoder says, in pieces, side by side, and from packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conformance.cases import BLOCK_FORMATS, CASES, EVERY_FORMAT
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write
from conformance.near_ties import divergence
from conformance.yardstick import yardstick

from inference.gguf.architectures import config_of
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights

torch = pytest.importorskip("torch")

from inference_rocm.arithmetic import arithmetic_of  # noqa: E402 - after torch is known to be there
from inference_rocm.building import build_decoder, ropes_of  # noqa: E402
from inference_rocm.cache import KVCache  # noqa: E402
from inference_rocm.cpu.operations import COperations  # noqa: E402
from inference_rocm.forms import PACKED  # noqa: E402
from inference_rocm.loading import operations_of  # noqa: E402
from inference_rocm.operations import Operations  # noqa: E402
from inference_rocm.plain import PlainOperations  # noqa: E402
from inference_rocm.rotary import Rotary  # noqa: E402
from inference_rocm.spans import Span, Spans  # noqa: E402
from kernel_definitions import kernels_on  # noqa: E402

pytestmark = pytest.mark.real_model

CPU = torch.device("cpu")
LENGTH = 64
TOLERANCE = 1e-4
"""Largest difference of logits by their range: float32 sums in another order."""
ROUNDED = 0.1
"""Half of the tokens' logits differ by less than this where activations are rounded to eight bits or to bfloat16: root
of the mean square by that of the logits. What is wrong gives 1. (A token may be sent to another of two experts that are
nearly equally good.)"""


ONE_FORMAT = {f"llama-{name}" for name in BLOCK_FORMATS}
"""Files that say nothing that those of every format do not; `make conformance` runs them too."""


class Sequences:
    """A decoder with its KV memory, fed by hand."""

    def __init__(
        self,
        path: Path,
        operations: Operations[Spans] | None = None,
        *,
        slots: int = 4,
        length: int = LENGTH,
    ) -> None:
        self.weights = Weights(read_header(path))
        self.config = config_of(self.weights.header)
        self.decoder = build_decoder(self.weights, self.config, operations or PlainOperations(torch.float32))
        part = self.config.rope_factors(length)
        factors = None if part is None else self.weights.decode(part.tensor).tolist()
        self.rotaries = [Rotary(rope, factors, length, CPU) for rope in ropes_of(self.config)]
        self.cache = KVCache(self.config, slots, length, self.decoder.kv_type, CPU)

    @torch.inference_mode()
    def logits(self, *spans: Span) -> dict[int, np.ndarray]:
        """The logits after every token of each slot's span."""
        order = Spans(spans, CPU)
        embeddings = torch.from_numpy(self.weights.decode(self.config.embedding.tensor, order.tokens))
        rows = self.decoder.logits(self.decoder.hidden(embeddings, order, self.cache, self.rotaries)).numpy()
        ends = {span.slot: order.last_of(span.slot) + 1 for span in spans}
        return {span.slot: rows[ends[span.slot] - len(span.tokens) : ends[span.slot]] for span in spans}

    def in_pieces(self, tokens: Sequence[int], lengths: Sequence[int], slot: int = 1) -> np.ndarray:
        assert sum(lengths) == len(tokens)
        rows, start = [], 0
        for length in lengths:
            rows.append(self.logits(Span(slot, start, tokens[start : start + length]))[slot])
            start += length
        return np.concatenate(rows)


def engine_of(path: Path) -> Sequences:
    """A file's decoder as the backend builds it."""
    arithmetic = arithmetic_of(read_header(path), kernels=True)
    return Sequences(path, operations_of(arithmetic, threads=2))


def random_tokens(seed: int, count: int = LENGTH) -> list[int]:
    return np.random.default_rng(seed).integers(0, 49_152, count).tolist()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ONE_FORMAT])
def test_logits_are_the_numpy_decoders_however_the_tokens_are_fed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    tokens = random_tokens(1)
    expected = PlainDecoder(path, context_length=LENGTH).logits(tokens)
    pieces = [20, 1, 1, 1, 40, 1]
    assert difference(Sequences(path).in_pieces(tokens, pieces), expected) < TOLERANCE
    rounded = Sequences(path, COperations(kernels_on())).in_pieces(tokens, pieces)
    assert np.median((rounded - expected).std(axis=1) / expected.std(axis=1)) < ROUNDED


@pytest.mark.parametrize("name", ["llama-Q4_0", "gemma3-one-kv-head", "gpt-oss-mxfp4", "qwen2moe-biases"])
def test_sequences_side_by_side_are_computed_as_if_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    texts = {slot: random_tokens(slot, 40) for slot in range(4)}
    alone = Sequences(path)
    together = Sequences(path)
    expected = {slot: alone.in_pieces(tokens, [40], slot) for slot, tokens in texts.items()}
    together.logits(*(Span(slot, 0, tokens[: 5 + 9 * slot]) for slot, tokens in texts.items()))
    # Slots 0, 1 and 3 go on by one token, which do not lie side by side, beside a piece of slot 2's text.
    spans = [Span(slot, 5 + 9 * slot, texts[slot][5 + 9 * slot : 6 + 9 * slot]) for slot in (3, 0, 1)]
    found = together.logits(*spans, Span(2, 23, texts[2][23:40]))
    for slot, rows in found.items():
        end = 40 if slot == 2 else 6 + 9 * slot
        assert difference(rows, expected[slot][end - len(rows) : end]) < TOLERANCE


@pytest.mark.parametrize("name", [*EVERY_FORMAT, *(f"llama-{name}" for name in (*PACKED, "F16", "BF16"))])
def test_packed_weights_are_no_farther_from_exact_arithmetic_than_the_yardstick(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    tokens = random_tokens(1)
    exact = PlainDecoder(path, context_length=LENGTH).logits(tokens)
    bound = yardstick(path, tokens, tmp_path).bound
    for lengths in ([LENGTH], [1] * LENGTH):
        assert divergence(exact, engine_of(path).in_pieces(tokens, lengths))[0] <= bound
    dense = Sequences(path, PlainOperations(torch.bfloat16)).in_pieces(tokens, [LENGTH])
    assert divergence(exact, dense)[0] <= bound
