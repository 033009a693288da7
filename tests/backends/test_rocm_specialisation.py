"""Which variants of the backend `rocm`'s kernels Triton would compile while a model runs: those compiled ahead of time.

A variant is made by the types of a kernel's arguments, by what Triton sees of their values (multiples of 16, memory
below 2 GiB), and by constants. Kernels are not computed here; Triton is only asked what it would see.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from conformance.cases import CASES
from conformance.files import write

torch = pytest.importorskip("torch")
pytest.importorskip("triton.backends.amd")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_sequences import GPUSequences  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu import attention as single  # noqa: E402
from inference_rocm.gpu import span_attention as spans  # noqa: E402
from inference_rocm.gpu.attention import Memory  # noqa: E402
from inference_rocm.gpu.compiling import MODULES  # noqa: E402
from inference_rocm.gpu.device import Device  # noqa: E402
from inference_rocm.gpu.matrix_blocks import matmul_blocks  # noqa: E402
from inference_rocm.gpu.specimen import Specimen  # noqa: E402
from inference_rocm.spans import Span  # noqa: E402
from triton._C.libtriton import native_specialize_impl  # noqa: E402
from triton.backends.amd.compiler import HIPBackend  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.interpreter import InterpretedFunction  # noqa: E402

Seen: TypeAlias = tuple[str, frozenset[str]]
"""A kernel's name, and of each argument that is no constant its name, its type and what Triton sees of it, such as
"keys *fp16 DS": D for a multiple of 16, S for less than 2 GiB; None where it does not look."""
Launch: TypeAlias = tuple[Seen, str]
"""What is seen, and the constants."""
PIECES = "'PIECE': 32"
BACKEND = HIPBackend(GPUTarget("hip", "gfx942", 64))
MODELS = [
    ("llama-every-format", torch.float16), ("llama-eight-to-one", torch.float16), ("phi3-every-format", torch.float16),
    ("qwen3moe-every-format", torch.bfloat16), ("qwen2moe-biases", torch.bfloat16),
    ("gemma2-every-format", torch.bfloat16), ("gemma3-one-kv-head", torch.bfloat16), ("gpt-oss-mxfp4", torch.bfloat16),
    ("llama-F32", torch.float32),
]  # fmt: skip
"""With the half types that files of such architectures have."""


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """All variants that are launched from now on."""
    launches: set[Launch] = set()

    def run(kernel: Any, *arguments: Any, grid: object, warmup: bool, **named: Any) -> None:
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
        seen, constants = [], {}
        for name in kernel.arg_names:
            if "constexpr" in str(kernel.fn.__annotations__.get(name)):
                constants[name] = values[name]
                continue
            looks, aligned = looked_at(kernel, name)
            kind, known = native_specialize_impl(BACKEND, values[name], False, looks, aligned)
            if kind == "constexpr":
                constants[name] = values[name]
            else:
                seen.append(f"{name} {kind} {known}")
        launches.add(((kernel.__name__, frozenset(seen)), repr(constants)))

    monkeypatch.setattr(InterpretedFunction, "run", run)
    return launches


def looked_at(kernel: Any, name: str) -> tuple[bool, bool]:
    """Whether Triton looks at an argument's value, and whether at its being a multiple of 16."""
    looks = name not in (kernel.kwargs["do_not_specialize"] or ())
    return looks, looks and name not in (kernel.kwargs["do_not_specialize_on_alignment"] or ())


def compiled_ahead(specimen: Specimen) -> Seen:
    seen = []
    for name in specimen.kernel.arg_names:
        if name in specimen.constants:
            continue
        kind, _, multiple = specimen.arguments[name].partition(":")
        looks, aligned = looked_at(specimen.kernel, name)
        pointer = kind.startswith("*")
        known = ("D" if aligned and (pointer or multiple) else "") + (
            "S" if pointer and name not in specimen.large else ""
        )
        seen.append(f"{name} {kind} {known if looks and kind != 'fp32' else None}")
    return specimen.kernel.__name__, frozenset(seen)


@pytest.fixture(scope="module")
def ahead() -> set[Seen]:
    return {
        compiled_ahead(specimen)
        for module in MODULES
        for wave in (32, 64)
        for specimen in import_module(module).specimens(wave)
    }


def covered(seen: Seen, ahead: set[Seen]) -> bool:
    """Whether there is such a variant, or one with more arguments, such as a bias."""
    return any(seen[0] == kernel and seen[1] <= arguments for kernel, arguments in ahead)


