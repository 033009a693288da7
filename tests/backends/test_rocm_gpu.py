"""On an AMD GPU: compiled kernels compute what they are held to on Triton's interpreter, captured passes what they
compute when they are run, and the text is the CPU's. `python -m pytest -m rocm --require rocm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES, EVERY_FORMAT
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import Recipe, write
from conformance.near_ties import near_ties
from exact_text import greedy

from inference import load_model
from inference.engine.model import EngineModel
from inference.errors import InsufficientMemoryError
from inference.gguf.architectures import Activation
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import tokenizer_of
from inference.options import GenerateOptions
from inference.protocols import Row

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import gpu_attention as attention  # noqa: E402 - after torch and triton are known to be there
import gpu_elements as elements  # noqa: E402
import gpu_matrices as matrices  # noqa: E402
import gpu_sampling as sampling  # noqa: E402
from gpu_sequences import GPUSequences, engine_of  # noqa: E402
from inference_rocm.devices import availabilities  # noqa: E402
from inference_rocm.gpu.device import Device  # noqa: E402
from inference_rocm.gpu.graphs import Graphs  # noqa: E402
from inference_rocm.gpu.loading import device_named, load_gpu_runner  # noqa: E402
from inference_rocm.gpu.runner import GPURunner  # noqa: E402
from test_torch_decoder import engine_of as cpu_engine_of  # noqa: E402

pytestmark = pytest.mark.rocm

PROMPT = [5, 9, 200, 7, 1000, 3]
EXACT = Recipe(
    architecture="llama", embedding_length=64, heads=2, kv_heads=1, head_length=32, feed_forward_length=128
)  # fmt: skip
"""All in float32: then nothing is rounded on the way, and greedy text is the exact one."""
LENGTH = 128
HALVES = [torch.float16, torch.bfloat16]
LOGITS = 1e-4
"""Largest difference of logits by their range: float32 sums in another order, and a GPU's exponentials."""
ATTENDED = {**attention.CLOSE, torch.float32: 1e-5}
SMOLLM_TOKENS = 32


@pytest.fixture(scope="module")
def name() -> str:
    """What `device=` calls the GPU that the backend would choose."""
    return next(entry.device for entry in availabilities() if entry.available)


@pytest.fixture
def gpu(name: str) -> Device:
    torch.manual_seed(0)
    device = device_named(name)
    device.activate()
    return device


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "model.gguf"
    write(EXACT, path)
    return path


@pytest.fixture(scope="module")
def model(path: Path, name: str) -> Iterator[EngineModel]:
    loaded = load_model(path, backend="rocm", device=name, context_length=LENGTH)
    assert isinstance(loaded, EngineModel)
    with loaded:
        yield loaded


@pytest.fixture
def runner(path: Path, gpu: Device) -> Iterator[GPURunner]:
    runner = loaded(path, gpu)
    yield runner
    runner.free()


def loaded(path: Path, gpu: Device) -> GPURunner:
    return load_gpu_runner(read_header(path), gpu, context_length=LENGTH, max_slots=4, batch_size=LENGTH)


def ids(stream: Any) -> list[int]:
    return [token.id for token in stream]


# Kernels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name_of_format", matrices.FORMATS)
def test_matrices_of_every_block_format_are_multiplied_with_few_and_many_rows(name_of_format: str, gpu: Device) -> None:
    half = {"F32": torch.float32, "BF16": torch.bfloat16}.get(name_of_format, torch.float16)
    matrices.require_products(name_of_format, (1, 4, 16, 100), 300, half, gpu)


@pytest.mark.parametrize("name_of_format", ["Q4_K", "Q6_K", "Q8_0", "MXFP4", "F16"])
def test_matrices_are_multiplied_in_bfloat16(name_of_format: str, gpu: Device) -> None:
    matrices.require_products(name_of_format, (16, 100), 300, torch.bfloat16, gpu)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name_of_format", ["Q4_K", "Q6_K", "Q8_0", "MXFP4", "F16"])
def test_each_pair_goes_through_its_own_expert(name_of_format: str, together: bool, gpu: Device) -> None:
    matrices.require_experts(name_of_format, together, torch.float16, gpu)


@pytest.mark.parametrize("name_of_format", matrices.FORMATS)
def test_rows_are_gathered_as_the_file_has_them(name_of_format: str, gpu: Device) -> None:
    matrices.require_gathered(name_of_format, gpu)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "length"), [(32, 8, 128), (32, 4, 128), (9, 3, 64), (4, 1, 256), (2, 2, 80), (11, 1, 24)]
)
def test_heads_of_any_shape_attend(heads: int, kv_heads: int, length: int, half: torch.dtype, gpu: Device) -> None:
    attending = attention.Attending(length**-0.5)
    attention.require_right(attending, heads, kv_heads, length, half, gpu, ATTENDED[half])


