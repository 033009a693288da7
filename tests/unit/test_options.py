from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InferenceError, OptionValueError, UnknownOptionError
from inference.options import GenerateOptions, LoadOptions

GENERATE_DEFAULTS: dict[str, Any] = {
    "max_tokens": 256,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 0.0,
    "min_p": 0.0,
    "repeat_penalty": 0.0,
    "repeat_window": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "stop": (),
    "stop_tokens": (),
    "ignore_eos": False,
    "seed": None,
    "timeout": None,
    "cache_scope": None,
    "logprobs": 0,
}
OTHER_VALUES: dict[str, Any] = {
    "max_tokens": 3,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "repeat_penalty": 1.1,
    "repeat_window": 128,
    "presence_penalty": -0.5,
    "frequency_penalty": 0.5,
    "logit_bias": {5: -math.inf, 7: 2.0},
    "stop": ("a", "b"),
    "stop_tokens": (2, 3),
    "ignore_eos": True,
    "seed": 7,
    "timeout": 1.5,
    "cache_scope": "tenant",
    "logprobs": 5,
}
LOAD_DEFAULTS: dict[str, Any] = {
    "workload": "decode",
    "backend": None,
    "device": None,
    "context_length": 0,
    "parallel": 0,
    "batch_size": 0,
    "gpu_layers": -1,
    "main_gpu": 0,
    "tensor_split": (),
    "cpu_expert_layers": 0,
    "kv_cache_type": "f16",
    "flash_attention": None,
    "mmap": True,
    "mlock": False,
    "threads": 0,
    "device_sampling": None,
    "max_waiting": 16384,
    "cache_scope": None,
    "chat_template": None,
    "trial_load": True,
    "step_timeout": 300.0,
    "progress": None,
}
BAD_GENERATE: list[tuple[str, Any]] = [
    ("max_tokens", 0),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", 1e-9),
    ("temperature", 1e300),
    ("temperature", "hot"),
    ("top_k", -1),
    ("top_k", 2**31),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("repeat_penalty", -1.0),
    ("repeat_penalty", 1e38),
    ("repeat_window", -1),
    ("presence_penalty", math.inf),
    ("frequency_penalty", None),
    ("logit_bias", [1]),
    ("logit_bias", {-1: 0.0}),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {1: math.inf}),
    ("logit_bias", {1: 1e300}),
    ("logit_bias", {"a": 1.0}),
    ("stop", ("",)),
    ("stop", 5),
    ("stop", (b"a",)),
    ("stop_tokens", (-1,)),
    ("stop_tokens", "12"),
    ("stop_tokens", (True,)),
    ("ignore_eos", 1),
    ("seed", -1),
    ("seed", 2**32 - 1),
    ("timeout", -1.0),
    ("logprobs", -1),
    ("logprobs", 101),
]
BAD_LOAD: list[tuple[str, Any]] = [
    ("backend", 5),
    ("context_length", -1),
    ("parallel", -2),
    ("batch_size", -1),
    ("gpu_layers", -2),
    ("main_gpu", -1),
    ("tensor_split", (math.nan,)),
    ("tensor_split", "1,2"),
    ("tensor_split", (-1.0,)),
    ("cpu_expert_layers", -2),
    ("kv_cache_type", "q3"),
    ("flash_attention", 1),
    ("mmap", 0),
    ("mlock", "yes"),
    ("threads", -1),
    ("device_sampling", "no"),
    ("chat_template", 1),
    ("progress", 1),
]


@pytest.mark.parametrize(("name", "value"), GENERATE_DEFAULTS.items())
def test_each_generate_option_has_its_documented_default(name: str, value: Any) -> None:
    assert getattr(GenerateOptions(), name) == value


@pytest.mark.parametrize(("name", "value"), LOAD_DEFAULTS.items())
def test_each_load_option_has_its_documented_default(name: str, value: Any) -> None:
    assert getattr(LoadOptions(), name) == value


