"""`inference batch`: every prompt has its result once, whatever happens in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import FakeBatchBackend, FakeTextModel, answer
from click.testing import Result
from fakes import FakeBackend

from inference.cli.lines import LONGEST
from inference.cli.lock import Lock
from inference.cli.prompts import PromptFile
from inference.cli.signals import Terminated

Invoke = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
PATIENCE = 60.0
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Folder:
    """A folder with a model and prompts, and `inference batch` on them."""

    def __init__(self, path: Path, invoke: Invoke, backend: FakeBatchBackend) -> None:
        self.model = path / "tiny.gguf"
        self.prompts = path / "prompts.jsonl"
        self.output = path / "out.jsonl"
        self._invoke = invoke
        self._backend = backend

    def write(self, *lines: object) -> None:
        """The prompts: text is a line as it stands, anything else is written as JSON."""
        self.prompts.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))

    def run(self, *flags: object, prompts: object = None, **keywords: Any) -> Result:
        source = self.prompts if prompts is None else prompts
        arguments = ("batch", self.model, source, "-o", self.output, "--backend", "batches")
        return self._invoke(*arguments, *flags, **keywords)

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_bytes().splitlines()]

    def texts(self) -> dict[int, str]:
        results = self.results()
        texts = {result["index"]: result["text"] for result in results}
        assert len(texts) == len(results), "a line was answered twice"
        return texts

    def asked(self) -> list[str]:
        """The prompts that the model loaded last was given."""
        return [prompt for prompt, _ in self._backend.models[-1].asked]


@pytest.fixture
def folder(tiny_path: Path, invoke: Invoke, batch_backend: FakeBatchBackend) -> Folder:
    return Folder(tiny_path.parent, invoke, batch_backend)


def numbered(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"prompt {number}"} for number in range(count)]


def expected(count: int) -> dict[int, str]:
    return {number: answer(f"prompt {number}") for number in range(count)}


# What goes in and what comes out -------------------------------------------------------------------------------------


def test_every_line_has_a_result_with_its_index_id_text_and_figures(folder: Folder) -> None:
    folder.write({"prompt": "one", "id": "a"}, "", {"prompt": "seven", "id": 7}, {"prompt": "x"})
    result = folder.run()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("3 prompts in ")
    by_index = {found.pop("index"): found for found in folder.results()}
    fingerprint = by_index[0].pop("fingerprint")
    assert len(fingerprint) == 25
    assert by_index[0] == {
        "id": "a",
        "text": answer("one"),
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "cached_tokens": 1,
        "generated_tokens": 5,
    }
    assert (by_index[2]["id"], by_index[2]["text"]) == (7, answer("seven"))
    assert "id" not in by_index[3]


def test_of_a_text_file_each_line_is_a_prompt_as_it_stands(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes('\ufeff{"prompt": 1}\r\n\n  Grüße \n'.encode())
    assert folder.run(prompts=path).exit_code == 0
    assert sorted(folder.asked()) == ["  Grüße ", '{"prompt": 1}']
    assert sorted(folder.texts()) == [0, 2]


def test_token_ids_are_taken_as_they_are(folder: Folder) -> None:
    folder.write({"prompt": [72, 105]})
    assert folder.run().exit_code == 0
    assert folder.asked() == ["Hi"]


def test_messages_go_through_the_chat_template_and_with_chat_so_do_prompts(folder: Folder, template_path: Path) -> None:
    flags = ("--chat-template", template_path, "--template-option", "suffix=!")
    folder.write({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]})
    folder.run(*flags)
    assert folder.asked() == ["[system: Be brief.][user: Hi]!"]
    folder.write({"prompt": "Hi"})
    folder.run(*flags, "--overwrite")
    assert folder.asked() == ["Hi"]
    folder.run(*flags, "--overwrite", "--chat")
    assert folder.asked() == ["[user: Hi]!"]


def test_messages_without_a_template_fail_and_say_what_to_do(folder: Folder) -> None:
    folder.write({"messages": [{"role": "user", "content": "Hi"}]}, {"prompt": "good"})
    assert folder.run().exit_code == 1
    assert folder.texts() == {0: "", 1: answer("good")}
    assert "tiny.gguf carries no chat template. Pass one with --chat-template FILE" in folder.results()[0]["error"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"prompt": "cut off', "The line is not JSON: Unterminated string starting at at character 12."),
        ('"just text"', "The line is no JSON object"),
        ("[1, 2]", "The line is no JSON object"),
        ("{}", 'The line must have either "prompt" or "messages".'),
        ('{"prompt": "a", "messages": []}', 'The line must have either "prompt" or "messages".'),
        ('{"prompt": "a", "max_tokens": 5}', "Unknown key 'max_tokens'"),
        ('{"prompt": 5}', '"prompt" must be text, or a list of token ids.'),
        ('{"messages": "Hi"}', '"messages" must be a list of objects.'),
        ('{"prompt": "a", "id": ["b"]}', '"id" must be text or a number.'),
        (r'{"prompt": "\ud800"}', "The line has half a surrogate pair"),
        ("[" * 100_000, "The line is JSON that cannot be read"),
        ('{"prompt": ""}', "The prompt is empty."),
        ('{"prompt": "fail"}', "This fake device failed; lower --context-length."),
    ],
)
def test_a_line_that_cannot_be_served_has_an_error_and_the_rest_is_served(
    folder: Folder, line: str, sentence: str
) -> None:
    folder.write(*numbered(6), line, *numbered(6))
    result = folder.run()
    assert result.exit_code == 1
    assert "13 prompts in" in result.stderr
    assert f"; 1 failed, the first: line 7: {sentence}" in result.stderr
    by_index = {found["index"]: found for found in folder.results()}
    assert by_index[6]["finish_reason"] == "error"
    assert by_index[6]["error"].startswith(sentence)
    assert {index: found["text"] for index, found in by_index.items() if index != 6} == {
        **expected(6),
        **{7 + index: text for index, text in expected(6).items()},
    }


def test_a_line_that_is_no_text_has_an_error(folder: Folder) -> None:
    folder.prompts.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert folder.run().exit_code == 1
    assert "line 2: The line is not UTF-8 text" in folder.run().stderr


def test_a_line_that_is_too_long_has_an_error_and_the_next_one_is_served(folder: Folder) -> None:
    long = b'{"prompt": "' + b"a" * LONGEST + b'"}'
    folder.prompts.write_bytes(b'{"prompt": "a"}\n' + long + b'\n{"prompt": "a"}\n' + long)
    result = folder.run()
    assert result.exit_code == 1
    assert "2 failed, the first: line 2: The line is longer than 32 MiB." in result.stderr
    assert [found["index"] for found in folder.results() if "error" not in found] == [0, 2]


def test_results_that_lead_in_a_circle_are_an_error(folder: Folder) -> None:
    folder.write({"prompt": "a"})
    folder.output.symlink_to(folder.output)
    result = folder.run()
    assert result.exit_code == 1
    assert "Too many levels of symbolic links" in result.stderr


def test_a_failure_tells_the_id_of_its_line(folder: Folder) -> None:
    folder.write({"id": "a", "prompt": "x", "extra": 1})
    folder.run()
    assert folder.results()[0]["id"] == "a"


def test_without_prompts_no_model_is_loaded_and_the_results_are_empty(
    folder: Folder, batch_backend: FakeBatchBackend
) -> None:
    folder.write("", " ")
    result = folder.run()
    assert (result.exit_code, result.stderr) == (0, "prompts.jsonl holds no prompt.\n")
    assert folder.output.read_bytes() == b""
    assert not batch_backend.models


def test_results_go_to_standard_output_where_no_file_is_named(folder: Folder, invoke: Invoke) -> None:
    folder.write(*numbered(2))
    result = invoke("batch", folder.model, folder.prompts, "--backend", "batches")
    assert {found["index"]: found["text"] for found in map(json.loads, result.stdout.splitlines())} == expected(2)
    assert result.stderr.count("\n") == 1


def test_prompts_from_a_pipe_are_served_and_said_not_to_be_resumable(folder: Folder) -> None:
    result = folder.run(prompts="-", input='{"prompt": "prompt 0"}\n')
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: standard input cannot be read twice: this batch cannot be resumed.\n")
    assert folder.texts() == expected(1)


def test_prompts_from_a_pipe_are_not_mixed_with_results_that_are_there(folder: Folder) -> None:
    folder.write(*numbered(1))
    folder.run()
    before = folder.output.read_bytes()
    result = folder.run(prompts="-", input='{"prompt": "b"}\n')
    assert result.exit_code == 1
    assert "standard input cannot be read twice to resume from them" in result.stderr
    assert folder.output.read_bytes() == before
    assert folder.run("--overwrite", prompts="-", input='{"prompt": "b"}\n').exit_code == 0
    assert folder.texts() == {0: answer("b")}


def test_options_reach_the_model(folder: Folder, batch_backend: FakeBatchBackend) -> None:
    folder.write(*numbered(1))
    folder.run("-n", "7", "-t", "0.5", "--parallel", "3", "--threads", "2")
    (_, options), *_ = batch_backend.models[0].asked
    assert options is not None
    assert (options.max_tokens, options.temperature) == (7, 0.5)
    assert (batch_backend.loaded[0].parallel, batch_backend.loaded[0].threads) == (3, 2)
    assert batch_backend.models[0].closed


def test_a_backend_that_takes_one_prompt_at_a_time_is_refused(folder: Folder, batch_backend: FakeBatchBackend) -> None:
    batch_backend.kind = FakeTextModel
    folder.write(*numbered(1))
    result = folder.run()
    assert result.exit_code == 1
    assert "Backend 'batches' takes one prompt at a time." in result.stderr
    assert batch_backend.models[0].closed


def test_a_model_on_the_engine_serves_a_batch(folder: Folder, fake_backend: FakeBackend, template_path: Path) -> None:
    folder.write({"prompt": "a"}, {"prompt": "b" * 600}, {"messages": [{"role": "user", "content": "c"}]})
    result = folder.run("--backend", "fake", "--chat-template", template_path)
    assert result.exit_code == 1
    assert folder.texts() == {0: "Hello there", 1: "", 2: "Hello there"}
    (failed,) = [found for found in folder.results() if found["index"] == 1]
    assert failed["error"].startswith("The prompt has 600 tokens, and the context holds 512")


@pytest.mark.real_model
def test_a_real_model_says_in_a_batch_what_it_says_alone(
    inference: Callable[..., subprocess.CompletedProcess[bytes]], smollm_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("The capital of France is\nOnce upon a time\n")
    flags = ("-n", 4, "--threads", 1, "--context-length", 64)
    done = inference("batch", smollm_path, path, *flags)
    assert done.returncode == 0, done.stderr
    texts = {found["index"]: found["text"] for found in map(json.loads, done.stdout.splitlines())}
    alone = inference("run", smollm_path, "The capital of France is", "--json", *flags)
    assert texts[0] == "".join(json.loads(line).get("text", "") for line in alone.stdout.splitlines())
    assert sorted(texts) == [0, 1]


# Going on ------------------------------------------------------------------------------------------------------------


def test_a_finished_batch_has_nothing_left_to_do(folder: Folder, batch_backend: FakeBatchBackend) -> None:
    folder.write(*numbered(5))
    folder.run()
    before = folder.output.read_bytes()
    result = folder.run()
    assert (result.exit_code, result.stderr) == (0, "Nothing is left to do: all 5 prompts have their result.\n")
    assert folder.output.read_bytes() == before
    assert len(batch_backend.models) == 1


def test_cut_anywhere_the_results_are_completed_and_nothing_whole_is_done_again(folder: Folder) -> None:
    folder.write(*numbered(4))
    folder.run()
    whole = folder.output.read_bytes()
    for length in range(0, len(whole), 13):
        folder.output.write_bytes(whole[:length])
        kept = whole[: whole.rfind(b"\n", 0, length) + 1]
        assert folder.run().exit_code == 0
        assert folder.output.read_bytes().startswith(kept)
        assert folder.texts() == expected(4)
        assert len(folder.asked()) == 4 - kept.count(b"\n")


def test_zeros_that_a_power_cut_left_are_dropped(folder: Folder) -> None:
    folder.write(*numbered(4))
    folder.run()
    kept = b"".join(folder.output.read_bytes().splitlines(keepends=True)[:2])
    for tail in (bytes(100), b'{"index": 2, "te' + bytes(100)):
        folder.output.write_bytes(kept + tail)
        assert folder.run().exit_code == 0
        assert folder.texts() == expected(4)


def test_failures_are_tried_again_and_a_mended_line_is_served(folder: Folder) -> None:
    folder.write({"prompt": "a"}, {"prompt": "fail"}, "broken", {"prompt": "d"})
    assert folder.run().exit_code == 1
    folder.output.chmod(0o640)
    assert folder.run().exit_code == 1
    assert folder.asked() == ["fail"]
    assert folder.texts() == {0: answer("a"), 1: "", 2: "", 3: answer("d")}
    folder.write({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}, {"prompt": "d"})
    assert folder.run().exit_code == 0
    assert sorted(folder.asked()) == ["b", "c"]
    assert folder.texts() == {index: answer(text) for index, text in enumerate("abcd")}
    assert folder.output.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in folder.output.parent.iterdir()} == {"tiny.gguf", "prompts.jsonl", "out.jsonl"}


def test_prompts_that_were_added_at_the_end_are_served(folder: Folder) -> None:
    folder.write(*numbered(2))
    folder.run()
    folder.write(*numbered(5))
    assert folder.run().exit_code == 0
    assert folder.texts() == expected(5)
    assert len(folder.asked()) == 3


def test_results_go_on_from_what_went_to_standard_output(folder: Folder, invoke: Invoke) -> None:
    folder.write(*numbered(1))
    folder.output.write_text(invoke("batch", folder.model, folder.prompts, "--backend", "batches").stdout)
    folder.write(*numbered(2))
    assert folder.run().exit_code == 0
    assert folder.texts() == expected(2)


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        ([{"prompt": "other"}, *numbered(3)[1:]], "answers another input: line 1 is not what it was."),
        (numbered(2), "answers another input: line 3 is not what it was."),
        (["", *numbered(3)], "answers another input: line 1 is not what it was."),
    ],
)
def test_another_input_is_refused_and_the_way_out_is_named(folder: Folder, now: list[object], sentence: str) -> None:
    folder.write(*numbered(3))
    folder.run()
    before = folder.output.read_bytes()
    folder.write(*now)
    result = folder.run()
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert "Name another file with -o, or replace it with --overwrite." in result.stderr
    assert folder.output.read_bytes() == before
    assert folder.run("--overwrite").exit_code == 0
    assert len(folder.texts()) == sum(1 for line in now if line)


@pytest.mark.parametrize(
    "flags",
    [
        ("-t", "0.5"),
        ("-n", "9"),
        ("--stop", "a"),
        ("--chat",),
        ("--template-option", "a=1"),
        ("--kv-cache-type", "q8_0"),
    ],
)
def test_other_options_are_refused_before_a_model_is_loaded(
    folder: Folder, batch_backend: FakeBatchBackend, flags: tuple[str, ...]
) -> None:
    folder.write(*numbered(3))
    folder.run()
    result = folder.run(*flags)
    assert result.exit_code == 1
    assert "out.jsonl was begun with another model or other options. Name another file" in result.stderr
    assert len(batch_backend.models) == 1


def test_options_that_leave_the_text_alone_may_change(folder: Folder) -> None:
    folder.write(*numbered(3))
    folder.run()
    flags = ("--threads", "1", "--parallel", "2", "--context-length", "99", "-n", "256")
    assert folder.run(*flags).exit_code == 0


def test_another_model_of_the_same_name_and_size_is_refused(folder: Folder) -> None:
    folder.write(*numbered(3))
    folder.run()
    folder.model.write_bytes(folder.model.read_bytes()[:-1] + b"\1")
    assert "was begun with another model" in folder.run().stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("Dear diary", "its last line is no result"),
        ("Dear diary\n", "its line 1 is no result"),
        ('{"prompt": "a"}\n', "its line 1 is no result"),
        ('{"index": true, "fingerprint": "a-b"}\n', "its line 1 is no result"),
        ("[1]\n", "its line 1 is no result"),
    ],
)
def test_somebody_elses_file_is_left_alone(folder: Folder, content: str, sentence: str) -> None:
    folder.write(*numbered(1))
    folder.output.write_text(content)
    result = folder.run()
    assert result.exit_code == 1
    assert f"out.jsonl holds something else: {sentence} of a batch." in result.stderr
    assert folder.output.read_text() == content


def test_a_result_that_is_there_twice_is_told(folder: Folder) -> None:
    folder.write(*numbered(2))
    folder.run()
    folder.output.write_bytes(folder.output.read_bytes() * 2)
    assert "twice" in folder.run().stderr


def test_the_prompts_are_not_overwritten(folder: Folder) -> None:
    folder.write(*numbered(2))
    before = folder.prompts.read_bytes()
    for flags in ((), ("--overwrite",)):
        result = folder.run("-o", folder.prompts, *flags)
        assert result.exit_code == 2
        assert "holds the prompts: name another file for the results." in result.stderr
    assert folder.prompts.read_bytes() == before


def test_a_model_that_cannot_be_loaded_leaves_the_results_alone(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(*numbered(2))
    folder.run()
    before = folder.output.read_bytes()
    result = folder.run("--overwrite", "--backend", "nobody")
    assert result.exit_code == 1
    assert folder.output.read_bytes() == before


def test_a_disk_that_is_full_is_an_error_and_what_is_there_is_gone_on_with(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(*numbered(6))
    write, room = os.write, [300]

    def full(file: int, data: bytes) -> int:
        if not data.startswith(b"{") and room[0]:
            return write(file, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        result = folder.run()
    assert result.exit_code == 1
    assert "out.jsonl: No space left on device." in result.stderr
    assert folder.output.stat().st_size == 300
    assert folder.run().exit_code == 0
    assert folder.texts() == expected(6)


# Kills and interrupts ------------------------------------------------------------------------------------------------


def grown(path: Path, lines: int, process: subprocess.Popen[bytes]) -> bytes:
    """The file, once it has so many lines."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        content = path.read_bytes() if path.exists() else b""
        if content.count(b"\n") >= lines:
            return content
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError(f"{path} did not grow to {lines} lines")


