"""Headers of tiny models of every architecture, from tables of their own: names and shapes as converters write them.

No two sizes are equal, so that a tensor read with another's shape is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf_files import Tensor, gguf_bytes

from inference.gguf.reader import Header, read_header

VOCABULARY, EMBEDDING, HEADS, KV_HEADS, HEAD, FEED_FORWARD, EXPERTS, SHARED, CONTEXT = 10, 24, 4, 2, 8, 20, 3, 14, 4096
QUERY, KEY = HEADS * HEAD, KV_HEADS * HEAD

ATTENTION = {
    "attn_norm.weight": (EMBEDDING,),
    "attn_q.weight": (EMBEDDING, QUERY),
    "attn_k.weight": (EMBEDDING, KEY),
    "attn_v.weight": (EMBEDDING, KEY),
    "attn_output.weight": (QUERY, EMBEDDING),
}
BIASES = {"attn_q.bias": (QUERY,), "attn_k.bias": (KEY,), "attn_v.bias": (KEY,)}
HEAD_NORMS = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
NETWORK = {
    "ffn_norm.weight": (EMBEDDING,),
    "ffn_gate.weight": (EMBEDDING, FEED_FORWARD),
    "ffn_up.weight": (EMBEDDING, FEED_FORWARD),
    "ffn_down.weight": (FEED_FORWARD, EMBEDDING),
}
ROUTED = {
    "ffn_gate_inp.weight": (EMBEDDING, EXPERTS),
    "ffn_gate_exps.weight": (EMBEDDING, FEED_FORWARD, EXPERTS),
    "ffn_up_exps.weight": (EMBEDDING, FEED_FORWARD, EXPERTS),
    "ffn_down_exps.weight": (FEED_FORWARD, EMBEDDING, EXPERTS),
}
EXPERT_NETWORK = {"ffn_norm.weight": (EMBEDDING,), **ROUTED}
POST_NORMS = {"post_attention_norm.weight": (EMBEDDING,), "post_ffw_norm.weight": (EMBEDDING,)}
_FUSED_QKV = {
    "attn_norm.weight": (EMBEDDING,),
    "attn_qkv.weight": (EMBEDDING, QUERY + 2 * KEY),
    "attn_output.weight": (QUERY, EMBEDDING),
}

LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "llama": ATTENTION | NETWORK,
    "qwen2": ATTENTION | BIASES | NETWORK,
    "qwen3": ATTENTION | HEAD_NORMS | NETWORK,
    "gemma2": ATTENTION | NETWORK | POST_NORMS,
    "gemma3": ATTENTION | HEAD_NORMS | NETWORK | POST_NORMS,
    "phi3": _FUSED_QKV | NETWORK | {"ffn_up.weight": (EMBEDDING, 2 * FEED_FORWARD)},
    "olmo2": ATTENTION | {"attn_q_norm.weight": (QUERY,), "attn_k_norm.weight": (KEY,)} | NETWORK | POST_NORMS,
    "granite": ATTENTION | NETWORK,
    "smollm3": ATTENTION | NETWORK,
    "qwen2moe": ATTENTION
    | BIASES
    | EXPERT_NETWORK
    | {
        "ffn_gate_inp_shexp.weight": (EMBEDDING,),
        "ffn_gate_shexp.weight": (EMBEDDING, SHARED),
        "ffn_up_shexp.weight": (EMBEDDING, SHARED),
        "ffn_down_shexp.weight": (SHARED, EMBEDDING),
    },
    "qwen3moe": ATTENTION | HEAD_NORMS | EXPERT_NETWORK,
    "gpt-oss": ATTENTION
    | BIASES
    | ROUTED
    | {
        "attn_output.bias": (EMBEDDING,),
        "attn_sinks.weight": (HEADS,),
        "post_attention_norm.weight": (EMBEDDING,),
        "ffn_gate_inp.bias": (EXPERTS,),
        "ffn_gate_exps.bias": (FEED_FORWARD, EXPERTS),
        "ffn_up_exps.bias": (FEED_FORWARD, EXPERTS),
        "ffn_down_exps.bias": (EMBEDDING, EXPERTS),
    },
}
"""What stands behind "blk.N." in each layer."""
for _one in ("attn_norm.weight", "ffn_norm.weight"):
    del LAYERS["olmo2"][_one]
del LAYERS["phi3"]["ffn_gate.weight"]

OWN_OUTPUT = {"olmo2", "qwen2moe", "gpt-oss"}
"""These never share the embeddings' weights."""
WITH_EXPERTS = {"qwen2moe", "qwen3moe", "gpt-oss"}
WITH_WINDOWS = {"gemma2", "gemma3", "olmo2", "gpt-oss"}
PARTIAL_ROTARY = {"phi3", "gemma2", "gemma3"}
"""These may turn a part of each head only."""

KEYS: dict[str, Any] = {
    "block_count": 2,
    "context_length": CONTEXT,
    "embedding_length": EMBEDDING,
    "feed_forward_length": FEED_FORWARD,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.layer_norm_rms_epsilon": 0.25,
    "rope.freq_base": 50_000.0,
}
EXPERT_KEYS = {"expert_count": EXPERTS, "expert_used_count": 2}
WINDOW_KEYS = {"attention.sliding_window": 6}
SCALE_KEYS = {"logit_scale": 8.0, "residual_scale": 0.5, "embedding_scale": 12.0, "attention.scale": 0.125}


def keys_of(architecture: str) -> dict[str, Any]:
    """The hyper-parameters of the tiny model, by what stands behind the architecture's name."""
    experts = EXPERT_KEYS | {"expert_feed_forward_length": FEED_FORWARD}
    return (
        KEYS
        | (experts if architecture in WITH_EXPERTS else {})
        | ({"expert_shared_feed_forward_length": SHARED} if architecture == "qwen2moe" else {})
        | (WINDOW_KEYS if architecture in WITH_WINDOWS else {})
        | (SCALE_KEYS if architecture == "granite" else {})
    )


def shapes_of(architecture: str, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Every tensor, none of them optional, and its shape in the file's order."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (EMBEDDING, VOCABULARY),
        "output_norm.weight": (EMBEDDING,),
    }
    if architecture in OWN_OUTPUT:
        shapes["output.weight"] = (EMBEDDING, VOCABULARY)
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in LAYERS[architecture].items()}
    return shapes


def tiny_model(
    path: Path,
    architecture: str,
    keys: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
    tokens: int = VOCABULARY,
) -> Header:
    """The header of a file at `path`, with some of its keys and tensors changed or added; None takes one away. `tokens`
    are those of its tokenizer."""
    wanted = keys_of(architecture) | dict(keys or {})
    metadata = {f"{architecture}.{key}": value for key, value in wanted.items() if value is not None}
    layers = wanted["block_count"] if isinstance(wanted["block_count"], int) else 2
    changed = shapes_of(architecture, min(layers, 64)) | dict(shapes or {})
    tokenizer = {"tokenizer.ggml.tokens": [f"<{token}>" for token in range(tokens)]}
    tensors = [Tensor(name, shape) for name, shape in changed.items() if shape is not None]
    path.write_bytes(gguf_bytes({"general.architecture": architecture} | metadata | tokenizer, tensors))
    return read_header(path)
