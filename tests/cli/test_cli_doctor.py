"""`inference doctor`, on backends that are there and backends that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fakes import FakeBackend

from inference import registry

Invoke = Callable[..., Result]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the given backends the only ones."""

    def set_backends(*backends: FakeBackend) -> None:
        monkeypatch.setattr(registry, "_registered", {backend.name: backend for backend in backends})
        monkeypatch.setattr(registry, "_installed", dict)

    return set_backends


def test_each_device_has_its_reason_and_the_command_that_would_fix_it(
    invoke: Invoke, only: Callable[..., None]
) -> None:
    only(FakeBackend("metal", available=False), FakeBackend("torch"), FakeBackend("rocm", automatic=False))
    result = invoke("doctor")
    assert result.exit_code == 0
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines["metal cpu"] == "not available; metal device; this machine lacks what it needs."
    assert lines["fix metal cpu"] == "install metal"
    assert lines["rocm cpu"].startswith("when asked for; ")
    assert lines["torch cpu"] == "available; torch device; it is a fake."
    assert lines["default backend"] == "torch"
    assert "fix torch cpu" not in lines
    assert {"system", "cpu", "memory", "gpu"} <= set(lines)
    assert "\x1b" not in result.output


@pytest.mark.parametrize("backends", [[], [FakeBackend("metal", available=False)]])
def test_without_an_available_backend_the_exit_code_is_1(
    invoke: Invoke, only: Callable[..., None], backends: list[FakeBackend]
) -> None:
    only(*backends)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "default backend: none" in result.stdout
    assert "pip install 'native-inference[llama-cpp]'" in result.stdout or "install metal" in result.stdout


def test_json_holds_machine_backends_and_the_default(invoke: Invoke, only: Callable[..., None]) -> None:
    only(FakeBackend("metal", available=False), FakeBackend("torch"))
    document = json.loads(invoke("doctor", "--json").stdout)
    assert document["machine"]["cpu"]["usable_cores"] >= 1
    assert document["default_backend"] == "torch"
    metal, torch = document["backends"]
    assert (metal["backend"], metal["devices"][0]["fix"]) == ("metal", "install metal")
    assert torch["devices"][0]["available"] is True


def test_with_a_model_it_says_what_would_run_it(invoke: Invoke, only: Callable[..., None], tiny_path: Path) -> None:
    only(FakeBackend("metal", supported=False), FakeBackend("torch"))
    result = invoke("doctor", tiny_path)
    assert result.exit_code == 0
    assert "default backend: metal" in result.stdout
    assert "runs on: torch on torch device: it runs anything. (metal: it runs nothing.)" in result.stdout
    assert json.loads(invoke("doctor", tiny_path, "--json").stdout)["model"]["backend"] == "torch"


def test_with_a_model_that_nothing_can_run_the_exit_code_is_1(
    invoke: Invoke, only: Callable[..., None], tiny_path: Path
) -> None:
    only(FakeBackend("metal", supported=False))
    result = invoke("doctor", tiny_path)
    assert result.exit_code == 1
    assert "default backend: metal" in result.stdout
    assert result.stderr.startswith("Error: ")
    document = json.loads(invoke("doctor", tiny_path, "--json").stdout)
    assert "no backend here can run this file" in document["model"]["error"]
