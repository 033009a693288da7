"""What flows between a model and its user: frozen dataclasses, no behaviour beyond derived figures."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from inference.options import GenerateOptions

__all__ = [
    "Availability",
    "Classification",
    "Finish",
    "FinishReason",
    "GenerateStats",
    "MemoryUse",
    "Message",
    "ModelInfo",
    "ModelStats",
    "Support",
    "Token",
    "TokenLogprob",
]

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
"""Why a sequence ended: "stop" (an end-of-generation token, a stop token or a stop string), "length" (`max_tokens`, or
the context is full), "cancelled" (by its consumer), "timeout" (the option), "error" (see `Finish.error`)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    `chat` also takes plain mappings, for what a model's template may expect beyond these two (`tool_calls`, `name`,
    `reasoning_content`).
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerateStats:
    """What one call cost. Seconds are wall-clock, from a monotonic clock."""

    prompt_tokens: int = 0
    """Tokens of the prompt, the cached ones included."""
    cached_tokens: int = 0
    """Tokens of the prompt that were not computed, since their KV entries were at hand."""
    computed_tokens: int = 0
    """Tokens of the prompt that were computed: all the others, unless the call was ended before."""
    generated_tokens: int = 0
    """Tokens sampled."""
    queue_seconds: float = 0.0
    """From the call until the sequence had a slot."""
    prefill_seconds: float = 0.0
    """From then until the first token was sampled."""
    decode_seconds: float = 0.0
    """From the first token until the last."""
    total_seconds: float = 0.0
    """From the call until the end."""

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the call until the first token, or None if there was none."""
        return self.queue_seconds + self.prefill_seconds if self.generated_tokens else None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """`computed_tokens` by `prefill_seconds`, or None where nothing was timed."""
        seconds = self.prefill_seconds
        return self.computed_tokens / seconds if self.computed_tokens and seconds > 0 else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first by `decode_seconds`, or None with fewer than two tokens."""
        steps = self.generated_tokens - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory that a model holds on its device, in bytes."""

    active_bytes: int
    peak_bytes: int
    """The most that it held since it was loaded."""
    measured: bool
    """True: the device's allocator says so. False: computed, weights and KV memory by their sizes."""


@dataclass(frozen=True, slots=True)
class ModelStats:
    """What all calls of a model cost since it was loaded, those included that still run. Seconds are wall-clock, summed
    over the calls: calls that run together count each."""

    calls: int = 0
    """Calls that ended; an item of a batch is a call."""
    running: int = 0
    """Calls that have a slot."""
    waiting: int = 0
    """Calls that wait for one."""
    prompt_tokens: int = 0
    """Tokens of the prompts, the cached ones included."""
    cached_tokens: int = 0
    """Tokens of the prompts that were not computed, since their KV entries were at hand."""
    computed_tokens: int = 0
    """Tokens of the prompts that were computed."""
    generated_tokens: int = 0
    """Tokens sampled."""
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    total_seconds: float = 0.0
    busy_seconds: float = 0.0
    """For how long the engine had steps under way: by this, `generated_tokens` is the throughput of all together."""
    last: GenerateStats | None = None
    """The call that ended last."""
    memory: MemoryUse | None = None
    """None where the device does not tell and the sizes are not known."""
    device_utilization: float | None = None
    """How busy the device is, 0 to 1, as its driver says. On a CPU: the share of this process's cores that the process
    kept busy since `stats` was called before. None where the platform does not tell."""
    decoded_tokens: int = 0
    """Sampled tokens that are not the first of their call: what `decode_seconds` were spent on."""

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds until the first token of the call that ended last; None if it had none."""
        return self.last.time_to_first_token if self.last else None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """`computed_tokens` by `prefill_seconds`: the rate that one call saw, on average."""
        seconds = self.prefill_seconds
        return self.computed_tokens / seconds if self.computed_tokens and seconds > 0 else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first by `decode_seconds`: the rate that one call saw, on average."""
        return self.decoded_tokens / self.decode_seconds if self.decoded_tokens and self.decode_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Finish:
    """How a sequence ended."""

    reason: FinishReason
    stats: GenerateStats
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that could have been drawn, with its natural log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    `text` may be empty: while a character or a possible stop string is incomplete, and for control tokens. The joined
    texts of a sequence are the decoded bytes of its ids, up to a stop string.

    The last token of a sequence carries `finish`. A sequence that ends without a sample (cancelled, timed out) ends
    with a token of id -1, whose text is what was still held back; one that failed raises its error instead.
    """

    id: int
    text: str
    logprob: float | None = None
    """Natural log-probability under the model's plain distribution (temperature 1, no filter, no penalty, no bias);
    None unless `logprobs` was asked for."""
    top_logprobs: tuple[TokenLogprob, ...] = ()
    """The `logprobs` most likely tokens, likeliest first."""
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """What `classify` says of one prompt. With an `error` the rest is empty."""

    label: str | None = None
    """The likeliest label; None without labels."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """The share of each label, in the order of `labels`, normalised over them: they sum to 1."""
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """The natural log-probability that the model goes on with exactly this label: the sum over its tokens. Of a label
    that another one begins with, that includes the other."""
    token: Token | None = None
    """Without labels: the likeliest next token, with its `logprob`."""
    logits: array[float] | None = None
    """If asked for: the logits after the prompt, float32, one for each id of the vocabulary. `numpy.asarray` takes it
    as it is."""
    error: Exception | None = None
    """Why this prompt could not be classified."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and where it runs."""

    path: Path
    name: str
    """`general.name` of the file, or the file's stem."""
    architecture: str
    """`general.architecture` of the file: "llama", "gemma3", ..."""
    quantization: str
    """What the weights are stored as: "Q4_1", "Q4_K", ... (the block format of most weights, by bytes)."""
    parameters: int
    """Number of weights."""
    size_bytes: int
    """Bytes of all tensors in the file."""
    layers: int
    vocabulary_size: int
    context_length: int
    """Tokens that one sequence may hold here, prompt and generated."""
    train_context_length: int
    """Tokens that the model was trained for."""
    backend: str
    """Name of the backend that runs it."""
    device: str
    """The device, in words."""
    chat_template: str | None = None
    """The Jinja source that `chat` renders with, or None."""
    sampling: GenerateOptions | None = None
    """The sampling defaults that the file carries (`general.sampling.*`), ready for `options=`; None without any."""
    load_seconds: float = 0.0
    choice: str = ""
    """Which backend and device were chosen, and why."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run on one device of this machine."""

    device: str
    """The name that `device=` takes: "cpu", "cuda:0", "metal", ..."""
    description: str
    """The device in words."""
    available: bool
    automatic: bool
    """Whether it may be chosen without being named."""
    reason: str
    """One sentence: why it is or is not available."""
    fix: str | None = None
    """A command or a step that would make it available, if there is one."""
    memory_bytes: int | None = None
    """Memory of the device in bytes, None where it is not known."""


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a backend can run one file with the options asked for."""

    supported: bool
    reason: str
    """One sentence: why, or why not."""
    weight_bytes: int = 0
    """Memory for the weights."""
    kv_bytes_per_token: int = 0
    """KV memory for one token of one sequence."""
    error: Exception | None = None
    """What loading would raise, if not supported."""
