"""The backend `rocm` from file to text: the engine, the runner and all kernels, on Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance.cases import LONG_CASES
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write
from exact_text import greedy

from inference import load_model
from inference.engine.model import EngineModel
from inference.engine.results import NO_SAMPLE
from inference.errors import InsufficientMemoryError, OptionValueError
from inference.gguf.reader import read_header
from inference.options import GenerateOptions
from inference.protocols import Row

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from inference_rocm.gpu.device import INTERPRETER  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu.loading import load_gpu_runner  # noqa: E402
from inference_rocm.gpu.pending import GPUPending  # noqa: E402
from inference_rocm.gpu.runner import GPURunner  # noqa: E402

PROMPT = [5, 9, 200, 7, 1000, 3]
FILE = replace(LONG_CASES["llama"], block_formats=("F32",), tied=True)
"""All in float32: then nothing is rounded on the way, and greedy text is the exact one."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rocm") / "model.gguf"
    write(FILE, path)
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[EngineModel]:
    loaded = load_model(path, backend="rocm", device="interpreter", context_length=128)
    assert isinstance(loaded, EngineModel)
    with loaded:
        yield loaded


@pytest.fixture
def runner(path: Path) -> Iterator[GPURunner]:
    runner = load_gpu_runner(read_header(path), INTERPRETER, context_length=64, max_slots=4, batch_size=64)
    yield runner
    runner.free()


def ids(stream: object) -> list[int]:
    return [token.id for token in stream]  # type: ignore[attr-defined]


def test_greedy_text_is_the_cpu_decoders(model: EngineModel, path: Path) -> None:
    wanted = greedy(path, PROMPT, 6)
    assert ids(model.generate(PROMPT, max_tokens=6, ignore_eos=True)) == wanted
    with load_model(path, backend="torch", context_length=128) as on_cpu:
        assert ids(on_cpu.generate(PROMPT, max_tokens=6, ignore_eos=True)) == wanted


def test_prompts_in_a_batch_get_the_text_that_they_get_alone(model: EngineModel) -> None:
    prompts = [PROMPT, [17, 4], [99, 98, 97, 1]]
    options = GenerateOptions(max_tokens=4, ignore_eos=True, temperature=0.9, top_k=50, seed=3)
    alone = [ids(model.generate(prompt, options=options)) for prompt in prompts]
    together: dict[int, list[int]] = {}
    for index, token in model.batch_generate(prompts, options=options):
        together.setdefault(index, []).append(token.id)
    assert [together[index] for index in range(3)] == alone


def test_a_prompt_that_begins_as_another_did_is_not_computed_again(model: EngineModel) -> None:
    longer = [*PROMPT, *ids(model.generate(PROMPT, max_tokens=2, ignore_eos=True))]
    again = model.generate(longer, max_tokens=1, ignore_eos=True)
    assert len(ids(again)) == 1
    assert again.stats is not None
    assert again.stats.cached_tokens >= len(PROMPT)


def test_scores_and_logprobs_are_those_of_the_plain_distribution(model: EngineModel, path: Path) -> None:
    logits = PlainDecoder(path, context_length=64).logits(PROMPT)[-1].astype(np.float64)
    exact = logits - np.logaddexp.reduce(logits)
    (token,) = model.generate(PROMPT, max_tokens=1, logprobs=3, temperature=0.7, top_k=5, seed=1, ignore_eos=True)
    assert token.logprob == pytest.approx(exact[token.id], abs=1e-4)
    (found,) = model.classify([PROMPT], return_logits=True)
    assert found.logits is not None
    np.testing.assert_allclose(found.logits, logits, atol=1e-3)


def test_a_step_is_launched_before_the_one_before_was_read(runner: GPURunner, path: Path) -> None:
    wanted = greedy(path, PROMPT, 3)
    runner.open(0, GenerateOptions(), 0, PROMPT)
    steps = [runner.step([Row(0, PROMPT)]), runner.step([Row(0)]), runner.step([Row(0)])]
    assert [step.tokens()[0] for step in steps] == wanted


def test_slots_are_forked_trimmed_and_grow_without_losing_what_they_hold(runner: GPURunner, path: Path) -> None:
    wanted = greedy(path, PROMPT, 2)
    runner.open(0, GenerateOptions(), 0, PROMPT)
    first = runner.step([Row(0, PROMPT)])
    runner.resize(3, 64, wait=True)
    assert runner.fork(0, 2, 4) == 4
    runner.open(2, GenerateOptions(), 0, PROMPT)
    both = runner.step([Row(0), Row(2, PROMPT[4:])])
    assert [first.tokens()[0], both.tokens()[0]] == wanted
    assert both.tokens()[1] == wanted[0]
    assert runner.trim(0, 5) == 5
    assert runner.step([Row(0, PROMPT[5:])]).tokens() == wanted[:1]


def test_rows_that_only_score_draw_nothing(runner: GPURunner) -> None:
    runner.open(0, GenerateOptions(), 0, PROMPT)
    runner.step([Row(0, PROMPT)])
    step = runner.step([Row(0, [7], sample=False, score=(1, 2))])
    assert step.tokens() == [NO_SAMPLE]
    (scores,) = step.scores()
    assert scores is not None
    assert len(scores) == 2
    assert all(score < 0 for score in scores)


def test_logits_that_are_no_numbers_have_no_log_probabilities() -> None:
    pending = GPUPending(INTERPRETER, 1)
    pending.ask_logprobs(0, torch.full((8,), float("nan")), torch.tensor([NO_SAMPLE], dtype=torch.int32), 2)
    assert pending.launched().logprobs() == [None]


def test_what_cannot_be_had_is_said_before_anything_is_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionValueError, match="`parallel` must be at most"):
        load_model(path, backend="rocm", device="interpreter", parallel=10_000)
    import inference_rocm.backend as backend

    monkeypatch.setattr(backend, "available_memory", lambda: 1 << 20)
    with pytest.raises(InsufficientMemoryError, match=r"needs .* GiB for its weights"):
        load_model(path, backend="rocm", device="interpreter")
