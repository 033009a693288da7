"""The tables about AMD GPUs that are not here: what kernels take, and how fast a card could decode at best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from inference_rocm.gpu.compiling import Compiled, Instructions
from inference_rocm.gpu.forms import bytes_per_weight
from inference_rocm.gpu.targets import CARDS

from benchmarks import amd_kernels, amd_roofline
from benchmarks.amd_kernels import Job, Outcome, fault
from benchmarks.amd_roofline import LLAMA, QWEN, Model, bound, file_bytes_per_weight, q4_k_m, uses_more_bits

GIB = 2**30
MI300X, MI250X, XTX, RX9070 = CARDS


# The roofline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "parameters", "gib"), [(LLAMA, "8.03", "4.58"), (QWEN, "30.53", "17.28")])
def test_the_models_are_as_large_as_llama_bench_says_their_files_are(model: Model, parameters: str, gib: str) -> None:
    count = sum(each.outputs * each.inputs * each.count for each in model.matrices())
    assert f"{count / 1e9:.2f}" == parameters
    assert f"{model.bytes(file_bytes_per_weight, of_a_token=False) / GIB:.2f}" == gib


def test_half_of_the_layers_have_two_matrices_in_more_bits() -> None:
    assert [layer for layer in range(32) if uses_more_bits(layer, 32)] == [
        *range(4), 6, 9, 12, 15, 18, 21, 24, 27, *range(28, 32)
    ]  # fmt: skip
    for model in (LLAMA, QWEN):
        better = [each for each in model.matrices() if each.format == "Q6_K" and each.name != "output"]
        assert len(better) == model.layers
        assert {each.name for each in better} == {"attn_v", "ffn_down"}
    assert q4_k_m("ffn_up", 0, 32) == q4_k_m("attn_v", 5, 32) == "Q4_K"


def test_a_token_reads_its_own_experts_one_row_of_the_embeddings_and_all_else() -> None:
    read = {each.name: each.read for each in QWEN.matrices()}
    assert read["token_embd"] == 0
    assert read["ffn_down"] == 8
    assert read["attn_q"] == read["ffn_gate_inp"] == read["output"] == 1
    embeddings = 128256 * 4096 * bytes_per_weight("Q4_K")
    whole = LLAMA.bytes(bytes_per_weight, of_a_token=False)
    assert LLAMA.bytes(bytes_per_weight, of_a_token=True) == pytest.approx(whole - embeddings)


def test_the_kv_memory_of_a_position_has_two_bytes_for_each_number() -> None:
    assert LLAMA.kv_bytes_per_position == 2 * 32 * 8 * 128 * 2
    assert QWEN.kv_bytes_per_position == 2 * 48 * 4 * 128 * 2


def test_the_bound_is_bandwidth_by_the_bytes_of_weights_and_kv_memory() -> None:
    kv = 8192 * LLAMA.kv_bytes_per_position
    weights = LLAMA.bytes(bytes_per_weight, of_a_token=True)
    assert bound(XTX, LLAMA, 8192) == pytest.approx(960e9 / (weights + kv))
    assert bound(XTX, LLAMA, 8192) == pytest.approx(165.9, abs=0.1)


def test_a_model_that_a_card_cannot_hold_has_no_bound() -> None:
    assert bound(RX9070, QWEN, 512) is None
    assert bound(XTX, QWEN, 512) is not None
    assert bound(RX9070, LLAMA, 32768) is not None


def test_the_table_says_that_it_is_a_bound_and_no_measurement_and_what_others_publish() -> None:
    result = CliRunner().invoke(amd_roofline.main)
    assert result.exit_code == 0
    title, *_ = result.output.splitlines()
    assert "a bound, not a measurement" in title
    for text in ("MI300X", "MI250X, one die", "RX 7900 XTX", "RX 9070 XT", "512", "8,192", "32,768", "does not fit"):
        assert text in result.output
    assert "| RX 7900 XTX | llama.cpp, Vulkan | 7B Q4_0 | 167-177 | 66-70 % |" in result.output
    assert rows_are_even(result.output)


def test_what_others_publish_agrees_with_the_cards_bandwidth() -> None:
    # Share = file size x rate by peak: Llama-2 7B has 6.74e9 parameters; its Q4_0 file 3.83 GB.
    for rate, size, card, share in ((129, 3.83e9, XTX, 0.51), (177, 3.83e9, XTX, 0.70), (76, 13.48e9, MI250X, 0.63)):
        assert rate * size / card.bandwidth == pytest.approx(share, abs=0.01)


# The kernels ---------------------------------------------------------------------------------------------------------


def made(**changes: Any) -> Compiled:
    counts = Instructions(all=100, vector=60, matrix=8, memory=12, lds=4, scalar=16)
    facts: dict[str, Any] = {
        "target": "gfx942", "vgprs": 48, "sgprs": 20, "spills": 0, "scratch": 0, "lds": 1024, "occupancy": 8, "most": 8,
        "compiler_occupancy": 8, "instructions": counts,
    }  # fmt: skip
    return Compiled(**facts | changes)


def run(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], *arguments: str
) -> tuple[int, str, str, dict[str, Any]]:
    """The exit code, both outputs, and what was asked to be compiled."""
    asked: dict[str, Any] = {}

    def compile_all(targets: list[str], processes: int, *, wanted: Any) -> Iterator[Outcome]:
        asked.update(targets=targets, processes=processes)
        return iter([outcome for outcome in outcomes if wanted(outcome.job)])

    monkeypatch.setattr(amd_kernels, "compile_all", compile_all)
    result = CliRunner().invoke(amd_kernels.main, arguments)
    return result.exit_code, result.stdout, result.stderr, asked


def outcome(name: str, compiled: Compiled | None, error: str | None = None, *, matrix: bool = False) -> Outcome:
    return Outcome(Job("module", 0, "gfx942", name.split()[0], name, matrix), compiled, error)


def test_the_table_has_a_row_for_each_kernel_and_the_command_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [outcome("gemv Q4_K, 1 row", made()), outcome("join", made())]
    code, output, _, asked = run(monkeypatch, outcomes, "--processes", "3")
    assert code == 0
    assert "| gemv | Q4_K, 1 row | gfx942 | 48 | 20 | 0 | 1024 | 8 of 8 | 100 | 60 | 8 | 12 | 4 |" in output
    assert "| join |  | gfx942 |" in output
    assert rows_are_even(output)
    assert asked == {"targets": ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"], "processes": 3}


@pytest.mark.parametrize(
    ("compiled", "error", "words"),
    [
        (made(spills=3), None, "3 registers spill"),
        (made(scratch=16), None, "16 bytes of scratch"),
        (made(occupancy=0, lds=70000), None, "70000 bytes of LDS are more than a workgroup may have"),
        (None, "CompilationError: at 3:4", "CompilationError: at 3:4"),
    ],
)
def test_a_kernel_at_fault_is_named_and_the_command_fails(
    monkeypatch: pytest.MonkeyPatch, compiled: Compiled | None, error: str | None, words: str
) -> None:
    outcomes = [outcome("gemv Q4_K", made()), outcome("attend Gemma 3", compiled, error)]
    code, output, errors, _ = run(monkeypatch, outcomes)
    assert code == 1
    (line,) = [line for line in errors.splitlines() if words in line]
    assert "attend Gemma 3" in line
    assert "gfx942" in line
    assert rows_are_even(output)


def test_a_product_that_matrix_cores_should_compute_and_do_not_is_a_fault() -> None:
    without = made(instructions=Instructions(all=92, vector=60, matrix=0, memory=12, lds=4, scalar=16))
    assert fault(outcome("matmul Q4_K", made(), matrix=True)) is None
    assert fault(outcome("gemv Q4_K", without)) is None
    reason = fault(outcome("matmul Q4_K", without, matrix=True))
    assert reason == "matmul Q4_K, gfx942: nothing is multiplied by the matrix cores."


def test_kernels_and_targets_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [outcome("gemv Q4_K", made()), outcome("matmul Q4_K", made()), outcome("join", made())]
    code, output, _, asked = run(monkeypatch, outcomes, "--kernels", "gemv,join", "--targets", "gfx942, gfx1201")
    assert code == 0
    assert asked["targets"] == ["gfx942", "gfx1201"]
    assert "gemv" in output
    assert "join" in output
    assert "matmul" not in output


def test_a_target_or_a_kernel_that_there_is_none_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors, _ = run(monkeypatch, [], "--targets", "sm_90")
    assert code == 2
    assert "sm_90" in errors
    code, _, errors, _ = run(monkeypatch, [outcome("gemv", made())], "--kernels", "conv")
    assert code == 2
    assert "conv" in errors


def rows_are_even(output: str) -> bool:
    """Whether all rows of each table have as many cells."""
    tables: list[list[int]] = [[]]
    for line in output.splitlines():
        if line.startswith("|"):
            tables[-1].append(line.count("|"))
        elif tables[-1]:
            tables.append([])
    return any(tables) and all(len(set(counts)) <= 1 for counts in tables)
