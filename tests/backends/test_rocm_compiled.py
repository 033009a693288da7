"""The kernels of the backend `rocm`, compiled for AMD GPUs that are not here; and how many waves a GPU holds."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import inference_rocm.gpu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_rocm.gpu.compiling import MODULES, Compiled, counted
from inference_rocm.gpu.targets import CARDS, COMPILED, Target, occupancy, target, version

from benchmarks.amd_kernels import Job, Outcome, compile_all, fault

pytest.importorskip("triton.backends.amd")

WAVE64, WAVE32 = "gfx942", "gfx1100"
FEW = ("Q4_K, 1 row", "Llama-3 8B")
"""In the names of what is compiled for the other targets too."""
BETWEEN = re.compile(
    r"\b[234] rows|tiles of (?:16|32) rows|of float32|experts|odd outputs|\b(?!Q3_K)\w+ in \w*F16"
    r"|many rows|few rows|to [fb][fp]16|\b(?:49152|151936|262144)\b"
)
"""In the names of variants that differ little from others. Those, and the other targets in full, are left to the
command benchmarks.amd_kernels: all together take two cores a quarter of an hour."""
PROCESSES = 2
KNOWN = (
    "gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1010", "gfx1030", "gfx1100", "gfx1101", "gfx1102",
    "gfx1103", "gfx1150", "gfx1151", "gfx1200", "gfx1201",
)  # fmt: skip


# The backend's kernels -----------------------------------------------------------------------------------------------


@cache
def outcomes() -> list[Outcome]:
    """Every kernel in every format for a target of each wave, and some for the others."""
    return list(compile_all(COMPILED, PROCESSES, wanted=wanted))


def wanted(job: Job) -> bool:
    if BETWEEN.search(job.name):
        return False
    return job.target in (WAVE64, WAVE32) or any(word in job.name for word in FEW)


@pytest.mark.timeout(1200)
def test_every_kernel_compiles_for_wave64_and_wave32_without_spilling() -> None:
    assert [reason for outcome in outcomes() if (reason := fault(outcome))] == []


@pytest.mark.timeout(1200)
def test_waves_in_the_table_are_those_that_the_compiler_reckons_with_but_for_the_lds_it_does_not_know_of() -> None:
    for outcome in outcomes():
        if made := outcome.compiled:
            if made.lds:
                assert 0 < made.occupancy <= made.compiler_occupancy, outcome.job
            else:
                assert made.occupancy == made.compiler_occupancy, outcome.job


def test_every_module_that_launches_kernels_is_compiled_ahead_of_time() -> None:
    folder = Path(inference_rocm.gpu.__file__).parent
    launching = {path.stem for path in folder.glob("*.py") if launches(path.read_text(encoding="utf-8"))}
    assert {name.rpartition(".")[2] for name in MODULES} == launching


def launches(source: str) -> bool:
    """Whether a module of the backend has a call such as `kernel[grid](...)`."""
    nodes = list(ast.walk(ast.parse(source)))
    kernels = any(isinstance(node, ast.ImportFrom) and ".gpu.kernels" in (node.module or "") for node in nodes)
    return kernels and any(isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) for node in nodes)


# Kernels whose figures are known -------------------------------------------------------------------------------------


@cache
def samples() -> dict[tuple[str, str], Outcome]:
    made = compile_all((WAVE64, WAVE32), PROCESSES, ["kernel_specimens"])
    return {(outcome.job.name, outcome.job.target): outcome for outcome in made}


def sample(name: str, on: str) -> Compiled:
    made = samples()[name, on].compiled
    assert made is not None, samples()[name, on].error
    return made


def test_waves_per_simd_of_a_square_that_goes_through_the_lds_are_those_counted_by_hand() -> None:
    # 64 x 64 x 4 = 16,384 bytes. A compute unit of 64 KiB holds 4 groups of 4 waves on its 4 SIMDs; RDNA's workgroup
    # processor of 128 KiB holds 8 groups.
    assert sample("turn a square", WAVE64).lds == sample("turn a square", WAVE32).lds == 16384
    assert sample("turn a square", WAVE64).occupancy == 4
    assert sample("turn a square", WAVE32).occupancy == 8
    assert sample("turn a square", WAVE64).compiler_occupancy == 8


def test_instructions_are_counted_by_their_kind() -> None:
    for on, product in ((WAVE64, "v_mfma_f32_16x16x16_f16"), (WAVE32, "v_wmma_f32_16x16x16_f16")):
        counts = sample("product of fp16", on).instructions
        assert counts.matrix > 0
        assert min(counts.vector, counts.memory, counts.lds, counts.scalar) > 0
        assert counts.all == counts.vector + counts.matrix + counts.memory + counts.lds + counts.scalar
        assert counted([f"\t{product} v[0:3], v[0:1], v[2:3], 0"]).matrix == 1
    lines = ["\tds_read_b32 v0, v1", "\tbuffer_load_dword v0", "\tglobal_store_b32 v0", "\ts_load_dword s0", "x: ; v_a"]
    counts = counted([*lines, "\tv_dual_fmac_f32 v0, v1, v2 :: v_dual_mov_b32 v3, 0", "\ts_code_end", "\t.set v_x, 1"])
    assert (counts.all, counts.vector, counts.memory, counts.lds, counts.scalar) == (5, 1, 2, 1, 1)


def test_an_integer_that_is_known_to_be_a_multiple_of_16_gives_wider_loads() -> None:
    for on in (WAVE64, WAVE32):
        assert sample("stepping i32:16", on).instructions.memory < sample("stepping i32", on).instructions.memory


def test_what_a_kernel_leaves_unspecialised_is_compiled_so() -> None:
    for on, numbers in ((WAVE64, 4), (WAVE32, 8)):  # of a lane, of which a load takes four
        assert sample("loose", on).instructions.memory == numbers // 4 + numbers
    assert "not to see what end is a multiple of" in str(fault(samples()["part of a multiple", WAVE64]))


def test_lanes_beyond_the_end_cost_branches_where_memory_is_larger_than_offsets_of_32_bits_reach() -> None:
    for on in (WAVE64, WAVE32):
        small, large = sample("part", on), sample("part of 2 GiB", on)
        assert small.instructions.scalar < large.instructions.scalar
        assert small.vgprs < large.vgprs


def test_a_product_that_no_matrix_core_computes_is_a_fault_where_one_should() -> None:
    assert fault(samples()["product of fp16", WAVE32]) is None
    assert fault(samples()["product of fp32", WAVE64]) is None
    assert "matrix cores" in str(fault(samples()["product of fp32", WAVE32]))  # which RDNA's do not multiply


def test_a_kernel_that_spills_is_a_fault_which_is_named() -> None:
    reason = fault(samples()["hoard", WAVE64])
    assert reason is not None
    assert re.match(r"hoard, gfx942: [1-9][0-9]* registers spill, [1-9]", reason)


def test_a_kernel_that_does_not_compile_or_ends_the_compiler_is_a_fault_and_hides_no_other() -> None:
    assert "do not fit the kernel: SIDE" in str(fault(samples()["missing argument", WAVE32]))
    assert "the compiler ended its process" in str(fault(samples()["abort", WAVE64]))
    assert fault(samples()["turn after abort", WAVE64]) is None
    assert len(samples()) == 13 + 12


def test_a_module_without_kernels_is_a_fault() -> None:
    found = list(compile_all([WAVE64], 1, ["no_such_module", "reference_tokenizer"]))
    assert "ModuleNotFoundError" in str(fault(found[0]))
    assert "specimens" in str(fault(found[1]))


# How many waves a SIMD holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vgprs", "lds", "warps", "sgprs", "waves"),
    [
        ("gfx942", 64, 0, 4, 0, 8),
        ("gfx942", 65, 0, 4, 0, 7),  # 72 of 512
        ("gfx942", 256, 0, 4, 0, 2),
        ("gfx942", 512, 0, 4, 0, 1),
        ("gfx942", 8, 0, 4, 102, 7),  # of 800 scalar registers
        ("gfx942", 8, 20000, 4, 0, 3),  # 3 groups
        ("gfx942", 8, 40000, 1, 0, 1),  # one wave for 4 SIMDs
        ("gfx942", 8, 65537, 4, 0, 0),
        ("gfx950", 8, 81920, 4, 0, 2),
        ("gfx1100", 96, 0, 4, 0, 16),
        ("gfx1100", 97, 0, 4, 0, 12),  # 120 of 1536
        ("gfx1102", 97, 0, 4, 0, 9),  # 112 of 1024
        ("gfx1201", 8, 65536, 8, 102, 4),  # 2 groups of 8 waves for 4 SIMDs
    ],
)
def test_waves_per_simd_are_those_counted_by_hand(
    name: str, vgprs: int, lds: int, warps: int, sgprs: int, waves: int
) -> None:
    assert occupancy(target(name), vgprs, lds, warps, sgprs) == waves


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Target, int, int, int, int]:
    on = target(draw(st.sampled_from(KNOWN)))
    lds = draw(st.just(0) | st.integers(4, on.workgroup_lds))
    return on, draw(st.integers(1, 256)), lds, 2 ** draw(st.integers(0, 4)), draw(st.integers(1, 100))


@settings(max_examples=200, deadline=None)
@given(kernels())
def test_waves_per_simd_are_those_that_llvm_says(kernel: tuple[Target, int, int, int, int]) -> None:
    on, vgprs, lds, warps, sgprs = kernel
    code = assembly(on, vgprs, lds, warps, sgprs)
    taken = {key: int(found(rf"\.{key}:\s+(\d+)", code)) for key in ("vgpr_count", "sgpr_count", "wavefront_size")}
    assert taken["wavefront_size"] == on.wave
    assert occupancy(on, taken["vgpr_count"], lds, warps, taken["sgpr_count"]) == int(
        found(r"; Occupancy: (\d+)", code)
    )


def assembly(on: Target, vgprs: int, lds: int, warps: int, sgprs: int) -> str:
    """LLVM's code of a kernel that takes so much."""
    from triton._C.libtriton import llvm

    llvm.init_targets()
    store = "store volatile i32 0, ptr addrspace(3) @lds" if lds else ""
    program = f"""
        @lds = internal addrspace(3) global [{max(4, lds)} x i8] poison, align 4
        define amdgpu_kernel void @kernel() #0 {{
          call void asm sideeffect "", "~{{v{vgprs - 1}}},~{{s{sgprs - 1}}}"()
          {store}
          ret void
        }}
        attributes #0 = {{ "amdgpu-flat-work-group-size"="{warps * on.wave},{warps * on.wave}" }}
    """
    return str(llvm.translate_to_asm(program, "amdgcn-amd-amdhsa", on.name, "", [], False, False))


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, pattern
    return match[1]


def test_a_target_of_which_nothing_is_known_is_refused() -> None:
    for name in ("gfx803", "gfx1250", "gfx1310"):
        with pytest.raises(ValueError, match=f"Nothing is known of the target {name}"):
            target(name)
    for name in ("sm_90", "gfx", "gfx90A", ""):
        with pytest.raises(ValueError, match="no LLVM target"):
            version(name)


def test_cards_have_targets_that_kernels_are_compiled_for() -> None:
    assert {card.target for card in CARDS} <= set(COMPILED)
    assert version("gfx90a") == (9, 0, 10) < version("gfx942") < version("gfx1030") < version("gfx1201")
