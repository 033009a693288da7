"""Backend `metal` on MLX's CPU device: models through `load_model`, with the meaning that every option has."""

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
from conformance.yardstick import yardstick

from inference import list_backends, load_model
from inference.errors import (
    BackendUnavailableError,
    ContextTooLargeError,
    CorruptFileError,
    InsufficientMemoryError,
    LoadAbortedError,
    OptionValueError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import tokenizer_of
from inference.hardware import machine
from inference.protocols import BatchModel, StatsModel

mx = pytest.importorskip("mlx.core")

from inference_mlx.precision import precision_of  # noqa: E402 - after mlx is known to be there
from mlx_sequences import MLXSequences, float32_sums  # noqa: E402

pytestmark = pytest.mark.real_model

PROMPT = "The capital of France is Paris. The capital of Italy is"
TOKENS = 16
HERE = {"backend": "metal", "device": "cpu"}
on_apple = any(gpu.vendor == "apple" for gpu in machine().gpus)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of 24 tokens, heads of 256, a vocabulary of 49,152."""
    path = tmp_path_factory.mktemp("tiny") / "model.gguf"
    write(CASES["gemma3-one-kv-head"], path)
    return path


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> Iterator[BatchModel]:
    with load_model(tiny_path, context_length=128, parallel=8, **HERE) as loaded:
        assert isinstance(loaded, BatchModel)
        yield loaded


# The text -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["smollm_path", "gemma_path"])
def test_the_text_is_llama_cpps_but_for_shown_near_ties(fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    llama, tokenizer = BareLlama(path, 512), tokenizer_of(read_header(path))
    prompt = tokenizer.encode(PROMPT)
    tokens, theirs = llama.greedy(prompt, TOKENS)
    llama.free()
    fed = prompt + tokens[:-1]
    found = MLXSequences(path).after(fed, [len(prompt), *[1] * (TOKENS - 1)])
    near_ties(PlainDecoder(path).logits(fed, range(len(prompt) - 1, len(fed))), found, theirs)


@pytest.mark.slow
def test_a_real_model_is_no_farther_from_exact_arithmetic_than_the_yardstick(smollm_path: Path, tmp_path: Path) -> None:
    """Neither in float32, nor in the types that an Apple GPU gets, with its sums. `make conformance` has Gemma too."""
    header = read_header(smollm_path)
    tokens = tokenizer_of(header).encode(PROMPT)
    exact, bound = PlainDecoder(smollm_path).logits(tokens), yardstick(smollm_path, tokens, tmp_path).bound
    assert divergence(exact, MLXSequences(smollm_path).in_pieces(tokens, [len(tokens)]))[0] <= bound
    with float32_sums():
        as_on_metal = MLXSequences(smollm_path, getattr(mx, precision_of(header, "metal")))
        assert divergence(exact, as_on_metal.in_pieces(tokens, [len(tokens)]))[0] <= bound


def test_gemma_gets_a_type_that_its_activations_fit_into_and_others_the_files_own(
    gemma_path: Path, smollm_path: Path
) -> None:
    assert precision_of(read_header(gemma_path), "metal") == "bfloat16"
    assert precision_of(read_header(smollm_path), "metal") == "float16"
    assert precision_of(read_header(smollm_path), "cpu") == "float32"


def test_many_prompts_at_once_give_what_each_gives_alone(model: BatchModel) -> None:
    prompts = [[7 * n + k for k in range(3 + 5 * n)] for n in range(8)]
    found: dict[int, list[int]] = {n: [] for n in range(8)}
    for index, token in model.batch_generate(prompts, max_tokens=20, ignore_eos=True, cache_scope="batch"):
        found[index].append(token.id)
    for n, prompt in enumerate(prompts):
        alone = model.generate(prompt, max_tokens=20, ignore_eos=True, cache_scope=f"alone {n}")
        assert [token.id for token in alone] == found[n]


def test_a_second_turn_pays_for_its_new_tokens_alone_though_windows_have_moved_on(model: BatchModel) -> None:
    history = list(range(300, 350))
    first = [token.id for token in model.generate(history, max_tokens=10, ignore_eos=True, cache_scope="chat")]
    second = model.generate([*history, *first, 5, 6], max_tokens=4, ignore_eos=True, cache_scope="chat")
    found = [token.id for token in second]
    assert second.stats is not None
    assert second.stats.cached_tokens >= 58
    again = model.generate([*history, *first, 5, 6], max_tokens=4, ignore_eos=True, cache_scope="alone")
    assert [token.id for token in again] == found


def test_the_same_seed_gives_the_same_text_and_another_one_another(model: BatchModel) -> None:
    def drawn(seed: int) -> list[int]:
        stream = model.generate([5, 6, 7], max_tokens=12, temperature=1.0, top_p=0.95, seed=seed, ignore_eos=True)
        return [token.id for token in stream]

    assert drawn(7) == drawn(7)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1


def test_labels_are_scored_as_the_sum_of_their_tokens(model: BatchModel, tiny_path: Path) -> None:
    exact, tokenizer = PlainDecoder(tiny_path, context_length=128), model.tokenizer
    labels = [" Paris", " a small town"]
    (found,) = model.classify([[5, 6, 7]], labels=labels)
    for label in labels:
        tokens, total = [5, 6, 7], 0.0
        for token in tokenizer.encode(label, add_special=False):
            logits = exact.logits(tokens, [-1])[0].astype(np.float64)
            total += logits[token] - np.logaddexp.reduce(logits)
            tokens.append(token)
        assert found.logprobs[label] == pytest.approx(total, abs=1e-3)


# What it says of itself -----------------------------------------------------------------------------------------------


def test_memory_is_what_mlx_counts(model: BatchModel, tiny_path: Path) -> None:
    assert isinstance(model, StatsModel)
    memory = model.stats().memory
    assert memory is not None
    assert memory.measured
    assert memory.peak_bytes >= memory.active_bytes > 0.9 * read_header(tiny_path).size_bytes


def test_loading_takes_no_more_than_the_packed_weights_and_one_tensor(smollm_path: Path) -> None:
    program = (
        "import mlx.core as mx; from inference import load_model\n"
        f"model = load_model({str(smollm_path)!r}, context_length=64, backend='metal', device='cpu')\n"
        "print(mx.get_active_memory(), mx.get_peak_memory()); model.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    active, peak = map(int, done.stdout.split())
    assert peak <= active + max(tensor.size_bytes for tensor in read_header(smollm_path).tensors.values())


@pytest.mark.skipif(on_apple, reason="this machine has an Apple GPU")
def test_the_cpu_device_is_used_where_it_is_asked_for_and_never_by_itself(tiny_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r'no Apple GPU.*device="cpu"'):
        load_model(tiny_path, backend="metal")
    with load_model(tiny_path, device="cpu", context_length=64) as chosen:
        assert chosen.info().backend == "llama_cpp"
    (backend,) = (backend for backend in list_backends() if backend.name == "metal")
    assert [(entry.device, entry.available, entry.automatic) for entry in backend.probe()] == [
        ("metal", False, False),
        ("cpu", True, False),
    ]


@pytest.mark.metal
def test_the_apple_gpu_is_chosen_by_itself(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=512) as loaded:
        assert loaded.info().backend == "metal"
        assert "Rome" in loaded.generate(PROMPT, max_tokens=8).text()
        assert isinstance(loaded, StatsModel)
        memory = loaded.stats().memory
        assert memory is not None
        assert memory.active_bytes < 1.3 * read_header(smollm_path).size_bytes


@pytest.mark.metal
def test_the_apple_gpu_stays_within_the_yardstick(smollm_path: Path, tmp_path: Path) -> None:
    tokens = tokenizer_of(read_header(smollm_path)).encode(PROMPT)
    exact = PlainDecoder(smollm_path).logits(tokens)
    with load_model(smollm_path, context_length=512) as loaded:
        assert isinstance(loaded, BatchModel)
        beginnings = [tokens[: place + 1] for place in range(len(tokens))]
        found = np.array([one.logits for one in loaded.classify(beginnings, return_logits=True)])
    assert divergence(exact, found)[0] <= yardstick(smollm_path, tokens, tmp_path).bound


def test_finding_out_what_is_available_does_not_import_mlx() -> None:
    program = (
        "import sys; from inference import list_backends; [b.probe() for b in list_backends()];"
        "assert 'metal' in {b.name for b in list_backends()}; print('mlx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"kv_cache_type": "q8_0"}, {"mlock": True}, {"threads": 1}])
def test_an_option_that_it_lacks_is_an_error(options: dict[str, object], tiny_path: Path) -> None:
    (name,) = options
    with pytest.raises(UnsupportedOptionError, match=f"`{name}`"):
        load_model(tiny_path, **HERE, **options)


def test_what_cannot_be_had_is_refused_before_anything_is_loaded(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ContextTooLargeError, match="KV memory"):
        load_model(tiny_path, context_length=10**9, **HERE)
    with pytest.raises(OptionValueError, match="`parallel`"):
        load_model(tiny_path, parallel=10**6, **HERE)
    with pytest.raises(BackendUnavailableError, match="no device 'cuda'"):
        load_model(tiny_path, backend="metal", device="cuda")
    import inference_mlx.backend as backend

    monkeypatch.setattr(backend, "available_memory", lambda: 10**6)
    with pytest.raises(InsufficientMemoryError, match="for its weights"):
        load_model(tiny_path, **HERE)


def test_a_layer_that_mlx_lm_does_not_have_is_named(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inference_mlx.fitting as fitting

    monkeypatch.setattr(fitting, "FAMILIES", {})
    with pytest.raises(UnsupportedModelError, match=r"normalised heads.*gelu"):
        load_model(tiny_path, **HERE)


def test_a_weight_that_this_mlx_lm_wants_and_the_file_lacks_is_named(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.models import gemma3_text

    class Wanting(gemma3_text.Attention):  # type: ignore[misc]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            self.novelty = mx.zeros(3)

    monkeypatch.setattr(gemma3_text, "Attention", Wanting)
    with pytest.raises(UnsupportedModelError, match=r"no weight for `model.layers.0.self_attn.novelty`"):
        load_model(tiny_path, **HERE)


def test_a_damaged_rope_factor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES["llama-llama3"], path)
    tensor = read_header(path).tensors["rope_freqs.weight"]
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(bytes(4))
    with pytest.raises(CorruptFileError, match=r"`rope_freqs.weight`.*factor 0"):
        load_model(path, **HERE)


def test_loading_is_told_of_and_may_be_stopped(tiny_path: Path) -> None:
    shares: list[float] = []
    load_model(tiny_path, context_length=64, progress=shares.append, **HERE).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(LoadAbortedError, match="returned False"):
        load_model(tiny_path, progress=lambda share: False, **HERE)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc] Unable to allocate 99 bytes.")])
def test_memory_that_runs_out_while_loading_is_told_as_such(
    error: Exception, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import inference_mlx.loading as loading

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loading, "build_decoder", fail)
    with pytest.raises(InsufficientMemoryError, match="memory ran out while loading"):
        load_model(tiny_path, **HERE)


def test_a_step_that_fails_ends_that_call_and_no_other(model: BatchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference_mlx.decoder import GGUFDecoder

    def fail(*_: object) -> None:
        raise RuntimeError("[metal::malloc] there is none")

    before = [token.id for token in model.generate([5, 6], max_tokens=3, ignore_eos=True)]
    with monkeypatch.context() as patch:
        patch.setattr(GGUFDecoder, "logits", fail)
        with pytest.raises(Exception, match=r"MLX failed: .*there is none"):
            model.generate([5, 6], max_tokens=2).text()
    assert [token.id for token in model.generate([5, 6], max_tokens=3, ignore_eos=True)] == before


@pytest.mark.parametrize("leaves", ["model.close()", "next(stream)"])
def test_the_process_ends_cleanly(leaves: str, tiny_path: Path) -> None:
    """MLX aborts an interpreter that ends while it tears down what a thread left there."""
    program = (
        "from inference import load_model\n"
        f"model = load_model({str(tiny_path)!r}, context_length=64, backend='metal', device='cpu')\n"
        f"stream = model.generate([1, 2, 3], max_tokens=8, ignore_eos=True)\n{leaves}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
