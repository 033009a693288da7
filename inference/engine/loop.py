"""What happens on the engine's thread, round by round: who leaves, who comes, one step, and its answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from inference.engine.deadlines import Deadlines
from inference.engine.pacing import Pacing
from inference.engine.prefix_cache import Place
from inference.engine.request import Answer, Request
from inference.engine.scheduler import Plan, Scheduler
from inference.engine.tally import Tally
from inference.errors import EngineError, LoadError
from inference.protocols import Pending, Runner
from inference.stream import Channel
from inference.types import FinishReason

__all__ = ["Loop"]

TRY_AGAIN = 30.0
"""Seconds until more slots are asked for again, after there was no memory for them."""

_log = logging.getLogger(__name__)


class _Step(NamedTuple):
    """A step that was launched."""

    plan: Plan
    pending: Pending
    launched_at: float


class Loop:
    """Advances requests on a runner. Used on one thread."""

    def __init__(self, runner: Runner) -> None:
        self.max_slots = runner.max_slots
        self.scheduler = Scheduler(runner.slots, runner.slot_length, runner.batch_size, can_fork=runner.can_fork)
        self.tally = Tally()
        self._runner = runner
        self._deadlines = Deadlines()
        self._pacing = Pacing()
        self._held: list[Channel[Any]] = []
        self._in_flight: deque[_Step] = deque()
        self._last_delivery = 0.0
        self._no_more_until = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.scheduler and not self._in_flight

    def add(self, request: Request) -> None:
        """A request came."""
        self.scheduler.add(request)
        self._deadlines.add(request)

    def cancel(self, channel: Channel[Any]) -> None:
        """A consumer went away. If its request runs, the next round sees that by itself."""
        request = self.scheduler.find_waiting(channel)
        if request is not None:
            self._end(request, "cancelled")

    def round(self) -> None:
        """Let go who leaves, let in who waits, launch a step, and hand out the answers of the one before."""
        self._drop_leavers()
        self._grow()
        self._admit()
        plan = self._plan()
        if plan:
            self._launch(plan)
        else:
            self.flush()
        # Read the oldest step once more steps are under way than the device may run ahead.
        allowed = self._runner.lookahead if plan else 0
        while len(self._in_flight) > allowed:
            self._deliver(self._in_flight.popleft())

    def _drop_leavers(self) -> None:
        """End the requests whose consumer went away or whose time is up."""
        for request in [request for request in self.scheduler.running if request.channel.cancelled]:
            self._end(request, "cancelled")
        for request in self._deadlines.passed(monotonic()):
            self._end(request, "timeout")

    def _grow(self) -> None:
        """Make slots for those who wait, as many and as long as they need: at once, since each change costs."""
        scheduler, runner = self.scheduler, self._runner
        if not scheduler.waiting:
            return
        wanted, need = scheduler.wanted()
        more = wanted > scheduler.slots and scheduler.slots < self.max_slots and monotonic() >= self._no_more_until
        longer = need > scheduler.slot_length
        if not (more or longer):
            return
        slots = min(_power_of_two(wanted), self.max_slots) if more else scheduler.slots
        length = min(_power_of_two(need), runner.context_length) if longer else scheduler.slot_length
        self._deliver_all()
        try:
            runner.resize(slots, length, wait=not scheduler.running)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who have their slots go on
            if more:
                # Those who would only have begun sooner wait.
                _log.warning("No memory for more than %d sequences at once: %s", runner.slots, error)
                self._no_more_until = monotonic() + TRY_AGAIN
            else:
                self._do_without(need, error)
        if (runner.slots, runner.slot_length) != (scheduler.slots, scheduler.slot_length):
            scheduler.grow(runner.slots, runner.slot_length)

    def _do_without(self, need: int, error: Exception) -> None:
        """There is no memory for slots as long as a power of two. Try what is needed, else end the longest request."""
        try:
            self._runner.resize(self._runner.slots, need, wait=True)
        except Exception:  # noqa: BLE001 - the first one is told
            longest = max(self.scheduler.too_long(), key=lambda request: request.need)
            told = type(error)(str(error)) if isinstance(error, LoadError) else _no_memory(error)
            self._end(longest, "error", told)

    def _admit(self) -> None:
        for request, place in self.scheduler.admit():
            try:
                held = self._prepare(place)
                self._runner.open(place.slot, request.options, request.seed, request.prompt)
            except Exception as error:  # noqa: BLE001 - it goes to the consumer
                self._fail([request], error)
            else:
                request.start(place.slot, held)

    def _prepare(self, place: Place) -> int:
        """Make the slot hold what the request can use of it or of another; returns how many tokens that is."""
        if place.source >= 0:
            held = self._runner.fork(place.source, place.slot, place.copied)
            if held:
                return held
        return self._runner.trim(place.slot, place.kept)

    def _plan(self) -> Plan:
        running = self.scheduler.running
        decoding = 0
        for request in running:
            if request.rewind is not None:
                request.fed = self._runner.trim(request.slot, request.rewind)
                request.rewind = None
            decoding += not request.remaining
        return self.scheduler.plan(self._pacing.room(decoding))

    def _launch(self, plan: Plan) -> None:
        self.flush()
        began = monotonic()
        try:
            self._in_flight.append(_Step(plan, self._runner.step([row for _, row in plan]), began))
        except Exception as error:  # noqa: BLE001 - it goes to the consumers
            self._fail([request for request, _ in plan], error)

    def _deliver_all(self) -> None:
        while self._in_flight:
            self._deliver(self._in_flight.popleft())

    def _deliver(self, step: _Step) -> None:
        """Wait for a step and hand out its answers."""
        plan, pending, launched_at = step
        try:
            parts = (pending.tokens(), pending.logprobs(), pending.scores(), pending.logits())
            answers = [Answer(*answer) for answer in zip(*parts, strict=True)]
            if len(answers) != len(plan):
                raise EngineError(f"The engine gave {len(answers)} answers to {len(plan)} rows.")
        except Exception as error:  # noqa: BLE001 - it goes to the consumers
            self._fail([request for request, _ in plan], error)
            return
        now = monotonic()
        self._measure(plan, now - max(launched_at, self._last_delivery))
        self._last_delivery = now
        for (request, row), answer in zip(plan, answers, strict=True):
            # With lookahead, a request may have ended after this step was launched: its answer is surplus.
            if row.asks and not request.finished:
                self._held.append(request.channel)
                request.answered(now)
                try:
                    goes_on = request.accept(answer)
                except Exception as error:  # noqa: BLE001 - an answer that is none is told to its consumer alone
                    self._fail([request], error)
                else:
                    if not goes_on:
                        self._release(request)

    def _measure(self, plan: Plan, seconds: float) -> None:
        """Learn from a step how long the next ones will take."""
        self.tally.busy_seconds += seconds
        fed = [len(row.feed) for _, row in plan if row.feed]
        self._pacing.learn(seconds, sum(fed), len(plan) - len(fed))

    def flush(self) -> None:
        """Hand over the tokens of the last step. Not before the next one is about to start: consumers who woke earlier
        would only wait for the GIL, on a core that computes."""
        for channel in self._held:
            channel.flush()
        self._held.clear()

    def _fail(self, requests: list[Request], error: Exception) -> None:
        """A step failed: end its requests with the reason, and go on with the others."""
        _log.error("A step failed: %s", error)
        for request in requests:  # an exception each: they are raised on several threads
            known = isinstance(error, EngineError)
            told = EngineError(
                str(error) if known else f"The engine failed while it computed: {type(error).__name__}: {error}"
            )
            told.__cause__ = error
            self._end(request, "error", told)

    def _end(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        if not request.finished:
            request.end(reason, error)
            self._release(request)

    def _release(self, request: Request) -> None:
        with self.tally.lock:
            self.scheduler.remove(request)
            self.tally.add(request.took)
        if request.slot >= 0:
            self._runner.close(request.slot)

    def end_all(self, error: Callable[[], Exception]) -> None:
        """No round will follow: end every request with an error of its own."""
        self.flush()
        for request in list(self.scheduler):
            request.end("error", error())
            self.tally.add(request.took)
        self._in_flight.clear()


def _no_memory(error: Exception) -> EngineError:
    """For whoever needs longer slots than can be had."""
    told = EngineError(f"The engine could not make longer slots: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def _power_of_two(number: int) -> int:
    """The smallest one that is not less."""
    return 1 << (number - 1).bit_length()
