"""The optional package `mlx-kquant`: found, refused or done without, and called as it wants to be called.

The package has no build for this machine: a stand-in takes its place, with its signatures and its checks (those of
version 0.5.6, `bindings.cpp` and `kquant_ops.cpp`), which computes by `inference.gguf.blocks`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from random_blocks import random_blocks

from inference.gguf.architectures import Part
from inference.gguf.block_formats import block_format
from inference.gguf.blocks import BLOCK_LAYOUTS, decode

mx = pytest.importorskip("mlx.core")

from inference_mlx import kquant  # noqa: E402 - after mlx is known to be there
from inference_mlx.forms import K_QUANT, form_of, packed_bytes  # noqa: E402
from inference_mlx.kquant import KEPT, kept_formats  # noqa: E402
from inference_mlx.linear import embedding_of, linear_of, switch_linear_of  # noqa: E402
from inference_mlx.packing import Packed, Packer  # noqa: E402
from mlx_weights import random_weights, written  # noqa: E402

X = Part("x")
CODECS = [name.lower() for name in BLOCK_LAYOUTS if name not in ("F32", "F16", "BF16")]
FLOATS = (mx.float32, mx.float16, mx.bfloat16)
ROUNDING = {mx.float32: 3e-2, mx.float16: 4e-3, mx.bfloat16: 3e-2}
"""Of results: the package computes float32 in bfloat16."""

every_kept = pytest.mark.parametrize("name", KEPT)
every_type = pytest.mark.parametrize("dtype", FLOATS, ids=str)


# The stand-in --------------------------------------------------------------------------------------------------------


class StandIn(ModuleType):
    def __init__(self) -> None:
        super().__init__("mlx_kquant")
        self.__spec__ = ModuleSpec("mlx_kquant", None)
        self.known = CODECS
        self.calls: list[str] = []

    def codecs(self) -> list[str]:
        return self.known

    def dequantize(
        self, w: mx.array, scales: mx.array, kquant_type: str, dtype: Any = None, *, stream: None = None
    ) -> mx.array:
        self._check("dequantize", w, scales, kquant_type)
        assert dtype is None or dtype in FLOATS
        return mx.array(decode(kquant_type.upper(), np.array(w))).astype(dtype or mx.float16)

    def quantized_matmul(
        self,
        x: mx.array,
        w: mx.array,
        scales: mx.array,
        kquant_type: str,
        transpose: bool = True,
        *,
        lora_a: None = None,
        lora_b: None = None,
        lora_rows: None = None,
        stream: None = None,
    ) -> mx.array:
        self._check("quantized_matmul", w, scales, kquant_type)
        assert w.ndim == 2 or np.prod(w.shape[:-2]) == 1, "batched (>2D) weights are not supported"
        matrix = self._matrix(w, kquant_type, x, transpose)
        return self._rounded(x) @ matrix.swapaxes(-1, -2).astype(self._type(x))

    def gather_qmm(
        self,
        x: mx.array,
        w: mx.array,
        scales: mx.array,
        kquant_type: str,
        lhs_indices: mx.array | None = None,
        rhs_indices: mx.array | None = None,
        transpose: bool = True,
        sorted_indices: bool = False,
        *,
        stream: None = None,
    ) -> mx.array:
        self._check("gather_qmm", w, scales, kquant_type)
        assert x.ndim >= 2
        assert lhs_indices is None
        assert rhs_indices is not None
        assert mx.issubdtype(rhs_indices.dtype, mx.integer)
        if sorted_indices:
            assert (np.diff(np.array(rhs_indices)) >= 0).all()
        matrices = self._matrix(w, kquant_type, x, transpose).swapaxes(-1, -2)
        rounded = self._rounded(x).astype(mx.float32)  # all that MLX's CPU device gathers
        return mx.gather_mm(rounded, matrices, rhs_indices=rhs_indices).astype(self._type(x))

    def _check(self, call: str, w: mx.array, scales: mx.array, kquant_type: str) -> None:
        assert w.dtype == mx.uint8, "w must be uint8"
        assert isinstance(scales, mx.array)
        assert kquant_type in self.known, "Unknown kquant_type"
        assert w.shape[-1] % block_format(kquant_type).size_bytes == 0, "not a whole number of blocks"
        self.calls.append(call)

    def _matrix(self, w: mx.array, kquant_type: str, x: mx.array, transpose: bool) -> mx.array:
        assert transpose
        assert x.dtype in FLOATS
        matrix = mx.array(decode(kquant_type.upper(), np.array(w)))
        assert matrix.shape[-1] == x.shape[-1], "x last dim does not match"
        return matrix

    def _type(self, x: mx.array) -> mx.Dtype:
        return mx.bfloat16 if x.dtype == mx.float32 else x.dtype

    def _rounded(self, x: mx.array) -> mx.array:
        return x.astype(self._type(x))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was found out about the package does not outlive a test."""
    kquant._usable_formats.cache_clear()
    with mx.stream(mx.cpu):
        yield
    kquant._usable_formats.cache_clear()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "mlx_kquant", stand_in)
    return stand_in


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a package that cannot be imported."""
    folder = tmp_path / "site-packages"
    (folder / "mlx_kquant").mkdir(parents=True)
    (folder / "mlx_kquant" / "__init__.py").write_text("raise ImportError('no libmlx here')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mlx_kquant", raising=False)
    return folder


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.message for record in caplog.records]


def require_close(found: mx.array, expected: np.ndarray, dtype: mx.Dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    difference = np.abs(np.array(found.astype(mx.float32)) - expected).max()
    assert difference <= ROUNDING[dtype] * np.abs(expected).max()


# Whether it is used --------------------------------------------------------------------------------------------------


def test_without_the_package_nothing_is_kept_or_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kquant, "find_spec", lambda name: None)
    assert kept_formats("metal") == frozenset()
    assert not caplog.records


def test_with_the_package_formats_that_mlx_holds_badly_are_kept_on_metal(package: StandIn) -> None:
    assert kept_formats("metal") == {"Q2_K", "Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS"}


def test_on_the_cpu_its_kernels_are_slow_and_it_is_not_used(package: StandIn) -> None:
    assert kept_formats("cpu") == frozenset()


def test_a_format_that_it_lacks_is_not_kept_and_told_once(package: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    package.known = [codec for codec in CODECS if codec != "q6_k"]
    assert kept_formats("metal") == kept_formats("metal") == set(KEPT) - {"Q6_K"}
    assert warnings_of(caplog) == ["mlx-kquant has no Q6_K: matrices in these formats take 8 bits."]


def test_a_package_that_cannot_be_imported_is_done_without_and_told_once(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert kept_formats("metal") == kept_formats("metal") == frozenset()
    (message,) = warnings_of(caplog)
    assert message.startswith("mlx-kquant is not used, since it cannot be imported: no libmlx here.")


def test_a_package_for_another_mlx_is_not_even_imported(installed: Path, caplog: pytest.LogCaptureFixture) -> None:
    (installed / "mlx_kquant" / "__init__.py").write_text("import os; os.abort()")
    metadata = installed / "mlx_kquant-0.5.6.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.4\nName: mlx-kquant\nVersion: 0.5.6\nRequires-Dist: mlx==0.1.2\n")
    assert kept_formats("metal") == frozenset()
    (message,) = warnings_of(caplog)
    assert "built for MLX 0.1.2" in message
    assert 'pip install "mlx==0.1.2"' in message


def test_looking_for_it_imports_nothing_heavy() -> None:
    script = (
        "import sys, inference_mlx.kquant as k; k.kept_formats('metal'), k.kept_formats('cpu');"
        "print({'mlx.core', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# What is kept --------------------------------------------------------------------------------------------------------


def kept(path: Path, name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> tuple[Packed, np.ndarray]:
    """Packed, and the weights."""
    weights = random_weights(path / "x.gguf", name, shape)
    return Packer(dtype, kept_formats("metal")).pack(weights, X), weights.decode("x")


@every_kept
def test_blocks_are_kept_byte_for_byte(name: str, package: StandIn, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (3, 8, 512))
    packed = Packer(mx.float16, kept_formats("metal")).pack(weights, Part("x", slice(2, 7)))
    assert packed.form == form_of(name, KEPT) == K_QUANT
    assert (np.array(packed.weight) == weights.raw("x")[:, 2:7]).all()


def test_memory_is_that_of_the_file(package: StandIn, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = written(tmp_path / "x.gguf", {name: (name, random_blocks(name, (8, 512), rng, 0.02)) for name in KEPT})
    packer, tensors = Packer(mx.float16, kept_formats("metal")), weights.header.tensors
    found = sum(packer.pack(weights, Part(name)).nbytes for name in tensors)
    assert found == packed_bytes(tensors.values(), kept=kept_formats("metal")) == weights.header.size_bytes


@every_kept
@every_type
def test_a_layer_multiplies_and_adds_its_bias(name: str, dtype: mx.Dtype, package: StandIn, tmp_path: Path) -> None:
    packed, values = kept(tmp_path, name, (6, 512), dtype)
    x = mx.random.normal((2, 3, 512), key=mx.random.key(0)).astype(dtype)
    bias = mx.random.normal((6,), key=mx.random.key(1))
    expected = np.array(x.astype(mx.float32)) @ values.T
    require_close(linear_of(packed)(x), expected, dtype)
    require_close(linear_of(packed, bias)(x), expected + np.array(bias), dtype)
    assert package.calls == ["quantized_matmul"] * 2


@every_kept
@every_type
@pytest.mark.parametrize("is_sorted", [False, True])
def test_experts_are_chosen(name: str, dtype: mx.Dtype, is_sorted: bool, package: StandIn, tmp_path: Path) -> None:
    packed, values = kept(tmp_path, name, (4, 6, 256), dtype)
    x = mx.random.normal((5, 1, 256), key=mx.random.key(0)).astype(dtype)
    bias = mx.random.normal((4, 6), key=mx.random.key(1))
    indices = np.array([0, 0, 2, 3, 3] if is_sorted else [3, 0, 2, 0, 3])
    expected = np.einsum("nuc,nrc->nur", np.array(x.astype(mx.float32)), values[indices])
    found = switch_linear_of(packed, bias)(x, mx.array(indices), sorted_indices=is_sorted)
    require_close(found, expected + np.array(bias)[indices][:, None], dtype)
    require_close(switch_linear_of(packed)(x, mx.array(indices)), expected, dtype)
    assert package.calls == ["gather_qmm"] * 2


@every_kept
@every_type
def test_an_embedding_decodes_only_its_rows_and_serves_as_the_output(
    name: str, dtype: mx.Dtype, package: StandIn, tmp_path: Path
) -> None:
    packed, values = kept(tmp_path, name, (9, 256), dtype)
    table, ids = embedding_of(packed, dtype), np.array([[8, 0, 3], [3, 3, 1]])
    require_close(table(mx.array(ids)), values[ids], dtype)
    x = mx.random.normal((1, 2, 256), key=mx.random.key(0)).astype(dtype)
    require_close(table.as_linear(x), np.array(x.astype(mx.float32)) @ values.T, dtype)
    assert package.calls == ["dequantize", "quantized_matmul"]
    assert table.weight is packed.weight
