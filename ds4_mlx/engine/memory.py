"""How much memory there is, and whether a model fits, asked before a byte is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from ds4_mlx.cache import fixed_bytes, session_bytes
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel

GB = 10**9
_SCORES = 4 << 27  # what attention holds of scores at once (`model.attention`)
_TEMPORARIES = 3  # how often what a layer makes of a chunk is held at once: what was measured on small models, or more


def total_memory() -> int:
    """Bytes of memory that weights can take on the default device: the GPU's, or the machine's where they are one."""
    info = mx.device_info()
    for key in ("memory_size", "total_memory"):
        if key in info:
            return int(info[key])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(weight_bytes: int, where: str, available: int | None = None) -> None:
    """Raises `UserError` with both numbers when weights of that size cannot be held in memory."""
    available = total_memory() if available is None else available
    if weight_bytes > available:
        raise UserError(
            f"{where} needs {weight_bytes / GB:.1f} GB for its weights, but this machine has {available / GB:.1f} GB "
            "of memory. It cannot run here."
        )


def usable_memory() -> int:
    """Bytes that the default device may use at once: on a Mac what the system wires for the GPU."""
    info = mx.device_info()
    return int(info.get("max_recommended_working_set_size", 0)) or total_memory()


@dataclass(frozen=True)
class MemoryPlan:
    """What a server takes at most, in bytes.

    cache: the budget for sessions in memory, or one session as long as the context if that is more. states: windows and
    open blocks of the requests that run. activations: what a call makes of the longest chunk and lets go again.
    """

    weights: int
    cache: int
    states: int
    activations: int
    usable: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.cache + self.states + self.activations

    def __str__(self) -> str:
        parts = [("weights", self.weights), ("sessions", self.cache), ("running requests", self.states)]
        parts += [("activations", self.activations)]
        told = ", ".join(f"{name} {size / GB:.1f} GB" for name, size in parts)
        return f"Memory: {told}; {self.total / GB:.1f} of {self.usable / GB:.1f} GB."

    def check(self) -> None:
        """Raises `UserError` with the numbers where it does not fit."""
        if self.total <= self.usable:
            return
        left = self.usable - (self.total - self.cache)
        advice = f"sessions and context must do with {left / GB:.1f} GB" if left > 0 else "it cannot run here"
        if self.usable < total_memory():
            need = -(-self.total // 2**20)
            advice += f"; or let the GPU have more: sudo sysctl iogpu.wired_limit_mb={need}"
        raise UserError(f"{self} That is {(self.total - self.usable) / GB:.1f} GB too much: {advice}.")


def plan_memory(
    model: LanguageModel, *, context: int, max_batch: int, chunk: int, usable: int | None = None
) -> MemoryPlan:
    """For a model, loaded or not, whose cache has its budget (`open_model(cache_bytes=...)`)."""
    config, dtype, packed = model.config, model.numerics.dtype, model.numerics.simulate_quantization
    context = min(context, config.max_position_embeddings)
    longest = session_bytes(config, context, dtype, packed=packed)
    return MemoryPlan(
        weights=model.checkpoint.memory_bytes(),
        cache=max(model.cache.budget or 0, longest),
        states=max_batch * fixed_bytes(config, dtype, packed=packed),
        activations=activation_bytes(config, chunk + max_batch),
        usable=usable_memory() if usable is None else usable,
    )


def activation_bytes(config: ModelConfig, tokens: int) -> int:
    """What a call of that many tokens takes beside weights and cache, at most. An estimate from the widths of a layer:
    its streams, queries, experts and index queries, each as float32 or twice in 16 bits, and attention's scores.
    """
    streams = 3 * config.hc_mult * config.hidden_size
    queries = 3 * config.num_attention_heads * config.head_dim
    experts = config.num_experts_per_tok * (3 * config.moe_intermediate_size + config.hidden_size)
    index = 2 * config.index_n_heads * config.index_head_dim
    per_token = 4 * _TEMPORARIES * (streams + queries + experts + index)
    return per_token * tokens + _SCORES
