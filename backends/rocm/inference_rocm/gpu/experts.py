"""Experts on the GPU: all of one layer's in one matrix each, of which kernels read what tokens were sent to."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from inference.gguf.architectures import Activation
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.elements import gate
from inference_rocm.gpu.linear import weights_of
from inference_rocm.gpu.matrix import Matrix, Routing
from inference_rocm.gpu.matrix_blocks import matmul_blocks
from inference_rocm.operations import Rows

__all__ = ["TogetherExperts", "routing_of", "stacked"]

FEW_PAIRS = 64
"""Up to so many pairs of a token and an expert are multiplied as vectors: most have an expert of their own."""


class TogetherExperts:
    """Implements `Experts`. Nothing of it waits for the device."""

    def __init__(
        self, gate_up: list[Matrix], down: Matrix, experts: int, activation: Activation, device: Device
    ) -> None:
        """`gate_up`: one matrix of gates and ups, or one of each."""
        self.size_bytes = down.size_bytes + sum(matrix.size_bytes for matrix in gate_up)
        self._gate_up = gate_up
        self._down = down
        self._experts = experts
        self._activation = activation
        self._device = device

    def __call__(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        tokens, used = chosen.shape
        pairs = chosen.reshape(-1)
        if len(pairs) <= FEW_PAIRS:
            routing = Routing(pairs.int())
        else:
            blocks = matmul_blocks(len(pairs) // self._experts, self._device)
            routing = routing_of(pairs, self._experts, blocks.rows)
        inner = [self._multiply(matrix, rows, routing, used) for matrix in self._gate_up]
        gate_up = inner[0] if len(inner) == 1 else torch.cat(inner, dim=-1)
        out = self._multiply(self._down, gate(gate_up, self._activation, rows.dtype, self._device), routing, 1)
        return (out.view(tokens, used, -1) * weights[..., None]).sum(dim=1)

    def _multiply(self, matrix: Matrix, rows: Tensor, routing: Routing, share: int) -> Tensor:
        out = torch.empty(len(routing.chosen), matrix.outputs, device=rows.device)
        multiply = matrix.vectors if routing.tiles is None else matrix.rows
        multiply(rows, out, routing=routing, share=share)
        return out


def routing_of(chosen: Tensor, experts: int, tile_rows: int) -> Routing:
    """Put pairs into tiles of one expert each. `chosen`: the expert of each pair, [pairs]."""
    pairs, device = len(chosen), chosen.device
    expert, order = torch.sort(chosen.long(), stable=True)
    counts = torch.zeros(experts, dtype=torch.long, device=device)
    counts.scatter_add_(0, expert, torch.ones_like(expert))
    tiles_of = -(-counts // tile_rows)
    last_tile = tiles_of.cumsum(0)
    rank = torch.arange(pairs, device=device) - (counts.cumsum(0) - counts)[expert]
    most = -(-pairs // tile_rows) + experts  # each expert's last tile may be all but empty
    tiles = torch.full((most * tile_rows,), -1, dtype=torch.int32, device=device)
    tiles[(last_tile - tiles_of)[expert] * tile_rows + rank] = order.int()
    expert_of_tile = torch.searchsorted(last_tile, torch.arange(most, device=device), right=True)
    expert_of_tile = torch.where(expert_of_tile < experts, expert_of_tile, -1).int()
    return Routing(chosen.int(), tiles, expert_of_tile, tile_rows)


def stacked(matrices: list[list[Rows]], device: Device, half: torch.dtype) -> Matrix:
    """One matrix for each expert, of the rows of several, one below the other. `matrices`: for each of them, each
    expert's; all of one block format."""
    first = matrices[0][0]
    experts = [*zip(*matrices, strict=True)]
    outputs = sum(rows.outputs for rows in experts[0])
    pieces = chain.from_iterable(rows.pieces for parts in experts for rows in parts)
    biases = [rows.bias for parts in experts for rows in parts if rows.bias is not None]
    weights = weights_of(first.layout, pieces, outputs * len(experts), first.inputs, device)
    return Matrix(weights, torch.cat(biases) if biases else None, device, half, experts=len(experts))
