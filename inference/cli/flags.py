"""Options of the library as flags of the command line, made from the dataclasses: no default is written twice."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from inference.cli.values import Bias, Setting, Shares, TemplateFile
from inference.errors import OptionError, UnsupportedOptionError
from inference.options import GenerateOptions, LoadOptions
from inference.types import ModelInfo

__all__ = [
    "Command",
    "Sampling",
    "batch_load_options",
    "classify_load_options",
    "generate_options",
    "load_options",
    "template_options",
    "with_flags",
]

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

SAMPLING = {
    "max_tokens": "Most tokens to generate.",
    "temperature": "Divides the logits before the draw; 0 takes the likeliest token.",
    "top_k": "Keep the K likeliest tokens; 0 keeps all.",
    "top_p": "Keep the likeliest tokens whose probabilities sum to this; 0 keeps all.",
    "min_p": "Keep tokens at least this share as likely as the likeliest; 0 keeps all.",
    "repeat_penalty": "Divide the logits of tokens in the window; 0 is off.",
    "repeat_window": "How many of the last tokens the penalties look at.",
    "presence_penalty": "Subtract this once for a token in the window.",
    "frequency_penalty": "Subtract this each time the token is in the window.",
    "logit_bias": "Add BIAS to the logit of a token; -inf forbids it. May be repeated.",
    "stop": "End the text before this string. May be repeated.",
    "stop_tokens": "End at this token id. May be repeated.",
    "ignore_eos": "Go on past the model's end-of-generation tokens.",
    "seed": "Same seed, same text.",
    "timeout": "End after this many seconds.",
}
LOADING = {
    "backend": "The engine to run on; else the fastest that can run the file.",
    "workload": "What the fastest engine is measured by: writing text (decode) or reading it (prefill).",
    "device": "A device, as `inference doctor` names it; else the backend's best.",
    "context_length": "Tokens of context; 0 is the model's own, as far as memory allows.",
    "batch_size": "Most tokens in one pass over the weights; 0 lets the backend choose.",
    "gpu_layers": "Layers to keep on the GPU; -1 is all.",
    "main_gpu": "Index of the GPU that holds what is not split.",
    "tensor_split": "Share of the model for each GPU, as in 3,1.",
    "cpu_expert_layers": "Keep the experts of the first N layers on the CPU; -1 is all.",
    "kv_cache_type": "What keys and values are stored as.",
    "flash_attention": "Use flash attention; else where the device has it.",
    "mmap": "Map the file into memory instead of reading it.",
    "mlock": "Keep the weights from being swapped out.",
    "trial_load": "Try a file that is new in a process of its own first: a damaged one may end it.",
    "step_timeout": "Seconds after which a step that does not come back counts as hung; 0 waits for ever.",
    "threads": "CPU threads; 0 is the number of physical cores.",
    "device_sampling": "Draw tokens inside the device's compute graph; else on a GPU.",
    "chat_template": "Use the Jinja template in this file instead of the model's own.",
}
BATCHING = {"parallel": "Most prompts that run at once; 0 lets the backend choose."}
"""What has a meaning only for many prompts."""
SHORT = {"max_tokens": "-n", "temperature": "-t"}
RENAMED = {"stop_tokens": "--stop-token"}


SPECIAL: dict[str, dict[str, Any]] = {
    "chat_template": {"type": TemplateFile(exists=True, dir_okay=False, readable=True), "metavar": "FILE"},
    "tensor_split": {"type": Shares()},
    "logit_bias": {"type": Bias(), "multiple": True},
}


class SectionOption(click.Option):
    """An option that `--help` lists under a heading of its own."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class Command(click.Command):
    """A command whose help lists options under their sections' headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling options that were given, and what they go on top of."""

    given: Mapping[str, Any]
    from_model: bool

    def options(self, info: ModelInfo) -> GenerateOptions:
        """The options for that model.

        Raises:
            UnsupportedOptionError: the model's own defaults are wanted, and its file carries none.
        """
        if self.from_model and info.sampling is None:
            raise UnsupportedOptionError(f"{info.path.name} carries no sampling defaults. Leave out --model-sampling.")
        return GenerateOptions.merged(info.sampling if self.from_model else None, self.given)


def load_options(function: AnyFunction) -> AnyFunction:
    """Give a command the flags of `LoadOptions`; it is called with them as `load_options: LoadOptions`."""
    return _load_flags(function, LOADING)


