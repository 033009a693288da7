"""The options of `generate` and `chat`, and those of `load_model`: names, defaults, bounds, merging.

A keyword wins over a ready `options=` object. A name that does not exist and a value out of range are errors that say
what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from inference.errors import OptionValueError, UnknownOptionError, quoted

__all__ = ["GenerateOptions", "KVCacheType", "LoadOptions", "Progress", "Workload"]

Workload = Literal["decode", "prefill"]
KVCacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""What keys and values are stored as. The names are ggml's."""

Progress = Callable[[float], bool | None]
"""Called with the share of the model that is loaded, 0.0 to 1.0, seldom enough to draw a bar. Returning False aborts
the loading. It may be called on another thread than the caller's."""

MAX_INTEGER = 2**31 - 1
"""Engines count in 32 bits: what does not fit would silently become another number."""
MAX_BIAS = 10_000
MAX_STOP = 2**14
"""Characters of all stop strings together: looking for them takes some 270 bytes for each."""
MAX_WAITING = 16384
"""Calls that may wait for a slot, unless the load options say another number."""
MAX_SEED = 2**32 - 2
"""The largest seed: 32 bits, less the one value that llama.cpp takes for "random"."""


class _Options:
    """What both kinds share: making one from keywords, and merging."""

    @classmethod
    def merged(cls, options: Self | None, keywords: Mapping[str, Any]) -> Self:
        """`options` (or the defaults) with `keywords` over them.

        Raises:
            UnknownOptionError: a keyword is no option; the nearest name is suggested.
            OptionValueError: a value is of the wrong type or out of range.
        """
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in keywords:
            if name not in known:
                import difflib  # late: only a mistake needs it

                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"the options are: {', '.join(known)}."
                raise UnknownOptionError(f"Unknown option `{name}`: {hint}")
        if options is None:
            return cls(**keywords)
        if not isinstance(options, cls):
            raise OptionValueError(f"`options` must be a {cls.__name__}, got {type(options).__name__}.")
        return replace(options, **keywords) if keywords else options  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class GenerateOptions(_Options):
    """How to sample and when to stop. Zero disables a filter or a penalty; temperature 0 is greedy.

    Order on every backend: bias and penalties, top-k, top-p, min-p, temperature, draw.

    Raises:
        OptionValueError: a value is of the wrong type or out of range.
    """

    max_tokens: int = 256
    """Most tokens to generate, >= 1."""
    temperature: float = 0.0
    """Divides the logits before the draw, 0.00001 to 100000. 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens."""
    top_p: float = 0.0
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least this, 0 to 1."""
    min_p: float = 0.0
    """Keep tokens at least this share of the likeliest one's probability, 0 to 1."""
    repeat_penalty: float = 0.0
    """Divides positive and multiplies negative logits of tokens in the window, 0.001 to 1000; > 1 discourages them."""
    repeat_window: int = 64
    """How many of the last tokens the three penalties look at, prompt included. 0 turns all three off."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that is in the window, -1000 to 1000."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit once for each time that the token is in the window, -1000 to 1000."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Added to the logits, by token id: -10000 to 10000, or -inf, which forbids a token."""
    stop: Sequence[str] = ()
    """Strings that end the text; one, or several, of 16384 characters together at most. The string itself and what
    follows are not shown."""
    stop_tokens: Sequence[int] = ()
    """Token ids that end the sequence, beside the model's own end-of-generation tokens. They show no text."""
    ignore_eos: bool = False
    """Go on past the model's end-of-generation tokens."""
    seed: int | None = None
    """Same seed, same backend: same text. None draws one from the system. 0 to 4294967294."""
    timeout: float | None = None
    """Seconds from the call, waiting included, after which the sequence ends with reason "timeout". Looked at between
    steps; a step of a long prompt takes up to `batch_size` tokens."""
    cache_scope: str | None = None
    """What was computed for a prompt is used again only by calls of the same scope: name a tenant, and no other tenant
    can tell from the time it takes what this one asked. None is the model's own scope (see `LoadOptions`)."""
    logprobs: int = 0
    """If > 0: report each token's log-probability, and this many likeliest tokens beside it."""

    def __post_init__(self) -> None:
        _integer(self, "max_tokens", 1)
        # Where a bound is not the option's own, it keeps the engines' 32-bit arithmetic from overflowing.
        _real(self, "temperature", 1e-5, 1e5, or_zero=True)
        _integer(self, "top_k", 0)
        _real(self, "top_p", 0.0, 1.0)
        _real(self, "min_p", 0.0, 1.0)
        _real(self, "repeat_penalty", 1e-3, 1e3, or_zero=True)
        _integer(self, "repeat_window", 0)
        _real(self, "presence_penalty", -1e3, 1e3)
        _real(self, "frequency_penalty", -1e3, 1e3)
        _boolean(self, "ignore_eos")
        if self.seed is not None:
            _integer(self, "seed", 0, MAX_SEED)
        if self.timeout is not None:
            _real(self, "timeout", 0.0, 1e9)
        _text(self, "cache_scope")
        _integer(self, "logprobs", 0, 100)
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        object.__setattr__(self, "stop", _strings("stop", self.stop))
        object.__setattr__(self, "stop_tokens", _token_ids("stop_tokens", self.stop_tokens))

    @property
    def penalizes(self) -> bool:
        """Whether any of the three penalties is on."""
        repeats = self.repeat_penalty not in (0.0, 1.0)
        return self.repeat_window > 0 and (repeats or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0)


