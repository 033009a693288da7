"""Mixed traffic from many threads on one model, whose every answer must echo what its own prompt said."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fakes import END, FakeRunner, fake_model

from inference.engine.model import EngineModel
from inference.errors import EngineError, InferenceError, PromptError, QueueFullError
from inference.types import Message
from soak.resources import Resources

__all__ = ["Report", "run"]

CONTEXT = 512
NONCE = 12
"""Characters that no two requests have in common."""
FAULTS = 2000
"""A step of so many fails."""
LOOKS = 5000
"""Milliseconds in which those who left must be let go."""
GRACE = 60.0
"""Seconds in which threads must have ended once they are told to."""
RENDERERS = 4 * 3
"""Descriptors of the processes that render templates: two pipes and a file each. Not all may have been needed yet when
they are first counted."""


class EchoRunner(FakeRunner):
    """Generates the prompt itself, again and again; now and then a step fails."""

    def __init__(self, seed: int, **settings: int) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._draws = random.Random(seed)
        self.faults = 0

    def _sample(self, slot: int) -> int:
        held, length = self.holds[slot], self.prompts[slot]
        token = held[len(held) - length]
        held.append(token)
        return token

    def step(self, rows: Sequence[object]) -> object:  # type: ignore[override]
        self.steps.clear()  # what tests look at would be a leak here
        self.opened.clear()
        if self._draws.randrange(FAULTS) == 0:
            self.faults += 1
            raise EngineError("a fault that was injected")
        return super().step(rows)  # type: ignore[arg-type]


@dataclass
class Report:
    """What came of it."""

    seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    """Requests by kind."""
    faults: int = 0
    wrong: list[str] = field(default_factory=list)
    """Answers that were not what their prompts said, and whatever else must not be."""
    before: Resources | None = None
    after: Resources | None = None

    @property
    def leaks(self) -> list[str]:
        if self.before is None or self.after is None:
            return ["it was not measured"]
        return self.after.beyond(self.before, descriptors=RENDERERS)


def run(seconds: float, *, threads: int = 64, seed: int = 0, lookahead: int = 1) -> Report:
    """Traffic for so long. What the process holds is counted while nothing runs: after the first quarter, which makes
    what is made once, and at the end."""
    runner = EchoRunner(seed, max_slots=16, context_length=CONTEXT, slot_length=64, batch_size=64, lookahead=lookahead)
    model = fake_model(runner, max_waiting=48, step_timeout=30, chat_template="{{ messages[0].content }}")
    report = Report()
    began = time.monotonic()
    callers = [_Caller(model, random.Random(f"{seed} {number}"), number) for number in range(threads)]
    _let_run(callers, seconds / 4, report)
    report.wrong += _left(model, runner)
    report.before = Resources.now()
    _let_run(callers, seconds * 3 / 4, report)
    report.wrong += _left(model, runner)
    report.after = Resources.now()
    report.faults, report.seconds = runner.faults, time.monotonic() - began
    model.close()
    if not runner.freed:
        report.wrong.append("the runner was not freed")
    return report


def _let_run(callers: Sequence[_Caller], seconds: float, report: Report) -> None:
    """Have each caller make its requests on a thread of its own, for so long."""
    stop, lock = threading.Event(), threading.Lock()

    def consume(caller: _Caller) -> None:
        while not stop.is_set():
            kind, problem = caller.one()
            with lock:
                report.done[kind] += 1
                if problem:
                    report.wrong.append(f"{kind}: {problem}")

    consumers = [threading.Thread(target=consume, args=(caller,), daemon=True) for caller in callers]
    for thread in consumers:
        thread.start()
    stop.wait(seconds)
    stop.set()
    deadline = time.monotonic() + GRACE
    for thread in consumers:
        thread.join(max(deadline - time.monotonic(), 0))
    report.wrong += ["a caller came to no end"] * sum(thread.is_alive() for thread in consumers)


def _left(model: EngineModel, runner: FakeRunner) -> list[str]:
    """What is still there of requests that have all ended."""
    gc.collect()
    for _ in range(LOOKS):
        stats = model.stats()
        if (stats.running, stats.waiting, len(runner.open_slots)) == (0, 0, 0):
            return []
        time.sleep(0.001)
    return [f"{stats.running} run, {stats.waiting} wait, {len(runner.open_slots)} slots are open"]


class _Caller:
    """One thread's requests, one after the other."""

    def __init__(self, model: EngineModel, draws: random.Random, number: int) -> None:
        self._model, self._draws, self._number = model, draws, number
        self._count = 0
        self._kinds: list[Callable[[], str | None]] = [
            *[self._generate, self._chat, self._batch, self._classify, self._asynchronous],
            *[self._cancelled, self._dropped, self._late, self._bad],
        ]

    def one(self) -> tuple[str, str | None]:
        """Make a request; its kind, and what is wrong with the answer."""
        kind = self._draws.choice(self._kinds)
        try:
            problem = kind()
        except QueueFullError:
            time.sleep(0.002)
            return "refused", None
        except EngineError as error:
            return "failed", None if "was injected" in str(error) else repr(error)
        except InferenceError as error:
            problem = repr(error)
        return kind.__name__.strip("_"), problem

    def _prompt(self) -> str:
        self._count += 1
        nonce = f"{self._number:03}-{self._count:07}|".rjust(NONCE, "0")
        return nonce + "".join(self._draws.choices("abcdefgh ", k=self._draws.randrange(1, 60)))

    def _options(self) -> dict[str, object]:
        return {"max_tokens": self._draws.randrange(NONCE, 80), "cache_scope": self._draws.choice([None, "a", "b"])}

    def _generate(self) -> str | None:
        prompt = self._prompt()
        return _unlike(self._model.generate(prompt, **self._options()).text(), prompt)

    def _chat(self) -> str | None:
        if self._draws.random() < 0.9:  # a template takes thirty times as long as all else here
            return self._generate()
        prompt = self._prompt()
        return _unlike(self._model.chat([Message("user", prompt)], **self._options()).text(), prompt)

    def _batch(self) -> str | None:
        prompts = [self._prompt() for _ in range(self._draws.randrange(1, 12))]
        texts = [""] * len(prompts)
        for index, token in self._model.batch_generate(prompts, **self._options()):
            texts[index] += token.text
            if token.finish is not None and token.finish.error is not None:
                if "was injected" not in str(token.finish.error):
                    raise token.finish.error
                texts[index] = prompts[index]
        return next(filter(None, map(_unlike, texts, prompts)), None)

    def _classify(self) -> str | None:
        prompts = [self._prompt() for _ in range(self._draws.randrange(1, 8))]
        for index, found in enumerate(self._model.classify(prompts, labels=["x", "yz"])):
            if found.error is not None:
                if "was injected" not in str(found.error):
                    raise found.error
            elif abs(sum(found.probabilities.values()) - 1) > 1e-3:
                return f"probabilities of prompt {index} do not sum to 1"
        return None

    def _asynchronous(self) -> str | None:
        prompt, options = self._prompt(), self._options()

        async def read() -> str:
            return "".join([token.text async for token in self._model.generate(prompt, **options)])

        return _unlike(asyncio.run(read()), prompt)

    def _cancelled(self) -> str | None:
        prompt = self._prompt()
        stream = self._model.generate(prompt, max_tokens=400)
        text = next(stream).text
        stream.cancel()
        return _unlike(text + stream.text(), prompt, least=0)

    def _dropped(self) -> str | None:
        with self._model.generate(self._prompt(), max_tokens=400) as stream:
            if self._draws.random() < 0.5:
                next(stream)
        return None

    def _late(self) -> str | None:
        prompt = self._prompt()
        text = self._model.generate(prompt, max_tokens=400, timeout=self._draws.random() * 0.02).text()
        return _unlike(text, prompt, least=0)

    def _bad(self) -> str | None:
        prompt = self._draws.choice(["", "x" * (CONTEXT + 1), [END + 5], [-1], None])
        try:
            self._model.generate(prompt).text()  # type: ignore[arg-type]
        except PromptError:
            return None
        return f"the prompt {prompt!r:.30} was taken"


def _unlike(text: str, prompt: str, least: int = NONCE) -> str | None:
    """What is wrong with a text that must begin with the prompt, and repeat it."""
    expected = (prompt * (len(text) // len(prompt) + 1))[: len(text)]
    return None if text == expected and len(text) >= least else f"{text!r:.80} for {prompt!r:.80}"
