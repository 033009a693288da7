"""The repository's benchmarks of the backend `torch`: bars, peers, the machine's limits, weights in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from gguf_files import Tensor, write_model
from inference_rocm.forms import PACKED

from benchmarks import share
from benchmarks import wanted as plans
from benchmarks.machine_limits import MachineLimits, measured_limits
from benchmarks.peers import OtherEngine, TransformersBf16, transformers_bf16
from benchmarks.peers.transformers_bf16 import TransformersSession
from benchmarks.plan import plan
from benchmarks.plan_torch import BESIDE_TORCH, TORCH
from benchmarks.share import Work, at_best, layer_weights, share_remark, token_bytes
from benchmarks.wanted import Wanted
from benchmarks.weight_memory import WeightMemory
from inference.gguf.block_formats import block_format
from inference.gguf.blocks import BLOCK_LAYOUTS
from inference.gguf.reader import Header, read_header
from inference.measuring import ABSOLUTE, SAMPLED, Cell, Entry, Settings, measure

SETTINGS = Settings(threads=2, context_length=256, batch_size=64)
NO_TOKENIZER: Any = None
DEMO, OTHER = Path("demo.gguf"), Path("other.gguf")


# Bars ----------------------------------------------------------------------------------------------------------------


def bars_by_case(wanted: Wanted) -> dict[tuple[str, str], dict[str, tuple[float | None, float | None]]]:
    return {
        (entry.case.model.name, entry.case.name): {
            name: (bar.at_least, bar.at_most) for name, bar in entry.case.bars.items()
        }
        for entry in plan(["torch"], wanted)
        if entry.case.model
    }


@pytest.fixture
def demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "demo_model", lambda: DEMO)
    monkeypatch.setattr(plans, "q4_0", lambda model, _: model.with_suffix(".Q4_0.gguf"))


@pytest.mark.usefixtures("demo_model")
def test_torch_has_its_bars_on_the_demo_model_and_none_on_others_but_gemmas_to_load() -> None:
    bars = bars_by_case(Wanted([DEMO, plans.GEMMA, OTHER], SETTINGS))
    peer, transformers = "inference llama_cpp", "transformers bf16"
    assert {key: bar for key, bar in bars.items() if bar} == {
        ("demo.gguf", "prefill"): {peer: (3, None), transformers: (1, None)},
        ("demo.gguf", "decode greedy"): {peer: (0.8, None), transformers: (3, None)},
        ("demo.gguf", "decode 8 together"): {peer: (2, None)},
        ("demo.gguf", "decode 32 together"): {peer: (2, None)},
        ("demo.gguf", "classify"): {peer: (3, None)},
        ("demo.gguf", "load to first token"): {ABSOLUTE: (None, 1)},
        (plans.GEMMA.name, "load to first token"): {ABSOLUTE: (None, 3)},
    }
    assert {model for model, _ in bars} == {"demo.gguf", "demo.Q4_0.gguf", plans.GEMMA.name, "other.gguf"}
    assert len(bars) == 4 * 6


@pytest.mark.usefixtures("demo_model")
def test_a_quick_run_has_no_bars() -> None:
    assert not any(bars_by_case(Wanted([DEMO, plans.GEMMA], SETTINGS, quick=True)).values())


def test_torch_alone_is_ours_and_has_two_peers() -> None:
    for entry in plan(["torch"], Wanted([OTHER], SETTINGS)):
        assert [(one.name, one.ours) for one in entry.competitors] == [
            ("inference torch", True),
            ("inference llama_cpp", False),
            ("transformers bf16", False),
        ]


# Peers ---------------------------------------------------------------------------------------------------------------


def test_another_engine_of_ours_is_a_peer_with_a_name_of_its_own() -> None:
    assert (OtherEngine("torch").name, OtherEngine("torch").ours) == (TORCH.name, False)


def test_transformers_says_which_package_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else object())
    reason = TransformersBf16(OTHER).reason_unavailable()
    assert reason == "transformers reads GGUF files with the help of accelerate, not installed here."


def test_transformers_says_which_architecture_it_cannot_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(transformers_bf16, "_architectures", lambda: frozenset({"llama", "gptoss"}))
    for name, expected in (("gpt-oss", ""), ("steam", "reads no GGUF file of the architecture 'steam'.")):
        path = write_model(tmp_path / f"{name}.gguf", {"general.architecture": name})
        assert (TransformersBf16(path).reason_unavailable() or "").endswith(expected)
        assert bool(TransformersBf16(path).reason_unavailable()) is bool(expected)


@cache
def tiny_transformer(architecture: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    if architecture == "gpt2":  # counts positions from the first token, where others only compare them
        config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5)
        return transformers.GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=64, num_key_value_heads=2, initializer_range=0.5, **sizes)
    return transformers.LlamaForCausalLM(config).eval()


def recomputed(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """The greedy continuation without any cache."""
    import torch

    ids = list(prompt)
    for _ in range(tokens):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_transformers_continues_each_prompt_of_a_batch_as_it_would_alone(architecture: str) -> None:
    model = tiny_transformer(architecture)
    session = TransformersSession(model, NO_TOKENIZER)
    prompts = [[5, 9, 33], [7], [1, 2, 3, 4, 60, 12]]
    wanted = [recomputed(model, prompt, 12) for prompt in prompts]
    assert len({*map(tuple, wanted)}) == 3
    assert [[ids[0] for ids in session.steps([prompt], 12)] for prompt in prompts] == wanted
    assert [list(ids) for ids in zip(*session.steps(prompts, 12), strict=True)] == wanted
    assert list(session.batch(prompts, 2)) == [0, 1, 2, 0, 1, 2]


def test_transformers_is_not_measured_with_a_sampling_that_it_would_leave_out() -> None:
    session = TransformersSession(tiny_transformer("llama"), NO_TOKENIZER)
    with pytest.raises(RuntimeError, match="greedily"):
        session.stream([1], 1, SAMPLED)


# The machine's limits ------------------------------------------------------------------------------------------------

MATRICES = (
    Tensor("token_embd.weight", (64, 10), "F16"),
    Tensor("blk.0.attn_norm.weight", (64,), "F32"),
    Tensor("blk.0.attn_q.weight", (64, 100), "Q8_0"),
    Tensor("blk.0.ffn_up_exps.weight", (64, 32, 8), "Q8_0"),
    Tensor("output.weight", (64, 10), "F32"),
)
EXPERT_KEYS = {"llama.expert_count": 8, "llama.expert_used_count": 2}
QUERY_BYTES, EXPERT_BYTES = 2 * 34 * 100, 2 * 34 * 32


def header_of(path: Path, tensors: Sequence[Tensor]) -> Header:
    return read_header(write_model(path, EXPERT_KEYS, tensors=tensors))


def test_a_token_reads_all_but_the_embeddings_and_the_experts_that_it_does_not_use(tmp_path: Path) -> None:
    header = header_of(tmp_path / "own.gguf", MATRICES)
    assert token_bytes(header) == 4 * 64 + QUERY_BYTES + 2 * EXPERT_BYTES + 4 * 640
    assert layer_weights(header) == 6400 + 2 * 2048


def test_a_token_reads_the_embeddings_where_they_are_the_output(tmp_path: Path) -> None:
    header = header_of(tmp_path / "tied.gguf", MATRICES[:-1])
    assert token_bytes(header) == 4 * 64 + QUERY_BYTES + 2 * EXPERT_BYTES + 2 * 640
    assert layer_weights(header) == 6400 + 2 * 2048


def test_a_pass_over_many_tokens_reads_most_experts(tmp_path: Path) -> None:
    header = header_of(tmp_path / "own.gguf", MATRICES)
    rest = 4 * 64 + QUERY_BYTES + 4 * 640
    assert token_bytes(header, 2) == round(rest + 8 * EXPERT_BYTES * (1 - 0.75**2))
    assert token_bytes(header, 1000) == rest + 8 * EXPERT_BYTES


def test_the_least_of_bandwidth_and_product_is_the_limit(tmp_path: Path) -> None:
    header = header_of(tmp_path / "own.gguf", MATRICES)
    reads, products = token_bytes(header), 2 * (6400 + 2 * 2048 + 640)
    limits = MachineLimits(read=reads * 100, multiply=products * 1000)
    assert at_best(header, Work(1, 1), limits) == pytest.approx(100)
    assert at_best(header, Work(1, 1, depth=64), limits) < 99
    dense = header_of(tmp_path / "dense.gguf", (MATRICES[0], MATRICES[2], MATRICES[4]))
    many = MachineLimits(read=1e12, multiply=2 * (64 * 6400 + 640) * 10)
    assert at_best(dense, Work(64, 1), many) == pytest.approx(640)


def test_the_remark_says_the_share_of_each_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = header_of(tmp_path / "tiny.gguf", (MATRICES[0], MATRICES[2], MATRICES[4])).path
    reads = 34 * 2 * 100 + 4 * 640
    monkeypatch.setattr(share, "machine_limits", lambda _: MachineLimits(read=reads * 4e6, multiply=1e18))
    entries = [Entry(TORCH.name, True, samples={1: 1e6}), Entry("transformers bf16", False, samples={1: 2e6})]
    entries.append(Entry(BESIDE_TORCH.name, False, error="it fell over"))
    remark = share_remark(path, 2, Cell("decode greedy", path.name, "tokens/s", {}, {}, entries))
    assert remark is not None
    assert "at best 4000000 tokens/s with 2 threads" in remark
    assert remark.endswith("Share of that: inference torch 25%; transformers bf16 50%.")  # what failed has no share
    facts = {"tokens": 512, "settings": {"batch_size": 256}}
    monkeypatch.setattr(share, "machine_limits", lambda _: MachineLimits(read=1e18, multiply=(2 * 6400 + 5) * 8e6))
    remark = share_remark(path, 1, Cell("prefill", path.name, "tokens/s", facts, {}, entries))
    assert remark is not None
    assert "at best 8000000 tokens/s with 1 thread (" in remark
    assert remark.endswith("inference torch 12%; transformers bf16 25%.")
    assert share_remark(path, 2, Cell("decode greedy", path.name, "tokens/s", {}, {}, [])) is None
    for other in ("classify", "decode Q4_K"):  # the latter decodes blocks, and no tokens
        assert share_remark(path, 2, Cell(other, path.name, "tokens/s", {}, {}, entries)) is None
    assert share_remark(tmp_path, 2, Cell("decode greedy", tmp_path.name, "tokens/s", {}, {}, entries)) is None


def test_the_limits_are_measured() -> None:
    limits = measured_limits(buffer_bytes=2**22, side=64, repeats=2)
    assert limits.read > 1e6
    assert limits.multiply > 1e6


# Weights in memory ---------------------------------------------------------------------------------------------------


class TwoBytes:
    """An engine that keeps each weight in two bytes."""

    name: ClassVar[str] = "two bytes"
    ours: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()

    def reason_unavailable(self) -> str | None:
        return None

    def weight_bytes(self, header: Header) -> int:
        return 2 * header.parameters


def test_weights_in_memory_are_counted_by_those_in_the_file(tmp_path: Path) -> None:
    for name in BLOCK_LAYOUTS:
        (entry,) = measure(WeightMemory(name), [TwoBytes()], repeats=1).entries
        form = block_format(name)
        assert entry.samples == {1: pytest.approx(2 * form.elements / form.size_bytes)}
        assert entry.beside["packed, bits"] == [16]
    path = write_model(tmp_path / "half.gguf", tensors=(Tensor("a", (64, 8), "F32"),))
    (entry,) = measure(WeightMemory(model=path), [TwoBytes()], repeats=1).entries
    assert entry.samples == {1: 0.5}


def test_every_block_format_has_its_line_and_four_of_them_the_bar() -> None:
    entries = list(plan(["torch-memory"], Wanted([], SETTINGS)))
    assert [entry.case.name for entry in entries] == [f"weights in memory, {name}" for name in BLOCK_LAYOUTS]
    assert len(entries) == 16
    bars = {entry.case.name.split(", ")[1]: entry.case.bars[ABSOLUTE].at_most for entry in entries if entry.case.bars}
    assert bars == dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q4_K"), 1.12)
    for entry in entries:
        cell = measure(entry.case, entry.competitors, repeats=1)
        assert not cell.missed
        assert cell.entries[0].spread


def test_the_table_in_the_backends_readme_is_what_is_reckoned() -> None:
    lines = (plans.REPOSITORY / "backends/rocm/README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| Q4_0"))
    names, _, factors = (line.strip("| ").split(" | ") for line in lines[start : start + 3])
    told = {name: factor for entry, factor in zip(names, factors, strict=True) for name in entry.split(", ")}
    assert set(told) == set(BLOCK_LAYOUTS)
    for name, form in PACKED.items():  # the others hang on what the CPU multiplies
        file = block_format(name)
        assert told[name] == f"{form.bytes_per_weight * file.elements / file.size_bytes:.2f}", name
