"""What the backend `rocm` asks of a GPU: streams, graphs, copies and memory, in their order, with a `torch.cuda` that
writes it down."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from conformance.files import Recipe, write
from exact_text import greedy

from inference.errors import EngineError, InsufficientMemoryError
from inference.gguf.reader import read_header
from inference.options import GenerateOptions
from inference.protocols import Row

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu.graphs import Graphs  # noqa: E402
from inference_rocm.gpu.loading import load_gpu_runner  # noqa: E402
from inference_rocm.gpu.memory import require  # noqa: E402
from inference_rocm.gpu.runner import GPURunner  # noqa: E402
from inference_rocm.gpu.transfer import Arrival, fetched  # noqa: E402
from recorded_cuda import PRETENDED, RecordedCuda  # noqa: E402

CONTEXT = 16
PROMPT = [5, 9, 20, 7, 60, 3]
GREEDY = GenerateOptions()
SAMPLED = GenerateOptions(temperature=1.5)
FILTERED = GenerateOptions(temperature=1.5, top_k=30, top_p=0.9, repeat_penalty=1.2)
GIB = 1 << 30


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPU's blocks are small, of which the interpreter computes a thousand in a second: the model is small too."""
    folder = tmp_path_factory.mktemp("capture")
    vocabulary = gguf.GGUFWriter(folder / "words.gguf", "llama")
    vocabulary.add_tokenizer_model("gpt2")
    vocabulary.add_token_list([f"word {word}" for word in range(64)])
    vocabulary.write_header_to_file()
    vocabulary.write_kv_data_to_file()
    vocabulary.write_tensors_to_file()
    vocabulary.close()
    recipe = Recipe(
        architecture="llama", layers=1, embedding_length=32, heads=2, kv_heads=1, head_length=16,
        feed_forward_length=32, context_length=CONTEXT, vocabulary=folder / "words.gguf",
    )  # fmt: skip
    write(recipe, folder / "model.gguf")
    return folder / "model.gguf"


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> RecordedCuda:
    return RecordedCuda(monkeypatch)


@pytest.fixture
def runner(path: Path, cuda: RecordedCuda) -> Iterator[GPURunner]:
    runner = loaded(path)
    yield runner
    runner.free()


def loaded(path: Path, device: Device = PRETENDED) -> GPURunner:
    return load_gpu_runner(read_header(path), device, context_length=CONTEXT, max_slots=8, batch_size=CONTEXT)


def noting(cuda: RecordedCuda, name: str = "pass") -> Callable[[], None]:
    """A pass that says on which stream it runs."""
    return lambda: cuda.note(f"{name} on stream {torch.cuda.current_stream().number}")


def matching(asked: Sequence[str], pattern: str) -> list[str]:
    return [what for what in asked if re.search(pattern, what)]


# Graphs ---------------------------------------------------------------------------------------------------------------


def test_a_pass_is_tried_on_the_captures_own_stream_and_captured_there_when_that_is_done(cuda: RecordedCuda) -> None:
    Graphs(PRETENDED).prepare("one", noting(cuda))
    assert cuda.asked[:7] == [
        "stream 1 waits for stream 0",
        "pass on stream 1",
        "pass on stream 1",
        "stream 0 waits for stream 1",
        "graph 1 is captured on stream 1, pool None, thread_local",
        "pass on stream 1",
        "graph 1 is made",
    ]
    assert torch.cuda.current_stream().number == 0


def test_all_graphs_take_memory_from_one_pool_on_one_stream(cuda: RecordedCuda) -> None:
    graphs = Graphs(PRETENDED)
    for key in range(3):
        graphs.prepare(key, noting(cuda))
    assert matching(cuda.asked, "captured") == [
        f"graph {number} is captured on stream 1, pool {pool}, thread_local"
        for number, pool in ((1, None), (2, 1), (3, 1))
    ]


@torch.inference_mode()
def test_to_run_a_pass_is_to_replay_its_graph_and_not_to_call_it(cuda: RecordedCuda) -> None:
    graphs, calls = Graphs(PRETENDED), []
    number, out = torch.zeros(2), torch.zeros(2)

    def compute() -> None:
        calls.append(1)
        out.copy_(number * len(calls))

    graphs.prepare("one", compute)
    number.fill_(5.0)
    graphs.run("one")
    assert len(calls) == 3
    assert out.tolist() == [15.0, 15.0]  # what Python knew at the capture, and what memory holds now
    assert cuda.asked[-1] == "graph 1 is replayed"


@torch.inference_mode()
def test_a_pass_that_waits_for_the_device_is_no_graph_and_leaves_nothing_behind(cuda: RecordedCuda) -> None:
    graphs, number = Graphs(PRETENDED), torch.ones(1)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graphs.prepare("one", lambda: cuda.note(f"{number.item()}"))
    assert "one" not in graphs
    assert torch.cuda.current_stream().number == 0
    graphs.prepare("two", noting(cuda))
    assert "two" in graphs


