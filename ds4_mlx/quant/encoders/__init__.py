"""From weights to the codes of IQ2_XXS and Q2_K, with an importance for each input column.

    arrays = encode("iq2_xxs", weights, importance)
    get_format("iq2_xxs").decode(*arrays.values())  # the matrix as it came out

`blocks` cuts matrices of any size into blocks of 256 weights, `iq2_xxs` and `q2_k` search the codes of a block,
`scales` is what the two share. Plain MLX operations throughout. May import the formats and errors; knows nothing of
models and files, nor where an importance comes from.

The search is laid out as ggml's is (quantize_row_iq2_xxs_impl and quantize_row_q2_K_impl; antirez/ds4 has them in
gguf-tools/quants.c): trial scales for each group, least squares, then 4-bit scales. What is not ggml's: fewer trials
that begin at a better guess, errors that count by the importance alone (there it is times sqrt(mean(x^2) + x^2)), and
blocks that keep their length (`scales.stretch`). tests/oracles/README.md has both measured side by side.
"""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.errors import UserError
from ds4_mlx.quant.encoders import iq2_xxs, q2_k
from ds4_mlx.quant.encoders.blocks import BlockEncoder, column_energy, encode_matrix
from ds4_mlx.quant.formats import get_format

__all__ = ["encode"]

_ENCODERS = {
    "iq2_xxs": BlockEncoder("iq2_xxs", iq2_xxs.encode_blocks, iq2_xxs.LARGEST),
    "q2_k": BlockEncoder("q2_k", q2_k.encode_blocks, q2_k.LARGEST),
}


def encode(name: str, weights: mx.array, importance: mx.array | None = None) -> dict[str, mx.array]:
    """Quantises a matrix, or a stack of them, to the format of that name.

    weights: float32, bfloat16 or float16 [..., out, in]. importance: float32 [in], or [..., in] that broadcasts against
    the leading axes of `weights`, one row per expert say: what an error in each column costs, the mean square of the
    activations there in any unit. Without it a column counts by the energy of its weights, which is what ds4 does for
    IQ2_XXS. Returns the format's arrays by name, evaluated; the same input always gives the same arrays.

    Blocks of zeros come out as zeros, and so do blocks whose weights are too small for the formats, below about 1e-7. A
    column of importance 0 is rounded as well as the others leave room for. Beside input and output this takes less than
    200 MB, whatever their size.

    Raises `UserError` for a format that is unknown or has no encoder, a width that is no multiple of 256, weights that
    are not finite or larger than the format reaches, and an importance that does not fit, is negative or not finite.
    """
    fmt = get_format(name)
    if name not in _ENCODERS:
        raise UserError(f"There is no encoder for {name}; formats that have one are {', '.join(_ENCODERS)}.")
    if weights.ndim < 2 or weights.size == 0 or weights.dtype not in (mx.float32, mx.bfloat16, mx.float16):
        raise UserError(
            f"Weights to encode are float32, bfloat16 or float16 [..., out, in], got {_described(weights)}."
        )
    shapes = fmt.array_shapes(weights.shape)
    *lead, out, width = weights.shape
    if importance is not None:
        _check_importance(importance, [*lead, width])
        importance = mx.broadcast_to(importance, [*lead, width]).reshape(-1, width)
    encoded = []
    for m, matrix in enumerate(weights.reshape(-1, out, width)):
        columns = column_energy(matrix) if importance is None else importance[m]
        encoded.append(encode_matrix(_ENCODERS[name], matrix, columns))
    parts = (mx.concatenate(list(each)) for each in zip(*encoded, strict=True))
    arrays = {part: a.reshape(shape) for (part, (shape, _)), a in zip(shapes.items(), parts, strict=True)}
    mx.eval(arrays)
    return arrays


def _check_importance(importance: mx.array, shape: list[int]) -> None:
    """Raises `UserError` unless the importance broadcasts to `shape` [..., in] and every number of it is one."""
    given = importance.shape
    fits = given[-1:] == (shape[-1],) and len(given) <= len(shape)
    if not fits or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1], strict=False)):
        expected = f"[{shape[-1]}]" + (f" or {shape}" if len(shape) > 1 else "")
        raise UserError(f"An importance for these weights is float32 {expected}, got {_described(importance)}.")
    if not mx.issubdtype(importance.dtype, mx.floating):
        raise UserError(f"An importance is float32, got {_described(importance)}.")
    if not mx.all(mx.isfinite(importance) & (importance >= 0)):
        raise UserError("An importance has numbers that are negative or not finite; it is a mean of squares.")


def _described(array: mx.array) -> str:
    return f"{str(array.dtype).rpartition('.')[-1]} {list(array.shape)}"
