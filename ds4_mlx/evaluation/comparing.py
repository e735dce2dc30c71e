"""How far models are from a reference model on the same tokens: the quality table of a quantisation."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.errors import UserError
from ds4_mlx.evaluation.scoring import Losses, OnProgress, log_probabilities, losses_of, positions_of
from ds4_mlx.evaluation.texts import Text


class Distances(NamedTuple):
    """Of one text, token by token [n].

    kl: Kullback-Leibler divergence in nats from the reference's distribution to this model's. same: whether both hold
    the same token for the likeliest. reference, losses: minus log-probability of the token that followed, in nats.
    """

    name: str
    kl: np.ndarray
    same: np.ndarray
    reference: np.ndarray
    losses: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The figures of `Distances`. change: of the perplexity, 0.07 is 7 % worse; change_error: its standard error."""

    text: str
    tokens: int
    kl: float
    kl_median: float
    kl_99: float
    kl_most: float
    same_top: float
    reference_perplexity: float
    perplexity: float
    change: float
    change_error: float


class ReferenceRows:
    """The log-probabilities of a reference model, float32, in a file without a name: two models that each fill the
    memory are read one after the other. The file is gone when this is closed, or when the program ends.
    """

    def __init__(self, vocab: int, tokens: int, folder: Path | None = None) -> None:
        """Raises `UserError` if the disk has no room for them."""
        place = Path(folder or tempfile.gettempdir())
        need = 4 * vocab * tokens
        try:
            free = shutil.disk_usage(place).free
            self._file: BinaryIO = tempfile.TemporaryFile(dir=place)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{place} cannot hold the reference's rows: {error.strerror}.") from None
        if need > free:
            self._file.close()
            raise UserError(
                f"The reference takes {need / 1e9:.1f} GB for {tokens:,} tokens; {place} has {free / 1e9:.1f} GB. "
                "Compare fewer tokens (--tokens), or name another place (--scratch)."
            )
        self._vocab = vocab
        self.results: list[Losses] = []

    def fill(self, model: LanguageModel, texts: Sequence[Text], on_progress: OnProgress | None = None) -> None:
        """Writes the rows of every token."""
        done, total = 0, sum(text.tokens for text in texts)
        for text in texts:
            losses = []
            for window in text.windows:
                for rows, targets in log_probabilities(model, window):
                    self._file.write(np.array(rows).tobytes())
                    losses.append(np.array(losses_of(rows, targets)))
                    done += len(losses[-1])
                    if on_progress is not None:
                        on_progress(done, total)
            self.results.append(Losses(text.name, np.concatenate(losses), positions_of(text)))

    def distances(
        self, model: LanguageModel, texts: Sequence[Text], on_progress: OnProgress | None = None
    ) -> list[Distances]:
        """Another model's distance on the same texts. Raises `UserError` if it has another vocabulary."""
        if model.config.vocab_size != self._vocab:
            raise UserError(f"{model.checkpoint.path} has another vocabulary; it cannot be compared.")
        self._file.seek(0)
        done, total = 0, sum(text.tokens for text in texts)
        results = []
        for text, before in zip(texts, self.results, strict=True):
            parts: list[tuple[np.ndarray, ...]] = []
            for window in text.windows:
                for rows, targets in log_probabilities(model, window):
                    data = self._file.read(4 * rows.size)
                    reference = mx.array(np.frombuffer(data, dtype=np.float32).reshape(rows.shape))
                    kl = mx.sum(mx.exp(reference) * (reference - rows), axis=-1)
                    same = mx.argmax(reference, axis=-1) == mx.argmax(rows, axis=-1)
                    parts.append(tuple(np.array(part) for part in (kl, same, losses_of(rows, targets))))
                    done += len(targets)
                    if on_progress is not None:
                        on_progress(done, total)
            # Rounding may leave a divergence a hair below zero.
            apart, agree, losses = (np.concatenate(column) for column in zip(*parts, strict=True))
            results.append(Distances(text.name, np.maximum(apart, 0), agree, before.losses, losses, before.positions))
        return results

    def close(self) -> None:
        """Gives the disk back."""
        self._file.close()


def summary(distances: Distances) -> Comparison:
    """The figures of one text, or of `joined` ones."""
    ours, theirs = distances.losses.astype(np.float64), distances.reference.astype(np.float64)
    ratio = math.exp(float((ours - theirs).mean()))
    spread = float((ours - theirs).std(ddof=1)) if len(ours) > 1 else math.nan
    return Comparison(
        text=distances.name,
        tokens=len(ours),
        kl=float(distances.kl.mean(dtype=np.float64)),
        kl_median=float(np.median(distances.kl)),
        kl_99=float(np.quantile(distances.kl, 0.99)),
        kl_most=float(distances.kl.max()),
        same_top=float(distances.same.mean()),
        reference_perplexity=math.exp(float(theirs.mean())),
        perplexity=math.exp(float(ours.mean())),
        change=ratio - 1,
        change_error=ratio * spread / math.sqrt(len(ours)),
    )


def joined(parts: Sequence[Distances]) -> Distances:
    """All texts as one."""
    columns = zip(*(part[1:] for part in parts), strict=True)
    return Distances("together", *(np.concatenate(column) for column in columns))
