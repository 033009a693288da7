"""The llama.cpp backend on real models, against llama.cpp driven by hand."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_llama import BareLlama, bare_llama
from gguf_files import write_model
from llama_cpp import llama_cpp as C  # noqa: N812 - short for what stands in every line

from inference import Message, TextModel, load_model
from inference.errors import (
    ChatTemplateError,
    ContextTooLargeError,
    LoadAbortedError,
    LoadError,
    ModelClosedError,
    OptionValueError,
    PromptTooLongError,
    UnknownArchitectureError,
    UnsupportedOptionError,
)

pytestmark = pytest.mark.real_model

PROMPT = "The capital of France is Paris, and the capital of Italy is"


@pytest.fixture(scope="module")
def model(smollm_path: Path) -> Iterator[TextModel]:
    with load_model(smollm_path, context_length=512, threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def bare(smollm_path: Path) -> Iterator[BareLlama]:
    with bare_llama(smollm_path) as llama:
        yield llama


def ids(stream: Any) -> list[int]:
    return [token.id for token in stream]


def encode(model: TextModel, text: str = PROMPT) -> list[int]:
    return model.tokenizer.encode(text)


def test_greedy_tokens_are_those_of_a_bare_llama_cpp_loop(model: TextModel, bare: BareLlama) -> None:
    prompt = encode(model)
    assert ids(model.generate(prompt, max_tokens=48, ignore_eos=True)) == bare.continuation(prompt, 48)


def test_greedy_tokens_of_gemma_are_those_of_a_bare_llama_cpp_loop(gemma_path: Path) -> None:
    with load_model(gemma_path, context_length=512, threads=2) as model, bare_llama(gemma_path) as bare:
        prompt = encode(model)
        assert prompt[0] == model.tokenizer.bos_token
        assert ids(model.generate(PROMPT, max_tokens=24, ignore_eos=True)) == bare.continuation(prompt, 24)


Samplers = Callable[[int], list[Any]]
SAMPLED: dict[str, tuple[dict[str, Any], Samplers]] = {
    "temperature": (
        {"temperature": 0.9},
        lambda n: [C.llama_sampler_init_temp(0.9), C.llama_sampler_init_dist(11)],
    ),
    "top_k": (
        {"temperature": 1.0, "top_k": 5},
        lambda n: [C.llama_sampler_init_top_k(5), C.llama_sampler_init_temp(1.0), C.llama_sampler_init_dist(11)],
    ),
    "top_p": (
        {"temperature": 1.2, "top_p": 0.8},
        lambda n: [C.llama_sampler_init_top_p(0.8, 1), C.llama_sampler_init_temp(1.2), C.llama_sampler_init_dist(11)],
    ),
    "min_p": (
        {"temperature": 1.5, "min_p": 0.1},
        lambda n: [C.llama_sampler_init_min_p(0.1, 1), C.llama_sampler_init_temp(1.5), C.llama_sampler_init_dist(11)],
    ),
    "all filters": (
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        lambda n: [
            C.llama_sampler_init_top_k(40),
            C.llama_sampler_init_top_p(0.95, 1),
            C.llama_sampler_init_min_p(0.05, 1),
            C.llama_sampler_init_temp(0.8),
            C.llama_sampler_init_dist(11),
        ],
    ),
    "repeat penalty": (
        {"repeat_penalty": 1.5, "repeat_window": 32},
        lambda n: [C.llama_sampler_init_penalties(n, 32, 1.5, 0.0, 0.0), C.llama_sampler_init_greedy()],
    ),
    "frequency and presence": (
        {"frequency_penalty": 0.7, "presence_penalty": 0.4},
        lambda n: [C.llama_sampler_init_penalties(n, 64, 1.0, 0.7, 0.4), C.llama_sampler_init_greedy()],
    ),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_each_option_draws_what_llama_cpps_own_sampler_draws(case: str, model: TextModel, bare: BareLlama) -> None:
    options, samplers = SAMPLED[case]
    prompt = encode(model, "Once upon a time a fox and a fox and a fox")
    drawn = ids(model.generate(prompt, max_tokens=32, ignore_eos=True, seed=11, **options))
    assert drawn == bare.continuation(prompt, 32, samplers(bare.vocabulary_size))
    assert drawn != bare.continuation(prompt, 32), "the option changes nothing here: a poor test"


def test_a_seed_decides_the_text(model: TextModel) -> None:
    first, again, other = (model.generate(PROMPT, max_tokens=32, temperature=1.0, seed=s).text() for s in (1, 1, 2))
    assert first == again != other


def test_a_forbidden_token_never_comes_and_a_favoured_one_does(model: TextModel) -> None:
    plain = ids(model.generate(PROMPT, max_tokens=1))
    forbidden = ids(model.generate(PROMPT, max_tokens=8, logit_bias={plain[0]: -math.inf}))
    assert plain[0] not in forbidden
    assert ids(model.generate(PROMPT, max_tokens=2, logit_bias={5: 1000.0})) == [5, 5]


def test_logprobs_are_those_of_the_plain_distribution(model: TextModel, bare: BareLlama) -> None:
    prompt = encode(model)
    options = {"temperature": 1.5, "top_k": 50, "repeat_penalty": 1.3, "seed": 4}
    tokens = list(model.generate(prompt, max_tokens=6, logprobs=3, **options))
    assert [token.id for token in tokens] == ids(model.generate(prompt, max_tokens=6, **options))
    for position, token in enumerate(tokens):
        expected = bare.logprobs(prompt + [before.id for before in tokens[:position]])
        assert token.logprob == pytest.approx(expected[token.id], abs=0.05)  # prefill and decode round differently
        assert len(token.top_logprobs) == 3
        best = [entry.logprob for entry in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert best[0] == pytest.approx(expected.max(), abs=0.05)


def test_without_logprobs_none_are_made_up(model: TextModel) -> None:
    (token,) = model.generate(PROMPT, max_tokens=1)
    assert (token.logprob, token.top_logprobs) == (None, ())


def test_an_emoji_split_over_tokens_comes_whole(model: TextModel) -> None:
    emoji = model.tokenizer.encode("🦙")
    assert len(emoji) > 1, "this vocabulary has the emoji as one token: a poor test"
    favoured = iter(emoji)
    texts = []
    prompt = encode(model)
    for token in favoured:  # force the emoji's tokens one by one
        (made,) = model.generate(prompt, max_tokens=1, logit_bias={token: 1000.0})
        assert made.id == token
        prompt.append(token)
        texts.append(made.text)
    assert "🦙" not in texts
    assert model.tokenizer.decode(emoji) == "🦙"


def test_forced_emoji_tokens_stream_as_one_character(smollm_path: Path) -> None:
    """The same in one stream: a model whose every next token is dictated."""
    from inference_llama_cpp.tokenizer import LlamaTokenizer

    with load_model(smollm_path, context_length=256) as model:
        assert isinstance(model.tokenizer, LlamaTokenizer)
        wanted = model.tokenizer.encode("é🦙 ok")
        from fakes import FakeRunner, fake_info

        from inference.engine.engine import Engine
        from inference.engine.model import EngineModel

        runner = FakeRunner(script=wanted)
        with EngineModel(Engine(lambda: runner, "dictated"), model.tokenizer, fake_info()) as dictated:
            tokens = list(dictated.generate([1], max_tokens=len(wanted)))
    assert "".join(token.text for token in tokens) == "é🦙 ok"
    assert not any("�" in token.text for token in tokens)
    assert any(token.text == "" for token in tokens)


def test_a_stop_string_that_straddles_tokens_ends_the_text(model: TextModel) -> None:
    whole = model.generate(PROMPT, max_tokens=30).text()
    stop = whole[7:13]
    stream = model.generate(PROMPT, max_tokens=30, stop=stop)
    assert stream.text() == whole[: whole.index(stop)]
    assert stream.finish_reason == "stop"


def test_the_models_own_end_token_ends_a_chat(model: TextModel) -> None:
    stream = model.chat([Message("user", "Say hi.")], max_tokens=200)
    tokens = list(stream)
    assert stream.finish_reason == "stop"
    assert model.tokenizer.is_end(tokens[-1].id)
    assert tokens[-1].text == ""
    assert "<|im_end|>" not in "".join(token.text for token in tokens)


def test_ignore_eos_goes_on(model: TextModel) -> None:
    prompt = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    assert len(ids(model.generate(prompt, max_tokens=120, ignore_eos=True))) == 120


def test_sequences_together_say_what_each_says_alone_but_for_near_ties(model: TextModel) -> None:
    prompts = [f"{n} plus {n} is" for n in range(6)]
    alone = [list(model.generate(prompt, max_tokens=24, logprobs=2)) for prompt in prompts]
    streams = [model.generate(prompt, max_tokens=24, logprobs=2) for prompt in prompts]
    for before, stream in zip(alone, streams, strict=True):
        for one, other in zip(before, stream, strict=False):
            if one.id != other.id:
                best, second = (entry.logprob for entry in one.top_logprobs)
                assert best - second < 0.3, "they part where the model was sure"
                break


def test_growing_the_slots_under_a_running_sequence_does_not_disturb_it(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=256, parallel=4, threads=2) as model:
        expected = ids(model.generate(PROMPT, max_tokens=60, ignore_eos=True))
        running = model.generate(PROMPT, max_tokens=60, ignore_eos=True)
        first = next(running)
        others = [model.generate(f"{n}, {n + 1},", max_tokens=10) for n in range(5)]
        assert all(ids(other) for other in others)
        assert [first.id, *ids(running)] == expected


def test_sampling_in_the_compute_graph_draws_the_same_greedy_tokens(smollm_path: Path, model: TextModel) -> None:
    with load_model(smollm_path, context_length=512, threads=2, device_sampling=True) as on_device:
        for options in ({}, {"top_k": 1, "temperature": 0.7}):
            greedy = ids(on_device.generate(PROMPT, max_tokens=16, **options))
            assert greedy == ids(model.generate(PROMPT, max_tokens=16))
        with_logprobs = list(on_device.generate(PROMPT, max_tokens=3, logprobs=1))
        assert [token.id for token in with_logprobs] == greedy[:3]
        assert with_logprobs[0].logprob is not None
        drawn = [on_device.generate(PROMPT, max_tokens=16, temperature=1.0, top_k=20, seed=s).text() for s in (3, 3, 4)]
        assert drawn[0] == drawn[1] != drawn[2]


def test_quantised_kv_memory_still_tells_the_capital(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=256, kv_cache_type="q8_0", flash_attention=True) as model:
        assert "Rome" in model.generate(PROMPT, max_tokens=8).text()


def test_settings_that_llama_cpp_refuses_are_a_load_error_in_its_words(smollm_path: Path) -> None:
    with pytest.raises(LoadError, match="V cache"):
        load_model(smollm_path, context_length=256, kv_cache_type="q8_0", flash_attention=False)


@pytest.mark.parametrize("options", [{"mmap": False}, {"mlock": True}, {"gpu_layers": 0}, {"device": "cpu"}], ids=str)
def test_every_way_of_loading_gives_the_same_text(smollm_path: Path, model: TextModel, options: dict[str, Any]) -> None:
    with load_model(smollm_path, context_length=256, threads=2, **options) as other:
        assert ids(other.generate(PROMPT, max_tokens=8)) == ids(model.generate(PROMPT, max_tokens=8))


def test_loading_reports_progress_and_can_be_aborted(smollm_path: Path) -> None:
    shares: list[float] = []
    load_model(smollm_path, context_length=256, progress=shares.append).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(LoadAbortedError, match="stopped on request"):
        load_model(smollm_path, context_length=256, progress=lambda share: False)
    with pytest.raises(LoadAbortedError, match="KeyError"):
        load_model(smollm_path, context_length=256, progress=lambda share: {}["missing"])
    load_model(smollm_path, context_length=256).close()


@pytest.mark.parametrize("described", [True, False], ids=["with its keys", "with another's keys"])
def test_an_architecture_that_llama_cpp_does_not_know_is_named(tmp_path: Path, described: bool) -> None:
    metadata = {"general.architecture": "nonesuch"}
    if described:
        keys = ("block_count", "context_length", "embedding_length", "attention.head_count")
        metadata |= {f"nonesuch.{key}": 32 for key in keys}
    path = write_model(tmp_path / "odd.gguf", metadata)
    with pytest.raises(UnknownArchitectureError, match="'nonesuch'"):
        load_model(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threads": 100_000}, OptionValueError, "`threads` must be at most"),
        ({"parallel": 1000}, OptionValueError, "`parallel` must be at most 256"),
        ({"batch_size": 10**9}, OptionValueError, "`batch_size` must be at most"),
        ({"batch_size": 4, "parallel": 8}, OptionValueError, "`batch_size` must be at least `parallel`"),
        ({"gpu_layers": 5}, UnsupportedOptionError, "`gpu_layers` would have no effect"),
        ({"main_gpu": 1, "tensor_split": [1.0]}, UnsupportedOptionError, "`main_gpu`, `tensor_split` would have no"),
        ({"cpu_expert_layers": -1}, UnsupportedOptionError, "`cpu_expert_layers` would have no effect"),
        ({"parallel": 200, "context_length": 10**6}, ContextTooLargeError, "200 x 1000000 tokens"),
    ],
    ids=str,
)
def test_a_load_option_that_cannot_be_had_is_named(
    smollm_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_model(smollm_path, backend="llama_cpp", **options)


def test_sampling_defaults_of_the_file_are_ready_to_use_and_nonsense_is_left_out(
    smollm_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import gguf

    for name, temperature in (("sound", 0.7), ("odd", 1e9)):
        reader = gguf.GGUFReader(smollm_path)
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        for field in reader.fields.values():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                element = field.types[1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), field.types[0], element)
        writer.add_float32("general.sampling.temp", temperature)
        writer.add_int32("general.sampling.top_k", -1)
        writer.add_int32("general.sampling.penalty_last_n", -1)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with load_model(tmp_path / "sound.gguf", context_length=256) as model:
        sampling = model.info().sampling
        assert sampling is not None
        assert (sampling.temperature, sampling.top_k, sampling.repeat_window) == (pytest.approx(0.7), 0, 8192)
        assert model.generate(PROMPT, options=sampling, max_tokens=4, seed=1).text()
    with load_model(tmp_path / "odd.gguf", context_length=256) as model:
        assert model.info().sampling is None
        assert "general.sampling" in caplog.text


def test_an_empty_template_that_was_passed_is_not_replaced_by_the_files_own(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=256, chat_template="") as model:
        assert model.info().chat_template == ""


def test_a_broken_template_is_refused_before_the_model_is_loaded(smollm_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="cannot be compiled"):
        load_model(smollm_path, chat_template="{{")


def test_ctrl_c_ends_the_loading_wherever_it_comes(smollm_path: Path) -> None:
    program = f"""
