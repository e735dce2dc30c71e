"""What an encoder is told of the inputs of the experts: nothing, the importance of columns, or a whole calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from ds4_convert.ahead import one_ahead
from ds4_convert.imatrix import Imatrix, open_imatrix
from ds4_convert.options import METHODS, Options
from ds4_mlx.calibration.encoding import Factors, encode_experts
from ds4_mlx.calibration.store import Calibration, Inputs, open_calibration
from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.errors import UserError
from ds4_mlx.quant.encoders import encode


class Encoded(NamedTuple):
    """Some experts of an item: the arrays of the format by part, and what their errors are weighed with."""

    arrays: dict[str, mx.array]
    importance: mx.array | None  # float32 [n, in]
    hessian: Callable[[int], mx.array] | None  # of expert i of the n, float32 [in, in]


# experts at a time -> their weights float32 [n, out, in] and what became of them
Encode = Callable[[str, Sequence[range], Callable[[range], mx.array]], Iterator[tuple[mx.array, Encoded]]]


class Guide(Protocol):
    """How the experts of a checkpoint are encoded."""

    @property
    def own(self) -> dict[str, Any]:
        """What config.json says of it."""

    @property
    def method(self) -> str:
        """What it is called."""

    def check(self, item: Item) -> None:
        """Raises `UserError` if it has nothing for an item: better before hours of work than after."""

    def encoder(self, item: Item) -> Encode:
        """Encodes the experts of an item, some at a time, in order."""


@dataclass(frozen=True)
class PlainGuide:
    """Columns count by the energy of their weights."""

    own: dict[str, Any]
    method: str = "plain"

    def check(self, item: Item) -> None:
        """Nothing can be missing."""

    def encoder(self, item: Item) -> Encode:
        """As in `Guide`."""
        return partial(_by_importance, lambda: None, None)


@dataclass(frozen=True)
class ImatrixGuide:
    """Columns count as a .dat file says."""

    imatrix: Imatrix
    own: dict[str, Any]
    method: str = "imatrix"

    def check(self, item: Item) -> None:
        """As in `Guide`."""
        self.imatrix.find(item.name, item.shape[0], item.shape[-1])

    def encoder(self, item: Item) -> Encode:
        """As in `Guide`."""
        return partial(_by_importance, partial(self.imatrix.importance, item.name, item.shape[0], item.shape[-1]), None)


@dataclass(frozen=True)
class CalibrationGuide:
    """Errors are fed back by the Hessians of a calibration, or columns count by its diagonal (method 'imatrix')."""

    calibration: Calibration
    own: dict[str, Any]
    method: str

    def check(self, item: Item) -> None:
        """As in `Guide`."""
        inputs = self.calibration.inputs(item.name)
        if inputs.mean_squares.shape != (item.shape[0], item.shape[-1]):
            raise UserError(
                f"{self.calibration.path} has inputs of {list(inputs.mean_squares.shape)} for {item.name}; expected "
                f"{[item.shape[0], item.shape[-1]]}. It was made with another model."
            )

    def encoder(self, item: Item) -> Encode:
        """As in `Guide`."""
        inputs = self.calibration.inputs(item.name)
        if self.method == "feedback":
            return partial(_by_feedback, inputs)
        return partial(_by_importance, lambda: inputs.importance, inputs)


def make_guide(options: Options, checkpoint: Checkpoint, quantises: bool) -> Guide:
    """The guide that the options ask for. Raises `UserError` where they exclude each other or a file is not usable."""
    if not quantises:
        for flag, value in (
            ("--imatrix", options.imatrix),
            ("--calibration", options.calibration),
            ("--method", options.method),
        ):
            if value is not None:
                raise UserError(
                    f"{flag} serves quantising, which profile {options.profile or 'exact'} does not do. Leave one of "
                    "them out."
                )
        return PlainGuide({})
    method = options.method or ("feedback" if options.calibration else "imatrix" if options.imatrix else "plain")
    if method not in METHODS:
        raise UserError(f"Unknown method {method!r}; known are {', '.join(METHODS)}.")
    if options.imatrix is not None and options.calibration is not None:
        raise UserError("--imatrix and --calibration both say how much columns matter. Give one of them.")
    if method == "plain":
        if options.imatrix is not None:
            raise UserError("--method plain uses no --imatrix. Leave one of them out.")
        if options.calibration is not None:
            raise UserError("--method plain uses no --calibration. Leave one of them out.")
        return PlainGuide({})
    if options.imatrix is not None:
        if method == "feedback":
            raise UserError("--method feedback needs whole Hessians: --calibration CAL, made by ds4-mlx calibrate.")
        imatrix = open_imatrix(options.imatrix)
        return ImatrixGuide(imatrix, {"imatrix": {"name": imatrix.path.name, "sha256": imatrix.sha256}})
    if options.calibration is None:
        raise UserError(f"--method {method} needs --calibration CAL, made by ds4-mlx calibrate.")
    calibration = open_calibration(options.calibration)
    calibration.check(checkpoint.config, checkpoint.identity(), checkpoint.path)
    own = {"calibration": {"name": calibration.path.resolve().name, "sha256": calibration.sha256}}
    return CalibrationGuide(calibration, own, method)


def _by_importance(
    importance: Callable[[], np.ndarray | None],
    inputs: Inputs | None,
    storage: str,
    groups: Sequence[range],
    read: Callable[[range], mx.array],
) -> Iterator[tuple[mx.array, Encoded]]:
    columns = importance()
    for group in groups:
        weights = read(group)
        chosen = None if columns is None else mx.array(columns[group.start : group.stop])
        yield weights, Encoded(encode(storage, weights, chosen), chosen, _hessians(inputs, group))


def _by_feedback(
    inputs: Inputs, storage: str, groups: Sequence[range], read: Callable[[range], mx.array]
) -> Iterator[tuple[mx.array, Encoded]]:
    factors, importance = Factors(inputs), inputs.importance
    # Factors are LAPACK's work on the CPU: those of the next experts are made while these are encoded.
    for group, found in one_ahead((group, factors.of(group)) for group in groups):
        weights = read(group)
        arrays = encode_experts(storage, weights, group, inputs, found)
        yield weights, Encoded(arrays, mx.array(importance[group.start : group.stop]), _hessians(inputs, group))


def _hessians(inputs: Inputs | None, group: range) -> Callable[[int], mx.array] | None:
    return None if inputs is None else lambda i: mx.array(inputs.hessian(group[i]))
