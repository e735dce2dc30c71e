"""Lets mlx-lm run a converted folder: what the folder's `model_file` imports.

`mlx_lm.generate --model FOLDER --trust-remote-code -p ...` builds `Model(ModelArgs.from_dict(config))`, loads the
folder's tensors into it and drives it with its own sampler and cache list. Served one sequence at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ds4_mlx.cache import PagePool, SequenceState
from ds4_mlx.checkpoint.folder import CONFIG_KEY
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError
from ds4_mlx.model import Batch, Transformer
from ds4_mlx.model.linear import store_as


@dataclass(frozen=True)
class ModelArgs:
    """mlx-lm's name for a config: the model's own, and how a converted folder stores its matrices."""

    config: ModelConfig
    formats: Storage

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> ModelArgs:
        """From a parsed config.json. Raises `UserError` where it is not a converted folder's."""
        return cls(ModelConfig.from_dict(params), Storage.from_json(params.get(CONFIG_KEY, {}).get("formats")))


class SequenceCache:
    """One sequence's memory in the shape of an mlx-lm cache. Its states can be evaluated, not trimmed or merged."""

    def __init__(self, sequence: SequenceState) -> None:
        self.sequence = sequence

    @property
    def offset(self) -> int:
        """Tokens seen."""
        return self.sequence.position

    @property
    def state(self) -> list[mx.array]:
        """The arrays to evaluate."""
        return [*self.sequence.pool.arrays(), *self.sequence.arrays()]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.sequence.nbytes

    def is_trimmable(self) -> bool:
        """Whether tokens can be taken back: compressed entries cannot be opened again."""
        return False

    def empty(self) -> bool:
        """Whether nothing was fed yet."""
        return self.sequence.position == 0


class Model(Transformer):
    """The same network behind mlx-lm's calling convention."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args.config)
        store_as(self, args.formats.of)
        self.model_type = "deepseek_v4"
        self._pool = PagePool.for_model(args.config)

    def make_cache(self) -> list[SequenceCache]:
        """A fresh cache; one object holds all layers."""
        return [SequenceCache(SequenceState(self._pool))]

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Leaves a DSpark drafter's tensors aside; does without a draft block if the folder has none."""
        if not any(name.startswith("mtp.") for name in weights):
            self.pop("mtp", None)
        if "mtp" not in self:
            weights = {name: array for name, array in weights.items() if not name.startswith("mtp.")}
        return weights

    def __call__(  # type: ignore[override]  # mlx-lm's convention, not ours
        self, inputs: mx.array, cache: list[SequenceCache] | None = None
    ) -> mx.array:
        """inputs int [1, T] -> float32 logits [1, T, vocab]."""
        if inputs.shape[0] != 1:
            raise UserError("Under mlx-lm the model serves one sequence at a time; use ds4_mlx for batches.")
        sequence = SequenceState(self._pool) if cache is None else cache[0].sequence
        batch = Batch.of([(sequence, inputs[0])])
        return self.logits(super().__call__(batch))[None]
