"""The workflows in .github: they run what a developer runs, everywhere where it was promised, and with few rights."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import CASES

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS: dict[str, Any] = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES}
JOBS = [(file, name) for file, workflow in WORKFLOWS.items() for name in workflow["jobs"]]


@dataclass(frozen=True)
class Command:
    """A call of make, with what the matrix put into it."""

    job: str
    target: str
    values: Mapping[str, str]
    system: str
    python: str | None
    """None is whatever a machine of one's own has."""


def matrix(job: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Every combination of a job's matrix; one without values for a job that has none."""
    table = dict(job.get("strategy", {}).get("matrix", {}))
    included = table.pop("include", [])
    if table or not included:
        yield from (dict(zip(table, values, strict=True)) for values in itertools.product(*table.values()))
    yield from included


def filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda match: str(values[match[1]]), text)


def commands() -> Iterator[Command]:
    for file, name in JOBS:
        job = WORKFLOWS[file]["jobs"][name]
        for values in matrix(job):
            version = None
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/setup-python@"):
                    version = filled(step["with"]["python-version"], values)
                if "run" in step:
                    program, target, *words = shlex.split(filled(step["run"], values))
                    assert program == "make", f"{file}, {name}: {step['run']}"
                    given = dict(word.split("=", 1) for word in words)
                    given |= {key: filled(value, values) for key, value in step.get("env", {}).items()}
                    yield Command(name, target, given, filled(str(job["runs-on"]), values), version)


def variables() -> set[str]:
    """Those of the Makefile that a caller may set."""
    return set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.MULTILINE))


def pythons() -> list[str]:
    """Those that pyproject.toml names, the oldest first."""
    found = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    return sorted(found, key=lambda version: int(version.partition(".")[2]))


def hardware_marks() -> set[str]:
    """The keys of conftest's table, read without running it: it shares out the cores."""
    tree = ast.parse((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GPU_MARKS":
            return set(ast.literal_eval(node.value))
    raise AssertionError("tests/conftest.py has no GPU_MARKS.")


def test_every_command_is_a_target_of_the_makefile_and_sets_variables_that_it_has() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE))
    for command in commands():
        assert command.target in targets, command
        assert set(command.values) <= variables(), command


def test_no_command_lies_outside_of_the_makefile() -> None:
    """More than one line, or a shell's operators, would be work that nobody can repeat by a target's name."""
    for file, name in JOBS:
        for step in WORKFLOWS[file]["jobs"][name]["steps"]:
            if "run" in step:
                assert re.fullmatch(r"make [a-z]+( [A-Z]+=[\w,.-]+)*", step["run"]), f"{file}, {name}: {step['run']}"


def test_every_mark_of_hardware_is_required_by_a_job_that_runs_the_suite() -> None:
    required = {command.values["REQUIRE"] for command in commands() if command.values.get("REQUIRE")}
    assert required == hardware_marks()
    assert {command.target for command in commands() if "REQUIRE" in command.values} == {"test"}
    assert "$(REQUIRE:%=--require %)" in MAKEFILE


def test_every_python_is_run_and_the_oldest_and_the_newest_run_the_whole_suite() -> None:
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
    run = {command.python for command in commands() if command.target in ("unit", "test")}
    assert run - {None} == set(pythons())
    for system in ("ubuntu-24.04", "ubuntu-24.04-arm"):
        whole = {each.python for each in commands() if each.target == "test" and each.system == system}
        assert whole >= {pythons()[0], pythons()[-1]}


def test_wheel_and_sdist_are_tried_on_every_system_that_pyproject_names() -> None:
    tried = {command.system.partition("-")[0] for command in commands() if command.target == "package"}
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Operating System")}
    assert tried == {{"MacOS": "macos", "Windows": "windows", "Linux": "ubuntu"}[system] for system in named}


def test_the_package_is_tried_with_extras_that_it_has() -> None:
    extras = {extra for command in commands() for extra in command.values.get("EXTRAS", "").split(",") if extra}
    assert "cli" in extras
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_nightly_benchmarks_are_cases_that_there_are() -> None:
    (command, *_) = nights = [each for each in commands() if each.target == "nightly"]
    assert {each.values["CASES"] for each in nights} == {command.values["CASES"]}
    assert set(command.values["CASES"].split(",")) <= set(CASES)


@pytest.mark.parametrize(("file", "name"), JOBS)
def test_no_job_lacks_a_time_limit_or_rights_and_none_may_write(file: str, name: str) -> None:
    job = WORKFLOWS[file]["jobs"][name]
    assert 0 < job["timeout-minutes"] <= 360
    assert WORKFLOWS[file]["permissions"] == {}
    assert job["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("file", WORKFLOWS)
def test_runs_of_one_workflow_do_not_pile_up(file: str) -> None:
    assert WORKFLOWS[file]["concurrency"]["group"].startswith("${{ github.workflow }}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_is_one_commit_and_says_its_version(file: Path) -> None:
    lines = [line.strip(" -") for line in file.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"uses: actions/[a-z/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


@pytest.mark.parametrize(("file", "name"), JOBS)
def test_a_machine_of_ones_own_is_out_of_reach_of_a_pull_request_and_waited_for_only_if_it_is_there(
    file: str, name: str
) -> None:
    job = WORKFLOWS[file]["jobs"][name]
    if "self-hosted" in job["runs-on"]:
        triggers = WORKFLOWS[file][True]  # YAML 1.1 reads the key "on" so
        assert set(triggers) == {"schedule", "workflow_dispatch"}
        assert job["if"] == f"contains(vars.GPU_RUNNERS, '{name}')"
        assert name in job["runs-on"]


def test_what_unit_installs_and_leaves_out_is_there() -> None:
    tools = re.search(r"^TOOLS := (.*)$", MAKEFILE, re.MULTILINE)
    assert tools is not None
    assert set(shlex.split(tools[1])) <= set(PROJECT["optional-dependencies"]["test"])
    for path, test in re.findall(r"(tests/\w+/test_\w+\.py)(?:::(\w+))?", MAKEFILE):
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")


def test_the_page_tells_of_every_job() -> None:
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    for file, name in JOBS:
        assert re.search(rf"^\| `{file}` \| `{name}` \|", page, re.MULTILINE), f"{file}, {name}"
