"""What a GPU's steps, its KV memory and its growth take, beside what is reckoned before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from conformance.cases import CASES, LONG_CASES
from conformance.files import write

from inference.errors import InsufficientMemoryError
from inference.gguf.architectures import config_of
from inference.gguf.header import Header
from inference.gguf.reader import read_header
from inference.options import GenerateOptions, LoadOptions
from inference.protocols import Row

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from allocations import most_allocated  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.cache import KVCache  # noqa: E402
from inference_rocm.gpu import attention, memory  # noqa: E402
from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402
from inference_rocm.gpu.fitting import batch_size_of, gpu_demand  # noqa: E402
from inference_rocm.gpu.loading import load_gpu_runner  # noqa: E402
from inference_rocm.gpu.runner import GPURunner  # noqa: E402
from inference_rocm.gpu.workspace import pass_bytes, workspace_bytes  # noqa: E402
from torch import Tensor  # noqa: E402

CPU = torch.device("cpu")
MIB = 2**20
SLOTS, TOKENS, LENGTH = 4, 128, 512
KINDS = {
    "dense": replace(LONG_CASES["llama"], tied=True),
    "norms behind": CASES["gemma2-yarn"],
    "one expert of many": CASES["qwen3moe-one-used"],
    "a shared expert": CASES["qwen2moe-lengths"],
    "experts with biases": CASES["gpt-oss-mxfp4"],
}
INDICES = 1 << 14
"""Bytes for numbers of tokens and places, which are not reckoned."""


@pytest.fixture(scope="module", params=KINDS)
def header(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Header:
    path = tmp_path_factory.mktemp("memory") / "model.gguf"
    write(KINDS[request.param], path)
    return read_header(path)


@pytest.fixture
def dense(tmp_path: Path) -> Header:
    write(KINDS["dense"], tmp_path / "model.gguf")
    return read_header(tmp_path / "model.gguf")


@contextmanager
def opened(header: Header) -> Iterator[GPURunner]:
    """A runner with all of its slots open, which draw and want log-probabilities."""
    runner = load_gpu_runner(header, INTERPRETER, context_length=LENGTH, max_slots=SLOTS, batch_size=TOKENS)
    runner.resize(SLOTS, LENGTH, wait=True)
    for slot in range(SLOTS):
        runner.open(slot, GenerateOptions(temperature=1.0, top_k=5, logprobs=3), slot, [1, 2])
    yield runner
    runner.free()


def test_a_step_takes_what_is_reckoned_and_not_much_less(header: Header) -> None:
    prompts = [Row(slot, [(7 * i + slot) % 200 + 3 for i in range(TOKENS // SLOTS)]) for slot in range(SLOTS)]
    with opened(header) as runner:
        runner.step([Row(slot, [5]) for slot in range(SLOTS)]).tokens()  # what stays is made by the first one
        prefill = most_allocated(lambda: runner.step(prompts).tokens())
        decode = most_allocated(lambda: runner.step([Row(slot) for slot in range(SLOTS)]).tokens())
    reckoned = pass_bytes(header, config_of(header), TOKENS, SLOTS)
    assert 0.5 * reckoned <= prefill <= reckoned + INDICES
    reckoned = pass_bytes(header, config_of(header), SLOTS, SLOTS)
    assert 0.5 * reckoned <= decode <= reckoned + INDICES


def test_what_stays_of_steps_is_in_the_reckoning(dense: Header) -> None:
    def all_kinds() -> None:
        with opened(dense) as runner:
            runner.step([Row(slot, [5]) for slot in range(SLOTS)]).tokens()
            kept.append(runner._workspace - runner._workspace_left)

    kept: list[int] = []
    all_kinds()
    vocabulary = config_of(dense).vocabulary_size
    assert kept[0] > SLOTS * 16 * vocabulary  # logits; their values, and tokens in order with their keys
    bare = workspace_bytes(dense, config_of(dense), slots=SLOTS, batch_size=TOKENS)
    assert kept[0] <= bare - pass_bytes(dense, config_of(dense), TOKENS, SLOTS) - 2 * pass_bytes(
        dense, config_of(dense), SLOTS, SLOTS
    )


def test_shares_of_many_rows_take_no_more_than_their_limit_and_no_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, heads, length, capacity = 9, 4, 64, 1024
    query = torch.randn(rows, heads, length)
    keys, values = torch.randn(2, 3, 2, capacity, length)
    slots = torch.tensor([0, 1, 2, -1, 0, 1, 2, 0, 1], dtype=torch.int32)
    positions = torch.tensor([1000, 900, 3, 0, 64, 63, 500, 12, 777], dtype=torch.int32)
    device = Device(CPU, wave=64, units=64, interpreted=True)

    def attend() -> Tensor:
        out = torch.empty(rows, heads * length)
        attention.attend(
            query, keys, values, slots, positions, out,
            scale=0.125, softcap=None, window=None, sinks=None, device=device,
        )  # fmt: skip
        return out

    whole, most = attend(), most_allocated(attend)
    limit = 3 * 4 * heads * 16 * (length + 2)  # three rows' of sixteen shares
    monkeypatch.setattr(attention, "SHARES_BYTES", limit)
    assert torch.equal(attend(), whole)
    assert most > limit
    assert most_allocated(attend) <= limit + whole.nbytes + INDICES


# KV memory ------------------------------------------------------------------------------------------------------------


def filled(header: Header, slots: int, length: int) -> KVCache:
    cache = KVCache(config_of(header), slots, length, torch.float16, CPU)
    for index in range(len(config_of(header).layers)):
        for part in cache.layer(index):
            part.copy_(torch.randn(part.shape))
    return cache


def test_growing_takes_one_layer_more_than_what_is_there_in_the_end(dense: Header) -> None:
    caches: list[KVCache] = []

    def grow() -> None:
        caches.append(KVCache(config_of(dense), 4, 1024, torch.float16, CPU))
        caches[0].resize(8, 4096, {0: 100})

    before = KVCache(config_of(dense), 4, 1024, torch.float16, CPU)
    taken = most_allocated(grow) - before.size_bytes
    (after,) = caches
    assert taken == before.growth(8, 4096) == after.size_bytes - before.size_bytes + 2 * before.layer(0)[0].nbytes


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_memory_that_runs_out_while_growing_leaves_everything_as_it_was(
    dense: Header, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    cache, before = grown_in_vain(dense, monkeypatch, {fails_at})
    assert all(torch.equal(*pair) for pair in zip(before, cache.layer(0) + cache.layer(1), strict=True))


def test_layers_that_cannot_give_back_what_they_got_stay_larger_and_hold_what_they_held(
    dense: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, before = grown_in_vain(dense, monkeypatch, set(range(3, 100)))
    for keys, values in map(cache.layer, range(2)):
        assert keys.shape == values.shape  # kernels take the one's for the other's
    for old, part in zip(before, cache.layer(0) + cache.layer(1), strict=True):
        assert torch.equal(old, part[:2, :, :16])


def grown_in_vain(header: Header, monkeypatch: pytest.MonkeyPatch, fails_at: set[int]) -> tuple[KVCache, list[Tensor]]:
    """A cache after it was to grow and some allocations failed, by their number; and what it held before."""
    cache = filled(header, 2, 16)
    before = [part.clone() for part in cache.layer(0) + cache.layer(1)]
    make, made = KVCache._part, count()

    def out_of_memory(self: KVCache, slots: int, length: int) -> Tensor:
        if next(made) in fails_at:
            raise torch.OutOfMemoryError("no more")
        return make(self, slots, length)

    monkeypatch.setattr(KVCache, "_part", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        cache.resize(4, 32, {0: 16, 1: 16})
    assert (cache.slots, cache.length) == (2, 16)
    return cache, before


@pytest.mark.parametrize("parallel", [None, 1, 3])
def test_all_that_is_granted_when_a_file_is_loaded_can_be_grown_to(
    dense: Header, monkeypatch: pytest.MonkeyPatch, parallel: int | None
) -> None:
    """With a GPU's memory counted: what the runner has, and no byte more, is gone from what was free."""
    options = LoadOptions(batch_size=TOKENS, **({"parallel": parallel} if parallel else {}))
    need = gpu_demand(dense, options, 0)
    total = need.weight_bytes + need.headroom + 1000 * need.kv_bytes_per_token
    length, slots = gpu_demand(dense, options, total).fit(options)
    assert 256 <= length * slots <= 1000

    runner = load_gpu_runner(
        dense, INTERPRETER, context_length=length, max_slots=slots, batch_size=batch_size_of(options, slots)
    )
    with counted(runner, need.weight_bytes, total, monkeypatch) as free:
        for slot in range(slots):
            runner.resize(slot + 1, min(length, 100 * (slot + 1)), wait=True)
            runner.open(slot, GenerateOptions(temperature=1.0, top_k=5), slot, [1])
            runner.step([Row(each, [5]) for each in range(slot + 1)]).tokens()
        runner.resize(slots, length, wait=True)
        assert (runner.slots, runner.slot_length) == (slots, length)
        assert free() >= 0
        with pytest.raises(InsufficientMemoryError, match=r"slots of .* tokens take .* GiB, and the GPU has .* GiB"):
            runner.resize(slots + 1, 100 * length, wait=True)
        assert (runner.slots, runner.slot_length) == (slots, length)


@contextmanager
def counted(
    runner: GPURunner, weights: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], int]]:
    """A GPU of `total` bytes that holds the runner."""

    def free() -> int:
        kv, of = runner._kv, runner._sampler
        tables = sum(each.cos.nbytes + each.sin.nbytes for each in kv.rotaries)
        lasting = runner._workspace - runner._workspace_left
        return total - weights - kv.cache.size_bytes - tables - lasting - of.history.nbytes

    gpu = Device(CPU, wave=64, units=1)
    monkeypatch.setattr(memory, "free_bytes", lambda _: free())
    runner._kv._require = memory.require(gpu, lambda: runner._workspace_left)
    yield free
    runner.free()
