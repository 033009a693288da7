"""What steps take of a GPU's memory beside weights and KV memory, reckoned from a file's header. Imports nothing heavy.

A test holds that these figures are above what steps take, and not by much.
"""

from __future__ import annotations

from inference.gguf.architectures import Config, LayerTensors
from inference.gguf.half_types import half_type
from inference.gguf.header import Header

__all__ = ["MANY", "SHARES_BYTES", "SLACK", "bytes_per_position", "pass_bytes", "workspace_bytes"]

MANY = 64
"""From more tokens on, activations that matrix cores multiply are of the half type already in memory."""
SHARES_BYTES = 64 * 2**20
"""What the shares of split contexts may take at a time."""
SLACK = 256 * 2**20
"""For compiled kernels, PyTorch's and the driver's own, and for what an allocator rounds up."""
_BLOCK_BYTES = 128 * 4 * (3 + 2 * 32)
"""Of a row in the sampler: a vocabulary has 128 blocks at most, and counts in 32 bins."""


def workspace_bytes(header: Header, config: Config, *, slots: int, batch_size: int) -> int:
    """For steps of `slots` sequences at once that take up to `batch_size` tokens."""
    rows = 1 << (slots - 1).bit_length()  # what is captured has as many
    sampler = rows * (12 * config.vocabulary_size + _BLOCK_BYTES)
    # What runs before it is captured leaves as much to PyTorch's allocator as the captured pass has for itself.
    decoding = 2 * (pass_bytes(header, config, rows, rows) + SHARES_BYTES) + rows * 4 * config.vocabulary_size
    return sampler + decoding + pass_bytes(header, config, batch_size, slots) + SLACK


def bytes_per_position(config: Config) -> int:
    """Of a context: the sines and cosines of each kind of layer, twice while they grow, and the token that penalties
    see."""
    kinds = {layer.rope: layer.rope.dimensions for layer in config.layers if layer.rope is not None}
    return 2 * 4 * sum(kinds.values()) + 4


def pass_bytes(header: Header, config: Config, tokens: int, asking: int) -> int:
    """Activations of `tokens` that go through all layers, and of the logits of `asking` ones of them."""
    size = 2 if tokens > MANY and half_type(header) != "float32" else 4
    stream = 4 * tokens * config.embedding_length
    rows = size * tokens * config.embedding_length
    heads = tokens * config.heads * config.head_length
    attention = 4 * (heads + 2 * tokens * config.kv_heads * config.head_length) + 2 * size * heads
    layers = max(_feed_forward(header, config, layer.tensors, tokens, size) for layer in config.layers)
    # The stream, what attention and the network give before they are added, and the logits with what is made of a row.
    ends = asking * (4 * config.vocabulary_size + 8 * config.embedding_length) + 12 * config.vocabulary_size
    return 2 * stream + rows + max(attention + layers, ends)


def _feed_forward(header: Header, config: Config, tensors: LayerTensors, tokens: int, size: int) -> int:
    if config.experts is None or tensors.router is None:
        return _gated(tokens, config.feed_forward_length, size)
    pairs = tokens * config.experts.used
    taken = _gated(pairs, config.feed_forward_length, size)
    taken += 2 * 4 * pairs * config.embedding_length  # what experts give, and that times their weights
    taken += 48 * pairs + 12 * tokens * config.experts.count  # which experts, and their tiles
    if not _same_type(header, tensors):
        taken += 8 * pairs * config.feed_forward_length  # gates and ups are put side by side
    if tensors.shared_gate is not None:
        length = header.tensors[tensors.shared_gate.tensor].shape[-1]
        taken += _gated(tokens, length, size) + 8 * tokens * config.embedding_length
    return taken + 4 * tokens * config.embedding_length  # the router's rows in float32


def _gated(rows: int, length: int, size: int) -> int:
    """Gates and ups, and what comes of them."""
    return rows * length * (8 + size)


def _same_type(header: Header, tensors: LayerTensors) -> bool:
    parts = [part for part in (tensors.expert_gate, tensors.expert_up) if part is not None]
    return len({header.tensors[part.tensor].type for part in parts}) == 1