@pytest.mark.parametrize(("softcap", "window", "with_sinks"), [
    (3.0, None, False), (None, 7, False), (None, 100, True), (3.0, 1, True), (None, None, True),
])  # fmt: skip
def test_every_rule_of_attention_holds(
    softcap: float | None, window: int | None, with_sinks: bool, gpu: Device
) -> None:
    sinks = torch.randn(8) * 3 if with_sinks else None
    attending = attention.Attending(softcap=softcap, window=window, sinks=sinks)
    attention.require_right(attending, 8, 2, 64, torch.float16, gpu, ATTENDED[torch.float16])


@pytest.mark.parametrize("half", [torch.float32, *HALVES])
@pytest.mark.parametrize("window", [None, 3500])
@pytest.mark.parametrize("heads", [1, 6])
def test_contexts_of_thousands_are_seen_to_their_ends(
    heads: int, window: int | None, half: torch.dtype, gpu: Device
) -> None:
    attention.require_seen_to_the_ends(window, heads, 64, half, gpu, max(ATTENDED[half], 2e-3))


@pytest.mark.parametrize("given", elements.TYPES)
@pytest.mark.parametrize("out", elements.TYPES)
def test_norms_are_pytorchs(given: torch.dtype, out: torch.dtype, gpu: Device) -> None:
    for length in (1, 576, 4096):
        elements.require_normed(5, length, given, out, gpu)


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("dtype", elements.TYPES)
def test_what_is_added_to_the_stream_is_normalised_and_scaled(with_norm: bool, dtype: torch.dtype, gpu: Device) -> None:
    elements.require_added(5, 1000, with_norm, dtype, gpu)


@pytest.mark.parametrize("activation", ["silu", "gelu", "clamped_swiglu"])
@pytest.mark.parametrize("dtype", elements.TYPES)
def test_activation_functions_are_pytorchs(activation: Activation, dtype: torch.dtype, gpu: Device) -> None:
    elements.require_gated(activation, 5, 1000, dtype, gpu)


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("dtype", elements.TYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "turning"), [(9, 3, 64, 64), (4, 2, 128, 128), (4, 1, 256, 128), (2, 2, 80, 32)]
)
def test_heads_are_normalised_turned_and_put_into_their_places(
    heads: int, kv_heads: int, length: int, turning: int, dtype: torch.dtype, with_norms: bool, gpu: Device
) -> None:
    elements.require_placed(7, heads, kv_heads, length, turning, with_norms, gpu, dtype)


SAMPLING: list[dict[str, Any]] = [
    {"top_k": 40},
    {"top_p": 0.9},
    {"top_k": 300, "top_p": 0.5},
    {"top_k": 7, "min_p": 0.1},
    {"top_p": 0.95, "repeat_penalty": 1.3, "logit_bias": {3: 1.0, 1: float("-inf")}},
    {"frequency_penalty": 0.5, "presence_penalty": 0.2},
    {},
]


@pytest.mark.parametrize("vocabulary", [21, 5000, 151_936])
def test_the_sampler_keeps_and_draws_what_its_definition_says(vocabulary: int, gpu: Device) -> None:
    logits = np.random.default_rng(2).normal(size=(len(SAMPLING), vocabulary)).astype(np.float32) * 2
    rows: list[sampling.Row] = [
        (logits[row].tolist(), GenerateOptions(temperature=0.8, **case), row, list(range(row)))
        for row, case in enumerate(SAMPLING)
    ]
    sampling.require_kept(rows, gpu, rounding=1e-5)
    sampling.require_first_to_arrive(rows, gpu)
    sampling.require_first_to_arrive(rows[-2:], gpu)  # no filters
    greedy_rows: list[sampling.Row] = [(each, sampling.GREEDY, 0, ()) for each, *_ in rows]
    assert sampling.Steps(greedy_rows, device=gpu).step() == logits.argmax(axis=1).tolist()


# The decoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*EVERY_FORMAT, "mixtral", "phi3-partial-rotary", "gpt-oss-mxfp4"])
def test_logits_are_the_numpy_decoders_however_the_tokens_are_fed(case: str, tmp_path: Path, gpu: Device) -> None:
    write(CASES[case], tmp_path / "model.gguf")
    tokens = np.random.default_rng(1).integers(0, 49_152, 8).tolist()
    exact = PlainDecoder(tmp_path / "model.gguf", context_length=64).logits(tokens)
    found = GPUSequences(tmp_path / "model.gguf", device=gpu).in_pieces(tokens, [5, 1, 2])
    assert np.abs(found - exact).max() / np.ptp(exact) < LOGITS


# Captured passes ------------------------------------------------------------------------------------------------------


def told(runner: GPURunner) -> list[Any]:
    """Tokens and logits of two sequences, one of which draws."""
    runner.resize(2, LENGTH, wait=True)
    runner.open(0, GenerateOptions(), 0, PROMPT)
    runner.open(1, GenerateOptions(temperature=2.0, top_k=200, top_p=0.9, repeat_penalty=1.1), 7, PROMPT[2:])
    steps = [runner.step([Row(0, PROMPT, logits=True), Row(1, PROMPT[2:], logits=True)])]
    steps += [runner.step([Row(0, logits=True), Row(1, logits=True)]) for _ in range(6)]
    steps += [runner.step([Row(1, logits=True)]) for _ in range(3)]
    return [(list(step.tokens()), step.logits()) for step in steps]


