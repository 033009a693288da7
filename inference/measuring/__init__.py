"""Measuring engines beside each other: interleaved rounds, medians, and ratios taken within each round.

`inference bench` measures our own engines with it, `benchmarks/` in the repository also the peers.
"""

from __future__ import annotations

from inference.measuring.batches import Arrivals, BatchDecode
from inference.measuring.case import ABSOLUTE, Bar, Case, Repeat, Sample
from inference.measuring.cases import Decode, Load, LoadAlone, Prefill, Start, first_line
from inference.measuring.cell import Cell, Entry, Ratio, Spread
from inference.measuring.classify import Classify, classify_prompts
from inference.measuring.competitor import (
    GREEDY,
    SAMPLED,
    Batches,
    BatchSession,
    Chats,
    ChatSession,
    Classifier,
    Classifies,
    Competitor,
    Imports,
    Loads,
    Passes,
    Rate,
    RunningStream,
    Sampling,
    Scripted,
    SelfTimed,
    Server,
    Serves,
    Session,
    Settings,
)
from inference.measuring.depth import DecodeAtDepth
from inference.measuring.gap import LongestGap
from inference.measuring.native import Native
from inference.measuring.on_model import OPENING, STORY, OnModel, rotated
from inference.measuring.resident import MemoryGrowth, PeakMemory
from inference.measuring.rounds import measure
from inference.measuring.seat import CompetitorError
from inference.measuring.surroundings import surroundings
from inference.measuring.table import markdown, show
from inference.measuring.turns import SecondTurn

__all__ = [
    "ABSOLUTE",
    "GREEDY",
    "OPENING",
    "SAMPLED",
    "STORY",
    "Arrivals",
    "Bar",
    "BatchDecode",
    "BatchSession",
    "Batches",
    "Case",
    "Cell",
    "ChatSession",
    "Chats",
    "Classifier",
    "Classifies",
    "Classify",
    "Competitor",
    "CompetitorError",
    "Decode",
    "DecodeAtDepth",
    "Entry",
    "Imports",
    "Load",
    "LoadAlone",
    "Loads",
    "LongestGap",
    "MemoryGrowth",
    "Native",
    "OnModel",
    "Passes",
    "PeakMemory",
    "Prefill",
    "Rate",
    "Ratio",
    "Repeat",
    "RunningStream",
    "Sample",
    "Sampling",
    "Scripted",
    "SelfTimed",
    "Server",
    "Serves",
    "Session",
    "SecondTurn",
    "Settings",
    "Spread",
    "Start",
    "classify_prompts",
    "first_line",
    "markdown",
    "measure",
    "rotated",
    "show",
    "surroundings",
]
