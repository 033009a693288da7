"""`Worker`: whatever comes of a call, this process lives on and the next call is answered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference import worker as module
from inference.worker import (
    Worker,
    WorkerBusyError,
    WorkerDiedError,
    WorkerError,
    Workers,
    WorkerSlowError,
    WorkerStartError,
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither signals nor fork")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("worker_functions:act")
    yield worker
    worker.close()


def act(worker: Worker, what: str, *values: object, seconds: float = 30) -> object:
    return worker.call((what, *values), seconds)


def test_calls_are_answered_one_after_the_other_by_one_process(worker: Worker) -> None:
    value = [1, 2.5, None, True, "é \ud800", {"a": ["b"]}]
    assert act(worker, "echo", value) == value
    first = act(worker, "pid")
    assert first != os.getpid()
    assert act(worker, "pid") == first


@posix
@pytest.mark.parametrize(("how", "words"), [("abort", "SIGABRT): last words"), ("exit", "exit code 3")])
def test_a_process_that_dies_is_an_error_and_another_answers_next(worker: Worker, how: str, words: str) -> None:
    act(worker, "pid")
    with pytest.raises(WorkerDiedError, match=words.replace(")", r"\)")):
        act(worker, how)
    assert act(worker, "echo", 1) == 1


@pytest.mark.parametrize("what", ["sleep", "spin"])
def test_an_endless_call_is_given_up_and_another_process_answers_next(what: str, worker: Worker) -> None:
    act(worker, "pid")
    with pytest.raises(WorkerSlowError, match=r"longer than 0\.2 seconds"):
        act(worker, what, 60, seconds=0.2)
    assert act(worker, "echo", 1) == 1


def test_what_the_function_prints_or_raises_is_not_taken_for_its_answer(worker: Worker) -> None:
    assert act(worker, "print", "noise") == "printed"
    with pytest.raises(WorkerDiedError, match=r"(?s)exit code 1\).*ValueError: it broke"):
        act(worker, "raise", "it broke")
    assert act(worker, "echo", 1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of memory for a process")
def test_memory_beyond_the_limit_is_refused_in_the_process_alone() -> None:
    bounded = Worker("worker_functions:act", memory=2**29)
    assert act(bounded, "allocate", 2**20) == 2**20
    assert act(bounded, "allocate", 2**29) == "MemoryError"
    bounded.close()


def test_threads_that_share_a_worker_get_their_own_answers(worker: Worker) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        wrong.extend(number for _ in range(20) if act(worker, "echo", number) != number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_several_workers_answer_at_once() -> None:
    workers = Workers("worker_functions:act", most=2)
    workers.call(("pid",), 30)
    met = threading.Barrier(3)
    pids: list[object] = []

    def ask() -> None:
        met.wait()
        pids.append(workers.call(("slow pid", 0.5), 30))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    met.wait()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2


def test_last_words_are_those_of_the_call(worker: Worker) -> None:
    act(worker, "print", "earlier words")
    with pytest.raises(WorkerDiedError) as raised:
        act(worker, "abort")
    assert "last words" in str(raised.value)
    assert "earlier" not in str(raised.value)


def test_who_waits_for_one_of_several_does_not_wait_for_ever() -> None:
    workers = Workers("worker_functions:act", most=1)
    workers._turns.get()
    with pytest.raises(WorkerBusyError, match=r"All 1 processes were busy for 0\.05 seconds"):
        workers.call(("pid",), 0.01)
    workers._turns.put(None)
    assert workers.call(("pid",), 30) != os.getpid()


def test_a_process_that_was_idle_is_replaced_before_it_leaves() -> None:
    worker = Worker("worker_functions:act", idle=20)
    first = act(worker, "pid")
    worker._used -= 11
    assert act(worker, "pid") != first
    worker.close()


@posix
def test_a_process_that_nobody_calls_leaves() -> None:
    worker = Worker("worker_functions:act", idle=0.1)
    act(worker, "pid")
    assert worker._process is not None
    assert worker._process.wait(timeout=20) == 0


@posix
@pytest.mark.parametrize("busy", [True, False])
def test_it_does_not_outlive_the_process_that_made_it(busy: bool, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "from inference.worker import Worker\nfrom pathlib import Path\nimport time\n"
        f"worker = Worker('worker_functions:act')\nPath({str(note)!r}).write_text(str(worker.call(('pid',), 30)))\n"
        f"worker.call(('spin',), 1) if {busy} else time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    maker = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while not (note.exists() and note.read_text()):
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    for _ in range(1000):
        if not is_running(int(note.read_text())):
            return
        time.sleep(0.02)
    pytest.fail("it still runs")


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    if state.parent.parent.joinpath("self").exists():  # Linux: one that ended and that nobody waits for does not run
        return state.exists() and ") Z " not in state.read_text()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@posix
def test_after_a_fork_each_process_has_a_worker_of_its_own(worker: Worker) -> None:
    before = act(worker, "pid")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(act(worker, "pid")).encode())
        worker.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 100)) != before
    assert act(worker, "pid") == before
    os.close(read)
    os.close(write)


@posix
def test_a_process_that_was_killed_while_idle_is_replaced_and_nobody_blamed(worker: Worker) -> None:
    os.kill(int(str(act(worker, "pid"))), signal.SIGKILL)
    assert worker._process is not None
    worker._process.wait()
    assert act(worker, "echo", 1) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("which", [1, 2])
def test_what_comes_while_it_starts_leaves_no_answer_for_the_next_call(
    error: BaseException, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first timer its process says that it is ready, at the second it answers."""
    worker, started = Worker("worker_functions:act"), []
    start = threading.Timer.start

    def interrupted(timer: threading.Timer) -> None:
        started.append(timer)
        if len(started) == which:
            raise error
        start(timer)

    monkeypatch.setattr(threading.Timer, "start", interrupted)
    with pytest.raises((KeyboardInterrupt, WorkerError)):
        act(worker, "echo", "secret")
    monkeypatch.undo()
    for number in range(3):
        assert act(worker, "echo", number) == number
    worker.close()


