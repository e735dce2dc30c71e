"""Re-reads a model folder byte by byte and tells what is damaged.

A converted folder is compared with its recorded checksums. A released one has none: there the values themselves are
checked (no NaN scales, no expert numbers out of range), which notices much damage but not all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ds4_convert.auxiliary import MODEL_FILE
from ds4_convert.checksums import ALGORITHM, CHECKSUMS_NAME, Described, checksum_file, checksum_pieces, fingerprint
from ds4_convert.progress import Meter
from ds4_convert.units import duration, size
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.checkpoint.folder import CONFIG_KEY, INDEX_NAME, JOURNAL_NAME
from ds4_mlx.checkpoint.repack import check_values
from ds4_mlx.checkpoint.safetensors_file import Tensor, read_header
from ds4_mlx.config import ModelConfig, read_json
from ds4_mlx.errors import UserError

_SHARDS = "model*.safetensors"  # every file that mlx-lm, too, would load
_ALWAYS_RECORDED = {"config.json", INDEX_NAME, MODEL_FILE}


class Problem(NamedTuple):
    """One thing that is wrong. `tensor` is empty when a whole file is meant."""

    file: str
    tensor: str
    message: str  # a sentence for the user


@dataclass(frozen=True)
class Report:
    """What `verify` found."""

    path: Path
    checksums_recorded: bool
    tensors: int  # that were read
    files: int  # small files that were compared
    nbytes: int  # of the tensors that were read
    seconds: float
    problems: list[Problem]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: str | Path, *, console: Console | None = None) -> Report:
    """Re-reads every tensor of a model folder. Shows progress on `console` (stderr by default).

    Damage is reported, not raised. Raises `UserError` when the folder is no model of ours at all, or an unfinished
    conversion.
    """
    start = time.monotonic()
    path = Path(path).expanduser()
    if not (path / "config.json").is_file() or (path / JOURNAL_NAME).exists():
        open_checkpoint(path)  # explains
    problems: list[Problem] = []
    shards = _read_shards(path, problems)
    converted, experts = (path / CHECKSUMS_NAME).exists(), 0
    if not converted:
        config_json = read_json(path / "config.json")
        experts = ModelConfig.from_dict(config_json).n_routed_experts
        converted = CONFIG_KEY in config_json
    tensors = {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    total = sum(t.nbytes for t in tensors.values())
    compared = 0
    with Meter(console or Console(stderr=True), "Reading", total=total, files=len(shards)) as meter:
        if converted:
            compared = _compare_checksums(path, shards, problems, meter)
        else:
            _check_all_values(shards, experts, problems, meter)
    if not problems:
        _check_structure(path, problems)
    return Report(path, converted, len(tensors), compared, total, time.monotonic() - start, problems)


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values that `json.dumps` takes."""
    problems = [problem._asdict() for problem in report.problems]
    return {**vars(report), "path": str(report.path), "problems": problems, "sound": report.sound}


def render(report: Report, console: Console) -> None:
    """Prints the report."""
    for problem in report.problems:
        console.print(problem.message, highlight=False, markup=False, soft_wrap=True)
    rate = size(report.nbytes / max(report.seconds, 1e-9))
    read = f"{report.tensors:,} tensors, {size(report.nbytes)} read in {duration(report.seconds)} ({rate}/s)"
    if report.problems:
        verdict = f"{len(report.problems)} problem{'s' * (len(report.problems) > 1)} found."
    elif report.checksums_recorded:
        verdict = f"All checksums agree, also those of {report.files} other files."
    else:
        verdict = "Complete, and every value is sound. This folder records no checksums to compare with."
    console.print(f"{read}. {verdict}", highlight=False, soft_wrap=True)


