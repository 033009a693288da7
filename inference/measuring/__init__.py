"""Measuring engines beside each other: interleaved rounds, medians, and ratios taken within each round.

`inference bench` measures our own engines with it, `benchmarks/` in the repository also the peers.
"""

from __future__ import annotations

from inference.measuring.case import ABSOLUTE, Bar, Case, Repeat, Sample
from inference.measuring.cases import Decode, Load, Prefill, Start
from inference.measuring.cell import Cell, Entry, Ratio, Spread
from inference.measuring.competitor import (
    GREEDY,
    SAMPLED,
    Competitor,
    Imports,
    Loads,
    Sampling,
    Scripted,
    Session,
    Settings,
)
from inference.measuring.native import Native
from inference.measuring.rounds import measure
from inference.measuring.seat import CompetitorError
from inference.measuring.surroundings import surroundings
from inference.measuring.table import markdown, show

__all__ = [
    "ABSOLUTE",
    "GREEDY",
    "SAMPLED",
    "Bar",
    "Case",
    "Cell",
    "Competitor",
    "CompetitorError",
    "Decode",
    "Entry",
    "Imports",
    "Load",
    "Loads",
    "Native",
    "Prefill",
    "Ratio",
    "Repeat",
    "Sample",
    "Sampling",
    "Scripted",
    "Session",
    "Settings",
    "Spread",
    "Start",
    "markdown",
    "measure",
    "show",
    "surroundings",
]
