"""A tiny random llama as a model folder, as Hugging Face and MLX have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from inference.folder import Folder, read_folder
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS

__all__ = ["CHAT_TEMPLATE", "CONFIG", "small_tokenizer", "write_folder", "write_json"]

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, FEED_FORWARD, VOCABULARY = 2, 64, 4, 2, 16, 128, 384
GROUP_SIZE, BITS = 32, 4
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINKING = ["<think>", "</think>"]
WORDS = ["Ġthe", "Ġand", "Ġof", "Ġriver", "Ġbridge", "Once", "Ġupon", "Ġtime", "user", "assistant", "ing", "er", "Ċ"]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "intermediate_size": FEED_FORWARD,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_folder(path: Path, *, quantized: bool = False, shards: int = 1) -> Folder:
    """A llama of 2 layers, 64 wide, with random weights in float32 and a byte-level vocabulary, in a new directory.
    `quantized`: in MLX's own format, 4 bits in groups of 32."""
    path.mkdir(parents=True)
    tensors, config, kind = _weights(), dict(CONFIG), "pt"
    if quantized:
        tensors, kind = _quantized(tensors), "mlx"
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": BITS}
    write_json(path / "config.json", config)
    _write_weights(path, tensors, shards, kind)
    tokenizer = small_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )
    ends = [tokenizer.token_to_id(text) for text in ("<|im_end|>", "<|endoftext|>")]
    write_json(path / "generation_config.json", {"eos_token_id": ends, "do_sample": True, "temperature": 0.7})
    return read_folder(path)


def small_tokenizer() -> Tokenizer:
    """Byte-level pairs that make a few words, and some added tokens. It has fewer tokens than the model has rows."""
    merges = [(word[:end], word[end]) for word in WORDS for end in range(1, len(word))]
    tokens = dict.fromkeys([*BYTE_CHARACTERS, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in THINKING])
    assert tokenizer.get_vocab_size() < VOCABULARY
    return tokenizer


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), "utf-8")


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    """By Hugging Face's names, in their order of shapes: outputs, inputs."""
    chance = np.random.default_rng(6)

    def matrix(outputs: int, inputs: int) -> np.ndarray[Any, Any]:
        return (chance.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32)

    def norm() -> np.ndarray[Any, Any]:
        return (1 + 0.1 * chance.standard_normal(WIDTH)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        parts = {
            "input_layernorm": norm(),
            "self_attn.q_proj": matrix(HEADS * HEAD, WIDTH),
            "self_attn.k_proj": matrix(KV_HEADS * HEAD, WIDTH),
            "self_attn.v_proj": matrix(KV_HEADS * HEAD, WIDTH),
            "self_attn.o_proj": matrix(WIDTH, HEADS * HEAD),
            "post_attention_layernorm": norm(),
            "mlp.gate_proj": matrix(FEED_FORWARD, WIDTH),
            "mlp.up_proj": matrix(FEED_FORWARD, WIDTH),
            "mlp.down_proj": matrix(WIDTH, FEED_FORWARD),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": value for name, value in parts.items()}
    return tensors | {"model.norm.weight": norm(), "lm_head.weight": matrix(VOCABULARY, WIDTH)}


def _quantized(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    import mlx.core as mx

    packed: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in tensors.items():
        if value.ndim == 1:
            packed[name] = value
            continue
        parts = mx.quantize(mx.array(value), group_size=GROUP_SIZE, bits=BITS)
        layer = name.removesuffix(".weight")
        packed |= {
            f"{layer}.{part}": np.array(array)
            for part, array in zip(("weight", "scales", "biases"), parts, strict=True)
        }
    return packed


def _write_weights(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], shards: int, kind: str) -> None:
    if shards == 1:
        save_file(dict(tensors), path / "model.safetensors", {"format": kind})
        return
    names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    places = {tensor: names[number % shards] for number, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: value for tensor, value in tensors.items() if places[tensor] == name}, path / name)
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
