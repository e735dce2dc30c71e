"""The recipes for DeepSeek's own folder: `exact` keeps every weight, `q2` quantises the routed experts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ds4_convert.auxiliary import read_all_auxiliary
from ds4_convert.guide import Guide, make_guide
from ds4_convert.layer_range import parse_layers
from ds4_convert.options import Options
from ds4_convert.quantise import quantise_step
from ds4_convert.recipe import Recipe
from ds4_convert.steps import Measure, Pieces, Step, outputs_of
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.checkpoint.items import Item, in_layers
from ds4_mlx.checkpoint.repack import Checker, check_values, repack_plan
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.errors import UserError

# Formats of the routed experts by profile. The experts of a drafter keep FP4 in any: they are 2 % of the model, and
# what they lose would be paid for in rejected drafts.
PROFILES: dict[str, dict[str, str]] = {"exact": {}, "q2": {"w1": "iq2_xxs", "w2": "q2_k", "w3": "iq2_xxs"}}
_WITHOUT_INPUTS = (
    "columns are weighted by the energy of their weights; --calibration or --imatrix weigh them by their inputs"
)


def released_recipe(source: Path, options: Options) -> Recipe:
    """The recipe for the folder `source`. Raises `UserError` when anything about it or the options is wrong."""
    profile = options.profile or "exact"
    if profile not in PROFILES:
        raise UserError(f"Unknown profile {profile!r}; known are {', '.join(sorted(PROFILES))}.")
    chosen = PROFILES[profile]
    checkpoint = open_checkpoint(source, allow_part=True)
    if checkpoint.kind == "converted":
        raise UserError(f"{source} is already converted (profile {checkpoint.profile}); give a released checkpoint.")
    guide = make_guide(options, checkpoint, quantises=bool(chosen))
    part = parse_layers(options.layers, checkpoint.config)
    items = in_layers(checkpoint.items, part) if part else checkpoint.items
    storages = {item.name: storage_of(item, profile) for item in items}
    own: dict[str, Any] = {"layers": list(part)} if part else {}
    notes: tuple[str, ...] = (_WITHOUT_INPUTS,) if chosen and guide.method == "plain" else ()
    if chosen:
        own |= {"method": guide.method, **guide.own}
    formats = Storage.of_each(storages)
    return Recipe(
        source=source,
        profile=profile,
        config=checkpoint.config,
        config_json=checkpoint.config_json,
        checkpoint_id=checkpoint.identity(),
        formats=formats,
        steps=[_step(checkpoint, item, formats.of(item.name), guide) for item in items],
        small_files=read_all_auxiliary(source),
        source_tensors=len(checkpoint.tensors),
        source_bytes=checkpoint.nbytes,
        is_loaded=checkpoint.is_loaded,
        own=own,
        notes=notes,
    )


def storage_of(item: Item, profile: str) -> str:
    """How a profile stores an item: a format or a dtype."""
    matrix = item.name.rpartition(".")[2]
    routed = item.name.startswith("layers.") and ".ffn.experts." in item.name
    return PROFILES[profile].get(matrix, item.released) if routed else item.released


def _step(checkpoint: Checkpoint, item: Item, storage: str, guide: Guide) -> Step:
    check = partial(check_values, experts=checkpoint.config.n_routed_experts)
    if storage != item.released:
        guide.check(item)
        return quantise_step(item, storage, checkpoint.tensors, check, guide)
    return Step(item.name, outputs_of(item, storage), partial(_copy, checkpoint, item, check))


def _copy(checkpoint: Checkpoint, item: Item, check: Checker, measure: Measure) -> Pieces:
    """The item as it was released, repacked."""
    for target in repack_plan([item]):
        for piece in target.pieces(checkpoint.tensors, check):
            yield target.name, piece
