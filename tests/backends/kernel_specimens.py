"""Kernels that are nobody's, to prove with them that kernels are compiled and counted rightly."""

# ruff: noqa: N803, RUF005 - Triton's language
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from inference_rocm.gpu.specimen import Specimen

SIDE = 64


@triton.jit
def turn(source, target, SIDE: tl.constexpr):
    """Transposes a square, which goes through the LDS as a whole."""
    line = tl.arange(0, SIDE)
    square = tl.load(source + line[:, None] * SIDE + line[None, :])
    tl.store(target + line[:, None] * SIDE + line[None, :], tl.trans(square))


@triton.jit
def product(left, right, out, SIDE: tl.constexpr):
    line = tl.arange(0, SIDE)
    at = line[:, None] * SIDE + line[None, :]
    tl.store(out + at, tl.dot(tl.load(left + at), tl.load(right + at)))


@triton.jit
def hoard(source, out, COUNT: tl.constexpr):
    """Holds on to more numbers than a lane has registers."""
    lane = tl.arange(0, 64)
    held = ()
    for place in tl.static_range(COUNT):
        held = held + (tl.load(source + place * 64 + lane, volatile=True),)
    for place in tl.static_range(COUNT):
        tl.store(out + place * 64 + lane, held[COUNT - 1 - place] * held[place])


@triton.jit
def stepping(source, out, stride, SIDE: tl.constexpr):
    """A lane's four numbers lie side by side; whether they may be loaded at once hangs on the stride."""
    line = tl.arange(0, SIDE)
    at = tl.program_id(0) * stride + line
    tl.store(out + at, tl.load(source + at) + 1)


class Abort:
    """In the place of a kernel: ends the process, as LLVM does where it cannot go on."""

    __name__ = "abort"

    @property
    def arg_names(self) -> list[str]:
        os._exit(1)


@triton.jit(do_not_specialize_on_alignment=["target"])
def loose(source, target, SIDE: tl.constexpr):
    """A lane's numbers lie side by side, and may be loaded at once; where they are stored may begin anywhere."""
    line = tl.arange(0, SIDE)
    tl.store(target + line, tl.load(source + line))


@triton.jit(do_not_specialize=["end"])
def part(source, target, end, SIDE: tl.constexpr):
    """Lanes from the end on load nothing. How far the others reach is not known when it is compiled."""
    line = tl.arange(0, SIDE)
    tl.store(target + line, tl.load(source + end - line, mask=line < end, other=0.0))


def specimens(wave: int) -> Iterator[Specimen]:
    square = {"source": "*fp32", "target": "*fp32"}
    yield Specimen(name="turn a square", kernel=turn, arguments=square, constants={"SIDE": SIDE}, warps=4)
    for kind, side in (("fp16", SIDE), ("fp32", SIDE // 2)):
        sides = {"left": f"*{kind}", "right": f"*{kind}", "out": "*fp32"}
        yield Specimen(
            name=f"product of {kind}", kernel=product, arguments=sides, constants={"SIDE": side}, warps=4, matrix=True
        )
    numbers = {"source": "*fp32", "out": "*fp32"}
    yield Specimen(name="hoard", kernel=hoard, arguments=numbers, constants={"COUNT": 280, "waves_per_eu": 8}, warps=1)
    for kind in ("i32", "i32:16"):
        arguments = {**numbers, "stride": kind}
        yield Specimen(name=f"stepping {kind}", kernel=stepping, arguments=arguments, constants={"SIDE": 256}, warps=1)
    yield Specimen(name="loose", kernel=loose, arguments=square, constants={"SIDE": 256}, warps=1)
    arguments = {**square, "end": "i32"}
    for name, large in (("part", frozenset[str]()), ("part of 2 GiB", frozenset({"source"}))):
        yield Specimen(name=name, kernel=part, arguments=arguments, constants={"SIDE": 64}, warps=1, large=large)
    arguments = {**square, "end": "i32:16"}
    yield Specimen(name="part of a multiple", kernel=part, arguments=arguments, constants={"SIDE": 64}, warps=1)
    yield Specimen(name="missing argument", kernel=turn, arguments=square, constants={}, warps=1)
    if wave == 64:
        kernel: Any = Abort()
        yield Specimen(name="abort", kernel=kernel, arguments={}, constants={}, warps=1)
    yield Specimen(name="turn after abort", kernel=turn, arguments=square, constants={"SIDE": 16}, warps=1)