def run_steps(path: Path, half: torch.dtype, wave: int, *, length: int = 1000, later: int = 0) -> None:
    """Of every kind, of one sequence and of many, of a few tokens and of many, `later` positions farther on."""
    device = Device(torch.device("cpu"), wave, units=304)
    sequences = GPUSequences(path, half, slots=80, length=length, device=device)
    for count, position in ((1, 0), (1, 37), (2, 5), (3, 16), (4, 1), (5, 2), (16, 0), (17, 3), (40, 7), (72, 1)):
        sequences.logits(*(Span(slot, later + position, [3]) for slot in range(count)))
    for start, count in ((0, 2), (1, 7), (3, 40), (0, 64), (16, 90), (5, 177)):
        sequences.logits(Span(1, later + start, [3] * count), last=1)


@pytest.mark.parametrize("wave", [32, 64])
@pytest.mark.parametrize(("name", "half"), MODELS)
def test_every_launch_sees_its_arguments_as_a_variant_that_is_compiled_ahead_of_time(
    name: str, half: torch.dtype, wave: int, tmp_path: Path, launched: set[Launch], ahead: set[Seen]
) -> None:
    write(CASES[name], tmp_path / "model.gguf")
    run_steps(tmp_path / "model.gguf", half, wave)
    assert launched
    found = {seen for seen, _ in launched}
    assert [f"{seen[0]}: {', '.join(sorted(seen[1]))}" for seen in found if not covered(seen, ahead)] == []


@pytest.mark.parametrize("wave", [32, 64])
def test_contexts_of_other_lengths_and_other_positions_launch_the_same_variants(
    wave: int, tmp_path: Path, launched: set[Launch]
) -> None:
    name, half = "gemma2-every-format", torch.bfloat16
    write(CASES[name], tmp_path / "model.gguf")
    run_steps(tmp_path / "model.gguf", half, wave)
    before = set(launched)
    run_steps(tmp_path / "model.gguf", half, wave, length=1536, later=200)
    run_steps(tmp_path / "model.gguf", half, wave, length=1537, later=1111)
    assert before
    assert launched == before


# Memory of 2 GiB, and of float32 -------------------------------------------------------------------------------------


def attend(memory: Memory, length: int, wave: int) -> None:
    """One token of a model in float32, and a tile of 80 tokens in its half type, in a KV memory that nobody touches."""
    heads, device = memory.heads, Device(torch.device("meta"), wave, units=304)
    keys, values = (
        torch.empty(1, heads.kv_heads, length, heads.length, dtype=memory.dtype, device="meta") for _ in range(2)
    )
    integers = torch.empty(80, 4, dtype=torch.int32, device="meta")
    sinks = torch.empty(heads.heads, device="meta") if memory.sinks else None
    rule: dict[str, Any] = {"scale": 1.0, "softcap": memory.softcap, "window": None, "sinks": sinks, "device": device}
    for rows, dtype in ((1, torch.float32), (80, memory.dtype)):
        query = torch.empty(rows, heads.heads, heads.length, dtype=dtype, device="meta")
        out = torch.empty(rows, heads.heads * heads.length, dtype=dtype, device="meta")
        if rows == 1:
            single.attend(query, keys, values, integers[:1, 0], integers[:1, 1], out, **rule)
        else:
            spans.attend_spans(query, keys, values, integers, out, **rule)


@pytest.mark.parametrize("wave", [32, 64])
def test_attention_launches_what_was_compiled_for_the_size_and_the_type_of_its_memory(
    wave: int, launched: set[Launch]
) -> None:
    ahead = {
        (compiled_ahead(specimen), constants_of(specimen))
        for module in (single, spans)
        for specimen in module.specimens(wave)
    }
    for memory in single.memories():
        position_bytes = memory.heads.kv_heads * memory.heads.length * memory.dtype.itemsize
        attend(memory, 2**31 // position_bytes if memory.large else 4096, wave)
    assert any(PIECES in constants for _, constants in launched) == (wave == 32)
    assert [launch for launch in launched if launch not in ahead] == []


def constants_of(specimen: Specimen) -> str:
    """As `launched` has them."""
    names = [name for name in specimen.kernel.arg_names if name in specimen.constants]
    return repr({name: specimen.constants[name] for name in names})


def test_a_tiles_tokens_and_rows_are_known_before_the_memory_and_the_matrix_are() -> None:
    for wave in (32, 64):
        device = Device(torch.device("cuda"), wave, units=304)
        for memory in single.memories():
            sizes = spans.blocks(memory.heads, device, memory.dtype.itemsize, large=memory.large)
            tile = spans.tile_tokens(memory.heads.heads, memory.heads.kv_heads, memory.heads.length, device)
            assert sizes["ROWS"] // memory.heads.group == tile
        for rows in (1, 17, 40, 500):
            assert len({matmul_blocks(rows, device, outputs).rows for outputs in (16, 4096, 32001)}) == 1