import os, signal, threading, time
from inference import load_model
load_model({str(smollm_path)!r}, context_length=256).close()
caught = 0
for wait in (0.01, 0.03, 0.05):
    begun = threading.Event()
    def interrupt():
        begun.wait()
        time.sleep(wait)
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        load_model({str(smollm_path)!r}, context_length=256, progress=lambda share: begun.set()).close()
        time.sleep(0.2)
    except KeyboardInterrupt:
        caught += 1
    thread.join()
print(caught)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_context_larger_than_memory_is_refused_before_it_is_allocated(smollm_path: Path) -> None:
    with pytest.raises(ContextTooLargeError, match=r"tokens fit\. Lower `context_length`"):
        load_model(smollm_path, backend="llama_cpp", context_length=10**9)


def test_the_context_holds_as_many_tokens_as_was_asked(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=100) as model:
        assert model.info().context_length == 100
        with pytest.raises(PromptTooLongError):
            model.generate([5] * 100)
        stream = model.generate([5] * 90, max_tokens=50, ignore_eos=True)
        assert len(ids(stream)) == 10
        assert stream.finish_reason == "length"


def test_the_tokenizer_outlives_the_model_as_an_error_not_a_crash(smollm_path: Path) -> None:
    model = load_model(smollm_path, context_length=256)
    tokenizer = model.tokenizer
    model.close()
    with pytest.raises(ModelClosedError):
        tokenizer.encode("hello")
    with pytest.raises(ModelClosedError):
        tokenizer.token_bytes(77)


def test_llama_cpps_log_lines_go_to_logging(smollm_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(logging.INFO, "inference.llama_cpp"):
        load_model(smollm_path, context_length=256).close()
    assert "llama_model_loader" in caplog.text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "ending",
    ["stream = model.generate('x', max_tokens=500); next(stream)", "model.close()", "del model", "raise SystemExit(0)"],
)
def test_the_process_ends_cleanly_whatever_is_still_open(smollm_path: Path, ending: str) -> None:
    program = (
        f"from inference import load_model\nmodel = load_model({str(smollm_path)!r}, context_length=600)\n{ending}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gil_is_free_while_the_model_computes(model: TextModel) -> None:
    counted = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.wait(0.001):
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    list(model.generate(encode(model, "word " * 400), max_tokens=2))  # one long step of prefill
    stop.set()
    thread.join()
    assert counted > 20
