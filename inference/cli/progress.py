"""How far a long command is: a bar on a terminal, figures at the end."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Count"]

REDRAW_SECONDS = 0.1


class Count:
    """Counts what was done and draws it on standard error, if that is a terminal and `visible`. Use it in a `with`
    block: the line is cleared when that ends."""

    def __init__(self, unit: str, *, total: int | None = None, already: int = 0, visible: bool = True) -> None:
        """`unit` is what is counted, in the plural. `already` of them were done before. Without a total the bar only
        shows that something moves."""
        self.done = 0
        self.failed = 0
        self.tokens = 0
        self._unit = unit
        self._total = total
        self._already = already
        self._visible = visible and sys.stderr.isatty()
        self._started = monotonic()
        self._drawn = self._started
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._visible:
            self._bar, self._task = _bar(self._unit, self._total, self._already)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, *, tokens: int = 0, done: int = 0, failed: int = 0) -> None:
        """Count on. Cheap enough for each token."""
        self.tokens += tokens
        self.done += done
        self.failed += failed
        if self._bar is not None and (now := monotonic()) - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._bar.update(self._task, completed=self._already + self.done, figures=self._figures(now))

    def note(self, text: str) -> None:
        """Write a line to standard error, above the bar."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """ "1000 sentences in 2.0 s, 500.0 sentences/s": by the wall clock, from the first moment until now."""
        seconds = max(monotonic() - self._started, 1e-9)
        unit = self._unit.removesuffix("s") if self.done == 1 else self._unit
        text = f"{self.done} {unit} in {seconds:.1f} s, {self.done / seconds:.1f} {self._unit}/s"
        if self.tokens:
            text += f", {self.tokens / seconds:.1f} tokens/s"
        return f"{text}; {self.failed} failed" if self.failed else text

    def _figures(self, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        rate = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else f"{self.done / seconds:.0f}/s"
        return f"{rate}, {self.failed} failed" if self.failed else rate


def _bar(unit: str, total: int | None, already: int) -> tuple[Progress, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}  {task.fields[figures]}"),
        TimeElapsedColumn(),
        *([TextColumn("left"), TimeRemainingColumn()] if total is not None else []),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        refresh_per_second=4,
    )
    return bar, bar.add_task(unit, total=total, completed=already, figures="")
