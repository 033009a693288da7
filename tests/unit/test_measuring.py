"""The measuring harness, with competitors and a clock that are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from inference import registry
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Bar,
    Case,
    Cell,
    Competitor,
    CompetitorError,
    Decode,
    DecodeAtDepth,
    Entry,
    Load,
    Native,
    PeakMemory,
    Prefill,
    Repeat,
    Sample,
    Sampling,
    Session,
    Settings,
    Spread,
    Start,
    markdown,
    measure,
    surroundings,
)
from inference.measuring.cases import first_line
from inference.measuring.cell import median_interval
from inference.measuring.native import NativeSession, load_options
from inference.measuring.resident import STATUS, resident_bytes
from inference.measuring.seat import ProcessSeat, take_seat

SETTINGS = Settings(threads=1)
Work = Callable[[int], Sample]


@dataclass(frozen=True)
class FakeCompetitor:
    name: str
    work: Work = lambda _: Sample(1.0)
    ours: bool = False
    unavailable: str | None = None
    packages: Sequence[str] = ()

    def reason_unavailable(self) -> str | None:
        return self.unavailable


@dataclass(frozen=True)
class FakeCase:
    """Its work is the competitor's own."""

    bars: Mapping[str, Bar] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    name: str = "fake"
    model: Path | None = None
    unit: str = "tokens/s"
    isolated: bool = False

    def facts(self) -> Mapping[str, Any]:
        return {"tokens": 128}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return "it has no hands" if competitor.name == "handless" else None

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, FakeCompetitor)
        self.log.append(f"{competitor.name} prepared")

        def repeat(number: int) -> Sample:
            self.log.append(f"{competitor.name}{number}")
            return competitor.work(number)

        yield repeat
        self.log.append(f"{competitor.name} closed")


