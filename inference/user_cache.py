"""Where this package keeps what can be made again: one folder of the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`native-inference` under the user's directory for caches. It may not be there yet.

    `XDG_CACHE_HOME` names that directory anywhere; else it is `LOCALAPPDATA` on Windows, `~/.cache` elsewhere.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return Path(named or Path.home() / ".cache") / "native-inference"