@posix
def test_an_answer_that_is_cut_is_none(worker: Worker) -> None:
    with pytest.raises(WorkerDiedError):
        act(worker, "cut answer")
    assert act(worker, "echo", 1) == 1


def test_what_cannot_be_sent_is_an_error_of_ours(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="cannot be sent"):
        act(worker, "echo", object())


def test_without_descriptors_no_process_is_started(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", none)
    with pytest.raises(WorkerStartError, match="Too many open files"):
        act(worker, "pid")


@posix
def test_after_a_fork_workers_that_other_threads_had_are_there_again() -> None:
    workers = Workers("worker_functions:act", most=1)
    thread = threading.Thread(target=workers.call, args=(("slow pid", 3), 30))
    thread.start()
    while not workers._turns.empty():
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        os._exit(0 if workers.call(("echo", 1), 30) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


@posix
def test_a_program_does_not_wait_at_its_end_for_a_call_of_a_daemon_thread() -> None:
    program = (
        "from inference.worker import Worker\nimport threading, time\nworker = Worker('worker_functions:act')\n"
        "worker.call(('pid',), 30)\n"
        "def call():\n    try:\n        worker.call(('sleep', 60), 60)\n    except Exception:\n        pass\n"
        "threading.Thread(target=call, daemon=True).start()\ntime.sleep(0.2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=30, check=False)
    assert done.returncode == 0


def test_a_program_without_an_interpreter_is_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(WorkerStartError, match="no Python interpreter"):
        act(worker, "pid")


def test_a_function_that_cannot_be_imported_is_told_as_that() -> None:
    with pytest.raises(WorkerStartError, match="No module named 'no_such_module'"):
        Worker("no_such_module:act").call(None, 30)


@posix
def test_an_interrupt_while_it_answers_leaves_no_answer_for_the_next_call(worker: Worker) -> None:
    act(worker, "pid")
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        act(worker, "slow pid", 20)
    assert act(worker, "echo", 1) == 1
