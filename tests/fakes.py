"""Stand-ins for a device and a tokenizer, for tests of everything above them.

`FakeRunner` continues a prompt by a rule that needs no model and takes in every token before: a slot that holds a wrong
token goes on wrongly at once.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from inference.engine.engine import Engine
from inference.engine.info import choice, model_info
from inference.engine.model import EngineModel
from inference.errors import EngineError, InsufficientMemoryError
from inference.folder import Folder
from inference.options import MAX_WAITING, GenerateOptions, LoadOptions
from inference.protocols import Row, TextModel, TokenLogprobs
from inference.types import Availability, MemoryUse, ModelInfo, Support

END = 255
VOCABULARY = 256


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """The tokens that `FakeRunner` generates after `prompt`."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(rule(tokens))
    return tokens[len(prompt) :]


def rule(tokens: Sequence[int]) -> int:
    return sum(tokens) * 31 % 251  # never END


class FakeTokenizer:
    """A token is a byte; 255 ends a generation."""

    vocabulary_size = VOCABULARY
    bos_token = None
    eos_token = END

    def is_end(self, token: int) -> bool:
        return token == END

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def control_text(self, token: int) -> str:
        return "<end>" if token == END else ""

    def control_texts(self) -> Sequence[str]:
        return ("<end>",)


def fake_logits(tokens: Sequence[int]) -> array[float]:
    """The logits of `FakeRunner` after `tokens`: highest at what it would sample."""
    likeliest = rule(tokens)
    return array("f", [-0.1 * ((token - likeliest) % VOCABULARY) for token in range(VOCABULARY)])


def fake_logprobs(tokens: Sequence[int]) -> list[float]:
    """The same, normalised."""
    logits = fake_logits(tokens)
    total = math.log(math.fsum(map(math.exp, logits)))
    return [logit - total for logit in logits]


class FakePending:
    def __init__(
        self,
        tokens: list[int],
        logprobs: list[TokenLogprobs | None],
        scores: list[list[float] | None],
        logits: list[array[float] | None],
    ) -> None:
        self.tokens = lambda: tokens
        self.logprobs = lambda: logprobs
        self.scores = lambda: scores
        self.logits = lambda: logits


class FakeRunner:
    """Computes `next_token` of what each slot holds. With lookahead 1 a step is computed when it is launched, and read
    later."""

    def __init__(
        self,
        *,
        slots: int = 1,
        max_slots: int | None = None,
        context_length: int = 512,
        slot_length: int | None = None,
        batch_size: int = 16,
        lookahead: int = 0,
        next_token: Callable[[Sequence[int]], int] = rule,
        script: Sequence[int] | None = None,
        can_fork: bool = True,
        can_trim: bool = True,
        forgets: bool = False,
    ) -> None:
        self.slots = slots
        self.max_slots = slots if max_slots is None else max_slots
        self.context_length = context_length
        self.slot_length = context_length if slot_length is None else slot_length
        self.room: dict[int, int] = {}
        """Tokens that each open slot has room for."""
        self.batch_size = batch_size
        self.lookahead = lookahead
        self.next_token = next_token
        self.script = script
        """If given: what every sequence generates, whatever its prompt."""
        self.can_fork = can_fork
        self.can_trim = can_trim
        """False: a memory that cannot be cut, as that of a recurrent model."""
        self.forgets = forgets
        """Growing loses what closed slots hold, and copies of slots opened before it are refused."""
        self.old: set[int] = set()
        self.holds: dict[int, list[int]] = {}
        """What each slot holds, open or not."""
        self.open_slots: dict[int, GenerateOptions] = {}
        self.prompts: dict[int, int] = {}
        self.computed = 0
        """Tokens that were fed."""
        self.opened: list[tuple[int, GenerateOptions, int]] = []
        self.steps: list[list[Row]] = []
        self.before_step: Callable[[], None] = lambda: None
        self.most_open = 0
        self.memory_for = self.max_slots
        self.slow_to_grow = 0
        """How often `resize` is asked in vain, unless it is told to wait."""
        self.asked = 0
        self.freed = False

    def resize(self, slots: int, length: int, *, wait: bool) -> None:
        assert self.slots <= slots <= self.max_slots
        assert self.slot_length <= length <= self.context_length
        if slots > self.memory_for:
            raise InsufficientMemoryError("no memory in this fake")
        self.asked += 1
        if wait or self.asked > self.slow_to_grow:
            self.slots, self.slot_length, self.asked = slots, length, 0
            if self.forgets:
                self.old = set(self.open_slots)
                self.holds = {slot: held for slot, held in self.holds.items() if slot in self.old}

    def trim(self, slot: int, length: int) -> int:
        held = self.holds.setdefault(slot, [])
        assert length >= 0
        assert length <= len(held) or self.forgets, "the engine believes that a slot holds more than it does"
        if length > len(held) or (length < len(held) and not self.can_trim):
            length = 0
        del held[length:]
        return length

    def fork(self, source: int, slot: int, length: int) -> int:
        assert self.can_fork
        assert slot not in self.open_slots
        assert slot != source
        if source in self.old or length > len(self.holds.get(source, [])):
            assert self.forgets
            return 0
        self.holds[slot] = self.holds[source][:length]
        return length

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        assert 0 <= slot < self.slots
        assert slot not in self.open_slots, "a slot was opened twice"
        held = self.holds.setdefault(slot, [])
        assert held == list(prompt[: len(held)]), "a slot holds what its prompt does not begin with"
        assert len(held) < len(prompt), "nothing is left to compute logits from"
        self.open_slots[slot] = options
        self.room[slot] = self.slot_length
        self.prompts[slot] = len(prompt)
        self.opened.append((slot, options, seed))
        self.most_open = max(self.most_open, len(self.open_slots))

    def step(self, rows: Sequence[Row]) -> FakePending:
        self.before_step()
        assert sum(1 if row.feed is None else len(row.feed) for row in rows) <= self.batch_size
        assert len({row.slot for row in rows}) == len(rows)
        assert all(row.slot in self.open_slots for row in rows)
        self.steps.append(list(rows))
        answers = [self._answer(row) for row in rows]
        tokens, logprobs, scores, logits = map(list, zip(*answers, strict=True))
        return FakePending(tokens, logprobs, scores, logits)  # type: ignore[arg-type]

    def _answer(self, row: Row) -> tuple[int, TokenLogprobs | None, list[float] | None, array[float] | None]:
        held = self.holds[row.slot]
        held.extend(row.feed or ())
        self.computed += len(row.feed or ())
        assert len(held) <= self.room[row.slot], "a slot holds more than it has room for"
        known = fake_logprobs(held) if row.score or self.open_slots[row.slot].logprobs else []
        scores = [known[token] for token in row.score] if row.score else None
        logits = fake_logits(held) if row.logits else None
        if not row.sample:
            return -1, None, scores, logits
        # What was sampled is appended at once: "go on from what you sampled" finds it there.
        token = self._sample(row.slot)
        return token, TokenLogprobs(known[token], ()) if known else None, scores, logits

    def _sample(self, slot: int) -> int:
        held = self.holds[slot]
        if self.script is None:
            token = self.next_token(held)
        else:
            done = len(held) - self.prompts[slot]
            token = self.script[done] if done < len(self.script) else END
        if token < 0:
            raise EngineError("this fake device failed")
        held.append(token)
        return token

    def close(self, slot: int) -> None:
        self.open_slots.pop(slot, None)
        if slot in self.old:
            self.old.remove(slot)
            self.holds.pop(slot)

    def memory(self) -> MemoryUse:
        return MemoryUse(1000 + 10 * self.slots, 1000 + 10 * self.slots, measured=False)

    def free(self) -> None:
        assert not self.freed
        self.freed = True


