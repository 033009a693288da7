"""Telling the caller how far a loading is, who may stop it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inference.errors import LoadAbortedError
from inference.options import Progress

__all__ = ["reporter"]


def reporter(path: Path, progress: Progress | None) -> Callable[[float], None]:
    """What a loader of `path` calls with the share, from 0 to 1, that is done.

    It raises:
        LoadAbortedError: `progress` returned False, or raised.
    """

    def report(share: float) -> None:
        try:
            goes_on = progress is None or progress(share) is not False
        except Exception as error:
            stopped = f"{path}: loading stopped, since the progress function raised {error!r}."
            raise LoadAbortedError(stopped) from error
        if not goes_on:
            raise LoadAbortedError(f"{path}: loading stopped, since the progress function returned False.")

    return report
