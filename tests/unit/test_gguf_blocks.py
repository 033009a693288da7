"""Block formats: what is decoded is what the `gguf` package and llama.cpp's own C functions decode, bit by bit."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_blocks import GROUP_SCALES, random_blocks

from inference.gguf.block_formats import DECODED, block_format
from inference.gguf.blocks import BLOCK_LAYOUTS, GroupedLayout, block_layout, decode
from inference.gguf.blocks.layout import PIECE

PLAIN = ["F32", "F16", "BF16"]
SINGLE_SCALE = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
CODEBOOKS = ["IQ4_NL", "IQ4_XS", "MXFP4"]
QUANTISED = [*SINGLE_SCALE, *K_QUANTS, *CODEBOOKS]
NAMES = [*PLAIN, *QUANTISED]
OWN_SCALES = {"d", "m", "dmin"}
"""Fields in half precision that concern a whole block."""

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def test_the_formats_that_are_said_to_be_decoded_are_those_that_are() -> None:
    assert list(DECODED) == list(BLOCK_LAYOUTS) == NAMES


def any_bytes(name: str, rows: tuple[int, ...], blocks: int, seed: int = 0) -> Bytes:
    """Rows of blocks in which every bit is drawn: many scales are infinite or no number."""
    shape = (*rows, blocks * block_format(name).size_bytes)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reference(name: str, data: Bytes) -> Floats:
    with np.errstate(all="ignore"):
        values: Floats = gguf.dequantize(data, gguf.GGMLQuantizationType[name])
    return values


def require_same(found: Floats, wanted: Floats) -> None:
    """The same bits everywhere, but for the payloads of what is no number."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    assert same.all(), f"{np.count_nonzero(~same)} of {same.size} differ, the first at {np.argwhere(~same)[0]}"


def grouped(name: str) -> GroupedLayout:
    layout = block_layout(name)
    assert isinstance(layout, GroupedLayout)
    return layout


# The same bits as others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_any_bytes_decode_as_the_gguf_package_decodes_them(name: str, data: st.DataObject) -> None:
    size = block_format(name).size_bytes
    blocks = data.draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=4))
    raw = np.frombuffer(b"".join(blocks), np.uint8)
    require_same(decode(name, raw), reference(name, raw))


@pytest.mark.parametrize("name", NAMES)
def test_many_blocks_decode_as_the_gguf_package_decodes_them(name: str) -> None:
    raw = any_bytes(name, (9, 5), 2 * PIECE // (45 * block_format(name).elements) + 1)
    require_same(decode(name, raw), reference(name, raw))


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in QUANTISED for field in BLOCK_LAYOUTS[name].fields.names or () if field in OWN_SCALES],
)
def test_every_half_precision_number_is_a_scale_like_any_other(name: str, field: str) -> None:
    """Zeros of both signs, subnormal numbers, infinities and all that is no number among them."""
    blocks = any_bytes(name, (), 1 << 16).view(block_layout(name).fields)
    blocks[field] = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    require_same(decode(name, blocks.view(np.uint8)), reference(name, blocks.view(np.uint8)))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_number_of_16_bits_decodes(name: str) -> None:
    raw = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    require_same(decode(name, raw), reference(name, raw))


def test_every_power_of_two_is_a_scale_of_mxfp4() -> None:
    blocks = any_bytes("MXFP4", (), 256).view(block_layout("MXFP4").fields)
    blocks["e"] = np.arange(256)
    require_same(decode("MXFP4", blocks.view(np.uint8)), reference("MXFP4", blocks.view(np.uint8)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "F32"])
def test_blocks_decode_as_llama_cpp_decodes_them(name: str, to_float: Callable[[str, Bytes], Floats]) -> None:
    for raw in (any_bytes(name, (), 3000), random_blocks(name, (256 * 300,), np.random.default_rng(1), std=0.02)):
        wanted = to_float(name, raw)
        once = rounded_once(name, raw)
        # Where a compiler fuses product and sum, as those for Apple's processors do, C rounds once.
        require_same(decode(name, raw), wanted if once is None else np.where(wanted == once, decode(name, raw), wanted))


def rounded_once(name: str, raw: Bytes) -> Floats | None:
    """The weights of a format with offsets, not rounded between product and sum."""
    layout = block_layout(name)
    if not isinstance(layout, GroupedLayout) or not layout.has_offsets:
        return None
    groups = layout.unpack(raw)
    with np.errstate(all="ignore"):
        scales, offsets = (np.repeat(part, layout.group).astype(np.float64) for part in (groups.scales, groups.offsets))
        once: Floats = (scales * groups.codes + offsets).astype(np.float32)
    return once


