"""A session as one file: an uncompressed tar of its head and its segments, to carry it to another machine."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

from ds4_mlx.cache.files import aside, sync_directory, sync_file, write_durably
from ds4_mlx.cache.head import Head, decode, encode, new_id
from ds4_mlx.cache.segment_file import DamagedError, check
from ds4_mlx.cache.store import SessionStore, free_name
from ds4_mlx.errors import UserError

_HEAD = "session.json"


def export_bundle(store: SessionStore, reference: str, path: Path) -> Head:
    """Writes a session to `path`, which must not exist. Raises `UserError` if a segment is damaged or gone."""
    head = store.find(reference)
    if path.exists():
        raise UserError(f"{path} exists already; give another name.")
    temporary = path.with_name(path.name + ".part")
    try:
        with tarfile.open(temporary, "w") as tar:
            data = encode(head)
            info = tarfile.TarInfo(_HEAD)
            info.size, info.mtime = len(data), int(head.saved)
            tar.addfile(info, io.BytesIO(data))
            for link in head.chain:
                check(store.path(link.name), link.name)
                tar.add(store.path(link.name), f"{link.name}.safetensors", recursive=False)
        sync_file(temporary)
        temporary.replace(path)
    except (DamagedError, FileNotFoundError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"Session {head.label} is not whole ({error}); see `ds4-mlx sessions verify`.") from None
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    return head


def load_bundle(store: SessionStore, path: Path) -> Head:
    """Puts the session of an exported file into a store, as it was; returns its head.

    The very same save is not put there twice. If the store has another state of it, or its name, it gets an id or a
    name of its own. Raises `UserError` if the file is none, or damaged.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            return _load(store, tar)
    except (tarfile.TarError, DamagedError, KeyError, EOFError) as error:
        raise UserError(f"{path} is no whole exported session: {error}.") from None
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}.") from None


def _load(store: SessionStore, tar: tarfile.TarFile) -> Head:
    head = decode(_bytes(tar, _HEAD))
    written = False
    for link in head.chain:
        target = store.path(link.name)
        if target.exists() and target.stat().st_size == link.nbytes:
            continue
        temporary = aside(store.directory, ".safetensors")
        try:
            temporary.write_bytes(_bytes(tar, f"{link.name}.safetensors"))
            check(temporary, link.name)
            sync_file(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        written = True
    if written:
        sync_directory(store.directory / "segments")
    with store.lock():
        heads = store.heads()
        same = next((other for other in heads if other.id == head.id), None)
        if same is not None and same.chain == head.chain:
            return store.find(head.id)
        if same is not None:
            head = replace(head, id=new_id())
        if head.name and any(other.name == head.name for other in heads):
            head = replace(head, name=free_name(head.name, heads))
        write_durably(store.directory, store.head_path(head.id), encode(head))
    return head


def _bytes(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise DamagedError(f"{name} is no file")
    return file.read()
