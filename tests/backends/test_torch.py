"""Backend `torch`: real models through `load_model`, with the meaning that every option has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bare_llama import BareLlama
from conformance.cases import CASES
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write
from conformance.near_ties import divergence, near_ties
from conformance.test_real_models import PROMPTS
from conformance.yardstick import yardstick

from inference import Message, load_model
from inference.errors import (
    ContextTooLargeError,
    CorruptFileError,
    EngineError,
    InsufficientMemoryError,
    OptionValueError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import tokenizer_of
from inference.protocols import BatchModel, StatsModel

torch = pytest.importorskip("torch")

from inference_rocm.cpu.operations import COperations  # noqa: E402
from kernel_definitions import kernels_on  # noqa: E402 - after torch is known to be there
from test_torch_decoder import Sequences  # noqa: E402

pytestmark = pytest.mark.real_model

TOKENS = 48


@pytest.fixture(scope="module")
def model(smollm_path: Path) -> Iterator[BatchModel]:
    with load_model(smollm_path, backend="torch", context_length=512, parallel=8) as loaded:
        assert isinstance(loaded, BatchModel)
        yield loaded


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["smollm_path", "gemma_path"])
def test_the_text_is_llama_cpps_but_for_shown_near_ties(fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    llama, exact, tokenizer = BareLlama(path, 512), PlainDecoder(path), tokenizer_of(read_header(path))
    ours = Sequences(path, COperations(kernels_on()), length=128)
    for text in PROMPTS[:3]:
        prompt = tokenizer.encode(text)
        tokens, theirs = llama.greedy(prompt, TOKENS)
        fed = prompt + tokens[:-1]
        wanted = range(len(prompt) - 1, len(fed))
        found = ours.in_pieces(fed, [len(prompt), *[1] * (TOKENS - 1)])[len(prompt) - 1 :]
        near_ties(exact.logits(fed, wanted), found, theirs)
    llama.free()


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["smollm_path", "gemma_path"])
def test_real_models_are_no_farther_from_exact_arithmetic_than_the_yardstick(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(fixture)
    tokens = tokenizer_of(read_header(path)).encode(" ".join(PROMPTS))[:64]
    exact = PlainDecoder(path).logits(tokens)
    bound = yardstick(path, tokens, tmp_path).bound
    for lengths in ([len(tokens)], [1] * len(tokens)):
        ours = Sequences(path, COperations(kernels_on())).in_pieces(tokens, lengths)
        assert divergence(exact, ours)[0] <= bound


def test_a_chat_streams_and_its_second_turn_pays_for_its_new_tokens_alone(model: BatchModel) -> None:
    turns = [Message("user", "Name one river.")]
    first = model.chat(turns, max_tokens=12)
    turns += [Message("assistant", first.text()), Message("user", "Another one.")]
    second = model.chat(turns, max_tokens=4)
    assert second.text()
    assert second.stats is not None
    assert second.stats.cached_tokens > 20


def test_the_same_seed_gives_the_same_text_and_another_one_another(model: BatchModel) -> None:
    def text(seed: int) -> str:
        return model.generate("Once upon a time", max_tokens=24, temperature=1.0, top_p=0.95, seed=seed).text()

    text(7)  # the next ones find their prompt computed, so that all steps have the same shape
    assert text(7) == text(7)
    assert len({text(seed) for seed in range(4)}) > 1


def test_many_prompts_at_once_give_what_each_gives_alone_to_the_bit(smollm_path: Path) -> None:
    """A row's arithmetic does not hang on the rows beside it. It does hang on how its prompt was cut into passes, so no
    prompt here begins like another, and both models are new."""
    prompts = [f"{number} plus one is" for number in ("One", "Two", "Three", "Seven", "Nine", "Twelve", "Forty")]
    found: list[dict[int, list[float | None]]] = []
    for together in (True, False):
        with load_model(smollm_path, backend="torch", context_length=256, parallel=8) as model:
            assert isinstance(model, BatchModel)
            logprobs: dict[int, list[float | None]] = {index: [] for index in range(len(prompts))}
            groups = [prompts] if together else [[prompt] for prompt in prompts]
            for first, group in enumerate(groups):
                for index, token in model.batch_generate(group, max_tokens=8, logprobs=1):
                    logprobs[first + index].append(token.logprob)
            found.append(logprobs)
    assert found[0] == found[1]


def test_labels_are_scored_as_the_sum_of_their_tokens(model: BatchModel) -> None:
    (found,) = model.classify(["The capital of France is"], labels=[" Paris", " Berlin", " a small town"])
    assert found.label == " Paris"
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    (plain,) = model.classify(["The capital of France is"], return_logits=True)
    assert len(plain.logits) == model.tokenizer.vocabulary_size
    assert plain.token.id == int(np.argmax(plain.logits))


def test_logprobs_are_of_the_plain_distribution(model: BatchModel) -> None:
    (token,) = model.generate("The capital of France is", max_tokens=1, logprobs=3, temperature=0.7, top_k=1)
    assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
    assert [entry.logprob for entry in token.top_logprobs] == sorted(
        (entry.logprob for entry in token.top_logprobs), reverse=True
    )


def test_memory_is_told(model: BatchModel) -> None:
    assert isinstance(model, StatsModel)
    memory = model.stats().memory
    assert memory is not None
    assert 80e6 < memory.active_bytes < 400e6


@pytest.mark.parametrize("options", [{"kv_cache_type": "q8_0"}, {"mlock": True}, {"gpu_layers": 3}])
def test_an_option_that_it_lacks_is_an_error(options: dict[str, object], smollm_path: Path) -> None:
    (name,) = options
    with pytest.raises(UnsupportedOptionError, match=f"`{name}`"):
        load_model(smollm_path, backend="torch", **options)


def test_what_cannot_be_had_is_refused_before_anything_is_loaded(smollm_path: Path) -> None:
    with pytest.raises(ContextTooLargeError, match="KV memory"):
        load_model(smollm_path, backend="torch", context_length=10**9)
    with pytest.raises(OptionValueError, match="`threads`"):
        load_model(smollm_path, backend="torch", threads=10_000)


def test_a_model_that_the_decoder_does_not_know_is_refused_by_name(llama_cpp_sources: Path, tmp_path: Path) -> None:
    from tiny_models import tiny_model

    path = tmp_path / "model.gguf"
    tiny_model(path, "llama", keys={"rope.scaling.type": "ntk"})
    with pytest.raises(UnsupportedModelError, match="'ntk'"):
        load_model(path, backend="torch")


def test_finding_out_what_is_available_does_not_import_torch() -> None:
    program = (
        "import sys; from inference import list_backends; [b.probe() for b in list_backends()];"
        "assert {b.name for b in list_backends()} >= {'torch', 'rocm'}; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_damaged_rope_factor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES["llama-llama3"], path)
    tensor = read_header(path).tensors["rope_freqs.weight"]
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(bytes(4))
    with pytest.raises(CorruptFileError, match=r"`rope_freqs.weight`.*factor 0"):
        load_model(path, backend="torch")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")])
def test_memory_that_runs_out_while_loading_is_told_as_such(
    error: Exception, smollm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import inference_rocm.loading as loading

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loading, "build_decoder", fail)
    with pytest.raises(InsufficientMemoryError, match="memory ran out while loading"):
        load_model(smollm_path, backend="torch")


def test_memory_that_runs_out_in_a_step_ends_that_call_and_no_other(
    model: BatchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference_rocm.cpu.kernels import Kernels

    def fail(*_: object) -> None:
        raise MemoryError("there is none")

    with monkeypatch.context() as patch:
        patch.setattr(Kernels, "gate", fail)
        with pytest.raises(EngineError, match="memory ran out in a step of"):
            model.generate("What fails?", max_tokens=2).text()
    assert model.generate("The capital of France is", max_tokens=2).text()


def test_memory_is_reckoned_for_the_form_that_weights_will_have(
    smollm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without kernels they are dense: what fitted does not fit any more, whyever they cannot be had."""
    import inference_rocm.backend as backend

    monkeypatch.setattr(backend, "available_memory", lambda: 450 * 10**6)
    load_model(smollm_path, backend="torch", context_length=256, parallel=1).close()
    monkeypatch.setattr(backend, "library", lambda: None)
    with pytest.raises(InsufficientMemoryError, match=r"0\.25 GiB for its weights"):
        load_model(smollm_path, backend="torch", context_length=256, parallel=1)


def test_a_file_in_float32_is_computed_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES["llama-F32"], path)
    tokens = [5, 17, 300, 4]
    with load_model(path, backend="torch", context_length=64) as model:
        assert isinstance(model, BatchModel)
        (found,) = model.classify([tokens], return_logits=True)
    exact = PlainDecoder(path, context_length=64).logits(tokens)[-1]
    assert np.abs(np.array(found.logits) - exact).max() < 1e-4 * np.ptp(exact)
