"""Other programs that do the same work. A peer is one small class; one that is not installed is skipped."""

from __future__ import annotations

from benchmarks.peers.llama_bench import LlamaBatchedBench, LlamaBench
from benchmarks.peers.llama_cpp_bare import LlamaCppBare
from benchmarks.peers.llama_cpp_batched import LlamaCppBatched
from benchmarks.peers.llama_cpp_chat import LlamaCppChat
from benchmarks.peers.llama_cpp_llama import LlamaCppLlama
from benchmarks.peers.mlx_lm import MLXLm
from benchmarks.peers.one_by_one import OneByOne
from benchmarks.peers.other_engine import OtherEngine
from benchmarks.peers.transformers_bf16 import TransformersBf16
from inference.measuring import Competitor

__all__ = [
    "LlamaBatchedBench",
    "LlamaBench",
    "LlamaCppBare",
    "LlamaCppBatched",
    "LlamaCppChat",
    "LlamaCppLlama",
    "MLXLm",
    "OneByOne",
    "OtherEngine",
    "TransformersBf16",
    "all_peers",
]


def all_peers() -> list[Competitor]:
    """Every peer on llama.cpp that decodes one sequence, installed or not."""
    return [LlamaCppBare(), LlamaCppLlama()]