@dataclass(frozen=True, slots=True)
class LoadOptions(_Options):
    """Where and how to load a model.

    A backend that lacks a capability refuses an option that differs from its default here.

    Raises:
        OptionValueError: a value is of the wrong type or out of range.
    """

    backend: str | None = None
    """A backend's name; None takes the fastest available one that can run the file."""
    device: str | None = None
    """A device's name as `inference doctor` shows it; None takes the backend's best."""
    workload: Workload = "decode"
    """What the model is loaded for, where several engines could run it and `inference tune` has measured them: "decode"
    for text that it writes, "prefill" for text that it reads, as in `classify`."""
    context_length: int = 0
    """Tokens that each sequence may hold. 0 is the model's own, cut to what the memory allows (and logged)."""
    parallel: int = 0
    """Most sequences that run at once. 0 lets the backend choose. Slots are made as they are needed."""
    batch_size: int = 0
    """Most tokens in one pass over the weights. 0 lets the backend choose."""
    gpu_layers: int = -1
    """Layers to keep on the GPU; -1 is all of them, and has no effect without a GPU."""
    main_gpu: int = 0
    """Index of the GPU that holds what is not split."""
    tensor_split: Sequence[float] = ()
    """Share of the model for each GPU, in order; empty splits by free memory."""
    cpu_expert_layers: int = 0
    """Keep the expert tensors of the first this-many layers on the CPU; -1 is all layers."""
    kv_cache_type: KVCacheType = "f16"
    """What keys and values are stored as. A quantised type needs flash attention."""
    flash_attention: bool | None = None
    """None takes it where the device has it."""
    mmap: bool = True
    """Map the file instead of reading it."""
    mlock: bool = False
    """Keep the weights from being swapped out."""
    threads: int = 0
    """CPU threads; 0 is the number of physical cores this process may use."""
    device_sampling: bool | None = None
    """Draw tokens inside the device's compute graph; None does so on a GPU."""
    max_waiting: int = MAX_WAITING
    """Most calls that may wait for a slot, >= 1; one more is refused. Batches hold back by themselves."""
    cache_scope: str | None = None
    """The scope of calls that name none."""
    chat_template: str | None = None
    """Jinja source to use instead of the file's own chat template."""
    trial_load: bool = True
    """Have engines in C try a model that they have not taken before in a process of its own first, which costs half a
    second for a file and some seconds for a folder: a damaged one may end that process, and does not end this one."""
    step_timeout: float = 300.0
    """Seconds after which an engine that has not come back from a step counts as hung: all calls end with
    `EngineHungError`, and the model is dead. Steps take a fraction of a second where the weights are in memory, and as
    long as a slow disk takes where they are not. 0 waits for ever."""
    progress: Progress | None = None
    """Told how far the loading is; may abort it."""

    def __post_init__(self) -> None:
        for name in ("backend", "device", "chat_template", "cache_scope"):
            _text(self, name)
        _integer(self, "max_waiting", 1)
        _integer(self, "context_length", 0)
        _integer(self, "parallel", 0)
        _integer(self, "batch_size", 0)
        _integer(self, "gpu_layers", -1)
        _integer(self, "main_gpu", 0)
        _integer(self, "cpu_expert_layers", -1)
        _integer(self, "threads", 0)
        _real(self, "step_timeout", 0.1, 1e9, or_zero=True)
        for name in ("mmap", "mlock", "trial_load"):
            _boolean(self, name)
        for name in ("flash_attention", "device_sampling"):
            if getattr(self, name) is not None:
                _boolean(self, name)
        if self.workload not in get_args(Workload):
            known = ", ".join(get_args(Workload))
            raise OptionValueError(f"`workload` must be one of {known}; got {quoted(self.workload)}.")
        if self.kv_cache_type not in get_args(KVCacheType):
            known = ", ".join(get_args(KVCacheType))
            raise OptionValueError(f"`kv_cache_type` must be one of {known}; got {quoted(self.kv_cache_type)}.")
        if self.progress is not None and not callable(self.progress):
            raise OptionValueError(f"`progress` must be callable, got {quoted(self.progress)}.")
        object.__setattr__(self, "tensor_split", _shares(self.tensor_split))

    def changed(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)


