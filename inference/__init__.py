"""One `load_model` that runs a language model file at full speed on whatever machine it meets."""

from __future__ import annotations

from inference.errors import InferenceError
from inference.loading import load_model
from inference.options import GenerateOptions, LoadOptions
from inference.protocols import Backend, TextModel, Tokenizer
from inference.registry import default_backend, get_backend, list_backends, register
from inference.stream import TokenStream
from inference.types import Finish, GenerateStats, Message, ModelInfo, Token, TokenLogprob

__all__ = [
    "Backend",
    "Finish",
    "GenerateOptions",
    "GenerateStats",
    "InferenceError",
    "LoadOptions",
    "Message",
    "ModelInfo",
    "TextModel",
    "Token",
    "TokenLogprob",
    "TokenStream",
    "Tokenizer",
    "default_backend",
    "get_backend",
    "list_backends",
    "load_model",
    "register",
]
