"""The model architectures: what each means, and a file's `Config` read by it."""

from inference.gguf.architectures.config import Activation, Config, Experts, Layer, LayerTensors, Part
from inference.gguf.architectures.entries import ARCHITECTURES
from inference.gguf.architectures.entry import Architecture
from inference.gguf.architectures.reading import config_of
from inference.gguf.architectures.rope import Rope, Yarn

__all__ = [
    "ARCHITECTURES",
    "Activation",
    "Architecture",
    "Config",
    "Experts",
    "Layer",
    "LayerTensors",
    "Part",
    "Rope",
    "Yarn",
    "config_of",
]
