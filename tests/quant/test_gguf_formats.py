"""The formats shared with GGUF against gguf's own dequantisation, bit for bit, and their way there and back."""

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf.quants import IQ2_XXS as GGUF_IQ2_XXS

from ds4_mlx.errors import UserError
from ds4_mlx.quant import FORMATS, get_format
from ds4_mlx.quant.iq2_xxs import GRID, SIGNS

TYPES = {
    "mxfp4": gguf.GGMLQuantizationType.MXFP4,
    "iq2_xxs": gguf.GGMLQuantizationType.IQ2_XXS,
    "q2_k": gguf.GGMLQuantizationType.Q2_K,
    "q4_k": gguf.GGMLQuantizationType.Q4_K,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
each_format = pytest.mark.parametrize("name", TYPES)

# Zeros, the ends of the denormals and of the normals, and numbers between, with both signs.
POSITIVE_HALVES = np.array([0, 1, 2, 0x155, 0x3FF, 0x400, 0x1234, 0x2E66, 0x3C00, 0x5678, 0x7BFF], np.uint16)
HALVES = np.concatenate([POSITIVE_HALVES, POSITIVE_HALVES | 0x8000])


def random_blocks(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Blocks [count] of random bytes whose float16 fields run through `HALVES` and some random finite numbers."""
    block = get_format(name).gguf_block
    rng = np.random.default_rng(seed)
    blocks = np.frombuffer(rng.bytes(count * block.itemsize), block).copy()
    for field in set(block.names) & {"d", "dm"}:
        halves = rng.integers(0, 0x7C00, blocks[field].size, dtype=np.uint16)
        halves |= rng.integers(0, 2, halves.size, dtype=np.uint16) << 15
        halves[: 2 * len(HALVES)] = np.stack([HALVES, np.roll(HALVES, 5)], -1).ravel()[: halves.size]
        blocks[field] = halves.view(np.float16).reshape(blocks[field].shape)
    return blocks


def rows(blocks: np.ndarray, *shape: int) -> np.ndarray:
    """Blocks as GGUF rows, uint8 [*shape, bytes]."""
    return blocks.view(np.uint8).reshape(*shape, -1)


def decoded(name: str, raw: np.ndarray, dtype: mx.Dtype = mx.float32) -> mx.array:
    arrays = get_format(name).from_gguf(raw)
    return get_format(name).decode(*map(mx.array, arrays.values()), dtype=dtype)


def same_bits(name: str, raw: np.ndarray) -> bool:
    ours, theirs = np.array(decoded(name, raw)), gguf.quants.dequantize(raw, TYPES[name])
    return ours.shape == theirs.shape and np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", ["iq2_xxs", "q2_k", "q4_k", "q8_0"])
@pytest.mark.parametrize("shape", [(64,), (1,), (8, 8), (4, 2, 8)])
def test_random_blocks_decode_as_gguf_does_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    assert same_bits(name, rows(random_blocks(name, 64), *shape))


def test_iq2_xxs_decodes_every_group_sign_index_and_scale_bit_for_bit() -> None:
    blocks = random_blocks("iq2_xxs", 64)
    run = np.arange(64 * 8, dtype=np.uint32)  # 512 runs of 4 groups
    numbers = [run * 4 + k for k in range(4)]
    groups = sum((n & 0xFF) << (8 * k) for k, n in enumerate(numbers))
    signs = sum((n & 0x7F) << (7 * k) for k, n in enumerate(numbers))
    blocks["qs"] = np.stack([groups, signs | (run & 15) << 28], axis=-1).reshape(64, 8, 2)
    assert same_bits("iq2_xxs", rows(blocks, 64))


def test_the_tables_of_iq2_xxs_are_those_of_gguf() -> None:
    GGUF_IQ2_XXS.init_grid()
    assert np.array_equal(GRID, GGUF_IQ2_XXS.grid.reshape(256, 8))
    minus = (np.frombuffer(GGUF_IQ2_XXS.ksigns, np.uint8)[:, None] >> np.arange(8)) & 1
    assert np.array_equal(SIGNS < 0, minus == 1)


def test_q2_k_decodes_every_scale_minimum_and_code_bit_for_bit() -> None:
    blocks = random_blocks("q2_k", 64)
    blocks["sm"] = np.arange(64 * 16).reshape(64, 16) & 0xFF  # every pair of nibbles, four times
    assert same_bits("q2_k", rows(blocks, 8))


def test_q2_k_keeps_its_codes_in_natural_order() -> None:
    blocks = random_blocks("q2_k", 2)
    blocks["sm"], blocks["dm"] = 1, [1.0, 0.0]  # value = code
    codes = gguf.quants.dequantize(rows(blocks, 1), TYPES["q2_k"]).astype(np.uint32).reshape(32, 16)
    q = get_format("q2_k").from_gguf(rows(blocks, 1))["q"]
    assert np.array_equal(q.ravel(), (codes << np.arange(0, 32, 2, dtype=np.uint32)).sum(1))


def test_mxfp4_decodes_as_gguf_does_for_every_code_and_scale_that_is_a_number() -> None:
    blocks = random_blocks("mxfp4", 255)
    blocks["scale"] = np.arange(255)
    blocks["codes"][:, 0] = np.arange(255)
    with np.errstate(over="ignore"):  # the largest scales overflow, in both alike
        theirs = gguf.quants.dequantize(rows(blocks, 15), TYPES["mxfp4"])
    ours = np.array(decoded("mxfp4", rows(blocks, 15)))
    assert np.array_equal(ours, theirs)
    # Equal as numbers means equal in bits but for zero, which has a sign in the standard and none in ggml.
    assert np.array_equal(np.unique(ours[theirs == 0].view(np.uint32)), [0, 0x80000000])


@pytest.mark.parametrize("name", ["iq2_xxs", "q2_k"])
def test_decoding_to_bfloat16_rounds_the_float32_value_once(name: str) -> None:
    raw = rows(random_blocks(name, 16), 4)
    assert mx.array_equal(decoded(name, raw, mx.bfloat16), decoded(name, raw).astype(mx.bfloat16))


@each_format
@pytest.mark.parametrize("shape", [(1,), (12,), (3, 2)])
def test_arrays_go_back_to_the_very_bytes(name: str, shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (*shape, 5 * get_format(name).gguf_block.itemsize), np.uint8)
    assert np.array_equal(get_format(name).to_gguf(*get_format(name).from_gguf(raw).values()), raw)


@each_format
def test_arrays_come_back_from_gguf(name: str) -> None:
    rng = np.random.default_rng(2)
    dtypes = {"U8": np.uint8, "U32": np.uint32, "F16": np.float16}
    arrays = {
        part: np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtypes[dtype]).itemsize), dtypes[dtype]).reshape(
            shape
        )
        for part, (shape, dtype) in get_format(name).array_shapes((3, 2, 512)).items()
    }
    back = get_format(name).from_gguf(get_format(name).to_gguf(*arrays.values()))
    assert back.keys() == arrays.keys()
    assert all(back[part].tobytes() == arrays[part].tobytes() for part in arrays)


@each_format
def test_arrays_have_the_declared_shapes_and_are_aligned_copies(name: str) -> None:
    raw = rows(random_blocks(name, 12), 3, 2)
    fmt = get_format(name)
    arrays = fmt.from_gguf(raw)
    found = {part: (a.shape, {"u1": "U8", "u4": "U32", "f2": "F16"}[a.dtype.str[1:]]) for part, a in arrays.items()}
    assert found == fmt.array_shapes((3, 2, 2 * fmt.block))
    assert all(a.flags.aligned and a.flags.c_contiguous and not np.shares_memory(a, raw) for a in arrays.values())
    assert sum(a.nbytes for a in arrays.values()) == raw.nbytes


def test_rows_may_be_strided_views() -> None:
    raw = rows(random_blocks("q2_k", 12), 6)
    assert same_bits("q2_k", raw[::2])
    assert same_bits("q2_k", raw[:, 84:])


def test_sizes_are_those_of_gguf() -> None:
    assert get_format("iq2_xxs").bits_per_weight == 2.0625
    assert get_format("q2_k").bits_per_weight == 2.625
    for name, kind in TYPES.items():
        assert (get_format(name).block, get_format(name).gguf_block.itemsize) == gguf.GGML_QUANT_SIZES[kind]


def test_the_split_layouts_are_as_designed() -> None:
    assert get_format("iq2_xxs").array_shapes((8, 4, 512)) == {"qs": ((8, 4, 16, 2), "U32"), "d": ((8, 4, 2), "F16")}
    assert get_format("q2_k").array_shapes((8, 4, 512)) == {
        "q": ((8, 4, 32), "U32"),
        "sm": ((8, 4, 32), "U8"),
        "dm": ((8, 4, 2, 2), "F16"),
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_width_of_part_of_a_block_is_refused(name: str) -> None:
    block = get_format(name).block
    with pytest.raises(UserError, match=f"multiple of {block}, got {block + 8}"):
        get_format(name).array_shapes((4, block + 8))


@each_format
def test_bytes_that_make_no_whole_block_are_refused(name: str) -> None:
    size = get_format(name).gguf_block.itemsize
    with pytest.raises(UserError, match=f"blocks of {size} bytes, got {size + 1}"):
        get_format(name).from_gguf(np.zeros((2, size + 1), np.uint8))


@each_format
def test_rows_that_are_no_bytes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="as uint8, got int8"):
        get_format(name).from_gguf(np.zeros((2, get_format(name).gguf_block.itemsize), np.int8))


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    q2_k = get_format("q2_k")
    q, sm, dm = q2_k.from_gguf(rows(random_blocks("q2_k", 4), 2)).values()
    with pytest.raises(UserError, match=r"3 arrays \(q, sm, dm\), got 2"):
        q2_k.to_gguf(q, dm)
    with pytest.raises(UserError, match=r"q of a q2_k matrix \[2, 512\] is expected as uint32 \[2, 32\], got int32"):
        q2_k.to_gguf(q.view(np.int32), sm, dm)
    with pytest.raises(UserError, match=r"sm .* expected as uint8 \[2, 32\], got uint8 \[2, 16\]"):
        q2_k.decode(mx.array(q), mx.array(sm[:, :16]), mx.array(dm))
    with pytest.raises(UserError, match=r"dm .* expected as float16 .* got float32"):
        q2_k.decode(mx.array(q), mx.array(sm), mx.array(dm.astype(np.float32)))
    with pytest.raises(UserError, match="lacks an axis"):
        q2_k.decode(mx.array(q), mx.array(sm), mx.array(dm[0, 0]))


def test_mxfp8_has_no_way_to_gguf() -> None:
    with pytest.raises(UserError, match="no type for mxfp8"):
        get_format("mxfp8").from_gguf(np.zeros((1, 33), np.uint8))
    with pytest.raises(UserError, match="no type for mxfp8"):
        get_format("mxfp8").to_gguf(np.zeros((1, 8), np.uint32), np.zeros((1, 1), np.uint8))


def test_q8_0_is_mlxs_affine_format_with_its_zero_at_128() -> None:
    blocks = random_blocks("q8_0", 64)
    blocks["d"] = np.float16(0.01) * np.arange(-32, 32)
    weight, scales = map(mx.array, get_format("q8_0").from_gguf(rows(blocks, 8)).values())
    wide = scales.astype(mx.float32)
    affine = mx.dequantize(weight, wide, -128 * wide, group_size=32, bits=8)
    assert mx.array_equal(affine, get_format("q8_0").decode(weight, scales))


def test_q4_k_keeps_its_codes_in_natural_order() -> None:
    blocks = random_blocks("q4_k", 2)
    blocks["sm"], blocks["dm"] = [1] * 4 + [0] * 4 + [1] * 4, [1.0, 0.0]  # value = code
    codes = gguf.quants.dequantize(rows(blocks, 1), TYPES["q4_k"]).astype(np.uint32).reshape(64, 8)
    q = get_format("q4_k").from_gguf(rows(blocks, 1))["q"]
    assert np.array_equal(q.ravel(), (codes << np.arange(0, 32, 4, dtype=np.uint32)).sum(1))
