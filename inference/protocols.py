"""The interfaces. A model's user sees `TextModel`; a backend's author implements `Backend`, `Runner` and `Tokenizer`.

Rules: minimal (a method needs two consumers), no dependencies, backwards compatible (a new capability is a new
protocol, never a changed signature), platform agnostic.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from inference.options import GenerateOptions, LoadOptions
from inference.types import (
    Availability,
    Classification,
    MemoryUse,
    Message,
    ModelInfo,
    ModelStats,
    Support,
    Token,
    TokenLogprob,
)

if TYPE_CHECKING:
    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.stream import TokenStream

__all__ = [
    "Backend",
    "BatchModel",
    "FolderBackend",
    "Pending",
    "Row",
    "Runner",
    "StatsModel",
    "TextModel",
    "TokenLogprobs",
    "Tokenizer",
]

Prompt = str | Sequence[int]
"""Text, or token ids."""


@runtime_checkable
class TextModel(Protocol):
    """A loaded model. Safe to call from many threads at once."""

    @property
    def model_type(self) -> str:
        """The architecture's name: "llama", "gemma3", ..."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""

    def info(self) -> ModelInfo:
        """What the model is and where it runs."""

    def generate(self, prompt: Prompt, *, options: GenerateOptions | None = None, **keywords: Any) -> TokenStream:
        """Continue `prompt`: text (special tokens in it are recognised, the model's BOS is put in front) or token ids,
        taken as they are. Keywords are the fields of `GenerateOptions`.

        Raises:
            PromptError: the prompt is empty, too long, or has an id that is not in the vocabulary.
            OptionError: an option is unknown or out of range.
            ModelClosedError: the model was closed.
        """

    def chat(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        options: GenerateOptions | None = None,
        template_options: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> TokenStream:
        """Answer `messages`, rendered by the model's chat template. `template_options` go to the template
        (`enable_thinking`, `tools`, ...). Text in a message never becomes a special token.

        Raises:
            NoChatTemplateError: the file has none and none was passed to `load_model`.
            ChatTemplateError: the template refuses these messages.
            PromptError, OptionError, ModelClosedError: as `generate`.
        """

    def close(self) -> None:
        """End running streams with `ModelClosedError` and free the memory. Closing twice does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


@runtime_checkable
class BatchModel(TextModel, Protocol):
    """A model that takes many prompts at once. What both methods return can be closed, which frees its slots within one
    step; so do leaving its `with` block and garbage collection."""

    def batch_generate(
        self, prompts: Iterable[Prompt], *, options: GenerateOptions | None = None, **keywords: Any
    ) -> Iterator[tuple[int, Token]]:
        """Continue many prompts together: the index of a prompt and its next token, as tokens come.

        Prompts are taken from the iterable as slots become free, some ahead, on the thread that reads: it may be
        endless, and while it lets one wait for a prompt, tokens that have come wait too. A prompt that fails ends with
        a token of id -1 whose `finish.error` says why, and stops no other. If the iterable itself raises, that is
        raised once all prompts taken before have ended.

        Raises:
            OptionError: an option is unknown or out of range.
            ModelClosedError: the model was closed.
        """

    def classify(
        self,
        prompts: Iterable[Prompt],
        *,
        labels: Sequence[str] | None = None,
        return_logits: bool = False,
        cache_scope: str | None = None,
    ) -> Iterator[Classification]:
        """For each prompt, in order: how likely the model goes on with each of `labels` or, without labels, which token
        is the likeliest. A label is scored exactly as it is written (" yes", with its space), whole.

        Prompts are taken lazily, some hundred ahead; one that fails gives a `Classification` with an `error`.

        Raises:
            OptionValueError: a label is there twice, is empty, or cannot be written in the model's vocabulary.
            ModelClosedError: the model was closed.
        """


@runtime_checkable
class StatsModel(TextModel, Protocol):
    """A model that tells what it did."""

    def stats(self) -> ModelStats:
        """Sums over all calls, the last call, memory and utilisation. Costs microseconds; made to be polled."""


class Tokenizer(Protocol):
    """Text to ids and back, as the model's file defines it. Safe to call from many threads at once."""

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are: 0 to one less than this."""

    @property
    def bos_token(self) -> int | None:
        """Id of the beginning-of-sequence token."""

    @property
    def eos_token(self) -> int | None:
        """Id of the end-of-sequence token."""

    def is_end(self, token: int) -> bool:
        """Whether `token` is one of the model's end-of-generation tokens."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`. `add_special` puts BOS (EOS) where the model wants them; `parse_special` reads the text of
        a control token as that token."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are no UTF-8 become U+FFFD; control tokens have no text."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` adds to a text; empty for control tokens."""

    def control_text(self, token: int) -> str:
        """How the vocabulary writes `token`: "<|im_end|>", "</s>"."""

    def control_texts(self) -> Sequence[str]:
        """The texts that `parse_special` would read as control tokens."""


class Backend(Protocol):
    """An engine that can load models. Making one and asking it what is available imports nothing heavy."""

    @property
    def name(self) -> str:
        """What `backend=` takes: "metal", "rocm", "llama_cpp", "torch"."""

    @property
    def load_options(self) -> frozenset[str]:
        """Names of the `LoadOptions` that it honours, beyond those that the core itself takes."""

    def probe(self) -> list[Availability]:
        """One entry for each device, best first; never raises."""

    def supports(self, header: Header, options: LoadOptions) -> Support:
        """Whether it can run this file here, and the memory that takes. Reads the header alone."""

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        """Load the file.

        Raises:
            LoadError: the engine refuses the file, or memory does not suffice.
            UnsupportedModelError: it does not know the architecture or a block format.
        """


@runtime_checkable
class VersionedBackend(Backend, Protocol):
    """A backend that knows which packages decide its speed: what was measured with others of them counts no more."""

    @property
    def packages(self) -> Sequence[str]:
        """Names of distributions; those that are not installed may be among them."""


@runtime_checkable
class FolderBackend(Backend, Protocol):
    """A backend that loads Hugging Face's and MLX's model folders too."""

    def supports_folder(self, folder: Folder, options: LoadOptions) -> Support:
        """Whether it can run this folder here, and the memory that takes. Reads no weights."""

    def load_folder(self, folder: Folder, options: LoadOptions) -> TextModel:
        """Load the folder. No code in it is run.

        Raises:
            LoadError: the engine refuses the folder, or memory does not suffice.
            UnsupportedModelError: it does not know the architecture, the quantisation or the tokenizer.
        """


@dataclass(frozen=True, slots=True)
class Row:
    """What one step does for one slot. New wishes (scores, masks) become new fields with defaults."""

    slot: int
    feed: Sequence[int] | None = None
    """Token ids to append to the slot; None appends the token that the slot sampled last."""
    sample: bool = True
    """Whether to sample a token after the last fed one."""
    score: Sequence[int] = ()
    """Token ids whose log-probabilities after the last fed one are wanted."""
    logits: bool = False
    """Whether all logits after the last fed one are wanted, on the host."""

    @property
    def asks(self) -> bool:
        """Whether anything is wanted after the last fed token."""
        return self.sample or self.logits or bool(self.score)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one sampled position, under the plain distribution."""

    logprob: float
    """Of the sampled token."""
    top: tuple[TokenLogprob, ...]
    """The likeliest tokens, as many as the slot's `logprobs` option asked for."""


class Pending(Protocol):
    """A step that was launched. All calls block until it has been computed, and answer in the order of the rows."""

    def tokens(self) -> Sequence[int]:
        """The sampled id for each row; -1 for rows that do not sample, and for those whose logits are not finite."""

    def logprobs(self) -> Sequence[TokenLogprobs | None]:
        """For each row that samples in a slot opened with `logprobs` > 0, its log-probabilities."""

    def scores(self) -> Sequence[Sequence[float] | None]:
        """For each row with `score`, the natural log-probabilities of those ids under the plain distribution; NaN where
        the logits are not finite."""

    def logits(self) -> Sequence[array[float] | None]:
        """For each row with `logits`, a copy of them: float32, one for each id of the vocabulary."""


class Runner(Protocol):
    """One model on one device: the weights, the KV memory cut into slots, the sampler.

    It is used and freed on one thread, the engine's, and built there too where a device ties its arrays to a thread. It
    does one thing: advance slots by one step.
    """

    @property
    def slots(self) -> int:
        """How many slots there are."""

    @property
    def max_slots(self) -> int:
        """How many slots there may be."""

    @property
    def context_length(self) -> int:
        """Most tokens that one slot may hold."""

    @property
    def slot_length(self) -> int:
        """Tokens that a slot opened now can hold: memory for more may be made when it is wanted."""

    @property
    def batch_size(self) -> int:
        """Most tokens that one step takes, all rows together."""

    @property
    def lookahead(self) -> int:
        """1 if a step may be launched before the last one's tokens were read, else 0."""

    @property
    def can_fork(self) -> bool:
        """Whether `fork` may copy a part of what a slot holds."""

    def resize(self, slots: int, length: int, *, wait: bool) -> None:
        """Make room for `slots` slots of `length` tokens, `max_slots` and `context_length` at most. Open slots keep
        what they hold, closed ones may lose it. Without `wait` it may return before the room is there, and is called
        again until it is: a device that takes long for it should not keep running sequences waiting.

        Raises:
            InsufficientMemoryError: there is no memory; everything is as before.
        """

    def trim(self, slot: int, length: int) -> int:
        """Forget what a slot holds after its first `length` tokens, whether it is open or not. Returns how many it
        still holds: `length`, or 0 where the memory cannot be cut."""

    def fork(self, source: int, slot: int, length: int) -> int:
        """Make a closed slot hold the first `length` tokens of another. Returns how many it holds then: `length`, or 0
        where that cannot be done."""

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        """Prepare a slot, which holds what `trim` or `fork` left in it, for a sequence. `prompt` is for the penalties'
        window: `step` feeds its tokens. `seed` is `options.seed`, or what was drawn in its place."""

    def step(self, rows: Sequence[Row]) -> Pending:
        """Advance the slots of `rows`, each named once.

        Raises:
            EngineError: the device failed; what the named slots hold is then undefined, and they must be closed.
        """

    def close(self, slot: int) -> None:
        """End the sequence in the slot. What it holds stays, for a later `trim` or `fork`."""

    def memory(self) -> MemoryUse | None:
        """What the model holds on its device. May be called on any thread."""

    def free(self) -> None:
        """Give everything back to the device."""