class Clock:
    """Goes on only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, seconds: float) -> Work:
        def work(_: int) -> Sample:
            self.now += seconds
            return Sample(seconds)

        return work


def measured(case: Case, *competitors: Competitor, repeats: int = 3, seconds: float = 60.0) -> Cell:
    return measure(case, competitors, repeats=repeats, seconds=seconds, clock=Clock(), sleep=lambda _: None)


def rates(*values: float) -> Work:
    """Gives these in the rounds 1, 2, ...; the warm-up is far off."""
    return lambda number: Sample(values[number - 1] if number else 1e6)


def failing(number: int, message: str = "it broke") -> Work:
    def work(current: int) -> Sample:
        if current == number:
            raise ValueError(message)
        return Sample(1.0)

    return work


# Rounds --------------------------------------------------------------------------------------------------------------


def test_competitors_take_turns_and_each_round_begins_with_another_one() -> None:
    case = FakeCase()
    measured(case, FakeCompetitor("a"), FakeCompetitor("b"), FakeCompetitor("c"))
    warm_up, *rounds = (" ".join(case.log[start : start + 3]) for start in (3, 6, 9, 12))
    assert case.log[:3] == ["a prepared", "b prepared", "c prepared"]
    assert warm_up == "a0 b0 c0"
    assert rounds == ["b1 c1 a1", "c2 a2 b2", "a3 b3 c3"]
    assert sorted(case.log[15:]) == ["a closed", "b closed", "c closed"]


def test_the_warm_up_is_not_counted() -> None:
    cell = measured(FakeCase(), FakeCompetitor("a", rates(3, 1, 2)))
    assert cell.entries[0].samples == {1: 3, 2: 1, 3: 2}
    assert cell.entries[0].spread == Spread(1.5, 2, 2.5)


def test_each_repeat_is_preceded_by_a_pause_in_which_the_last_competitors_threads_fall_asleep() -> None:
    pauses: list[float] = []
    measure(FakeCase(), [FakeCompetitor("a"), FakeCompetitor("b")], repeats=2, sleep=pauses.append)
    assert len(pauses) == 6
    assert min(pauses) > 0


def test_ratios_are_taken_within_each_round_so_that_drift_cancels() -> None:
    ours = FakeCompetitor("ours", rates(100, 50, 10), ours=True)  # the machine gets slower and slower
    peer = FakeCompetitor("peer", rates(100, 100, 10))
    cell = measured(FakeCase(), ours, peer)
    (ratio,) = cell.ratios
    assert (ratio.ours, ratio.peer) == ("ours", "peer")
    assert ratio.per_round == (1.0, 0.5, 1.0)
    assert ratio.spread.median == 1.0  # the ratio of the medians would be 0.5


def test_each_of_our_engines_is_compared_with_each_peer() -> None:
    both = [FakeCompetitor(name, ours=True) for name in ("cpu", "gpu")]
    cell = measured(FakeCase(), *both, FakeCompetitor("p"), FakeCompetitor("q"))
    assert [(r.ours, r.peer) for r in cell.ratios] == [("cpu", "p"), ("cpu", "q"), ("gpu", "p"), ("gpu", "q")]


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30))
def test_the_median_lies_between_the_quartiles_and_they_between_the_extremes(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    ends = min(values), max(values)
    tolerance = 1e-9 * ends[1]
    assert ends[0] - tolerance <= spread.low <= spread.median + tolerance
    assert spread.median - tolerance <= spread.high <= ends[1] + tolerance


def test_nothing_has_no_spread() -> None:
    assert Spread.of([]) is None


# The time box --------------------------------------------------------------------------------------------------------


def boxed(seconds_a_round: float, box: float, repeats: int = 10) -> Cell:
    clock = Clock()
    competitor = FakeCompetitor("a", clock.worker(seconds_a_round))
    return measure(FakeCase(), [competitor], repeats=repeats, seconds=box, clock=clock, sleep=lambda _: None)


def test_no_round_is_begun_that_would_pass_the_time_box_and_the_cell_says_so() -> None:
    cell = boxed(1.0, 5.5)
    assert len(cell.entries[0].samples) == 4  # with the warm-up five seconds
    assert cell.cut == "4 of 10 rounds: the cell's 5.5 s were spent"


def test_a_cell_that_finishes_in_time_is_not_called_cut() -> None:
    assert boxed(1.0, 60.0).cut is None
    assert boxed(1.0, 4.0, repeats=3).cut is None


def test_three_rounds_are_made_though_the_time_is_up() -> None:
    assert len(boxed(1.0, 2.0).entries[0].samples) == 3


def test_not_even_three_rounds_are_made_when_each_takes_many_times_the_box() -> None:
    cell = boxed(100.0, 60.0)
    assert len(cell.entries[0].samples) == 2
    assert cell.cut is not None


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_an_unavailable_peer_is_reported_with_its_reason_and_never_prepared() -> None:
    case = FakeCase()
    cell = measured(case, FakeCompetitor("ours", ours=True), FakeCompetitor("peer", unavailable="it is not installed."))
    assert cell.entries[1].skipped == "it is not installed."
    assert cell.ratios == []
    assert cell.missed == []
    assert "peer prepared" not in case.log
    assert "it is not installed." in markdown([cell])


def test_a_competitor_that_cannot_do_the_work_is_skipped_with_the_cases_reason() -> None:
    cell = measured(FakeCase(), FakeCompetitor("handless"))
    assert cell.entries[0].skipped == "it has no hands"


@pytest.mark.parametrize(("number", "where"), [(0, "in the warm-up"), (2, "in round 2")])
def test_a_competitor_that_raises_makes_an_error_entry_and_the_others_go_on(number: int, where: str) -> None:
    cell = measured(FakeCase(), FakeCompetitor("ours", ours=True), FakeCompetitor("bad", failing(number)))
    good, bad = cell.entries
    assert bad.error == f"{where}: ValueError: it broke"
    assert len(good.samples) == 3
    assert cell.ratios == []
    assert cell.missed == [f"fake: bad: {bad.error}"]


def test_a_competitor_that_cannot_be_prepared_makes_an_error_entry() -> None:
    class Refusing(FakeCase):
        @contextmanager
        def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
            if competitor.name == "bad":
                raise OSError("no such model")
            yield lambda _: Sample(1.0)

    bad, good = measured(Refusing(), FakeCompetitor("bad"), FakeCompetitor("good")).entries
    assert bad.error == "OSError: no such model"
    assert len(good.samples) == 3


def test_what_was_prepared_is_closed_even_if_the_run_is_interrupted() -> None:
    def interrupt(_: int) -> Sample:
        raise KeyboardInterrupt

    case = FakeCase()
    with pytest.raises(KeyboardInterrupt):
        measured(case, FakeCompetitor("a"), FakeCompetitor("b", interrupt))
    assert case.log[-2:] == ["b closed", "a closed"]


def test_a_cell_where_everybody_fails_has_no_figures_and_no_crash() -> None:
    cell = measured(FakeCase(), FakeCompetitor("a", failing(0)), FakeCompetitor("b", failing(0)))
    assert [entry.spread for entry in cell.entries] == [None, None]
    assert markdown([cell]).count("failed") == 2


def test_a_peer_that_did_other_work_is_an_error_and_gets_no_ratio() -> None:
    ours = FakeCompetitor("ours", lambda _: Sample(1.0, "128 tokens: the river"), ours=True)
    peer = FakeCompetitor("peer", lambda _: Sample(9.0, "128 tokens: the rivet"))
    cell = measured(FakeCase(), ours, peer)
    assert cell.ratios == []
    assert cell.entries[1].error is not None
    assert "other work" in cell.entries[1].error
    assert "rivet" in cell.entries[1].error
    assert cell.entries[0].error is None


# Bars ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (Bar(at_least=0.98), 0.98, True),
        (Bar(at_least=0.98), 0.979, False),
        (Bar(at_most=1.05), 1.05, True),
        (Bar(at_most=1.05), 1.051, False),
        (Bar(at_least=1, at_most=2), 3, False),
    ],
)
def test_a_bar_is_met_up_to_its_very_edge(bar: Bar, value: float, met: bool) -> None:
    assert bar.met(value) is met


def test_a_missed_bar_is_told_in_a_sentence_and_in_the_table() -> None:
    ours = FakeCompetitor("ours", rates(90, 90, 90), ours=True)
    peers = [FakeCompetitor("fast", rates(100, 100, 100)), FakeCompetitor("slow", rates(10, 10, 10))]
    bar = Bar(at_least=0.98)
    cell = measured(FakeCase({"fast": bar, "slow": bar}), ours, *peers)
    assert cell.missed == ["fake: ours / fast is 0.900, not >= 0.98"]
    _, _, _, fast, slow = markdown([cell]).splitlines()
    assert "0.900" in fast
    assert "missed" in fast
    assert "met" in slow


def test_an_absolute_bar_is_for_our_own_figure_alone() -> None:
    ours = FakeCompetitor("ours", rates(50, 50, 50), ours=True)
    peer = FakeCompetitor("peer", rates(500, 500, 500))
    assert measured(FakeCase({ABSOLUTE: Bar(at_most=60)}), ours, peer).missed == []
    assert measured(FakeCase({ABSOLUTE: Bar(at_most=40)}), ours, peer).missed == [
        "fake: ours is 50 tokens/s, not <= 40"
    ]


def test_a_verdict_that_more_rounds_might_turn_has_a_question_mark() -> None:
    ours = FakeCompetitor("ours", rates(*[0.9, 1.1] * 10), ours=True)
    peer = FakeCompetitor("peer", rates(*[1.0] * 20))
    cell = measured(FakeCase({"peer": Bar(at_least=0.95)}), ours, peer, repeats=20)
    assert cell.ratios[0].met
    assert not cell.ratios[0].certain
    assert "met?" in markdown([cell])
    strict = measured(FakeCase({"peer": Bar(at_least=1.05)}), ours, peer, repeats=20)
    assert strict.missed == ["fake: ours / peer is 1.000, not >= 1.05 (within the noise: 0.900 to 1.100)"]


def test_the_interval_of_the_median_closes_in_with_more_values() -> None:
    values = [float(value) for value in range(100)]
    assert median_interval(values) == (40.0, 59.0)
    assert median_interval(values[:4]) == (0.0, 3.0)
    assert median_interval([7.0]) == (7.0, 7.0)


# JSON ----------------------------------------------------------------------------------------------------------------


def test_a_json_line_comes_back_as_the_same_cell() -> None:
    ours = FakeCompetitor("ours", rates(1, 2, 3), ours=True, packages=("pytest", "no-such-package"))
    peers = [
        FakeCompetitor("p", rates(2, 2, 2)),
        FakeCompetitor("q", failing(1)),
        FakeCompetitor("r", unavailable="no."),
    ]
    cell = measured(FakeCase({"p": Bar(at_least=0.5)}), ours, *peers)
    line = cell.to_json(surroundings())
    assert "\n" not in line
    assert Cell.from_json(line) == cell
    assert cell.entries[0].versions["no-such-package"] == "not installed as a package"


def test_a_json_line_holds_the_summary_the_settings_and_the_machine() -> None:
    ours, peer = FakeCompetitor("ours", rates(1, 2, 3), ours=True), FakeCompetitor("p", rates(2, 2, 2))
    data = json.loads(measured(FakeCase({"p": Bar(at_least=2)}), ours, peer).to_json(surroundings()))
    assert data["facts"] == {"tokens": 128}
    assert data["entries"][0]["samples"] == {"1": 1, "2": 2, "3": 3}
    assert data["entries"][0]["spread"]["median"] == 2
    assert data["ratios"][0]["per_round"] == [0.5, 1.0, 1.5]
    assert data["ratios"][0]["met"] is False
    assert data["ratios"][0]["certain"] is True
    assert data["missed"]
    assert data["surroundings"]["machine"]["cpu"]["name"]
    assert data["surroundings"]["python"]
    assert data["date"]


@given(
    st.dictionaries(st.integers(1, 50), st.floats(0.001, 1e9), max_size=8),
    st.none() | st.text(),
    st.none() | st.text(),
)
def test_any_entry_survives_json(samples: dict[int, float], skipped: str | None, error: str | None) -> None:
    entry = Entry("a | b", True, {"p": "1"}, samples, skipped, error)
    cell = Cell("case", "model.gguf", "s", {}, {}, [entry], "cut", "today")
    assert Cell.from_json(cell.to_json({})) == cell


def test_the_markdown_table_keeps_its_columns_whatever_a_competitor_says() -> None:
    entry = Entry("a", True, error="it said a | b")
    lines = markdown([Cell("case", None, "s", {}, {}, [entry])]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "a \\| b" in lines[-1]


def test_columns_that_no_row_fills_are_left_out() -> None:
    header, *_ = markdown([Cell("case", None, "s", {}, {}, [Entry("a", True, samples={1: 2.0})])]).splitlines()
    assert [word.strip() for word in header.strip("|").split("|")] == ["case", "competitor", "median (quartiles)"]


def test_surroundings_name_the_commit_of_a_repository_and_none_elsewhere(tmp_path: Path) -> None:
    assert surroundings(tmp_path)["commit"] is None
    assert surroundings()["commit"] is None


# Processes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Acting:
    """A case and a competitor that can be pickled: what it does in its process is told by name."""

    act: str
    note: Path | None = None
    name: str = "acting"
    ours: bool = True
    packages: Sequence[str] = ()
    model: Path | None = None
    unit: str = "s"
    isolated: bool = True
    bars: Mapping[str, Bar] = field(default_factory=dict)

    def facts(self) -> Mapping[str, Any]:
        return {}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None

    def reason_unavailable(self) -> str | None:
        return None

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        if self.act == "refuse":
            raise OSError("no such model")
        yield self.repeat

    def repeat(self, number: int) -> Sample:
        if self.act == "abort" and number:
            os.write(2, b"loading\nGGML_ASSERT(is_full) failed\n")
            os.abort()
        if self.act == "raise" and number:
            raise ValueError("it broke")
        if self.act == "start a program" and number:
            assert self.note is not None
            with subprocess.Popen(["sleep", "60"]) as program:
                self.note.write_text(str(program.pid))
        if self.act == "hang" and number:
            time.sleep(60)
        sys.stdout.write("an engine talks\n")
        return Sample(float(os.getpid()), f"round {number}")


def test_an_isolated_case_runs_in_a_process_of_its_own_that_lasts(capfd: pytest.CaptureFixture[str]) -> None:
    seat = take_seat(Acting("work"), Acting("work"))
    first, second = seat.repeat(0), seat.repeat(1)
    seat.close()
    assert first.value == second.value != os.getpid()
    assert second.work == "round 1"
    assert tuple(capfd.readouterr()) == ("", ""), "an engine's output must not get among our own"


def test_a_competitor_that_aborts_its_process_is_an_error_entry() -> None:
    act = Acting("abort")
    (entry,) = measured(act, act).entries
    assert entry.error is not None
    assert entry.error.startswith("in round 1: its process ended with exit code -")
    assert "GGML_ASSERT(is_full) failed" in entry.error


def test_a_competitor_whose_process_dies_between_repeats_is_an_error() -> None:
    seat = ProcessSeat(Acting("work"), Acting("work"), patience=30)
    seat._process.kill()
    seat._process.join()
    with pytest.raises(CompetitorError, match="ended with exit code -9"):
        seat.repeat(1)
    seat.close()


@pytest.mark.parametrize(("act", "error"), [("refuse", "OSError: no such model"), ("raise", "ValueError: it broke")])
def test_what_a_competitor_raises_in_its_process_is_told(act: str, error: str) -> None:
    (entry,) = measured(Acting(act), Acting(act)).entries
    assert entry.error is not None
    assert entry.error.endswith(error)


def test_a_competitor_that_hangs_is_given_up() -> None:
    seat = ProcessSeat(Acting("hang"), Acting("hang"), patience=30)
    seat.repeat(0)
    seat._patience = 0.2
    with pytest.raises(CompetitorError, match="no answer for"):
        seat.repeat(1)
    seat.close()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no process groups of this kind")
def test_a_program_that_a_given_up_competitor_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    seat = ProcessSeat(Acting("start a program", note), Acting("start a program", note), patience=30)
    seat.repeat(0)
    seat._patience = 2
    with pytest.raises(CompetitorError, match="no answer for"):
        seat.repeat(1)
    seat.close()
    begun = time.monotonic()
    while Path(f"/proc/{note.read_text()}").exists() and time.monotonic() < begun + 10:
        time.sleep(0.02)  # until it is reaped
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    assert first_line([sys.executable, "-c", "print('one'); print('two')"])[0] == "one"
    with pytest.raises(RuntimeError, match="exit code 1: ValueError: last words"):
        first_line([sys.executable, "-c", "raise ValueError('last words')"])


# The cases, on an engine without a model -----------------------------------------------------------------------------


class FakeSession:
    """Writes down what it is asked for, and says the alphabet."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int, Sampling]] = []
        self.closed = False

    def encode(self, text: str) -> list[int]:
        return [0, *text.encode()]

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        self.asked.append((list(prompt), tokens, sampling))
        yield from range(tokens)

    def text(self, pieces: Sequence[object]) -> str:
        return " ".join(map(str, pieces))

    def close(self) -> None:
        self.closed = True


