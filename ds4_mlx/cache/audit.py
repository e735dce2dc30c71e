"""Reads every file of a store again."""

from __future__ import annotations

from dataclasses import dataclass, field

from ds4_mlx.cache.files import quarantine
from ds4_mlx.cache.segment_file import DamagedError, check
from ds4_mlx.cache.store import SessionStore


@dataclass
class Audit:
    """What was found. `broken`: sessions by id, with the token up to which each can still be used."""

    sessions: int = 0
    segments: int = 0
    nbytes: int = 0
    orphans: int = 0  # segments that belong to no session: `prune` removes those older than an hour
    broken: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether every session is whole."""
        return not self.broken


def audit(store: SessionStore) -> Audit:
    """Compares every segment with its checksums; damaged ones go to quarantine and the store's `warn` is told."""
    result, bad = Audit(), set()
    for path in sorted((store.directory / "segments").glob("*.safetensors")):
        try:
            check(path, path.stem)
            result.segments += 1
            result.nbytes += path.stat().st_size
        except FileNotFoundError:
            continue
        except DamagedError as error:
            bad.add(path.stem)
            quarantine(store.directory, path, str(error), store.warn)
    heads = store.heads()
    result.sessions = len(heads)
    for head in heads:
        missing = [link for link in head.chain if link.name in bad or not store.path(link.name).exists()]
        if missing:
            result.broken[head.id] = missing[0].start
    needed = {link.name for head in heads for link in head.chain}
    result.orphans = sum(path.stem not in needed for path in (store.directory / "segments").glob("*.safetensors"))
    return result
