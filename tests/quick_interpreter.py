"""Triton's interpreter with less to do at each call of a function of a kernel.

Before it runs a kernel, the interpreter of Triton 3.7 replaces all functions of Triton's language by its own
(`triton.runtime.interpreter._patch_lang`). It does so again at each call of a function inside of the kernel, where all
are replaced already; that takes a millisecond, and many calls take less.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["quicken"]


def quicken() -> None:
    """Replace the language's functions only where they are not replaced yet. Does nothing where no interpreter has been
    imported, where it has been done, and where Triton goes about it in another way."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    patch = getattr(interpreter, "_patch_lang", None)
    scope = getattr(interpreter, "_LangPatchScope", None)
    if interpreter is None or patch is None or scope is None or hasattr(patch, "__wrapped__"):
        return
    language = interpreter.tl

    @functools.cache
    def seen_by(function: Callable[..., Any]) -> list[ModuleType]:
        """The modules of the language that a function of a kernel calls."""
        return [module for module in (language, language.core) if module in function.__globals__.values()]

    @functools.wraps(patch)
    def patch_once(function: Callable[..., Any]) -> Any:
        if any(language.core.is_builtin(module.load) for module in seen_by(function)):
            return patch(function)
        return scope()  # in which nothing has to be put back

    interpreter._patch_lang = patch_once
