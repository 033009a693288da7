"""Flags are the library's options: same names, same defaults, same bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fakes import fake_info

from inference.cli.flags import Sampling, generate_options, load_options, template_options, with_flags
from inference.errors import UnsupportedOptionError
from inference.options import GenerateOptions, LoadOptions

NOT_FLAGS = {"progress", "parallel", "logprobs", "cache_scope", "max_waiting"}
"""`progress` is the bar, `--logprobs` belongs to `run --json`, and the others have no meaning for one prompt."""


def parse(*arguments: str) -> tuple[GenerateOptions, LoadOptions, Mapping[str, Any]]:
    got: list[tuple[GenerateOptions, LoadOptions, Mapping[str, Any]]] = []

    @click.command()
    @template_options
    @generate_options
    @load_options
    def command(sampling: Sampling, load_options: LoadOptions, template_options: Mapping[str, Any]) -> None:
        got.append((sampling.options(fake_info()), load_options, template_options))

    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None:
        raise AssertionError(result.output)
    return got[0]


def test_without_flags_the_defaults_are_the_librarys() -> None:
    assert parse() == (GenerateOptions(), LoadOptions(), {})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-n 7 -t 0.5", {"max_tokens": 7, "temperature": 0.5}),
        ("--top-k 4 --top-p 0.9 --min-p 0.1", {"top_k": 4, "top_p": 0.9, "min_p": 0.1}),
        ("--repeat-penalty 1.1 --repeat-window 9", {"repeat_penalty": 1.1, "repeat_window": 9}),
        ("--presence-penalty 1 --frequency-penalty -1", {"presence_penalty": 1.0, "frequency_penalty": -1.0}),
        ("--stop a --stop b --stop-token 5", {"stop": ("a", "b"), "stop_tokens": (5,)}),
        ("--logit-bias 3=-inf --logit-bias 4=1.5", {"logit_bias": {3: float("-inf"), 4: 1.5}}),
        ("--seed 0 --timeout 0 --ignore-eos", {"seed": 0, "timeout": 0.0, "ignore_eos": True}),
    ],
)
def test_generate_flags_arrive_as_options(arguments: str, expected: dict[str, Any]) -> None:
    assert parse(*arguments.split())[0] == GenerateOptions(**expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--backend rocm --device rocm:1", {"backend": "rocm", "device": "rocm:1"}),
        ("--context-length 512 --batch-size 64", {"context_length": 512, "batch_size": 64}),
        (
            "--gpu-layers 0 --main-gpu 1 --tensor-split 3,1",
            {"gpu_layers": 0, "main_gpu": 1, "tensor_split": (3.0, 1.0)},
        ),
        ("--kv-cache-type q8_0 --cpu-expert-layers -1", {"kv_cache_type": "q8_0", "cpu_expert_layers": -1}),
        ("--flash-attention --no-mmap --mlock", {"flash_attention": True, "mmap": False, "mlock": True}),
        ("--no-flash-attention --threads 3", {"flash_attention": False, "threads": 3}),
        ("--no-device-sampling", {"device_sampling": False}),
    ],
)
def test_load_flags_arrive_as_options(arguments: str, expected: dict[str, Any]) -> None:
    assert parse(*arguments.split())[1] == LoadOptions(**expected)


def test_a_chat_template_is_read_from_its_file(template_path: Path) -> None:
    assert parse("--chat-template", str(template_path))[1].chat_template == template_path.read_text()


def test_template_options_are_json_where_they_read_as_json_and_text_elsewhere() -> None:
    given = parse("--template-option", "enable_thinking=false", "--template-option", "style=a=b")[2]
    assert given == {"enable_thinking": False, "style": "a=b"}


def test_every_option_of_the_library_has_a_flag() -> None:
    from inference.cli.flags import LOADING, SAMPLING

    assert {f.name for f in fields(GenerateOptions)} - NOT_FLAGS == set(SAMPLING)
    assert {f.name for f in fields(LoadOptions)} - NOT_FLAGS == set(LOADING)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--top-p 3", "--top-p must be between 0 and 1, got 3.0."),
        ("-n 0", "--max-tokens must be at least 1, got 0."),
        ("--stop=", "--stop must not hold an empty string"),
        ("--stop-token -1", "--stop-token must hold token ids"),
        ("--context-length -5", "--context-length must be at least 0, got -5."),
        ("--kv-cache-type q9", "'q9' is not one of"),
        ("--logit-bias 3", "'3' is not of the form ID=BIAS"),
        ("--tensor-split a,b", "'a,b' is no list of numbers"),
        ("--chat-template nowhere.jinja", "File 'nowhere.jinja' does not exist"),
        ("--template-option thinking", "'thinking' is not of the form NAME=VALUE"),
    ],
)
def test_a_bad_value_is_refused_before_anything_is_loaded(
    invoke: Callable[..., Result], arguments: str, sentence: str
) -> None:
    result = invoke("run", "nowhere.gguf", "hi", *arguments.split())
    assert result.exit_code == 2
    assert f"Error: {sentence}" in " ".join(result.stderr.split()).replace("Invalid value for ", "").replace(
        f"'{arguments.split()[0]}': ", ""
    )


def test_the_models_own_sampling_comes_first_and_flags_win_over_it() -> None:
    own = GenerateOptions(temperature=0.7, top_k=20)
    info = fake_info(sampling=own)
    assert Sampling({}, from_model=True).options(info) == own
    assert Sampling({"top_k": 5}, from_model=True).options(info) == GenerateOptions(temperature=0.7, top_k=5)
    assert Sampling({"top_k": 5}, from_model=False).options(info) == GenerateOptions(top_k=5)


def test_a_models_own_sampling_that_it_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedOptionError, match=r"tiny\.gguf carries no sampling defaults"):
        Sampling({}, from_model=True).options(fake_info(path=Path("tiny.gguf")))


def test_sentences_of_the_library_name_flags_in_the_command_line() -> None:
    assert with_flags("Lower `context_length`, not `other`.") == "Lower --context-length, not `other`."
    assert with_flags("`stop_tokens` and `mmap`") == "--stop-token and --mmap"