class FakeEngine(FakeCompetitor):
    session: FakeSession

    def load(self, model: Path, settings: Settings) -> Session:
        object.__setattr__(self, "session", FakeSession())
        return self.session


def repeats_of(case: Case, engine: FakeEngine, *numbers: int) -> list[Sample]:
    with case.prepared(engine) as repeat:
        samples = [repeat(number) for number in numbers]
    assert engine.session.closed
    return samples


def test_decoding_is_measured_on_the_same_prompt_each_time_and_compares_the_text() -> None:
    engine = FakeEngine("engine")
    samples = repeats_of(Decode(Path("m"), SETTINGS, tokens=3), engine, 0, 1)
    assert samples[0].work == samples[1].work
    assert samples[0].work.endswith("3 tokens: 0 1 2")
    assert [(tokens, sampling) for _, tokens, sampling in engine.session.asked] == [(3, GREEDY)] * 2


def test_sampled_text_may_differ_between_engines() -> None:
    (sample,) = repeats_of(Decode(Path("m"), SETTINGS, sampling=SAMPLED, tokens=3), FakeEngine("engine"), 1)
    assert sample.work.endswith("3 tokens")


def test_engines_whose_arithmetic_differs_need_not_say_the_same() -> None:
    (sample,) = repeats_of(Decode(Path("m"), SETTINGS, tokens=3, same_text=False), FakeEngine("engine"), 1)
    assert sample.work.endswith("3 tokens")