def test_one_pass_is_captured_at_a_time_in_a_process(cuda: RecordedCuda) -> None:
    """Here another thread wants to capture its own while the first one does."""
    other = threading.Thread(target=lambda: Graphs(PRETENDED).prepare("other", noting(cuda, "other")))
    began = threading.Event()

    def compute() -> None:
        if not other.ident:
            other.start()
            began.wait(0.2)  # it would have come so far by now
        cuda.note("first")

    Graphs(PRETENDED).prepare("first", compute)
    other.join()
    asked = [what.split()[0] for what in matching(cuda.asked, "^first|^other|is made")]
    assert asked == ["first", "first", "first", "graph", "other", "other", "other", "graph"]


def test_the_device_is_done_before_graphs_are_dropped_and_their_pool_with_them(cuda: RecordedCuda) -> None:
    graphs = Graphs(PRETENDED)
    for key in range(2):
        graphs.prepare(key, noting(cuda))
    place = len(cuda.asked)
    graphs.forget()
    assert cuda.since(place) == ["synchronized", "graph 1 is dropped", "graph 2 is dropped"]
    assert 0 not in graphs
    graphs.forget()
    assert len(cuda.since(place)) == 3, "nothing is left to wait for"
    graphs.prepare(0, noting(cuda))
    assert matching(cuda.since(place), "captured") == ["graph 3 is captured on stream 1, pool None, thread_local"]


# Copies ---------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_an_arrival_waits_once_and_for_the_copies_before_it_alone(cuda: RecordedCuda) -> None:
    numbers = torch.arange(3)
    first = fetched(numbers, PRETENDED)
    arrival = Arrival(PRETENDED)
    second = fetched(numbers, PRETENDED)
    numbers.fill_(9)
    assert first.tolist() != [0, 1, 2], "it is not there yet"
    arrival.wait()
    arrival.wait()
    assert first.tolist() == [0, 1, 2], "as they were when they were asked for"
    assert second.tolist() != [0, 1, 2]
    assert cuda.asked == ["event after 1 copies", "event waited for"]


# Memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_refused_with_what_is_wanted_and_what_is_there(cuda: RecordedCuda) -> None:
    enough = require(PRETENDED, lambda: GIB // 2)
    assert enough is not None
    cuda.free = 2 * GIB
    with pytest.raises(InsufficientMemoryError, match=r"7 slots take 3\.00 GiB, and the GPU has 1\.50 GiB free"):
        enough(3 * GIB, "7 slots")
    cuda.kept = 3 * GIB  # by PyTorch for later: it is as good as free
    enough(3 * GIB, "7 slots")


def test_slots_that_there_is_no_memory_for_are_refused_before_any_is_taken(
    runner: GPURunner, path: Path, cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.open(0, GREEDY, 0, PROMPT)
    steps = [runner.step([Row(0, PROMPT)]), runner.step([Row(0)])]
    before, cuda.free = (runner.slots, runner.slot_length), 0
    with monkeypatch.context() as patch:
        note_what_is_taken(patch, cuda)
        with pytest.raises(InsufficientMemoryError, match=r"take \d+\.\d\d GiB, and the GPU has 0\.00 GiB free"):
            runner.resize(8, CONTEXT, wait=True)
    assert matching(cuda.asked, "bytes are taken") == []
    assert (runner.slots, runner.slot_length) == before
    steps += [runner.step([Row(0)]) for _ in range(2)]
    assert [step.tokens()[0] for step in steps] == greedy(path, PROMPT, 4)


def note_what_is_taken(patch: pytest.MonkeyPatch, cuda: RecordedCuda) -> None:
    def noted(make: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*args: Any, **more: Any) -> Any:
            made = make(*args, **more)
            cuda.note(f"{made.nbytes} bytes are taken")
            return made

        return taken

    for name in ("zeros", "empty"):
        patch.setattr(torch, name, noted(getattr(torch, name)))


def test_what_runs_out_in_a_step_ends_that_step_alone(
    runner: GPURunner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("HIP out of memory")

    runner.open(0, GREEDY, 0, PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", none)
        with pytest.raises(EngineError, match="memory ran out in a step of 6 tokens"):
            runner.step([Row(0, PROMPT)])
    runner.trim(0, 0)
    assert runner.step([Row(0, PROMPT)]).tokens() == greedy(path, PROMPT, 1)


def test_memory_goes_back_to_the_gpu_once_and_when_the_gpu_is_done(path: Path, cuda: RecordedCuda) -> None:
    runner = loaded(path)
    place = len(cuda.asked)
    runner.free()
    runner.free()
    asked = cuda.since(place)
    assert asked.count("cache emptied") == 1
    assert asked[-2:] == ["synchronized", "cache emptied"]
    (dropped,) = matching(asked, "dropped")
    assert "synchronized" in asked[: asked.index(dropped)]


# The runner -----------------------------------------------------------------------------------------------------------


def test_loading_compiles_and_captures_before_the_first_stream_and_leaves_the_threads_device_as_it_was(
    runner: GPURunner, cuda: RecordedCuda
) -> None:
    assert matching(cuda.asked, "device")[0] == "device cpu"
    assert cuda.asked[-1] == "device 0"
    assert len(matching(cuda.asked, "is made")) == 1
    assert runner.trim(0, CONTEXT) == 0, "what was fed to try it is forgotten"
    place = len(cuda.asked)
    runner.open(0, GREEDY, 0, PROMPT)
    runner.step([Row(0, PROMPT)])
    runner.step([Row(0)])
    assert cuda.since(place) == [
        "device cpu", "event after 3 copies", "device cpu", "graph 1 is replayed", "event after 4 copies",
    ]  # fmt: skip


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, FILTERED], ids=["greedy", "sampled", "filtered"])
def test_replayed_graphs_give_the_tokens_of_passes_that_are_run(
    options: GenerateOptions, runner: GPURunner, path: Path, cuda: RecordedCuda
) -> None:
    """Two sequences, launched a step ahead of what is read."""
    found = []
    for each in (runner, loaded(path, INTERPRETER)):
        each.resize(2, CONTEXT, wait=True)
        for slot in range(2):
            each.open(slot, options, 3 + slot, PROMPT[slot:])
        steps = [each.step([Row(slot, PROMPT[slot:]) for slot in range(2)])]
        steps += [each.step([Row(0), Row(1)]) for _ in range(3)]
        found.append([step.tokens() for step in steps])
    assert found[0] == found[1]
    assert len(matching(cuda.asked, "replayed")) >= 3


def test_a_graph_is_captured_for_each_power_of_two_of_rows_and_each_kind_of_sampling(
    runner: GPURunner, cuda: RecordedCuda
) -> None:
    runner.resize(4, CONTEXT, wait=True)

    def graphs_of(count: int, options: GenerateOptions) -> int:
        """How many are made for a step."""
        place = len(cuda.asked)
        for slot in range(count):
            runner.trim(slot, 0)
            runner.open(slot, options, slot, [1])
        runner.step([Row(slot, [1]) for slot in range(count)])
        assert len(matching(cuda.since(place), "replayed")) == 1
        return len(matching(cuda.since(place), "is made"))

    assert graphs_of(4, FILTERED) == 1  # what the sampler needs for this is enough for all that follow
    place = len(cuda.asked)
    assert [graphs_of(count, SAMPLED) for count in (2, 3, 4)] == [1, 1, 0]
    assert [graphs_of(1, GREEDY) for _ in range(2)] == [1, 0]
    assert graphs_of(3, FILTERED) == 0
    assert matching(cuda.since(place), "dropped") == []


def test_graphs_are_forgotten_before_memory_grows_and_made_anew_with_it(
    runner: GPURunner, path: Path, cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.open(0, GREEDY, 0, PROMPT)
    steps = [runner.step([Row(0, PROMPT)]), runner.step([Row(0)])]
    place = len(cuda.asked)
    with monkeypatch.context() as patch:
        note_what_is_taken(patch, cuda)
        runner.resize(3, CONTEXT, wait=True)
    asked = [re.sub(r"^\d+ ", "", what) for what in cuda.since(place)]
    order = [asked.index(what) for what in ("synchronized", "graph 1 is dropped", "bytes are taken")]
    assert order == sorted(order)
    place = len(cuda.asked)
    assert runner.fork(0, 2, 4) == 4
    runner.open(2, GREEDY, 0, PROMPT)
    steps += [runner.step([Row(0)]) for _ in range(2)]
    other = [runner.step([Row(2, PROMPT[4:])]), runner.step([Row(2)])]
    assert len(matching(cuda.since(place), "is made")) == 1
    wanted = greedy(path, PROMPT, 4)
    assert [step.tokens()[0] for step in steps] == wanted
    assert [step.tokens()[0] for step in other] == wanted[:2]


def test_graphs_are_made_anew_when_settings_move(runner: GPURunner, cuda: RecordedCuda) -> None:
    """Room for more biases than any sequence had before."""
    runner.open(0, GREEDY, 0, [1])
    runner.step([Row(0, [1])])
    place = len(cuda.asked)
    forbidden = {token: float("-inf") for token in range(64) if token not in (31, 32)}
    runner.open(0, GenerateOptions(logit_bias=forbidden), 0, [1])
    tokens = {runner.step([Row(0, [token])]).tokens()[0] for token in (1, 7, 20)}
    assert tokens <= {31, 32}
    assert matching(cuda.since(place), "dropped") == ["graph 1 is dropped"]
    assert len(matching(cuda.since(place), "is made")) == 1