def _integer(options: object, name: str, low: int, high: int = MAX_INTEGER) -> None:
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionValueError(f"`{name}` must be a whole number, got {quoted(value)}.")
    if not low <= value <= high:
        bounds = f"at least {low}" if high == MAX_INTEGER and value < low else f"between {low} and {high}"
        raise OptionValueError(f"`{name}` must be {bounds}, got {quoted(value)}.")


def _real(options: object, name: str, low: float, high: float, *, or_zero: bool = False) -> None:
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionValueError(f"`{name}` must be a number, got {quoted(value)}.")
    if not low <= value <= high and not (or_zero and value == 0):
        zero = "0, or " if or_zero else ""
        raise OptionValueError(f"`{name}` must be {zero}between {low:g} and {high:g}, got {quoted(value)}.")


def _text(options: object, name: str) -> None:
    value = getattr(options, name)
    if not isinstance(value, str | None):
        raise OptionValueError(f"`{name}` must be text or None, got {quoted(value)}.")


def _boolean(options: object, name: str) -> None:
    value = getattr(options, name)
    if not isinstance(value, bool):
        raise OptionValueError(f"`{name}` must be True or False, got {quoted(value)}.")


def _strings(name: str, value: object) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise OptionValueError(f"`{name}` must be a string or a sequence of strings, got {quoted(value)}.")
    if "" in items:
        raise OptionValueError(f"`{name}` must not hold an empty string: it would stop at once.")
    if (length := sum(map(len, items))) > MAX_STOP:
        raise OptionValueError(f"`{name}` must not have more than {MAX_STOP} characters in all, got {length}.")
    return tuple(items)


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str | bytes):
        raise OptionValueError(f"`{name}` must be a sequence of token ids, got {quoted(value)}.")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise OptionValueError(f"`{name}` must hold token ids (whole numbers from 0), got {quoted(item)}.")
    return tuple(value)


def _biases(value: object) -> Mapping[int, float]:
    if not isinstance(value, Mapping):
        raise OptionValueError(f"`logit_bias` must map token ids to numbers, got {quoted(value)}.")
    _token_ids("logit_bias", tuple(value))
    for bias in value.values():
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not number or not (bias == -math.inf or abs(bias) <= MAX_BIAS):
            raise OptionValueError(f"`logit_bias` must hold numbers up to {MAX_BIAS}, or -inf; got {quoted(bias)}.")
    return MappingProxyType({token: float(bias) for token, bias in value.items()})


def _shares(value: object) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise OptionValueError(f"`tensor_split` must be a sequence of shares, got {quoted(value)}.")
    for share in value:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise OptionValueError(f"`tensor_split` must hold finite shares >= 0, got {quoted(share)}.")
    return tuple(float(share) for share in value)