def test_each_prefill_has_as_many_tokens_as_asked_for_and_another_beginning_behind_bos() -> None:
    engine = FakeEngine("engine")
    samples = repeats_of(Prefill(Path("m"), SETTINGS, tokens=500), engine, *range(20))
    prompts = [prompt for prompt, _, _ in engine.session.asked]
    assert {len(prompt) for prompt in prompts} == {500}
    assert {prompt[0] for prompt in prompts} == {0}
    assert len({tuple(prompt[1:6]) for prompt in prompts}) == 20, "a cached prefix would be of use"
    assert len({sample.work for sample in samples}) == 20
    waits = [sample.beside["first token, ms"] for sample in samples]
    assert all(sample.value * wait / 1000 == pytest.approx(500) for sample, wait in zip(samples, waits, strict=True))


def test_decoding_at_a_depth_is_behind_so_many_tokens_that_no_cache_has() -> None:
    engine = FakeEngine("engine")
    samples = repeats_of(DecodeAtDepth(Path("m"), SETTINGS, depth=300, tokens=4), engine, 0, 1)
    assert [(len(prompt), tokens) for prompt, tokens, _ in engine.session.asked] == [(300, 4)] * 2
    assert engine.session.asked[0][0][1:9] != engine.session.asked[1][0][1:9]
    assert samples[0].work != samples[1].work
    assert all(sample.value > 0 for sample in samples)
    assert DecodeAtDepth(Path("m"), SETTINGS, depth=300).name == "decode at 300"