@POSIX
def test_killed_again_and_again_nothing_is_lost_and_nothing_is_twice(start_on_fake: Start, folder: Folder) -> None:
    count = 150
    folder.write(*numbered(count))
    arguments = ("batch", folder.model, folder.prompts, "-o", folder.output, "--backend", "batches")
    seen = b""
    for lines in (1, 30, 31, 75, 120):
        process = start_on_fake(*arguments)
        seen_now = grown(folder.output, lines, process)
        assert seen_now.startswith(seen[: seen.rfind(b"\n") + 1]), "a result was lost"
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        seen = folder.output.read_bytes()
        assert seen.startswith(seen_now[: seen_now.rfind(b"\n") + 1])
    assert seen.count(b"\n") < count
    process = start_on_fake(*arguments)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, b"Traceback" in errors) == (0, False)
    assert folder.output.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
    assert folder.texts() == expected(count)
    assert not folder.output.with_name("out.jsonl.lock").exists()


@POSIX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_says_how_to_resume_and_does(
    start_on_fake: Start, folder: Folder, number: int, code: int
) -> None:
    folder.write(*numbered(100))
    process = start_on_fake("batch", folder.model, folder.prompts, "-o", folder.output, "--backend", "batches")
    grown(folder.output, 5, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (code, b"")
    assert errors.startswith(b"Stopped: ")
    assert errors.rstrip().endswith(b"out.jsonl keeps what was done; the same command resumes from it.")
    assert b"Traceback" not in errors
    assert folder.output.read_bytes().endswith(b"\n")
    assert not folder.output.with_name("out.jsonl.lock").exists()
    assert folder.run().exit_code == 0
    assert folder.texts() == expected(100)


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_interrupted_while_a_model_is_loaded_it_leaves_everything_as_it_was(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException], code: int
) -> None:
    def load(*_: object) -> None:
        raise interrupt

    folder.write({"prompt": "fail"}, *numbered(3))
    folder.run()
    before = folder.output.read_bytes()
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(FakeBatchBackend, "load_model", load)
    assert folder.run("--overwrite").exit_code == code
    assert folder.run().exit_code == code
    assert folder.output.read_bytes() == before
    assert signal.getsignal(signal.SIGTERM) == handler