def batch_load_options(function: AnyFunction) -> AnyFunction:
    """`load_options`, for a command that takes many prompts."""
    return _load_flags(function, LOADING | BATCHING)


def classify_load_options(function: AnyFunction) -> AnyFunction:
    """`batch_load_options`, for a command that reads much and writes nothing."""
    flags = {name: text for name, text in (LOADING | BATCHING).items() if name != "workload"}
    return _load_flags(function, flags, workload="prefill")


def _load_flags(function: AnyFunction, flags: dict[str, str], **fixed: Any) -> AnyFunction:
    @functools.wraps(function)
    def command(**parameters: Any) -> Any:
        given = _given(parameters, flags)
        return function(load_options=_checked(LoadOptions, given | fixed), **parameters)

    return _decorated(command, LoadOptions, flags, "Loading")  # type: ignore[no-any-return]


def generate_options(function: AnyFunction) -> AnyFunction:
    """Give a command the flags of `GenerateOptions`; it is called with them as `sampling: Sampling`."""

    @functools.wraps(function)
    def command(**parameters: Any) -> Any:
        given = _given(parameters, SAMPLING)
        if "logit_bias" in given:
            given["logit_bias"] = dict(given["logit_bias"])
        _checked(GenerateOptions, given)
        return function(sampling=Sampling(given, parameters.pop("model_sampling")), **parameters)

    own = click.option(
        "--model-sampling",
        cls=SectionOption,
        section="Sampling",
        is_flag=True,
        help="Start from the sampling defaults that the file carries (see `inference info`).",
    )
    return _decorated(own(command), GenerateOptions, SAMPLING, "Sampling")  # type: ignore[no-any-return]


def template_options(function: AnyFunction) -> AnyFunction:
    """Give a command `--template-option`; it is called with them as `template_options: dict`."""
    return click.option(
        "--template-option",
        "template_options",
        type=Setting(),
        multiple=True,
        callback=lambda _ctx, _param, value: dict(value),
        help="A variable for the chat template, such as enable_thinking=false. May be repeated.",
    )(function)


def with_flags(sentence: str) -> str:
    """The sentence with the library's names of options, in backticks, as the command line's flags."""
    known = {*SAMPLING, *LOADING}
    return re.sub(r"`(\w+)`", lambda match: _flag(match[1]) if match[1] in known else match[0], sentence)


def _flag(name: str) -> str:
    return RENAMED.get(name, f"--{name.replace('_', '-')}")


def _decorated(function: Callable[..., Any], options: type, helps: dict[str, str], section: str) -> Any:
    hints = get_type_hints(options)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(options)}
    for name, text in reversed(helps.items()):  # the decorator that comes last is the first in the help
        attributes = _attributes(name, hints[name])
        flags = [SHORT[name]] if name in SHORT else []
        flags.append(f"{_flag(name)}/--no-{name.replace('_', '-')}" if "is_flag" in attributes else _flag(name))
        attributes |= {"cls": SectionOption, "section": section, "help": text + _default(known[name])}
        function = click.option(*flags, name, **attributes)(function)
    return function


def _attributes(name: str, hint: Any) -> dict[str, Any]:
    """What click has to know about an option of that type. The default is None everywhere: given or not given."""
    if name in SPECIAL:
        return {"default": None, **SPECIAL[name]}
    if get_origin(hint) is UnionType:
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return {"default": None, "type": click.Choice(get_args(hint))}
    if get_origin(hint) is not None and issubclass(get_origin(hint), Sequence):
        return {"default": None, "multiple": True, "type": get_args(hint)[0]}
    if hint is bool:
        return {"default": None, "is_flag": True}
    return {"default": None, "type": hint}


def _default(field: Field[Any]) -> str:
    """How the help tells the option's default."""
    value = field.default
    if value is MISSING or value is None or value == () or value is False:
        return ""
    return f"  [default: {'on' if value is True else value}]"


def _given(parameters: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Take the named options out of a command's parameters; those that were given, by name."""
    taken = {name: parameters.pop(name) for name in names}
    return {name: value for name, value in taken.items() if value is not None and value != ()}


def _checked(options: type, given: Mapping[str, Any]) -> Any:
    try:
        return options(**given)
    except OptionError as error:
        raise click.UsageError(with_flags(str(error)), ctx=click.get_current_context()) from error
