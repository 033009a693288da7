"""The last step of loading: an engine for a runner, and the model that callers get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from inference.engine.engine import Engine
from inference.engine.model import EngineModel
from inference.hardware import utilization_gauge
from inference.options import LoadOptions
from inference.protocols import Runner, Tokenizer
from inference.types import ModelInfo

__all__ = ["serve", "serve_runner"]


def serve(
    start: Callable[[], Runner],
    tokenizer: Tokenizer,
    info: ModelInfo,
    options: LoadOptions,
    *,
    device: str,
    began: float,
) -> EngineModel:
    """A model on the runner that `start` makes on the engine's own thread. `device` is its name, as `device=` takes it;
    loading `began` then, by `monotonic`."""
    engine = Engine(start, info.name, options.max_waiting, options.step_timeout)
    try:
        return EngineModel(
            engine,
            tokenizer,
            replace(info, load_seconds=monotonic() - began),
            cache_scope=options.cache_scope,
            device_utilization=utilization_gauge(device),
        )
    except BaseException:
        engine.close()
        raise


def serve_runner(
    runner: Runner, tokenizer: Tokenizer, info: ModelInfo, options: LoadOptions, *, device: str, began: float
) -> EngineModel:
    """The same for a runner that is there already. It is freed if no engine can be had for it."""
    here = [runner]
    try:
        return serve(here.pop, tokenizer, info, options, device=device, began=began)
    except BaseException:
        while here:  # else an engine has taken it, and frees it
            here.pop().free()
        raise