@pytest.fixture(scope="module")
def to_float() -> Callable[[str, Bytes], Floats]:
    """ggml's own function for each type, `ggml_type_traits.to_float` (ggml.h)."""
    names = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}
    path = Path(llama_cpp.__file__).parent / "lib" / names.get(sys.platform, "libggml-base.so")
    if not path.exists():
        pytest.skip(f"llama-cpp-python brings no {path.name}")

    class TypeTraits(ctypes.Structure):
        _fields_ = (
            ("type_name", ctypes.c_char_p),
            ("blck_size", ctypes.c_int64),
            ("blck_size_interleave", ctypes.c_int64),
            ("type_size", ctypes.c_size_t),
            ("is_quantized", ctypes.c_bool),
            ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        )

    library = ctypes.CDLL(str(path))
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)

    def decoded(name: str, data: Bytes) -> Floats:
        form = block_format(name)
        traits = library.ggml_get_type_traits(form.id).contents
        assert (traits.type_name.decode().upper(), traits.blck_size, traits.type_size) == (
            form.name,
            form.elements,
            form.size_bytes,
        )
        values = np.empty(data.size // form.size_bytes * form.elements, np.float32)
        traits.to_float(data.ctypes.data, values.ctypes.data, values.size)
        return values

    return decoded


# Groups --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTISED)
def test_groups_are_scale_times_code_plus_offset(name: str) -> None:
    layout = grouped(name)
    raw = random_blocks(name, (3, 70, 1024), np.random.default_rng(2), std=0.5)
    groups = layout.unpack(raw)
    assert groups.codes.shape == (3, 70, 1024)
    assert groups.scales.shape == (3, 70, 1024 // layout.group)
    assert (groups.codes.dtype, groups.scales.dtype, groups.group) == (np.int8, np.float32, layout.group)
    values = np.repeat(groups.scales, layout.group, axis=-1) * groups.codes.astype(np.float32)
    if groups.offsets is not None:
        assert (groups.offsets.shape, groups.offsets.dtype) == (groups.scales.shape, np.float32)
        values += np.repeat(groups.offsets, layout.group, axis=-1)
    require_same(values, reference(name, raw))
    require_same(groups.decode(), values)


@pytest.mark.parametrize("name", QUANTISED)
def test_a_layout_says_what_its_codes_are(name: str) -> None:
    layout = grouped(name)
    groups = layout.unpack(any_bytes(name, (), 400))
    possible = layout.codebook or range(layout.code_range[0], layout.code_range[1] + 1)
    assert set(groups.codes.tolist()) == set(possible)
    assert (min(possible), max(possible)) == layout.code_range
    assert len(possible) == 2**layout.bits
    assert (groups.offsets is not None) == layout.has_offsets


@pytest.mark.parametrize("name", QUANTISED)
def test_groups_fill_an_array_that_is_there(name: str) -> None:
    groups = grouped(name).unpack(random_blocks(name, (2, 256), np.random.default_rng(3), std=1.0))
    out = np.full((2, 256), np.nan, np.float32)
    assert groups.decode(out) is out
    require_same(out, groups.decode())


# Shapes, memory, refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_tile_is_decoded_into_the_array_that_it_is_given(name: str) -> None:
    raw = random_blocks(name, (8, 512), np.random.default_rng(4), std=1.0)
    tile = np.full((10, 512), -1, np.float32)
    part = tile[1:9]
    assert decode(name, raw, out=part) is part
    require_same(part, decode(name, raw))
    assert (tile[[0, 9]] == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_may_lie_apart_and_begin_anywhere(name: str) -> None:
    raw = random_blocks(name, (6, 512), np.random.default_rng(5), std=1.0)
    spaced = np.zeros((6, raw.shape[1] + 3), np.uint8)[:, 3:]
    spaced[:] = raw
    require_same(decode(name, spaced), decode(name, raw))
    require_same(decode(name, raw[::-2]), decode(name, raw)[::-2])
    require_same(decode(name, np.repeat(raw[0], 2)[::2]), decode(name, raw[0]))
    shifted = np.concatenate([np.zeros(1, np.uint8), raw.reshape(-1)])[1:].reshape(raw.shape)
    require_same(decode(name, shifted), decode(name, raw))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_decode_to_no_rows(name: str) -> None:
    size = block_format(name).size_bytes
    assert decode(name, np.empty((0, size), np.uint8)).shape == (0, block_format(name).elements)
    assert decode(name, np.empty((3, 0), np.uint8)).shape == (3, 0)
    layout = block_layout(name)
    if isinstance(layout, GroupedLayout):
        assert layout.unpack(np.empty((3, 0), np.uint8)).decode().shape == (3, 0)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_scales_decode_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.isfinite(decode(name, any_bytes(name, (), 4096))).all() or name == "MXFP4"
        layout = block_layout(name)
        if isinstance(layout, GroupedLayout):
            layout.unpack(any_bytes(name, (), 4096)).decode()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_no_whole_blocks_are_refused(name: str) -> None:
    size = block_format(name).size_bytes
    for data in (np.zeros((2, size + 1), np.uint8), np.zeros(size, np.int8), np.zeros((), np.uint8)):
        with pytest.raises(ValueError, match=f"{name} blocks come as uint8 in rows of a multiple of {size}"):
            decode(name, data)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 33), np.float32),
        np.empty(64, np.float32),
        np.empty((2, 32), np.float64),
        np.empty((2, 64), np.float32)[:, ::2],
        np.broadcast_to(np.float32(0), (2, 32)),
        np.frombuffer(bytes(256), np.float32).reshape(2, 32),
    ],
    ids=["shape", "flat", "type", "apart", "broadcast", "read-only"],
)
def test_an_array_that_does_not_fit_is_refused(out: NDArray[Any]) -> None:
    raw = any_bytes("Q4_0", (2,), 1)
    with pytest.raises(ValueError, match=r"`out` must be a writeable, C-contiguous float32 array of shape \(2, 32\)"):
        decode("Q4_0", raw, out=out)
    with pytest.raises(ValueError, match="`out` must be"):
        grouped("Q4_0").unpack(raw).decode(out)


