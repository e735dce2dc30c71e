"""The journal of an unfinished conversion: what is being converted, and which shards are finished.

It lies in the folder being written and is removed as the last step, so a folder that holds one is not whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds4_convert.files import TMP, written_aside
from ds4_convert.shards import ShardRecord
from ds4_convert.steps import Loss
from ds4_mlx.checkpoint.folder import JOURNAL_NAME
from ds4_mlx.config import read_json
from ds4_mlx.errors import UserError

# What a person calls an entry of the identity.
_WORDS = {"ds4_mlx_version": "version of ds4-mlx", "checkpoint_id": "checkpoint id", "layers": "range of layers"}


@dataclass
class Journal:
    """`identity` says what is converted into what; a conversion goes on only where it is the same."""

    folder: Path
    identity: dict[str, Any]
    shards: dict[str, ShardRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, identity: dict[str, Any]) -> Journal:
        """The journal in `folder`, or an empty one where nothing was begun.

        Raises `UserError` when the folder belongs to another conversion or holds files that are not a conversion's.
        """
        path = folder / JOURNAL_NAME
        advice = f"Delete {folder} or choose another destination."
        if not path.exists():
            if folder.exists() and (not folder.is_dir() or any(p.suffix != TMP for p in folder.iterdir())):
                raise UserError(f"{folder} is in the way: it is not an unfinished conversion. {advice}")
            return cls(folder, identity)
        try:
            entries = read_json(path)
            found = entries["conversion"]
            shards = {name: _record(entry) for name, entry in entries["shards"].items()}
            differing = [key for key in identity if found.get(key) != identity[key]]
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{path} is damaged, so the conversion cannot go on. {advice}") from None
        if differing:
            was, now = found.get(differing[0]), identity[differing[0]]
            what = _WORDS.get(differing[0], differing[0])
            raise UserError(
                f"{folder} holds an unfinished conversion with another {what} ({was!r} instead of {now!r}). {advice}"
            )
        return cls(folder, identity, shards)

    def save(self) -> None:
        """Writes the journal. Raises `OSError`."""
        shards = {n: {"bytes": r.nbytes, "tensors": r.checksums, "losses": r.losses} for n, r in self.shards.items()}
        with written_aside(self.folder / JOURNAL_NAME) as file:
            file.write(json.dumps({"conversion": self.identity, "shards": shards}, indent=1).encode())

    def remove(self) -> None:
        """The last step: from now on the folder is whole."""
        (self.folder / JOURNAL_NAME).unlink()


def _record(entry: dict[str, Any]) -> ShardRecord:
    losses = {item: Loss(*loss) for item, loss in entry["losses"].items()}
    return ShardRecord(entry["bytes"], dict(entry["tensors"]), losses)