def _read_shards(path: Path, problems: list[Problem]) -> dict[str, dict[str, Tensor]]:
    """The readable shards by file name. Notes those that are missing, damaged or not part of the checkpoint."""
    try:
        index = read_json(path / INDEX_NAME)
        names = sorted(set(map(str, index["weight_map"].values())))
    except (UserError, KeyError, TypeError, AttributeError):
        problems.append(Problem(INDEX_NAME, "", f"{path / INDEX_NAME} is missing or damaged."))
        names = sorted(p.name for p in path.glob(_SHARDS))
    shards: dict[str, dict[str, Tensor]] = {}
    for name in names:
        try:
            shards[name] = read_header(path / name)[0]
        except UserError as error:
            problems.append(Problem(name, "", str(error)))
            continue
        end = max((t.offset + t.nbytes for t in shards[name].values()), default=0)
        if (path / name).stat().st_size > end:
            problems.append(Problem(name, "", f"{path / name} is longer than its tensors: something was appended."))
    for stray in sorted(p.name for p in path.glob(_SHARDS) if p.name not in names):
        problems.append(Problem(stray, "", f"{path / stray} does not belong to the checkpoint; move it elsewhere."))
    return shards


def _compare_checksums(path: Path, shards: dict[str, dict[str, Tensor]], problems: list[Problem], meter: Meter) -> int:
    """Compares every tensor and small file with checksums.json, and the whole with the fingerprint in config.json.

    Returns the number of small files compared.
    """
    tensors, files = _recorded(path, problems)
    for name, checksum in files.items():
        file = path / name
        if not file.is_file():
            problems.append(Problem(name, "", f"{file} is missing."))
        elif checksum_file(file) != checksum:
            problems.append(Problem(name, "", f"{file} is not as the conversion wrote it: its checksum differs."))
    found: dict[str, Described] = {}
    differing: list[Problem] = []
    for shard, held in shards.items():
        for name, tensor in held.items():
            try:
                checksum = checksum_pieces(tensor.pieces(), meter.advance)
            except UserError as error:
                problems.append(Problem(shard, name, str(error)))
                continue
            found[name] = Described(tensor.dtype, tensor.shape, checksum)
            if tensors and tensors.get(name) != checksum:
                what = f"{path / shard}: tensor {name} is damaged: its checksum differs. Convert again."
                differing.append(Problem(shard, name, what))
        meter.finished(shard)
    if fingerprint(found) == _recorded_fingerprint(path):
        if differing:  # but every tensor is as it was written
            problems.append(Problem(CHECKSUMS_NAME, "", f"{path / CHECKSUMS_NAME} is damaged; the tensors are sound."))
    elif differing:
        problems += differing
    elif not problems:
        what = f"The tensors in {path} are not those of the fingerprint in config.json. Convert again."
        problems.append(Problem("config.json", "", what))
    return len(files)


def _recorded(path: Path, problems: list[Problem]) -> tuple[dict[str, str], dict[str, str]]:
    """The recorded checksums of tensors and of small files; both empty, with a problem noted, when unreadable."""
    try:
        recorded = read_json(path / CHECKSUMS_NAME)
        tensors, small = dict(recorded["tensors"]), dict(recorded["files"])
        inside = all(isinstance(n, str) and ".." not in Path(n).parts and not Path(n).is_absolute() for n in small)
        if recorded["algorithm"] != ALGORITHM or not tensors or not inside or not small.keys() >= _ALWAYS_RECORDED:
            raise ValueError
        return tensors, small
    except (UserError, KeyError, TypeError, ValueError):
        problems.append(Problem(CHECKSUMS_NAME, "", f"{path / CHECKSUMS_NAME} is missing or damaged."))
        return {}, {}


def _recorded_fingerprint(path: Path) -> str | None:
    try:
        return str(read_json(path / "config.json")[CONFIG_KEY]["fingerprint"])
    except (UserError, KeyError, TypeError):
        return None


def _check_all_values(
    shards: dict[str, dict[str, Tensor]], experts: int, problems: list[Problem], meter: Meter
) -> None:
    """Reads every tensor of a released checkpoint and checks its values."""
    for shard, held in shards.items():
        for name, tensor in held.items():
            try:
                for piece in tensor.pieces():
                    meter.advance(piece.nbytes)
                    check_values(tensor, piece, experts=experts)
            except UserError as error:
                problems.append(Problem(shard, name, str(error)))
        meter.finished(shard)


def _check_structure(path: Path, problems: list[Problem]) -> None:
    """Whether the folder holds exactly the tensors its config asks for."""
    try:
        open_checkpoint(path, allow_part=True)
    except UserError as error:
        problems.append(Problem("", "", str(error)))
