"""Feed-forward networks: dense, and experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.gguf.architectures import Activation
from inference.gguf.architectures import Experts as Rule
from inference_rocm.linear import Linear
from inference_rocm.operations import Experts, Operations

__all__ = ["Dense", "Mixture", "SeparateExperts"]


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(gate) x up, then down. Gate and up are one layer: first all gates, then all ups."""

    gate_up: Linear
    down: Linear
    activation: Activation
    operations: Operations[Any]

    @property
    def size_bytes(self) -> int:
        return self.gate_up.size_bytes + self.down.size_bytes

    def __call__(self, rows: Tensor) -> Tensor:
        return self.down(self._inner(rows))

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self.down.add_to(stream, self._inner(rows))

    def _inner(self, rows: Tensor) -> Tensor:
        return self.operations.gate(self.gate_up(rows), self.activation)


@dataclass(frozen=True, slots=True)
class SeparateExperts:
    """Experts that are computed one after the other."""

    networks: tuple[Dense, ...]

    @property
    def size_bytes(self) -> int:
        return sum(network.size_bytes for network in self.networks)

    def __call__(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, place = torch.nonzero(chosen == expert, as_tuple=True)
            share = weights[tokens, place, None]
            out.index_add_(0, tokens, self.networks[expert](rows[tokens]).float().mul_(share))
        return out


@dataclass(frozen=True, slots=True)
class Mixture:
    """A router sends each token to a few of many networks; perhaps one more takes them all."""

    router: Linear
    """In float32: which experts are chosen must not hang on rounding."""
    experts: Experts
    rule: Rule
    shared: Dense | None
    shared_router: Linear | None
    """In float32, of one output."""

    @property
    def size_bytes(self) -> int:
        return self.experts.size_bytes + (0 if self.shared is None else self.shared.size_bytes)

    def __call__(self, rows: Tensor) -> Tensor:
        exact = rows.float()
        logits = self.router(exact)
        weights, chosen = self._weights(logits)
        out = self.experts(rows, weights, chosen)
        if self.shared is not None and self.shared_router is not None:
            out += self.shared(rows).float() * torch.sigmoid(self.shared_router(exact))
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        stream += self(rows)

    def _weights(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts' weights and numbers, each [tokens, used]."""
        top, chosen = logits.topk(self.rule.used, dim=-1)
        if self.rule.weighting == "softmax":
            return torch.softmax(logits, dim=-1).gather(-1, chosen), chosen
        return torch.softmax(top, dim=-1), chosen  # the shares of all, made to sum to 1, are the same
