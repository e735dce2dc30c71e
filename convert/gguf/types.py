"""ggml's tensor types and how we store them. All of these keep every bit."""

from __future__ import annotations

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# Type number in a file -> format or dtype of ours.
STORAGE: dict[int, str] = {
    GGMLQuantizationType.F32.value: "F32",
    GGMLQuantizationType.F16.value: "F16",
    GGMLQuantizationType.BF16.value: "BF16",
    GGMLQuantizationType.I32.value: "I32",
    GGMLQuantizationType.Q8_0.value: "q8_0",
    GGMLQuantizationType.Q4_K.value: "q4_k",
    GGMLQuantizationType.Q2_K.value: "q2_k",
    GGMLQuantizationType.IQ2_XXS.value: "iq2_xxs",
    GGMLQuantizationType.MXFP4.value: "mxfp4",
}
NUMBERS = {storage: number for number, storage in STORAGE.items()}


def type_name(number: int) -> str:
    """A type as ggml calls it: 'Q5_K', or 'type 99' for a number that the gguf library does not know."""
    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        return f"type {number}"


def block_of(number: int) -> tuple[int, int] | None:
    """Weights and bytes of a block of a type; None for an unknown one."""
    try:
        weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        return weights, nbytes
    except (ValueError, KeyError):
        return None