def test_these_are_all_the_options() -> None:
    assert set(GenerateOptions.__dataclass_fields__) == set(GENERATE_DEFAULTS) == set(OTHER_VALUES)
    assert set(LoadOptions.__dataclass_fields__) == set(LOAD_DEFAULTS)


@pytest.mark.parametrize(("name", "value"), OTHER_VALUES.items())
def test_a_keyword_wins_over_ready_options_and_leaves_the_others(name: str, value: Any) -> None:
    ready = GenerateOptions(max_tokens=9, top_k=9, stop="z")
    merged = GenerateOptions.merged(ready, {name: value})
    assert getattr(merged, name) == value
    for other in set(OTHER_VALUES) - {name}:
        assert getattr(merged, other) == getattr(ready, other)


def test_ready_options_alone_are_taken_as_they_are() -> None:
    ready = GenerateOptions(seed=3)
    assert GenerateOptions.merged(ready, {}) is ready


def test_options_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(OptionValueError, match="`options` must be a GenerateOptions, got LoadOptions"):
        GenerateOptions.merged(LoadOptions(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), BAD_GENERATE)
def test_a_generate_option_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(OptionValueError, match=f"`{name}`"):
        GenerateOptions(**{name: value})


@pytest.mark.parametrize(("name", "value"), BAD_LOAD)
def test_a_load_option_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(OptionValueError, match=f"`{name}`"):
        LoadOptions(**{name: value})


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("nobody may see this")


HUGE = 10**5000
"""Python refuses to write it in digits."""
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", [HUGE, DEEP, Unspeakable()], ids=["huge", "deep", "unspeakable"])
@pytest.mark.parametrize("name", sorted(GENERATE_DEFAULTS))
def test_a_value_that_cannot_be_shown_is_refused_as_any_other(name: str, value: Any) -> None:
    for refused in (value, {0: value}):
        with pytest.raises(OptionValueError, match=f"`{name}`"):
            GenerateOptions(**{name: refused})


def test_of_a_long_value_only_the_beginning_is_quoted() -> None:
    with pytest.raises(OptionValueError, match=r"got 'hot hot .*\.\.\. \(4,000,002 characters\)\.$") as raised:
        GenerateOptions.merged(None, {"temperature": "hot " * 1_000_000})
    assert len(str(raised.value)) < 400


def test_stop_strings_are_as_long_as_they_may_be_together() -> None:
    assert len(GenerateOptions(stop=["ab" * 2**12, "b" * 2**13]).stop) == 2
    with pytest.raises(OptionValueError, match="`stop` must not have more than 16384 characters in all, got 16385"):
        GenerateOptions(stop=["ab" * 2**12, "b" * 2**13, "c"])


def test_a_misspelt_option_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(UnknownOptionError, match="`temprature`: did you mean `temperature`"):
        GenerateOptions.merged(None, {"temprature": 1})


def test_an_option_error_is_also_the_built_in_error_that_it_is() -> None:
    assert issubclass(OptionValueError, ValueError)
    assert issubclass(UnknownOptionError, TypeError)
    assert issubclass(OptionValueError, InferenceError)


def test_one_stop_string_may_be_given_bare() -> None:
    assert GenerateOptions(stop="\n").stop == ("\n",)


def test_options_do_not_change_with_the_callers_containers() -> None:
    biases, stops = {1: 1.0}, ["a"]
    options = GenerateOptions(logit_bias=biases, stop=stops)
    biases[2] = 2.0
    stops.append("b")
    assert options.logit_bias == {1: 1.0}
    assert options.stop == ("a",)


def test_changed_names_exactly_what_differs_from_the_defaults() -> None:
    assert LoadOptions().changed() == ()
    assert LoadOptions(threads=2, mmap=False).changed() == ("mmap", "threads")


@given(
    st.dictionaries(
        st.sampled_from(sorted(GENERATE_DEFAULTS)), st.one_of(st.none(), st.integers(), st.floats(), st.text())
    )
)
def test_any_values_make_options_or_an_option_error(keywords: dict[str, Any]) -> None:
    with suppress(OptionValueError):
        GenerateOptions.merged(None, keywords)
