"""`inference classify`: a label for each sentence, in order, whatever the others are like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import FakeBatchBackend
from click.testing import Result

from inference.cli.prompts import PromptFile

Start = Callable[..., subprocess.Popen[bytes]]
Classify = Callable[..., Result]
PATIENCE = 60.0
LABELS = ("--labels", " abc", " xyz")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("a cab\n\nfizzy axis\n")
    return path


@pytest.fixture
def classify(invoke: Callable[..., Result], batch_backend: FakeBatchBackend, tiny_path: Path) -> Classify:
    """Runs `inference classify` on the fake model; the rest of the command line is given."""

    def run(*arguments: object, **keywords: Any) -> Result:
        return invoke("classify", tiny_path, *arguments, "--backend", "batches", **keywords)

    return run


def asked(backend: FakeBatchBackend) -> list[str]:
    return [prompt for prompt, _ in backend.models[-1].asked]


def test_a_line_is_the_likeliest_label_its_probability_and_the_sentence(classify: Classify, sentences: Path) -> None:
    result = classify(sentences, *LABELS)
    assert result.exit_code == 0
    # The fake counts letters: a, b, c and the space of " abc" against the space of " xyz".
    assert result.stdout == " abc\t0.714286\ta cab\n xyz\t0.625000\tfizzy axis\n"
    assert result.stderr.startswith("2 sentences in ")
    assert " sentences/s" in result.stderr
    assert result.stderr.count("\n") == 1


def test_json_has_all_probabilities(classify: Classify, tmp_path: Path) -> None:
    path = tmp_path / "sentences.jsonl"
    path.write_text('\n{"prompt": "a cab", "id": "first"}\n{"prompt": "axis"}\n')
    first, second = map(json.loads, classify(path, *LABELS, "--json").stdout.splitlines())
    assert (first["index"], first["id"], first["sentence"], first["label"]) == (1, "first", "a cab", " abc")
    assert first["probabilities"] == {" abc": pytest.approx(5 / 7), " xyz": pytest.approx(2 / 7)}
    assert set(first["logprobs"]) == {" abc", " xyz"}
    assert "id" not in second


def test_without_labels_it_is_the_likeliest_next_token(classify: Classify, sentences: Path) -> None:
    assert classify(sentences).stdout == "b\\n\t0.250000\ta cab\ns\\n\t0.250000\tfizzy axis\n"
    token = json.loads(classify(sentences, "--json").stdout.splitlines()[0])["token"]
    assert token == {"id": 10, "text": "b\n", "logprob": pytest.approx(-1.386294)}


def test_a_template_stands_around_each_sentence_and_may_have_line_breaks(
    classify: Classify, sentences: Path, batch_backend: FakeBatchBackend
) -> None:
    assert classify(sentences, "--template", r"{a} Review: {}\nIt\tis\\", *LABELS).exit_code == 0
    assert asked(batch_backend) == ["{a} Review: a cab\nIt\tis\\", "{a} Review: fizzy axis\nIt\tis\\"]


@pytest.mark.parametrize("template", ["no place", "{} and {}"])
def test_a_template_has_one_place_for_the_sentence(classify: Classify, sentences: Path, template: str) -> None:
    result = classify(sentences, "--template", template)
    assert result.exit_code == 2
    assert "must have {} once, where the sentence goes." in result.stderr


def test_sentences_come_from_standard_input(classify: Classify, batch_backend: FakeBatchBackend) -> None:
    assert classify("-", *LABELS, input="one\r\ntwo").stdout.count("\n") == 2
    assert asked(batch_backend) == ["one", "two"]


@pytest.mark.parametrize(
    "arguments",
    [
        "{model} {sentences} --labels A B --json",
        "{model} --json {sentences} --labels A B",
        "{model} {sentences} --labels A --json --labels B",
        "{model} {sentences} --labels=A B --json",
        "--json --labels A B -- {model} {sentences}",
        "--labels A B --json {model} {sentences}",
        "{model} --label A --label B --json {sentences}",
        "{model} {sentences} --json --label=A --labels B",
    ],
)
def test_labels_may_stand_after_one_flag_or_each_after_its_own(
    invoke: Callable[..., Result], batch_backend: FakeBatchBackend, tiny_path: Path, sentences: Path, arguments: str
) -> None:
    words = arguments.format(model=tiny_path, sentences=sentences).split()
    result = invoke("classify", "--backend", "batches", *words)
    assert list(json.loads(result.stdout.splitlines()[0])["probabilities"]) == ["A", "B"]


def test_labels_are_taken_exactly_as_they_are(classify: Classify, sentences: Path) -> None:
    result = classify(sentences, "--json", "--labels", " a ", "-", "--labels=-1", "--label=--", "--label", "--json")
    labels = list(json.loads(result.stdout.splitlines()[0])["probabilities"])
    assert labels == [" a ", "-", "-1", "--", "--json"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["--labels"], "--labels needs labels"),
        (["--labels", "--json"], "--labels needs labels"),
        (["--labels", "a", "a"], "The label 'a' is there twice."),
        (["--labels", "a", ""], "A label is empty"),
        (["--labels="], "A label is empty"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_loaded(
    classify: Classify, sentences: Path, batch_backend: FakeBatchBackend, labels: list[str], sentence: str
) -> None:
    result = classify(sentences, "--threads", "1", *labels)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not batch_backend.models


def test_labels_that_took_the_files_away_are_a_usage_error(invoke: Callable[..., Result], tiny_path: Path) -> None:
    result = invoke("classify", "--labels", "a", "b", tiny_path, "sentences.txt")
    assert result.exit_code == 2
    assert "Missing argument 'MODEL'" in result.stderr


def test_a_line_that_fails_keeps_its_place_and_the_rest_is_served(
    classify: Classify, tmp_path: Path, batch_backend: FakeBatchBackend
) -> None:
    path = tmp_path / "sentences.jsonl"
    path.write_text('{"prompt": "a"}\nbroken\n{"prompt": "fail"}\n{"messages": []}\n{"prompt": [1]}\n{"prompt": "x"}\n')
    result = classify(path, *LABELS, "--template", "It: {}.")
    assert result.exit_code == 1
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == [" abc", "", "", "", "", " xyz"]
    assert rows[1] == ["", "", "broken"]
    assert [line.split(": ")[0] for line in result.stderr.splitlines()[:4]] == ["Line 2", "Line 3", "Line 4", "Line 5"]
    assert "lower --context-length" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("6 sentences in ")
    assert "; 4 failed" in result.stderr.splitlines()[-1]

    result = classify(path, *LABELS, "--json", "--template", "It: {}.")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["index"] for answer in answers] == list(range(6))
    assert [answer["index"] for answer in answers if "error" in answer] == [1, 2, 3, 4]
    assert result.stderr.count("\n") == 1


def test_a_failure_is_told_by_its_line_and_not_by_what_the_model_counts(classify: Classify, tmp_path: Path) -> None:
    path = tmp_path / "sentences.jsonl"
    path.write_text('\n{"prompt": "a"}\n{"prompt": ""}\n')
    assert classify(path, *LABELS).stderr.splitlines()[0] == "Line 3: The prompt is empty."


@pytest.mark.real_model
def test_a_real_model_tells_labels_apart(
    inference: Callable[..., subprocess.CompletedProcess[bytes]], smollm_path: Path
) -> None:
    flags = ("--template", r"{} The opposite of hot is", "--labels", " cold", " hot", " Tuesday", "--threads", 1)
    done = inference("classify", smollm_path, "-", *flags, "--context-length", 64, stdin=b"Words.\nMore words.\n")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == [" cold", " cold"]


def test_what_a_sentence_holds_cannot_break_the_line_or_move_the_cursor(classify: Classify) -> None:
    assert classify("-", *LABELS, input="a\tb\x1b[2J\n").stdout.endswith("\ta\\tb\\x1b[2J\n")


def test_sentences_are_read_as_the_model_takes_them(
    classify: Classify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_backend: FakeBatchBackend
) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("sentence\n" * 100)
    ahead: list[int] = []
    entry = PromptFile.entry

    def counted(self: PromptFile, line: Any) -> Any:
        ahead.append(line.index - len(batch_backend.models[-1].asked))
        return entry(self, line)

    monkeypatch.setattr(PromptFile, "entry", counted)
    assert classify(path, *LABELS).exit_code == 0
    assert len(ahead) == 100
    assert max(ahead) <= 3  # the fake takes three at a time


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_ends_in_order(
    start_on_fake: Start, tiny_path: Path, tmp_path: Path, number: int, code: int
) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("sentence\n" * 5000)
    process = start_on_fake("classify", tiny_path, path, "--backend", "batches", *LABELS)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert set((first + rest).splitlines(keepends=True)) == {first}  # no line is cut short
    assert errors.startswith(b"Stopped: ")
    assert b"Traceback" not in errors


def test_a_shell_that_asks_gets_models_and_then_files(tiny_path: Path) -> None:
    def completed(words: str) -> list[str]:
        asking = {
            "_INFERENCE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        command = [sys.executable, "-m", "inference"]
        done = subprocess.run(command, env=os.environ | asking, cwd=tiny_path.parent, capture_output=True, check=True)
        assert done.stderr == b""
        return done.stdout.decode().split()

    for command in ("batch", "classify"):
        assert completed(f"inference {command} ti") == ["plain,tiny.gguf"]
        assert completed(f"inference {command} tiny.gguf se") == ["file,se"]
        assert completed(f"inference {command[:2]}") == [f"plain,{command}"]
    assert "plain,--labels" in completed("inference classify tiny.gguf sentences.txt --la")
    assert completed("inference classify tiny.gguf sentences.txt --labels --templ") == ["plain,--template"]
