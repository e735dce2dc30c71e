"""The plan of a conversion: what will be written, how large it is, and whether there is room for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ds4_convert.classes import ClassSize, formats_by_class, size_table, sizes_by_class, total
from ds4_convert.recipe import Recipe
from ds4_convert.shards import Shard
from ds4_convert.units import size
from ds4_mlx.errors import UserError

_LISTED = 400  # bytes that index, checksums and journal spend on a tensor, at most
_PROGRAM = 150 << 20  # Python with everything imported, lists of tensors included


@dataclass(frozen=True)
class Plan:
    """What a conversion will do. All sizes are bytes."""

    recipe: Recipe
    destination: Path
    shards: list[Shard]
    classes: dict[str, ClassSize]
    jobs: int
    disk_needed: int  # for everything, finished or not
    disk_done: int  # of that, already there from an interrupted run
    disk_free: int

    @property
    def bits_per_weight(self) -> float:
        """Over the whole model, scales included."""
        return total(self.classes).bits_per_weight

    @property
    def memory_needed(self) -> int:
        """The loaded weights."""
        return sum(o.nbytes for o in self.recipe.outputs if self.recipe.is_loaded(o.name))

    @property
    def memory_meanwhile(self) -> int:
        """What converting needs: each job has one step under way."""
        steps = sorted((step.memory for step in self.recipe.steps), reverse=True)
        return _PROGRAM + sum(steps[: self.jobs])

    @property
    def fits(self) -> bool:
        """Whether the destination's disk has room for what is left to write."""
        return self.disk_needed - self.disk_done <= self.disk_free

    def require_room(self) -> None:
        """Raises `UserError` when the disk is too small."""
        if not self.fits:
            raise UserError(
                f"The conversion needs {size(self.disk_needed - self.disk_done)} at {self.destination.parent}, but "
                f"only {size(self.disk_free)} are free there. Free some space or choose another destination."
            )

    def render(self, console: Console) -> None:
        """Prints the plan."""
        recipe = self.recipe
        console.print(f"{recipe.source} -> {self.destination} ({recipe.profile})", highlight=False, soft_wrap=True)
        formats = formats_by_class((step.item for step in recipe.steps), recipe.formats)
        console.print(size_table(self.classes, formats))
        done = f", {size(self.disk_done)} of it already there" if self.disk_done else ""
        room = f"{size(self.disk_free)} free" + ("" if self.fits else ", not enough")
        lines = (
            f"source       {recipe.source_tensors:,} tensors, {size(recipe.source_bytes)}",
            f"shards       {len(self.shards)}",
            f"disk needed  {size(self.disk_needed)}{done} ({room})",
            f"to convert   at most {size(self.memory_meanwhile)} of memory, {self.jobs} at once",
            f"to run       {size(self.memory_needed)} for the weights, plus the cache of the context",
            *(f"note         {note}" for note in recipe.notes),
        )
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)


def make_plan(
    recipe: Recipe,
    destination: Path,
    shards: list[Shard],
    *,
    jobs: int,
    disk_done: int,
    disk_free: int,
) -> Plan:
    """The plan for the `shards` of a recipe."""
    outputs = recipe.outputs
    listed = len(outputs) * _LISTED + len(json.dumps(recipe.config_json, indent=2)) + 4096
    small_files = sum(map(len, recipe.small_files.values()))
    return Plan(
        recipe,
        destination,
        shards,
        classes=sizes_by_class(outputs),
        jobs=jobs,
        disk_needed=sum(s.nbytes for s in shards) + listed + small_files,
        disk_done=disk_done,
        disk_free=disk_free,
    )
