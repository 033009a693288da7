"""Feed-forward networks: dense, and experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from inference.gguf.architectures import Activation, Experts
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.linear import Linear

__all__ = ["Dense", "Mixture"]


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(gate) x up, then down. Gate and up are one layer: first all gates, then all ups."""

    gate_up: Linear
    down: Linear
    activation: Activation
    kernels: Kernels | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.gate_up, self.down

    def __call__(self, rows: Tensor) -> Tensor:
        return self.down(self._inner(rows))

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self.down.add_to(stream, self._inner(rows))

    def _inner(self, rows: Tensor) -> Tensor:
        gate_up = self.gate_up(rows)
        if self.kernels is not None:
            return self.kernels.gate(gate_up, self.activation)
        gate, up = gate_up.chunk(2, dim=-1)
        return _activated(gate, up, self.activation)


@dataclass(frozen=True, slots=True)
class Mixture:
    """A router sends each token to a few of many networks; perhaps one more takes them all."""

    router: Tensor
    """[embedding_length, experts], float32: which experts are chosen must not hang on rounding."""
    router_bias: Tensor | None
    experts: tuple[Dense, ...]
    rule: Experts
    shared: Dense | None
    shared_router: Tensor | None
    """[embedding_length, 1], float32."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        networks = self.experts if self.shared is None else (*self.experts, self.shared)
        return tuple(linear for network in networks for linear in network.linears)

    def __call__(self, rows: Tensor) -> Tensor:
        exact = rows.float()
        logits = exact @ self.router
        if self.router_bias is not None:
            logits += self.router_bias
        weights, chosen = self._weights(logits)
        out = torch.zeros_like(exact)
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, place = torch.nonzero(chosen == expert, as_tuple=True)
            share = weights[tokens, place, None]
            out.index_add_(0, tokens, self.experts[expert](rows[tokens]).float().mul_(share))
        if self.shared is not None and self.shared_router is not None:
            out += self.shared(rows).float() * torch.sigmoid(exact @ self.shared_router)
        return out.to(rows.dtype)

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        stream += self(rows)

    def _weights(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts' weights and numbers, each [tokens, used]."""
        top, chosen = logits.topk(self.rule.used, dim=-1)
        if self.rule.weighting == "softmax":
            return torch.softmax(logits, dim=-1).gather(-1, chosen), chosen
        return torch.softmax(top, dim=-1), chosen  # the shares of all, made to sum to 1, are the same


def _activated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return F.silu(gate) * up
    if activation == "gelu":
        return F.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)
