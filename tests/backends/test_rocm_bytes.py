"""Bytes that the GPU's kernels load, by their own index arithmetic: no more than the weights take in the file."""

# ruff: noqa: N803 - Triton's language
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conformance.cases import CASES
from conformance.files import write

from inference.gguf.blocks import BLOCK_LAYOUTS, block_layout
from inference.gguf.reader import read_header

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

import triton.language as tl  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402
from inference_rocm.gpu.matrix_blocks import matmul_blocks  # noqa: E402

from benchmarks import amd_bytes  # noqa: E402
from benchmarks.amd_bytes import MOST, Count, bytes_of_a_token, decode_step, experts, gathered, multiplied  # noqa: E402
from benchmarks.loaded_bytes import WEIGHTS, loaded_bytes  # noqa: E402

FORMATS = sorted(BLOCK_LAYOUTS)
DEVICES = {
    "interpreter": INTERPRETER,
    "wave 64": Device(torch.device("cpu"), 64, units=1),
    "wave 32": Device(torch.device("cpu"), 32, units=1),
}
"""The blocks of GPUs, and the interpreter's."""
every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
every_format = pytest.mark.parametrize("name", FORMATS)


def odd_row(name: str) -> int:
    """An odd number of blocks; of plain weights, an odd number."""
    return {1: 77, 32: 352, 256: 768}[block_layout(name).elements]


def require_each_byte(count: Count, times: int = 1) -> None:
    """All of the weights are loaded, no byte of them by more instructions than that, and nothing else."""
    assert count.launch.outside == 0
    assert count.ratio <= MOST
    weights = {name: each for name, each in count.launch.arguments.items() if name in WEIGHTS}
    assert weights
    for name, argument in weights.items():
        # Scales of 256 weights' scales may be wanted by several instructions: each has a part of those weights.
        assert (argument.loads >= times).all() if name == "supers" else (argument.loads == times).all(), name
    assert (count.launch.arguments["vectors"].loads > 0).all()


@every_device
@every_format
def test_few_rows_times_a_matrix_load_each_byte_of_the_weights_once(name: str, device: Device) -> None:
    block = block_layout(name).elements
    for outputs, inputs, rows in ((37, odd_row(name), 1), (3, block, 1), (5, odd_row(name), 3), (1, block, 4)):
        require_each_byte(multiplied(name, outputs, inputs, rows, device))
    count = multiplied(name, 16, 2048, 1, device)
    assert count.launch.asked() == count.launch.touched()


@every_device
@pytest.mark.parametrize("name", ["Q4_1", "Q4_K", "Q3_K"])
def test_so_do_matrices_of_smollm2(name: str, device: Device) -> None:
    require_each_byte(multiplied(name, 576, 1536, 1, device))
    require_each_byte(multiplied(name, 192, 576 if name == "Q4_1" else 768, 1, device))


@every_device
@every_format
def test_many_rows_load_the_weights_once_for_each_tile_of_them(name: str, device: Device) -> None:
    for rows in (17, 70):
        tiles = triton.cdiv(rows, matmul_blocks(rows, device).rows)
        require_each_byte(multiplied(name, 35, odd_row(name), rows, device), tiles)


@every_device
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "MXFP4", "F16"])
def test_only_experts_that_are_chosen_are_loaded(name: str, together: bool, device: Device) -> None:
    count = experts(name, 19, odd_row(name), [6, 1, 7], device, together=together)
    assert count.launch.outside == 0
    assert 1 <= count.ratio <= MOST


@every_device
@every_format
def test_embeddings_load_the_rows_of_the_tokens(name: str, device: Device) -> None:
    count = gathered(name, [22, 0, 5, 22], 23, odd_row(name), device)
    assert count.launch.outside == 0
    assert 1 <= count.ratio <= MOST


@pytest.mark.parametrize("name", ["llama-odd-heads", "gemma3-every-format", "mixtral", "gpt-oss-mxfp4"])
def test_a_whole_step_loads_what_a_token_needs_and_from_nowhere_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    header = read_header(path)
    launches = decode_step(header)
    assert [launch.kernel for launch in launches if launch.outside] == []
    assert 0.99 <= sum(launch.touched() for launch in launches) / bytes_of_a_token(header) <= MOST


def test_a_token_needs_the_experts_that_it_is_sent_to_and_a_row_of_the_embeddings(tmp_path: Path) -> None:
    sizes = {}
    for used in (2, 4):
        for tied in (False, True):
            path = tmp_path / f"{used} {tied}.gguf"
            recipe = replace(CASES["mixtral"], experts_used=used, tied=tied, block_formats=("Q4_K",))
            write(recipe, path)
            header = read_header(path)
            sizes[used, tied] = bytes_of_a_token(header)
            whole = {tensor.name: tensor.size_bytes for tensor in header.tensors.values()}
    expert = sum(size for name, size in whole.items() if "_exps." in name) // 8
    assert sizes[4, True] - sizes[2, True] == 2 * expert
    assert sizes[2, False] == sizes[2, True]
    others = sum(size for name, size in whole.items() if "_exps." not in name)
    assert sizes[2, True] == others + 2 * expert + whole["token_embd.weight"] // 49_152


# The counting -------------------------------------------------------------------------------------------------------


@triton.jit
def twice(source, weights, out, count, BLOCK: tl.constexpr):
    """Loads each number for two lanes, then the first of them again; as many lanes as BLOCK has go astray, and half as
    many store astray."""
    lane = tl.arange(0, BLOCK)
    numbers = tl.load(weights + lane // 2, mask=(lane // 2 < count) & 1, other=0.0)
    numbers += tl.load(weights)
    tl.store(out + BLOCK // 2 + lane, numbers + tl.load(source - BLOCK + lane))


def test_lanes_share_what_an_instruction_loads_instructions_do_not_and_strays_are_seen() -> None:
    memory, weights, out = torch.zeros(32), torch.zeros(5, dtype=torch.float16), torch.zeros(8)
    with loaded_bytes() as launches:
        twice[(1,)](memory[16:], weights, out, 3, BLOCK=8)
        twice[(2,)](memory[16:], weights, out, 5, BLOCK=8)
    first, second = launches
    assert first.kernel == "twice"
    assert first.arguments["weights"].loads.tolist() == [2, 2, 1, 1, 1, 1, 0, 0, 0, 0]
    assert (first.touched(), first.asked()) == (6, 8)
    assert second.arguments["weights"].loads.tolist() == [4, 4, 2, 2, 2, 2, 2, 2, 0, 0]
    assert (first.outside, second.outside) == (12, 24)
    with loaded_bytes() as later:
        pass
    assert later == []


def test_the_command_prints_every_format_and_fails_where_too_much_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd_bytes, "OUTPUTS", 32)
    result = CliRunner().invoke(amd_bytes.main, ["--no-step"])
    assert result.exit_code == 0, result.output
    for name in FORMATS:
        assert f"| {name} | gemv" in result.output
    assert "| Q3_K | gemv | 0.4297 | 0.4453 | 1.0364 | 0.4453 | 0.5000 |" in result.output
    monkeypatch.setattr(amd_bytes, "MOST", 1.03)
    result = CliRunner().invoke(amd_bytes.main, ["--no-step"])
    assert result.exit_code == 1
    assert "Q3_K: 1.036 x the file's bytes." in result.stderr
