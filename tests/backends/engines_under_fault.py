"""The engines that faults are injected into, and marks for tests that do."""

from __future__ import annotations

import os
from typing import Any

import pytest

__all__ = ["backends", "posix"]

BACKENDS: dict[str, dict[str, Any]] = {
    "llama_cpp": {"backend": "llama_cpp"},
    "torch": {"backend": "torch"},
    "metal": {"backend": "metal", "device": "cpu"},
}
backends = pytest.mark.parametrize("how", BACKENDS.values(), ids=BACKENDS)
"""A test for each; `how` are options of `load_model`."""
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither fork nor these signals")