@pytest.mark.skipif(not STATUS.exists(), reason="asks /proc")
def test_peak_memory_never_falls_and_is_more_than_what_is_there() -> None:
    engine = FakeEngine("engine")
    samples = repeats_of(PeakMemory(Path("m"), SETTINGS), engine, 0, 1)
    assert [(len(prompt), tokens) for prompt, tokens, _ in engine.session.asked] == [(512, 16)] * 2
    assert samples[1].value >= samples[0].value >= 0.9 * resident_bytes() / 2**20


def test_loading_ends_with_the_first_token_and_frees_the_model() -> None:
    engine = FakeEngine("engine")
    case = Load(Path("m"), SETTINGS)
    with case.prepared(engine) as repeat:
        sample = repeat(1)
        first = engine.session
        repeat(2)
    assert engine.session is not first
    assert first.closed
    assert [tokens for _, tokens, _ in first.asked] == [1]
    assert sample.value >= 0


def test_cases_skip_what_can_neither_load_nor_be_started() -> None:
    class Bare(FakeCompetitor):
        pass

    assert Decode(Path("m"), SETTINGS).reason_unsuited(Bare("bare")) == "it cannot load a model file"
    assert Start(Path("m"), SETTINGS).reason_unsuited(FakeEngine("engine")) == "it has no script that starts it"
    assert Decode(Path("m"), SETTINGS).reason_unsuited(FakeEngine("engine")) is None