def test_a_captured_pass_gives_what_it_gives_when_it_is_run(
    path: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = loaded(path, gpu)
    found = told(captured)
    captured.free()
    monkeypatch.setattr(Graphs, "_captured", lambda self, compute: compute)
    run = loaded(path, gpu)
    assert told(run) == found
    run.free()


def test_memory_grows_under_captured_passes_without_losing_what_it_holds(runner: GPURunner, path: Path) -> None:
    wanted = greedy(path, PROMPT, 5)
    runner.open(0, GenerateOptions(), 0, PROMPT)
    steps = [runner.step([Row(0, PROMPT)]), runner.step([Row(0)]), runner.step([Row(0)])]
    runner.resize(3, LENGTH, wait=True)
    assert runner.fork(0, 2, 4) == 4
    runner.open(2, GenerateOptions(), 0, PROMPT)
    steps += [runner.step([Row(0), Row(2, PROMPT[4:])]), runner.step([Row(0), Row(2)])]
    assert [step.tokens()[0] for step in steps] == wanted
    assert [step.tokens()[1] for step in steps[3:]] == wanted[:2]
    assert runner.trim(0, 5) == 5
    assert runner.step([Row(0, PROMPT[5:])]).tokens() == wanted[:1]


# Text -----------------------------------------------------------------------------------------------------------------


def test_greedy_text_is_the_cpus(model: EngineModel, path: Path) -> None:
    wanted = greedy(path, PROMPT, 24)
    assert ids(model.generate(PROMPT, max_tokens=24, ignore_eos=True)) == wanted
    with load_model(path, backend="torch", context_length=LENGTH) as on_cpu:
        assert ids(on_cpu.generate(PROMPT, max_tokens=24, ignore_eos=True)) == wanted


def test_thirty_two_prompts_at_once_get_the_text_that_each_gets_alone(model: EngineModel) -> None:
    prompts = [[*PROMPT[: 1 + index % 6], 40 + index] for index in range(32)]
    options = GenerateOptions(max_tokens=4, ignore_eos=True)
    together: dict[int, list[int]] = {}
    for index, token in model.batch_generate(prompts, options=options):
        together.setdefault(index, []).append(token.id)
    alone = [ids(model.generate(prompt, options=options)) for prompt in prompts]
    assert [together[index] for index in range(32)] == alone


def test_a_prompt_that_begins_as_another_did_is_not_computed_again(model: EngineModel, path: Path) -> None:
    longer = [*PROMPT, *ids(model.generate(PROMPT, max_tokens=2, ignore_eos=True))]
    again = model.generate(longer, max_tokens=3, ignore_eos=True)
    assert ids(again) == greedy(path, longer, 3)
    assert again.stats is not None
    assert again.stats.cached_tokens >= len(PROMPT)


@pytest.mark.real_model
def test_smollms_greedy_text_is_the_cpus_but_for_shown_near_ties(smollm_path: Path, name: str, gpu: Device) -> None:
    text = "The capital of France is Paris. The capital of Italy is"
    with load_model(smollm_path, backend="torch", context_length=LENGTH) as on_cpu:
        wanted = ids(on_cpu.generate(text, max_tokens=SMOLLM_TOKENS, ignore_eos=True))
    with load_model(smollm_path, backend="rocm", device=name, context_length=LENGTH) as on_gpu:
        found = ids(on_gpu.generate(text, max_tokens=SMOLLM_TOKENS, ignore_eos=True))
    prompt = tokenizer_of(read_header(smollm_path)).encode(text)
    fed, asked = prompt + wanted[:-1], range(len(prompt) - 1, len(prompt) + SMOLLM_TOKENS - 1)
    pieces = [len(prompt), *[1] * (SMOLLM_TOKENS - 1)]
    engines = engine_of(smollm_path, gpu), cpu_engine_of(smollm_path)
    logits = [engine.in_pieces(fed, pieces)[asked.start :] for engine in engines]
    ties = near_ties(PlainDecoder(smollm_path).logits(fed, asked), *logits)
    parted = min((tie.position for tie in ties), default=SMOLLM_TOKENS)
    assert found[:parted] == wanted[:parted]


# Memory ---------------------------------------------------------------------------------------------------------------


def test_what_there_is_no_memory_for_is_refused_by_name_and_the_model_goes_on(
    runner: GPURunner, path: Path, gpu: Device
) -> None:
    wanted = greedy(path, PROMPT, 3)
    runner.open(0, GenerateOptions(), 0, PROMPT)
    steps = [runner.step([Row(0, PROMPT)]), runner.step([Row(0)])]
    free, _ = torch.cuda.mem_get_info(gpu.torch)
    hog = torch.empty(max(0, free - (64 << 20)), dtype=torch.uint8, device=gpu.torch)
    with pytest.raises(InsufficientMemoryError, match=r"take \d+\.\d\d GiB"):
        runner.resize(4, LENGTH, wait=True)
    del hog
    torch.cuda.empty_cache()
    steps.append(runner.step([Row(0)]))
    assert [step.tokens()[0] for step in steps] == wanted
    runner.resize(4, LENGTH, wait=True)
    assert runner.slots == 4
