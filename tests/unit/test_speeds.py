"""What `inference tune` measured is kept, counts for what it was measured on, and for nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeBackend
from gguf_files import write_model

from inference import registry, speeds
from inference.gguf.reader import read_header
from inference.speeds import Speed, Speeds, Subject, machine_key, speed, subject_of, versions_of

SUBJECT = Subject("llama", "Q4_K+Q6_K", 27)
Make = Callable[..., Speed]


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {name: FakeBackend(name) for name in ("metal", "torch")})


@pytest.fixture
def measured() -> Make:
    def make(backend: str = "metal", **changes: object) -> Speed:
        entry = Speed(
            machine=machine_key(),
            versions=versions_of(registry.get_backend(backend)),
            subject=SUBJECT,
            backend=backend,
            device="cpu",
            rates={"decode": {"1 sequence": 20.0, "8 sequences": 80.0}, "prefill": {"16 tokens": 100.0}},
            date="2026-11-23",
        )
        return replace(entry, **changes)  # type: ignore[arg-type]

    return make


def test_what_was_kept_is_there_again(tmp_path: Path, measured: Make) -> None:
    file = tmp_path / "deep" / "speeds.json"
    assert Speeds((measured(), measured("torch"))).keep(file) == file
    again = Speeds.kept(file)
    assert again == Speeds((measured(), measured("torch")))
    assert again.of(SUBJECT, "decode") == {("metal", "cpu"): pytest.approx(40), ("torch", "cpu"): pytest.approx(40)}
    assert again.of(SUBJECT, "prefill")["metal", "cpu"] == pytest.approx(100)
    assert [path.name for path in file.parent.iterdir()] == ["speeds.json"]


def test_without_a_file_nothing_was_measured_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Speeds.kept(tmp_path / "none.json") == Speeds()
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 2, "speeds": []}',
        '{"version": 1, "speeds": 3}',
        '{"version": 1, "speeds": [null]}',
        '{"version": 1, "speeds": [{"subject": {"architecture": "llama"}}]}',
        '{"version": 1, "speeds": [{"subject": {"architecture": "a", "formats": "b", "size": 1}, "rates": []}]}',
        '{"version": 1, "speeds": [{"subject": {"architecture": "a", "formats": "", "size": 1}, "rates": {}, "x": 0}]}',
        "[" * 100_000,
        "\ufffd",
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert Speeds.kept(file) == Speeds()
    assert "is damaged and is ignored" in caplog.text
    assert "`inference tune` writes it anew" in caplog.text


def test_a_file_that_is_no_text_or_cannot_be_read_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "speeds.json"
    file.write_bytes(b"\xff\xfe\x00")
    assert Speeds.kept(file) == Speeds()
    assert Speeds.kept(tmp_path) == Speeds()
    assert len(caplog.records) == 2


def test_another_machine_version_or_model_is_another_matter(measured: Make) -> None:
    others = [
        measured(machine=machine_key() | {"drivers": {"amdgpu": "6.14"}}),
        measured(versions={"native-inference": "0.0.1"}),
        measured(subject=replace(SUBJECT, formats="Q8_0")),
        measured(backend="torch", versions={}),
    ]
    assert Speeds(tuple(others)).of(SUBJECT, "decode") == {}


def test_a_new_measurement_takes_the_place_of_the_old_one_and_drops_what_counts_no_more(measured: Make) -> None:
    old = [
        measured(),
        measured("torch"),
        measured(subject=replace(SUBJECT, size=33)),
        measured("torch", versions={"native-inference": "0.0.1"}, subject=replace(SUBJECT, size=33)),
        measured(machine={"cpu": "another"}, subject=replace(SUBJECT, size=20)),
    ]
    new = measured(rates={"decode": {"1 sequence": 7.0}})
    assert Speeds(tuple(old)).with_([new]).entries == (old[1], old[2], new)


def test_a_speed_is_the_geometric_mean_and_nothing_where_something_failed() -> None:
    assert speed({"a": 2.0, "b": 8.0}) == pytest.approx(4.0)
    assert speed({"a": 2.0, "b": 0.0}) == 0.0
    assert speed({}) == 0.0


def test_a_model_counts_as_its_architecture_its_formats_and_its_size(tmp_path: Path) -> None:
    write_model(tmp_path / "small.gguf")
    header = read_header(tmp_path / "small.gguf")
    subject = subject_of(header)
    assert subject.architecture == header.architecture
    assert subject.formats == "Q4_0+Q8_0"
    assert 2 ** (subject.size - 0.5) <= header.size_bytes <= 2 ** (subject.size + 0.5)


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, measured: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Speeds((measured(),)).keep(tmp_path / "speeds.json")
    before = json.loads(file.read_text())

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(speeds.json, "dump", broken)
    with pytest.raises(OSError, match="no space left"):
        Speeds(()).keep(file)
    assert json.loads(file.read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["speeds.json"]