def fake_info(path: Path = Path("fake.gguf"), **changes: object) -> ModelInfo:
    """Figures of a model that does not exist."""
    fields: dict[str, object] = {
        "path": path,
        "name": "fake",
        "architecture": "fake",
        "quantization": "F32",
        "parameters": 0,
        "size_bytes": 0,
        "layers": 0,
        "vocabulary_size": VOCABULARY,
        "context_length": 512,
        "train_context_length": 512,
        "backend": "fake",
        "device": "no device",
        "choice": choice(),
    }
    return ModelInfo(**{**fields, **changes})  # type: ignore[arg-type]


def fake_model(
    runner: FakeRunner,
    *,
    max_waiting: int = MAX_WAITING,
    cache_scope: str | None = None,
    step_timeout: float = 0.0,
    **info: object,
) -> EngineModel:
    """A model on `runner`."""
    engine = Engine(lambda: runner, "fake", max_waiting, step_timeout)
    return EngineModel(engine, FakeTokenizer(), fake_info(**info), cache_scope=cache_scope)  # type: ignore[arg-type]


class FakeBackend:
    """A backend that is available, or not, as told; what it loads runs on a `FakeRunner`."""

    load_options = frozenset({"context_length", "threads"})

    def __init__(
        self,
        name: str,
        *,
        available: bool = True,
        automatic: bool = True,
        supported: bool = True,
        error: Exception | None = None,
        runner: Callable[[], FakeRunner] = FakeRunner,
        failure: BaseException | None = None,
        devices: Sequence[Availability] = (),
    ) -> None:
        """`failure` is what loading raises; `devices` are probed beside the one that is there."""
        self.name = name
        self.failure = failure
        self.devices = devices
        self.available = available
        self.automatic = automatic
        self.supported = supported
        self.error = error
        self.runner = runner
        self.loaded: list[tuple[Path, LoadOptions]] = []

    def probe(self) -> list[Availability]:
        reason = "it is a fake." if self.available else "this machine lacks what it needs."
        fix = None if self.available else f"install {self.name}"
        return [Availability("cpu", f"{self.name} device", self.available, self.automatic, reason, fix), *self.devices]

    def supports(self, header: object, options: LoadOptions) -> Support:
        return Support(self.supported, "it runs anything." if self.supported else "it runs nothing.", error=self.error)

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        self.loaded.append((path, options))
        if self.failure is not None:
            raise self.failure
        return fake_model(
            self.runner(),
            max_waiting=options.max_waiting,
            cache_scope=options.cache_scope,
            path=path,
            backend=self.name,
            chat_template=options.chat_template,
        )


class FakeFolderBackend(FakeBackend):
    """One that loads folders too."""

    loaded_folders: list[tuple[Folder, LoadOptions]]

    def __init__(self, name: str, **arguments: object) -> None:
        super().__init__(name, **arguments)  # type: ignore[arg-type]
        self.loaded_folders = []

    def supports_folder(self, folder: Folder, options: LoadOptions) -> Support:
        return self.supports(folder, options)

    def load_folder(self, folder: Folder, options: LoadOptions) -> TextModel:
        self.loaded_folders.append((folder, options))
        info = model_info(folder, options, backend=self.name, device=f"{self.name} device", context_length=512)
        return EngineModel(Engine(self.runner, folder.name, options.max_waiting), FakeTokenizer(), info)
