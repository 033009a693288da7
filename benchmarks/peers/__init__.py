"""Other programs that do the same work. A peer is one small class; one that is not installed is skipped."""

from __future__ import annotations

from benchmarks.peers.llama_cpp_bare import LlamaCppBare
from benchmarks.peers.llama_cpp_llama import LlamaCppLlama
from inference.measuring import Competitor

__all__ = ["LlamaCppBare", "LlamaCppLlama", "all_peers"]


def all_peers() -> list[Competitor]:
    """Every peer that is known, installed or not."""
    return [LlamaCppBare(), LlamaCppLlama()]
