"""The weights of a file: real models, files in every block format, split ones, closed ones, damaged ones."""

from __future__ import annotations

import gc
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
from gguf_files import Tensor
from numpy.typing import NDArray
from random_blocks import random_blocks

from inference.errors import (
    ModelClosedError,
    ModelFileError,
    ModelNotFoundError,
    TruncatedFileError,
    UnsupportedModelError,
)
from inference.gguf.block_formats import BLOCK_FORMATS
from inference.gguf.blocks import BLOCK_LAYOUTS, GroupedLayout
from inference.gguf.reader import read_header
from inference.gguf.unsupported import require_block_formats
from inference.gguf.weights import Weights, tensor_layout

UNKNOWN = sorted({form.name for form in BLOCK_FORMATS.values()} - set(BLOCK_LAYOUTS))
SHAPES = {"vector": (256,), "matrix": (7, 512), "experts": (3, 5, 256)}


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)


@pytest.fixture(scope="module")
def every_format(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tensors of each shape in each format, one behind the other: their offsets are multiples of 8 and no more."""
    path = tmp_path_factory.mktemp("weights") / "all.gguf"
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(8)
    for name in BLOCK_LAYOUTS:
        for shape_name, shape in SHAPES.items():
            blocks = random_blocks(name, shape, rng, std=0.02)
            writer.add_tensor(f"{name}.{shape_name}", blocks, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def require_as_the_gguf_package_decodes(path: Path) -> None:
    """In steps of some rows, since the tables of words are large."""
    header = read_header(path)
    with Weights(header) as weights:
        for name, tensor in header.tensors.items():
            stored = np.fromfile(path, np.uint8, tensor.size_bytes, offset=tensor.offset)
            stored = stored.reshape(-1, stored.size // (tensor.elements // tensor.shape[0]))
            for begin in range(0, len(stored), 8192):
                rows = slice(begin, begin + 8192)
                found = weights.decode(name, rows if len(tensor.shape) > 1 else None)
                wanted = gguf.dequantize(stored[rows], gguf.GGMLQuantizationType[tensor.type])
                assert (bits(found) == bits(wanted).reshape(found.shape)).all(), name


# What is read --------------------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_every_tensor_of_smollm2_decodes_as_the_gguf_package_decodes_it(smollm_path: Path) -> None:
    require_as_the_gguf_package_decodes(smollm_path)


def test_every_tensor_of_gemma_decodes_as_the_gguf_package_decodes_it(gemma_path: Path) -> None:
    require_as_the_gguf_package_decodes(gemma_path)


def test_tensors_of_every_format_and_shape_decode_wherever_they_begin(every_format: Path) -> None:
    header = read_header(every_format)
    assert {tensor.offset % 32 for tensor in header.tensors.values()} == {0, 8, 16, 24}
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(every_format).tensors}
    with Weights(header) as weights:
        for name in BLOCK_LAYOUTS:
            for shape_name, shape in SHAPES.items():
                key = f"{name}.{shape_name}"
                assert weights.shape(key) == shape
                assert weights.layout(key) is BLOCK_LAYOUTS[name]
                found = weights.decode(key)
                assert (found.shape, found.dtype) == (shape, np.float32)
                wanted = gguf.dequantize(stored[key].data.view(np.uint8), stored[key].tensor_type)
                assert (bits(found) == bits(wanted).reshape(shape)).all(), key


@pytest.mark.parametrize(
    "rows",
    [slice(2, 5), slice(None, None, 2), slice(6, 0, -3), slice(3, 3), -1, [4, 4, 0], [], np.array([1, 6])],
    ids=str,
)
@pytest.mark.parametrize("name", BLOCK_LAYOUTS)
def test_rows_decode_as_they_do_in_the_whole(every_format: Path, name: str, rows: Any) -> None:
    rows = np.array([], np.intp) if isinstance(rows, list) and not rows else rows
    with Weights(read_header(every_format)) as weights:
        whole = weights.decode(f"{name}.matrix")
        assert (weights.decode(f"{name}.matrix", rows) == whole[rows]).all()
        if isinstance(BLOCK_LAYOUTS[name], GroupedLayout):
            groups = weights.groups(f"{name}.matrix", rows)
            assert groups.codes.shape == whole[rows].shape
            assert (groups.decode() == whole[rows]).all()


def test_an_experts_matrix_is_a_row_of_its_tensor(every_format: Path) -> None:
    with Weights(read_header(every_format)) as weights:
        assert (weights.decode("Q4_K.experts", 1) == weights.decode("Q4_K.experts")[1]).all()


def test_a_tile_is_decoded_into_the_array_that_it_is_given(every_format: Path) -> None:
    tile = np.empty((4, 512), np.float32)
    with Weights(read_header(every_format)) as weights:
        assert weights.decode("Q5_K.matrix", slice(1, 5), out=tile) is tile
        assert (tile == weights.decode("Q5_K.matrix")[1:5]).all()
        with pytest.raises(ValueError, match=r"`out` must be .* \(3, 512\)"):
            weights.decode("Q5_K.matrix", slice(1, 4), out=tile)


def test_raw_is_a_view_of_the_file_that_cannot_be_written(every_format: Path) -> None:
    header, content = read_header(every_format), every_format.read_bytes()
    with Weights(header) as weights:
        for name, tensor in header.tensors.items():
            raw = weights.raw(name)
            assert raw.tobytes() == content[tensor.offset : tensor.offset + tensor.size_bytes]
            assert raw.shape[:-1] == weights.shape(name)[:-1]
            assert np.shares_memory(raw, weights.raw(name))
            assert not raw.flags.writeable


@pytest.mark.parametrize("name", UNKNOWN)
def test_raw_gives_the_bytes_of_formats_that_are_not_decoded(tmp_path: Path, name: str) -> None:
    path = gguf_files.write_model(tmp_path / "m.gguf", tensors=[Tensor("x", (256, 3), name)])
    header = read_header(path)
    with Weights(header) as weights:
        tensor = header.tensors["x"]
        assert weights.raw("x").shape == (3, tensor.size_bytes // 3)
        assert weights.raw("x").tobytes() == path.read_bytes()[tensor.offset :]


def test_shards_are_one_model(tmp_path: Path) -> None:
    paths = gguf_files.write_shards(tmp_path)
    header = read_header(paths[0])
    with Weights(header) as weights:
        assert {tensor.path for tensor in header.tensors.values()} == set(paths)
        for name, tensor in header.tensors.items():
            end = tensor.offset + tensor.size_bytes
            assert weights.raw(name).tobytes() == tensor.path.read_bytes()[tensor.offset : end]
            assert weights.decode(name).shape == tensor.shape[::-1]


def test_many_threads_may_read_at_once(every_format: Path) -> None:
    with Weights(read_header(every_format)) as weights, ThreadPoolExecutor(4) as pool:
        names = [f"{name}.matrix" for name in BLOCK_LAYOUTS]
        alone = [weights.decode(name) for name in names]
        for _ in range(20):
            assert all((one == other).all() for one, other in zip(alone, pool.map(weights.decode, names), strict=True))


# The end -------------------------------------------------------------------------------------------------------------


def test_arrays_outlive_the_weights_they_came_from(every_format: Path) -> None:
    with Weights(read_header(every_format)) as weights:
        raw, part = weights.raw("Q8_0.matrix"), weights.raw("Q8_0.experts")[1]
        before, decoded = raw.tobytes(), weights.decode("Q8_0.matrix")
    weights.close()
    del weights
    gc.collect()
    assert raw.tobytes() == before
    assert part.size == 5 * 256 // 32 * 34
    assert (BLOCK_LAYOUTS["Q8_0"].decode(raw) == decoded).all()


def test_the_file_is_unmapped_with_its_last_array(tmp_path: Path) -> None:
    path = gguf_files.write_model(tmp_path / "mapped.gguf")
    weights = Weights(read_header(path))
    raw = weights.raw("output_norm.weight")
    mapping = mapping_below(raw)
    weights.close()
    with pytest.raises(BufferError):
        mapping.close()
    del raw
    gc.collect()
    mapping.close()


def mapping_below(array: NDArray[Any]) -> mmap.mmap:
    """What an array looks at in the end; it cannot be closed while anything does."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = base.obj if isinstance(base, memoryview) else base
    assert isinstance(mapping, mmap.mmap)
    return mapping


def test_closed_weights_say_so(every_format: Path) -> None:
    weights = Weights(read_header(every_format))
    weights.close()
    for ask in (weights.raw, weights.decode, weights.groups):
        with pytest.raises(ModelClosedError, match=r"The weights of .*all\.gguf were closed before `Q4_0\.matrix` was"):
            ask("Q4_0.matrix")


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_format_that_is_not_decoded_is_refused_by_name(tmp_path: Path, name: str) -> None:
    tensors = [Tensor("fine", (256, 2), "Q4_K"), Tensor("blk.0.x", (256, 2), name)]
    header = read_header(gguf_files.write_model(tmp_path / "m.gguf", tensors=tensors))
    with Weights(header) as weights:
        asking = [
            lambda: weights.decode("blk.0.x"),
            lambda: weights.groups("blk.0.x"),
            lambda: weights.layout("blk.0.x"),
            lambda: tensor_layout(header.tensors["blk.0.x"]),
            lambda: require_block_formats(header),
        ]
        for ask in asking:
            with pytest.raises(UnsupportedModelError) as caught:
                ask()
            said = str(caught.value)
            assert str(header.path) in said
            assert f"the block format {name} in tensor `blk.0.x`" in said
            assert ", ".join(BLOCK_LAYOUTS) in said
            assert "llama_cpp" in said


def test_a_file_whose_formats_are_all_decoded_passes(every_format: Path) -> None:
    require_block_formats(read_header(every_format))


def test_a_tensor_that_the_file_does_not_have_is_named(every_format: Path) -> None:
    with Weights(read_header(every_format)) as weights:
        for ask in (weights.shape, weights.layout, weights.raw, weights.decode, weights.groups):
            with pytest.raises(UnsupportedModelError, match=r"all\.gguf .* no tensor `blk\.0\.attn_q\.wieght`"):
                ask("blk.0.attn_q.wieght")


def test_what_has_no_rows_or_no_groups_says_so(every_format: Path) -> None:
    with Weights(read_header(every_format)) as weights:
        with pytest.raises(ValueError, match=r"`F32\.vector` has one dimension"):
            weights.decode("F32.vector", slice(0, 2))
        with pytest.raises(ValueError, match=r"`BF16\.matrix` is BF16, which has no groups"):
            weights.groups("BF16.matrix")
        with pytest.raises(IndexError):
            weights.decode("Q4_0.matrix", [7])


def test_a_file_that_became_shorter_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    path = gguf_files.write_model(tmp_path / "m.gguf")
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TruncatedFileError, match=r"m\.gguf ends at byte .* but the tensor `output_norm\.weight`"):
        Weights(header)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"m\.gguf cannot be read"):
        Weights(header)
    path.unlink()
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf has gone"):
        Weights(header)


def test_a_shard_that_has_gone_is_named(tmp_path: Path) -> None:
    paths = gguf_files.write_shards(tmp_path)
    header = read_header(paths[0])
    paths[1].unlink()
    with pytest.raises(ModelNotFoundError, match="tiny-00002-of-00003"):
        Weights(header)
