"""Hugging Face's and MLX's folders on the backend `metal`, loaded by mlx-lm itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from folders import CONFIG, write_folder

from inference import BatchModel, Message, load_model
from inference.errors import (
    BackendUnavailableError,
    InsufficientMemoryError,
    LoadError,
    OptionValueError,
    UnsupportedModelError,
)
from inference.hardware import machine

mx = pytest.importorskip("mlx.core")

HERE = {"backend": "metal", "device": "cpu", "context_length": 128}
TOKENS = [5, 17, 300, 44, 9, 2, 120]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folders") / "tiny-llama").path


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[BatchModel]:
    with load_model(path, **HERE) as loaded:
        assert isinstance(loaded, BatchModel)
        yield loaded


def logits_of(model: object, tokens: list[int]) -> np.ndarray:
    assert isinstance(model, BatchModel)
    (found,) = model.classify([tokens], return_logits=True)
    return np.array(found.logits)


def test_logits_are_those_of_transformers(model: BatchModel, path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKENS])).logits[0, -1].numpy()
    assert np.abs(logits_of(model, TOKENS) - expected).max() < 1e-4 * np.ptp(expected)


def test_a_quantised_folder_of_mlx_stays_close_to_what_it_was_made_from(model: BatchModel, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny-4bit", quantized=True)
    with load_model(folder.path, **HERE) as quantised:
        assert quantised.info().quantization == "4-bit"
        found, exact = logits_of(quantised, TOKENS), logits_of(model, TOKENS)
    assert 0 < np.sqrt(np.mean((found - exact) ** 2)) < 0.3 * exact.std()


def test_numbers_in_bfloat16_are_computed_on_the_cpu_device(path: Path, tmp_path: Path, model: BatchModel) -> None:
    copy = tmp_path / "tiny-bf16"
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(path / "model.safetensors"))
    mx.save_safetensors(str(copy / "model.safetensors"), {name: w.astype(mx.bfloat16) for name, w in weights.items()})
    with load_model(copy, **HERE) as narrow:
        exact = logits_of(model, TOKENS)
        assert np.abs(logits_of(narrow, TOKENS) - exact).max() < 0.05 * np.ptp(exact)


def test_it_streams_chats_and_batches_as_any_model_does(model: BatchModel) -> None:
    assert model.model_type == "llama"
    alone = [
        [token.id for token in model.generate(prompt, max_tokens=9, ignore_eos=True, cache_scope="alone")]
        for prompt in (TOKENS, TOKENS[:3], [7])
    ]
    together: dict[int, list[int]] = {0: [], 1: [], 2: []}
    prompts = [TOKENS, TOKENS[:3], [7]]
    for index, token in model.batch_generate(prompts, max_tokens=9, ignore_eos=True, cache_scope="batch"):
        together[index].append(token.id)
    assert list(together.values()) == alone
    reply = model.chat([Message("user", "Once upon a time")], max_tokens=5, ignore_eos=True)
    assert len(list(reply)) == 5


def test_a_long_prompt_in_passes_gives_what_it_gives_at_once(path: Path, model: BatchModel) -> None:
    prompt = [(7 * n) % 380 for n in range(100)]
    with load_model(path, batch_size=32, **HERE) as other:
        assert np.abs(logits_of(other, prompt) - logits_of(model, prompt)).max() < 1e-4


def test_an_architecture_that_mlx_lm_does_not_know_is_named(path: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "odd")
    (folder.path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "novel"}), "utf-8")
    with pytest.raises(UnsupportedModelError, match=r"mlx-lm says of the architecture 'novel'"):
        load_model(folder.path, **HERE)


def test_weights_of_other_shapes_than_the_config_says_are_an_error(path: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "misshapen")
    (folder.path / "config.json").write_text(json.dumps({**CONFIG, "intermediate_size": 96}), "utf-8")
    with pytest.raises((UnsupportedModelError, LoadError), match="mlx-lm"):
        load_model(folder.path, **HERE)


def test_a_folder_that_does_not_say_its_context_wants_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "endless")
    config = {key: value for key, value in CONFIG.items() if key != "max_position_embeddings"}
    (folder.path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(OptionValueError, match="`context_length`"):
        load_model(folder.path, backend="metal", device="cpu")
    load_model(folder.path, **HERE).close()


@pytest.mark.skipif(any(gpu.vendor == "apple" for gpu in machine().gpus), reason="this machine has an Apple GPU")
def test_without_an_apple_gpu_the_cpu_device_must_be_asked_for(path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match='backend="metal", device="cpu"'):
        load_model(path)
    with load_model(path, device="cpu", context_length=64) as asked:
        assert asked.info().backend == "metal"


def test_a_folder_whose_name_is_a_pattern_gives_its_own_weights(path: Path, tmp_path: Path, model: BatchModel) -> None:
    write_folder(tmp_path / "m1", quantized=True)
    odd = write_folder(tmp_path / "m[1]").path
    with load_model(odd, **HERE) as loaded:
        assert np.array_equal(logits_of(loaded, TOKENS), logits_of(model, TOKENS))


@pytest.mark.parametrize("kv_heads", [2, 3])
def test_a_model_that_mlx_lm_cannot_batch_computes_one_sequence_at_a_time(kv_heads: int) -> None:
    """mlx-lm's Gemma 2 mistakes the axes of a batch's mask where several query heads share keys."""
    from inference_mlx.decoder import NativeDecoder
    from inference_mlx.native import takes_batches
    from mlx_lm.models import gemma2, llama

    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 6,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "vocab_size": 64,
        "num_key_value_heads": kv_heads,
    }
    mx.random.seed(0)
    assert not takes_batches(NativeDecoder(gemma2.Model(gemma2.ModelArgs(model_type="gemma2", **sizes)), 64))
    assert takes_batches(NativeDecoder(llama.Model(llama.ModelArgs(model_type="llama", **sizes)), 64))


def test_recurrent_layers_are_never_fed_padding() -> None:
    from inference_mlx.decoder import NativeDecoder
    from mlx_lm.models.cache import ArraysCache, KVCache

    class Model:
        def __init__(self, *caches: object) -> None:
            self.make_cache = lambda: list(caches)

    assert NativeDecoder(Model(KVCache(), KVCache()), 64).pads
    assert not NativeDecoder(Model(KVCache(), ArraysCache(2)), 64).pads


def test_memory_is_reckoned_in_the_types_that_weights_and_keys_will_have(tmp_path: Path) -> None:
    from inference_mlx.fitting import folder_demand

    from inference.options import LoadOptions

    folder = write_folder(tmp_path / "tiny")
    numbers = 2 * 2 * 2 * 16  # layers, keys and values, KV heads, their length
    for device in ("cpu", "metal"):
        demand = folder_demand(folder, LoadOptions(), device, 0)
        assert (demand.weight_bytes, demand.kv_bytes_per_token) == (folder.size_bytes, 4 * numbers)
    packed = write_folder(tmp_path / "packed", quantized=True)
    assert folder_demand(packed, LoadOptions(), "metal", 0).weight_bytes == packed.size_bytes
    with pytest.raises(InsufficientMemoryError, match="for its weights"):
        folder_demand(folder, LoadOptions(), "metal", 1000)
