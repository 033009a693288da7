"""Triton's interpreter, which computes the same in half the time.

An operation on a block of a kernel takes it tens of microseconds whatever the block's size, and what it does in them
does not hang on the numbers. So that is done once and remembered. All of it holds for Triton 3.7, as which the tests
require; with another one nothing is changed.

- Before it runs a kernel, the interpreter replaces all functions of Triton's language by its own. It does so again at
  each call of a function inside of the kernel, where they are replaced already; that takes a millisecond.
- Each operation makes types of blocks anew, and for each block a tuple of its sides.
- The table of numpy's types is written out again at each look into it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["quicken"]


def quicken() -> None:
    """Make the interpreter quick, if it has been imported by now. A second call does nothing."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None or not sys.modules["triton"].__version__.startswith("3.7."):
        return
    if not hasattr(interpreter._patch_lang, "__wrapped__"):
        _replace_functions_once(interpreter)
        _remember_numpy_types(interpreter)
        _keep_block_types(interpreter.tl.core)
        _keep_sides(interpreter.tl.core)


def _replace_functions_once(interpreter: Any) -> None:
    language, replace = interpreter.tl, interpreter._patch_lang

    @functools.cache
    def seen_by(function: Callable[..., Any]) -> list[ModuleType]:
        """The modules of the language that a function of a kernel knows."""
        return [module for module in (language, language.core) if module in function.__globals__.values()]

    @functools.wraps(replace)
    def replace_once(function: Callable[..., Any]) -> Any:
        if any(language.core.is_builtin(module.load) for module in seen_by(function)):
            return replace(function)
        return interpreter._LangPatchScope()  # in which nothing has to be put back

    interpreter._patch_lang = replace_once


def _remember_numpy_types(interpreter: Any) -> None:
    look_up, known = interpreter._get_np_dtype, {}

    def numpy_type(of: Any) -> Any:
        name = of.scalar.name
        found = known.get(name)
        if found is None:
            found = known[name] = look_up(of)
        return found

    interpreter._get_np_dtype = numpy_type


def _keep_block_types(core: Any) -> None:
    """One object for each type of block."""
    initialise, known = core.block_type.__init__, {}

    def new(kind: type, element: Any, shape: Any) -> Any:
        key = kind, str(element), *map(int, shape)
        found = known.get(key)
        if found is None:
            found = known[key] = object.__new__(kind)
        return found

    def initialise_once(self: Any, element: Any, shape: Any) -> None:
        if not hasattr(self, "name"):
            initialise(self, element, shape)

    core.block_type.__new__ = new
    core.block_type.__init__ = initialise_once


def _keep_sides(core: Any) -> None:
    """What blocks of a type have in common stays with the type."""
    initialise = core.tensor.__init__

    def share(self: Any, handle: Any, kind: Any) -> None:
        shared = kind.__dict__.get("_shared")
        if shared is None:
            initialise(self, handle, kind)
            kind._shared = self.shape, self.numel, self.dtype
            return
        self.handle, self.type = handle, kind
        self.shape, self.numel, self.dtype = shared

    core.tensor.__init__ = share
