"""A stack that is deep enough for llama.cpp's tokenizer.

Most of its pre-tokenizers are regular expressions of C++'s library, which calls itself for each character of a match: a
run of some ten thousand letters overflows a thread's usual stack, and ends the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TypeVar

from inference.errors import PromptError

__all__ = ["SHORT", "with_stack_for"]

T = TypeVar("T")

SHORT = 1000
"""Characters of a text that the usual stack of any thread is deep enough for."""
PER_CHARACTER = 512
"""Bytes of stack for a character of a match: 8 MiB suffice for 20,000, so that 420 are the most."""
DEEPEST = 2**30
"""Bytes. They are reserved, and become memory as far as they are used."""
PAGES = 2**16
"""Bytes that stacks are multiples of: those of a page, on every system."""
LONGEST = DEEPEST // PER_CHARACTER // 2
"""Characters of a run: a match may take in the run beside it."""
_RUN = re.compile(r"\s+|\S+")

_sizes = threading.Lock()
"""Held while the size of new threads' stacks is another one."""


def with_stack_for(text: str, function: Callable[[], T]) -> T:
    """What `function`, which splits `text`, returns; called on a thread of its own where the text has a long run.

    Raises:
        PromptError: it has a run of white space, or without any, that no stack is deep enough for, or that there is no
            memory for.
    """
    if len(text) <= SHORT:
        return function()
    longest = max(_RUN.finditer(text), key=lambda run: run.end() - run.start())
    length = longest.end() - longest.start()
    if length <= SHORT:
        return function()
    if length > LONGEST:
        kind = "of white space" if text[longest.start()].isspace() else "without white space"
        raise PromptError(
            f"The text has {length:,} characters {kind} from character {longest.start():,} on, and llama.cpp can split "
            f"{LONGEST:,} at most. Break them up."
        )
    try:
        return _on_thread(function, 2 * length * PER_CHARACTER)
    except _NoStackError as error:
        raise PromptError(
            f"There is no memory for the stack that {length:,} characters without a break take to be split: {error}. "
            f"Break up what begins at character {longest.start():,}."
        ) from error


class _NoStackError(Exception):
    """No thread can be had with a stack of that size."""


def _on_thread(function: Callable[[], T], stack: int) -> T:
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name="tokenizer", daemon=True)
    with _sizes:
        usual = threading.stack_size(-(-max(stack, 2**24) // PAGES) * PAGES)
        try:
            thread.start()
        except RuntimeError as error:
            raise _NoStackError(str(error)) from error
        finally:
            threading.stack_size(usual)
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]
