"""One tree of errors. Each says what was wrong, where, and what to do next.

Errors that a built-in exception already describes are that exception too: a missing file is a `FileNotFoundError`, an
option out of range a `ValueError`.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendNotFoundError",
    "BackendUnavailableError",
    "ChatTemplateError",
    "ContextTooLargeError",
    "CorruptFileError",
    "EmptyFileError",
    "EmptyPromptError",
    "EngineError",
    "EngineHungError",
    "InferenceError",
    "InsufficientMemoryError",
    "InvalidTokenError",
    "LoadAbortedError",
    "LoadError",
    "ModelClosedError",
    "ModelFileError",
    "ModelIsDirectoryError",
    "ModelNotFoundError",
    "NoChatTemplateError",
    "NotALanguageModelError",
    "NotGGUFError",
    "OptionError",
    "OptionValueError",
    "PromptError",
    "PromptTooLongError",
    "QueueFullError",
    "SplitFileError",
    "TruncatedFileError",
    "UnknownArchitectureError",
    "UnknownOptionError",
    "UnsupportedModelError",
    "UnsupportedOptionError",
    "UnsupportedVersionError",
    "quoted",
]

QUOTED = 200
"""Most characters of a value that an error quotes."""


def quoted(value: object) -> str:
    """What a caller gave, for an error's message: its beginning where it is long, its type where it cannot be shown (an
    integer of 5,000 digits, a list that is nested too deeply)."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever a caller's object raises
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}... ({len(text):,} characters)"


class InferenceError(Exception):
    """Every error that this suite raises on purpose."""


# The file ------------------------------------------------------------------------------------------------------------


class ModelFileError(InferenceError):
    """The model file cannot be used as it is."""


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """Nothing is at that path, and no local model store knows that name."""


class ModelIsDirectoryError(ModelFileError, IsADirectoryError):
    """The path is a directory."""


class EmptyFileError(ModelFileError):
    """The file has no bytes."""


class NotGGUFError(ModelFileError):
    """The file does not begin with GGUF's magic bytes."""


class UnsupportedVersionError(ModelFileError):
    """The file's GGUF version, or its byte order, is one that this reader does not know."""


class TruncatedFileError(ModelFileError):
    """The file ends before what its header announces."""


class CorruptFileError(ModelFileError):
    """The file contradicts itself or the format."""


class SplitFileError(ModelFileError):
    """A shard of a split model is missing, or does not belong to the others."""


class NotALanguageModelError(ModelFileError):
    """A GGUF file of another kind: a projector, an adapter, an importance matrix, a vocabulary."""


# The model -----------------------------------------------------------------------------------------------------------


class UnsupportedModelError(InferenceError):
    """No backend here, or not the one that was asked for, can run this model."""


class UnknownArchitectureError(UnsupportedModelError):
    """The file's architecture is one that the backend does not know."""


class LoadError(InferenceError):
    """The engine could not load the model."""


class LoadAbortedError(LoadError):
    """The caller stopped the loading."""


class InsufficientMemoryError(LoadError, MemoryError):
    """The weights need more memory than the device has free."""


class ContextTooLargeError(InsufficientMemoryError):
    """The weights fit, but not the KV memory of the context length that was asked for."""


# Backends ------------------------------------------------------------------------------------------------------------


class BackendError(InferenceError):
    """No engine to run on."""


class BackendNotFoundError(BackendError, LookupError):
    """No backend of that name is installed."""


class BackendUnavailableError(BackendError):
    """The backend is installed, but cannot run on this machine."""


# Options and prompts -------------------------------------------------------------------------------------------------


class OptionError(InferenceError):
    """An option that cannot be honoured."""


class UnknownOptionError(OptionError, TypeError):
    """No option has that name."""


class OptionValueError(OptionError, ValueError):
    """The option's value has the wrong type or is out of range."""


class UnsupportedOptionError(OptionError):
    """The option exists, but the chosen backend does not have that capability."""


class PromptError(InferenceError, ValueError):
    """A prompt that cannot be run."""


class EmptyPromptError(PromptError):
    """The prompt has no tokens."""


class PromptTooLongError(PromptError):
    """The prompt leaves no room in the context for a single new token."""


class InvalidTokenError(PromptError):
    """A token id that the vocabulary does not have."""


class ChatTemplateError(PromptError):
    """The chat template cannot be compiled or refuses these messages."""


class NoChatTemplateError(ChatTemplateError):
    """The model's file carries no chat template and none was passed."""


# Running -------------------------------------------------------------------------------------------------------------


class EngineError(InferenceError):
    """The engine failed while it computed."""


class EngineHungError(EngineError):
    """A step did not come back within `step_timeout`. The model is dead."""


class QueueFullError(EngineError):
    """More calls wait for a slot than `max_waiting` allows."""


class ModelClosedError(EngineError):
    """The model was closed."""
