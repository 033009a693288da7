"""How fast AMD's cards could decode at best, by what a token reads and the memory's bandwidth. Not a measurement.

python -m benchmarks.amd_roofline
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import click
from inference_rocm.gpu.forms import bytes_per_weight
from inference_rocm.gpu.targets import CARDS, Card

from inference.gguf.block_formats import block_format

__all__ = ["DEPTHS", "LLAMA", "PUBLISHED", "QWEN", "Matrix", "Model", "bound", "main", "q4_k_m", "uses_more_bits"]

DEPTHS = (512, 8192, 32768)
KV_BYTES = 2
"""Of a number in the KV memory: float16."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor of a model; several where there are experts."""

    name: str
    outputs: int
    inputs: int
    format: str
    count: int = 1
    read: int = 1
    """How many of them a token reads."""


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes of an architecture, as its published configuration has them."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_length: int
    feed_forward: int
    """Of a layer, or of one expert."""
    vocabulary: int
    experts: int = 0
    experts_used: int = 0
    head_norms: bool = False

    @property
    def kv_bytes_per_position(self) -> int:
        """What a token reads of one earlier position."""
        return self.layers * 2 * self.kv_heads * self.head_length * KV_BYTES

    def matrices(self) -> Iterator[Matrix]:
        """All tensors, in the formats of Q4_K_M."""
        yield Matrix("token_embd", self.vocabulary, self.hidden, "Q4_K", read=0)  # a row of it, which is nothing
        yield Matrix("output", self.vocabulary, self.hidden, "Q6_K")
        yield Matrix("output_norm", 1, self.hidden, "F32")
        for layer in range(self.layers):
            yield from self._layer(layer)

    def _layer(self, layer: int) -> Iterator[Matrix]:
        queries, keys = self.heads * self.head_length, self.kv_heads * self.head_length
        yield Matrix("attn_norm", 1, self.hidden, "F32")
        yield Matrix("ffn_norm", 1, self.hidden, "F32")
        if self.head_norms:
            yield Matrix("attn_q_norm", 1, self.head_length, "F32")
            yield Matrix("attn_k_norm", 1, self.head_length, "F32")
        shapes = {
            "attn_q": (queries, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_output": (self.hidden, queries),
        }
        for name, shape in shapes.items():
            yield Matrix(name, *shape, q4_k_m(name, layer, self.layers))
        count, read = self.experts or 1, self.experts_used or 1
        if self.experts:
            yield Matrix("ffn_gate_inp", self.experts, self.hidden, "F32")
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            shape = (self.feed_forward, self.hidden) if name != "ffn_down" else (self.hidden, self.feed_forward)
            yield Matrix(name, *shape, q4_k_m(name, layer, self.layers), count, read)

    def bytes(self, per_weight: Callable[[str], float], *, of_a_token: bool) -> float:
        """Of all weights, or of those that a token reads, where each takes so much in its format."""
        return sum(
            each.outputs * each.inputs * per_weight(each.format) * (each.read if of_a_token else each.count)
            for each in self.matrices()
        )


LLAMA = Model("Llama-3 8B", 32, 4096, 32, 8, 128, 14336, 128256)
QWEN = Model("Qwen3 30B-A3B", 48, 2048, 32, 4, 128, 768, 151936, 128, 8, head_norms=True)


def q4_k_m(tensor: str, layer: int, layers: int) -> str:
    """The format of a layer's matrix in llama.cpp's Q4_K_M (llama-quant.cpp: llama_tensor_get_type_impl), of models
    that have no rule of their own there, as those with 8 experts have."""
    better = tensor in ("attn_v", "ffn_down") and uses_more_bits(layer, layers)
    return "Q6_K" if better else "Q4_K"


def uses_more_bits(layer: int, layers: int) -> bool:
    """llama-quant.cpp: use_more_bits. The first and last eighth of the layers, and each third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def file_bytes_per_weight(name: str) -> float:
    """In a GGUF file."""
    layout = block_format(name)
    return layout.bytes_for(layout.elements) / layout.elements


def bound(card: Card, model: Model, depth: int) -> float | None:
    """Tokens per second of one sequence behind `depth` positions; None if the card's memory cannot hold it."""
    kv = depth * model.kv_bytes_per_position
    if model.bytes(bytes_per_weight, of_a_token=False) + kv > card.memory:
        return None
    return card.bandwidth / (model.bytes(bytes_per_weight, of_a_token=True) + kv)


# What others publish -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """What the authors or users of an engine say that it reaches; nobody here has checked it."""

    gpu: str
    engine: str
    model: str
    rate: str
    """Tokens per second."""
    share: str
    """File size x rate by the memory's peak bandwidth."""


PUBLISHED = (
    Published("RX 7900 XTX", "llama.cpp, ROCm", "7B Q4_0", "129-144", "51-57 %"),
    Published("RX 7900 XTX", "llama.cpp, Vulkan", "7B Q4_0", "167-177", "66-70 %"),
    Published("MI250X, one die", "gpt-fast", "Llama-2 7B, bf16", "76", "63 %"),
    Published("MI250X, one die", "gpt-fast", "Llama-2 7B, int8", "102", "43 %"),
    Published("RX 9060 XT", "llama.cpp, HIP", "9B Q4_K_M", "44", "78 %"),
    Published("RX 9060 XT", "a naive engine", "9B Q4_K_M", "18.5", "32 %"),
    Published("Strix Halo", "llama.cpp, ROCm", "7B Q4_K_M", "44.7", "82 %"),
)


# The tables ----------------------------------------------------------------------------------------------------------


@click.command()
def main() -> None:
    """Print what AMD's cards could decode at best, beside what others publish."""
    click.echo("## Decoding one sequence: a bound, not a measurement\n")
    click.echo(
        "Tokens per second if a token's weights and the KV memory of all positions before it were read at the memory's "
        "peak bandwidth and nothing else took time. A cache that kept some of them from one token to the next, as "
        "MI300X's 256 MB might, is not reckoned with.\n"
    )
    click.echo(_markdown(("", *(f"{card.name}, {card.bandwidth / 1e9:,.0f} GB/s" for card in CARDS)), _bounds()))
    for model in (LLAMA, QWEN):
        click.echo("\n" + _sizes(model))
    click.echo("\n## What others publish: measured by them, on other models, not checked here\n")
    headings = ("GPU", "engine", "model", "tokens/s", "share of the bandwidth")
    rows = [(each.gpu, each.engine, each.model, each.rate, each.share) for each in PUBLISHED]
    click.echo(_markdown(headings, rows, texts=3))


def _bounds() -> Iterator[tuple[str, ...]]:
    for model in (LLAMA, QWEN):
        for depth in DEPTHS:
            cells = (bound(card, model, depth) for card in CARDS)
            yield (
                f"{model.name} Q4_K_M, {depth:,} positions",
                *("does not fit" if cell is None else f"{cell:,.0f}" for cell in cells),
            )


def _sizes(model: Model) -> str:
    read = model.bytes(bytes_per_weight, of_a_token=True)
    ours = model.bytes(bytes_per_weight, of_a_token=False)
    theirs = model.bytes(file_bytes_per_weight, of_a_token=False)
    kv = ", ".join(f"{depth * model.kv_bytes_per_position / 1e9:.2f} GB at {depth:,}" for depth in DEPTHS)
    return (
        f"{model.name} Q4_K_M: a token reads {read / 1e9:.2f} GB of {ours / 1e9:.2f} GB of weights in the form that "
        f"the kernels read ({theirs / 1e9:.2f} GB in the file), and of the KV memory in float16 {kv} positions."
    )


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose first columns are texts and whose others are numbers."""
    lines = [headings, [*["---"] * texts, *["---:"] * (len(headings) - texts)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