def test_the_settings_of_a_case_are_in_its_facts() -> None:
    facts = Decode(Path("m"), Settings(threads=3), sampling=SAMPLED).facts()
    assert facts["settings"]["threads"] == 3
    assert facts["settings"]["context_length"] == 2048
    assert facts["sampling"]["temperature"] == 0.8
    json.dumps(facts)


# Our own engines -----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.usefixtures("registered")
def test_our_engine_is_loaded_with_the_settings_and_generates_what_was_asked_for(tmp_path: Path) -> None:
    backend = FakeBackend("fake-measured")
    registry.register(backend)
    native = Native("fake-measured")
    assert native.reason_unavailable() is None
    options = load_options("fake-measured", Settings(threads=3, context_length=512))
    assert (options.threads, options.context_length) == (3, 512)
    assert set(options.changed()) <= {"backend", *backend.load_options}, "it would refuse what it has no option for"
    session = NativeSession(backend.load_model(tmp_path, options))
    pieces = list(session.stream(session.encode("abc"), 5, GREEDY))
    assert len(pieces) == 5
    assert isinstance(session.text(pieces), str)
    session.close()


@pytest.mark.usefixtures("registered")
def test_our_engine_says_why_it_cannot_run() -> None:
    registry.register(FakeBackend("fake-broken", available=False))
    assert Native("fake-broken").reason_unavailable() == "this machine lacks what it needs."
    assert "no-such-engine" in str(Native("no-such-engine").reason_unavailable())


def test_the_script_that_starts_our_engine_is_a_python_program() -> None:
    script = Native("llama_cpp").first_token_script(Path("it's.gguf"), SETTINGS, 'a "quoted" prompt')
    compile(script, "script", "exec")
    assert "parallel" in script
