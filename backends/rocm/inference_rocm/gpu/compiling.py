"""Compiling kernels for AMD GPUs ahead of time, on any machine, and reading what came of it.

Needs a process in whose environment TRITON_INTERPRET was not set when Triton was imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from inference_rocm.gpu.specimen import Specimen, options
from inference_rocm.gpu.targets import occupancy, target

__all__ = ["MODULES", "Compiled", "Instructions", "compiled", "counted", "specimens_of"]

MODULES = tuple(
    f"inference_rocm.gpu.{name}"
    for name in ("matrix", "embedding", "attention", "span_attention", "elements", "sampler")
)
"""All that launch kernels, each with `specimens(wave)`; a test compares the list with the sources."""

_OPTIONS = frozenset({"num_stages", "waves_per_eu", "matrix_instr_nonkdim", "kpack", "schedule_hint"})
"""Triton's options that a specimen may have among its constants."""


@dataclass(frozen=True, slots=True)
class Instructions:
    """How many there are in a kernel's code, however often they run."""

    all: int
    vector: int
    matrix: int
    """Products of the matrix cores."""
    memory: int
    """Loads and stores of lanes."""
    lds: int
    scalar: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a variant of a kernel takes on a target."""

    target: str
    vgprs: int
    """Vector registers of a lane, those of the matrix cores included."""
    sgprs: int
    """Scalar registers of a wave."""
    spills: int
    """Registers of both kinds that did not fit."""
    scratch: int
    """Bytes of memory that each lane takes beside registers: for spills, or for what is indexed by variables."""
    lds: int
    """Bytes of a workgroup."""
    occupancy: int
    """Waves that a SIMD holds."""
    most: int
    """Waves that it would hold of the smallest kernel."""
    compiler_occupancy: int
    """What the compiler says, which does not know of the LDS."""
    instructions: Instructions


def specimens_of(module: str, wave: int) -> list[Specimen]:
    """A module's variants for GPUs of wave 32 or 64.

    Raises:
        ImportError: there is no such module.
        AttributeError: it has no `specimens`.
    """
    return list(import_module(module).specimens(wave))


def compiled(specimen: Specimen, name: str) -> Compiled:
    """What Triton makes of a variant for the target of that LLVM name.

    Raises:
        ValueError: the arguments and constants are not those of the kernel, or nothing is known of the target.
        Exception: whatever Triton raises where it cannot compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    on = target(name)
    types, attributes = _types(specimen)
    own = {key: value for key, value in specimen.constants.items() if _is_option(specimen, key)}
    source = ASTSource(
        fn=specimen.kernel,
        signature=types,
        constexprs={key: value for key, value in specimen.constants.items() if key not in own},
        attrs=attributes,
    )
    kernel = triton.compile(
        source,
        target=GPUTarget("hip", name, on.wave),
        options=options(specimen.warps) | own,
    )
    code = kernel.asm["amdgcn"]
    vgprs, sgprs = _fact(code, "vgpr_count"), _fact(code, "sgpr_count")
    lds = int(kernel.metadata.shared)  # the code itself leaves its size to the launch
    return Compiled(
        target=name,
        vgprs=vgprs,
        sgprs=sgprs,
        spills=_fact(code, "vgpr_spill_count") + _fact(code, "sgpr_spill_count"),
        scratch=_fact(code, "private_segment_fixed_size"),
        lds=lds,
        occupancy=occupancy(on, vgprs, lds, specimen.warps, sgprs),
        most=on.waves,
        compiler_occupancy=int(_found(r"; Occupancy: (\d+)", code)),
        instructions=counted(code.splitlines()),
    )


def _types(specimen: Specimen) -> tuple[dict[str, str], dict[tuple[int], list[list[object]]]]:
    """Triton's types of a kernel's arguments in their order, and what is known of them at a launch: that tensors begin
    at multiples of 16 bytes and are shorter than 2 GiB; that an integer of "i32:16" is a multiple of 16."""
    names: list[str] = specimen.kernel.arg_names
    given = set(specimen.arguments) | {key for key in specimen.constants if not _is_option(specimen, key)}
    if given != set(names) or set(specimen.arguments) & set(specimen.constants):
        wrong = ", ".join(sorted(given ^ set(names))) or "one in both"
        raise ValueError(f"{specimen.name}: arguments and constants do not fit the kernel: {wrong}.")
    if unknown := specimen.large - set(specimen.arguments):
        raise ValueError(f"{specimen.name}: no arguments are {', '.join(sorted(unknown))}.")
    types, attributes = {}, {}
    for place, (name, parameter) in enumerate(zip(names, specimen.kernel.params, strict=True)):
        kind, _, multiple = specimen.arguments.get(name, "constexpr").partition(":")
        types[name] = kind
        if multiple and (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment):
            raise ValueError(f"{specimen.name}: Triton is told not to see what {name} is a multiple of.")
        if known := _known(parameter, kind, multiple, large=name in specimen.large):
            attributes[place,] = known
    return types, attributes


def _known(parameter: Any, kind: str, multiple: str, *, large: bool) -> list[list[object]]:
    """What Triton sees of an argument at a launch: of those that its kernel has it not specialise, nothing."""
    known: list[list[object]] = []
    if parameter.do_not_specialize:
        return known
    if (kind.startswith("*") or multiple) and not parameter.do_not_specialize_on_alignment:
        known.append(["tt.divisibility", int(multiple or 16)])
    if kind.startswith("*") and not large:
        known.append(["tt.pointer_range", 32])
    return known


def _is_option(specimen: Specimen, key: str) -> bool:
    return key in _OPTIONS and key not in specimen.kernel.arg_names


# Reading code --------------------------------------------------------------------------------------------------------

_INSTRUCTION = re.compile(r"\s+((?:v|s|ds|global|buffer|flat|scratch)_\w+)")
_MATRIX = re.compile(r"v_(?:mfma|smfmac|wmma|swmmac)_")


def counted(code: Iterable[str]) -> Instructions:
    """The instructions in lines of AMD's assembly language, without those behind the end of the program."""
    kinds = {"vector": 0, "matrix": 0, "memory": 0, "lds": 0, "scalar": 0}
    for line in code:
        if match := _INSTRUCTION.match(line):
            name = match[1]
            if name == "s_code_end":  # fills the cache line
                continue
            kinds[_kind(name)] += 1
    return Instructions(sum(kinds.values()), **kinds)


def _kind(instruction: str) -> str:
    if instruction.startswith("v_"):
        return "matrix" if _MATRIX.match(instruction) else "vector"
    if instruction.startswith("ds_"):
        return "lds"
    return "scalar" if instruction.startswith("s_") else "memory"


def _fact(code: str, key: str) -> int:
    return int(_found(rf"\.{key}:\s+(\d+)", code))


def _found(pattern: str, code: str) -> Any:
    match = re.search(pattern, code)
    if match is None:
        raise ValueError(f"The compiled code says nothing like {pattern}.")
    return match[1]