def test_these_formats_are_known_and_agree_with_ggmls_sizes() -> None:
    assert list(BLOCK_LAYOUTS) == NAMES
    for name, layout in BLOCK_LAYOUTS.items():
        form = block_format(name)
        assert (layout.name, layout.elements, layout.fields.itemsize) == (form.name, form.elements, form.size_bytes)


def test_another_format_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="IQ1_S"):
        block_layout("IQ1_S")


# Random weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.02, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_random_weights_spread_as_wanted(name: str, std: float) -> None:
    weights = decode(name, random_blocks(name, (4, 256, 1024), np.random.default_rng(6), std))
    assert weights.shape == (4, 256, 1024)
    assert np.isfinite(weights).all()
    assert abs(weights.mean()) < 0.02 * std
    assert weights.std() == pytest.approx(std, rel=0.03)
    assert weights.std(axis=-1) == pytest.approx(np.full((4, 256), std), rel=0.6)


@pytest.mark.parametrize("name", QUANTISED)
def test_random_weights_have_every_code_and_every_scale_of_a_group(name: str) -> None:
    layout = grouped(name)
    raw = random_blocks(name, (64, 8192), np.random.default_rng(7), std=0.02)
    blocks = raw.reshape(-1).view(layout.fields)
    for field in set(layout.fields.names or ()) - OWN_SCALES - {"e"}:
        assert len(np.unique(np.ascontiguousarray(blocks[field]).view(np.uint8))) == 256, field
    groups = layout.unpack(raw)
    assert len(np.unique(groups.codes)) == len(set(layout.codebook or range(2**layout.bits)))
    if name in GROUP_SCALES:
        by_block = groups.scales.reshape(-1, layout.elements // layout.group)
        found = np.unique(np.round(by_block / blocks["d"].astype(np.float32)[:, None]))
        assert set(found.tolist()) == set(GROUP_SCALES[name])


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_are_the_same_for_the_same_generator(name: str) -> None:
    one, same, other = (random_blocks(name, (4, 256), np.random.default_rng(seed), 1.0) for seed in (8, 8, 9))
    assert (one == same).all()
    assert (one != other).any()


def test_random_weights_that_no_scale_can_give_are_refused() -> None:
    for std in (1e-9, 1e9):
        with pytest.raises(ValueError, match="Half precision does not reach"):
            random_blocks("Q6_K", (4, 256), np.random.default_rng(0), std)
    with pytest.raises(ValueError, match="no multiple of Q6_K's 256"):
        random_blocks("Q6_K", (4, 128), np.random.default_rng(0), 1.0)