@POSIX
def test_a_second_process_is_refused_while_the_first_writes(start_on_fake: Start, folder: Folder) -> None:
    folder.write(*numbered(100))
    process = start_on_fake("batch", folder.model, folder.prompts, "-o", folder.output, "--backend", "batches")
    grown(folder.output, 1, process)
    link = folder.output.with_name("link.jsonl")
    link.symlink_to(folder.output)
    for flags in ((), ("--overwrite",), ("-o", link)):
        result = folder.run(*flags)
        assert result.exit_code == 1
        assert "out.jsonl is being written by another process." in result.stderr
    assert process.wait(PATIENCE) == 0
    assert folder.texts() == expected(100)


def test_a_lock_file_that_a_killed_process_left_means_nothing(folder: Folder) -> None:
    folder.write(*numbered(1))
    folder.output.with_name("out.jsonl.lock").touch()
    assert folder.run().exit_code == 0


def test_a_lock_is_free_again_after_its_holder(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "a"), Lock(tmp_path / "a")
    first.acquire()
    with pytest.raises(Exception, match="is being written by another process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


@POSIX
def test_a_reader_that_goes_away_ends_a_batch_in_silence(start_on_fake: Start, folder: Folder) -> None:
    folder.write(*numbered(100))
    process = start_on_fake("batch", folder.model, folder.prompts, "--backend", "batches")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    assert process.stderr.read() == b""


# A million lines -----------------------------------------------------------------------------------------------------


def test_prompts_are_read_as_the_model_takes_them(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(*numbered(500))
    read, most_ahead = [0], [0]
    entry = PromptFile.entry

    def counted(self: PromptFile, line: Any) -> Any:
        read[0] += 1
        finished = folder.output.read_bytes().count(b"\n")
        most_ahead[0] = max(most_ahead[0], read[0] - finished)
        return entry(self, line)

    monkeypatch.setattr(PromptFile, "entry", counted)
    assert folder.run().exit_code == 0
    assert read[0] == 500
    assert most_ahead[0] <= 5


# On a terminal -------------------------------------------------------------------------------------------------------


@POSIX
def test_a_terminal_sees_a_bar_with_what_was_there_before_and_its_end_takes_it_away(
    start_on_fake: Start, folder: Folder
) -> None:
    pty = pytest.importorskip("pty")
    folder.write(*numbered(10))
    folder.run()
    folder.write(*numbered(100), {"prompt": "fail"}, *numbered(50))
    ours, theirs = pty.openpty()
    process = start_on_fake(
        "batch", folder.model, folder.prompts, "-o", folder.output, "--backend", "batches", stderr=theirs
    )
    os.close(theirs)
    seen = read_to_end(ours)
    assert process.wait(PATIENCE) == 1
    assert re.search(r"\b[1-9][0-9]/151\b.*tokens/s", seen)
    assert re.search(r"tokens/s, 1 failed", seen)
    *_, last = seen.rpartition("\x1b[2K")
    assert last.startswith("141 prompts in")


def read_to_end(terminal: int) -> str:
    seen = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal so
            data = b""
        if not data:
            os.close(terminal)
            return seen.decode()
        seen += data
