"""The recipes that every decoder is tested on: every architecture, block format and shape that matters."""

from __future__ import annotations

from conformance.files import Recipe
from inference.gguf.architectures import ARCHITECTURES

__all__ = ["BLOCK_FORMATS", "CASES", "EVERY_FORMAT", "LONG_CASES", "layers_of"]

BLOCK_FORMATS = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
)  # fmt: skip


def layers_of(architecture: str) -> int:
    """Layers enough for every kind that the architecture has."""
    entry = ARCHITECTURES[architecture]
    return entry.no_rope_every or (3 if entry.windows else 2)


EVERY_FORMAT = {
    f"{architecture}-every-format": Recipe(
        architecture=architecture,
        block_formats=BLOCK_FORMATS[seed % 16 :] + BLOCK_FORMATS[: seed % 16],
        layers=layers_of(architecture) + 1,
        tied=bool(seed % 2),
        seed=seed,
    )
    for seed, architecture in enumerate(ARCHITECTURES)
}
"""Each architecture once, its matrices in all formats in turn."""

_ONE_FORMAT = {
    f"llama-{form}": Recipe(architecture="llama", block_formats=(form,), tied=index % 2 == 0, seed=100 + index)
    for index, form in enumerate(BLOCK_FORMATS)
}

_SMALL = {"embedding_length": 96, "head_length": 32, "feed_forward_length": 160, "block_formats": ("Q4_0", "Q8_0")}

_SHAPES = {
    "mixtral": Recipe(architecture="llama", experts=8, experts_used=2, block_formats=("Q4_K", "Q6_K"), tied=False),
    "llama-biases": Recipe(architecture="llama", optional=True, block_formats=("Q5_0",), tied=False),
    "llama-fused": Recipe(architecture="llama", fused=True, optional=True, block_formats=("Q4_1",)),
    "llama-odd-heads": Recipe(architecture="llama", heads=3, kv_heads=1, **_SMALL),
    "llama-seven-heads": Recipe(architecture="llama", heads=7, kv_heads=7, **_SMALL),
    "llama-one-to-one": Recipe(architecture="llama", heads=4, kv_heads=4, tied=False),
    "llama-eight-to-one": Recipe(architecture="llama", heads=8, kv_heads=1, head_length=32, tied=False),
    "llama-linear": Recipe(architecture="llama", scaling="linear", tied=False),
    "llama-yarn": Recipe(architecture="llama", scaling="yarn", tied=False),
    "llama-llama3": Recipe(architecture="llama", scaling="llama3", tied=False),
    "llama-longrope": Recipe(architecture="llama", scaling="longrope", tied=False),
    "qwen2-biases": Recipe(architecture="qwen2", optional=True, tied=False, block_formats=("Q4_K",)),
    "qwen2-fused": Recipe(architecture="qwen2", optional=True, fused=True, heads=3, kv_heads=1, **_SMALL),
    "qwen2-yarn": Recipe(architecture="qwen2", scaling="yarn", tied=False),
    "qwen3-wide-heads": Recipe(architecture="qwen3", heads=5, kv_heads=5, head_length=128, tied=False),
    "gemma2-odd-heads": Recipe(architecture="gemma2", layers=3, heads=6, kv_heads=2, **_SMALL),
    "gemma2-yarn": Recipe(architecture="gemma2", layers=3, scaling="yarn"),
    "gemma3-one-kv-head": Recipe(architecture="gemma3", layers=3, heads=4, kv_heads=1, head_length=256),
    "gemma3-linear": Recipe(architecture="gemma3", layers=3, scaling="linear", keys={"rope.freq_base_swa": 7_000.0}),
    "gemma3-yarn": Recipe(architecture="gemma3", layers=3, scaling="yarn", keys={"final_logit_softcapping": 2.0}),
    "gemma3-no-windows": Recipe(architecture="gemma3", window=0),
    "gemma3-pattern": Recipe(
        architecture="gemma3", layers=4, keys={"attention.sliding_window_pattern": [True, False, False, True]}
    ),
    "phi3-partial-rotary": Recipe(architecture="phi3", fused=True, rope_dimensions=48, tied=False),
    "phi3-longrope": Recipe(architecture="phi3", fused=True, scaling="longrope", block_formats=("Q4_K",)),
    "olmo2-yarn": Recipe(architecture="olmo2", layers=3, scaling="yarn"),
    "granite-biases": Recipe(architecture="granite", optional=True, tied=False, scaling="llama3"),
    "granite-no-positions": Recipe(architecture="granite", keys={"rope.scaling.finetuned": False}),
    "smollm3-eight-to-one": Recipe(architecture="smollm3", layers=4, heads=8, kv_heads=1, head_length=32, tied=False),
    "qwen2moe-biases": Recipe(architecture="qwen2moe", optional=True, experts=5, experts_used=3),
    "qwen2moe-lengths": Recipe(
        architecture="qwen2moe",
        keys={"expert_feed_forward_length": 256, "expert_shared_feed_forward_length": 320},
        feed_forward_length=256,
        shared_feed_forward_length=320,
    ),
    "qwen3moe-one-used": Recipe(architecture="qwen3moe", experts=6, experts_used=1, tied=False),
    "gpt-oss-mxfp4": Recipe(
        architecture="gpt-oss", optional=True, scaling="yarn", block_formats=("Q8_0",) * 5 + ("MXFP4",) * 3, layers=3
    ),
}

CASES: dict[str, Recipe] = EVERY_FORMAT | _ONE_FORMAT | _SHAPES

LONG_CASES = {
    architecture: Recipe(
        architecture=architecture,
        layers=4 if ARCHITECTURES[architecture].no_rope_every else 2,
        embedding_length=64,
        heads=2,
        kv_heads=1,
        head_length=32,
        feed_forward_length=128,
        tied=False,
        window=1024,
        scaling={"llama": "llama3", "phi3": "longrope", "gpt-oss": "yarn", "olmo2": "yarn"}.get(architecture, "none"),
        seed=200 + index,
    )
    for index, architecture in enumerate(ARCHITECTURES)
}
"""For texts of 12,000 tokens."""
