"""Sessions on disk: chains, what is shared, what goes, what is noticed. With synthetic segments."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from faults.samples import MARK, Sample, is_right

from ds4_mlx.cache.audit import audit
from ds4_mlx.cache.bundle import export_bundle, load_bundle
from ds4_mlx.cache.head import Head
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.errors import UserError


def grown(tokens: int, seed: int = 0, begin: Sample | None = None) -> Sample:
    sample = Sample() if begin is None else Sample(begin.ids)
    sample.grow(np.random.default_rng(seed), tokens)
    return sample


def save(store: SessionStore, sample: Sample, **options: object) -> Head:
    return store.save(sample.ids, sample.export, MARK, **options)  # type: ignore[arg-type]


def files(store: SessionStore) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (store.directory / "segments").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "kv", warn=pytest.fail)


@pytest.mark.parametrize("tokens", [1, 127, 128, 256, 300, 700])
def test_what_is_read_is_what_was_saved(store: SessionStore, tokens: int) -> None:
    sample = grown(tokens)
    head = save(store, sample, name="a", messages=[{"role": "user", "content": "ü\ud800"}])
    fresh = SessionStore(store.directory)
    segments = list(fresh.read(fresh.find("a")))
    assert is_right(segments)
    assert segments[-1].stop == tokens == head.tokens
    assert fresh.find("a") == head


def test_growing_writes_only_what_is_new(store: SessionStore) -> None:
    sample = grown(600)
    head = save(store, sample)
    before = files(store)
    sample.grow(np.random.default_rng(1), 300)
    head = save(store, sample, earlier=head)
    assert len(before.keys() & files(store).keys()) == len(before) - 1  # the tail is superseded, and gone
    assert is_right(list(store.read(head)))


def test_two_sessions_with_a_common_beginning_share_files(store: SessionStore) -> None:
    begin = grown(512)
    first, second = grown(100, 1, begin), grown(100, 2, begin)
    one, two = save(store, first), save(store, second)
    assert one.chain[:2] == two.chain[:2]
    assert len(files(store)) == 4
    store.remove(one.id)
    assert is_right(list(store.read(two)))
    assert len(files(store)) == 3


def test_saving_again_without_growth_writes_no_segment(store: SessionStore) -> None:
    sample = grown(300)
    head = save(store, sample)
    before = files(store)
    again = save(store, sample, earlier=head)
    assert files(store) == before
    assert again.revision == head.revision + 1


def test_a_session_that_went_back_loses_what_only_it_had(store: SessionStore) -> None:
    sample = grown(700)
    head = save(store, sample)
    back = Sample(sample.ids[:300])
    head = save(store, back, earlier=head)
    assert is_right(list(store.read(head)))
    assert set(files(store)) == {f"{link.name}.safetensors" for link in head.chain}


def test_the_longest_stored_prefix_is_found(store: SessionStore) -> None:
    sample = grown(700)
    head = save(store, sample)
    whole = store.match([*sample.ids.tolist(), 5, 6], MARK)
    assert whole is not None
    assert (whole.length, whole.chain) == (700, head.chain)
    part = store.match(sample.ids[:600], MARK)
    assert part is not None
    assert part.length == 512
    assert is_right(list(store.read_chain(part.chain)))
    assert store.match(sample.ids[1:], MARK) is None
    assert store.match(sample.ids, MARK._replace(weights="q2")) is None


def test_other_weights_share_nothing(store: SessionStore) -> None:
    sample = grown(300)
    one = save(store, sample)
    two = store.save(sample.ids, sample.export, MARK._replace(weights="q2"))
    assert not {link.name for link in one.chain} & {link.name for link in two.chain}


def test_both_versions_stay_when_two_save_one_session(store: SessionStore) -> None:
    warnings: list[str] = []
    head = save(store, grown(300), name="a")
    other = SessionStore(store.directory, warn=warnings.append)
    mine, theirs = grown(10, 1, grown(300)), grown(20, 2, grown(300))
    save(store, mine, earlier=head)
    second = save(other, theirs, earlier=head)
    assert second.name == "a (2)"
    assert len(warnings) == 1
    assert {h.tokens for h in store.heads()} == {310, 320}


def test_a_name_belongs_to_one_session(store: SessionStore) -> None:
    save(store, grown(10), name="a")
    with pytest.raises(UserError, match="another session named 'a'"):
        save(store, grown(20), name="a")


def test_the_index_is_made_again_when_it_is_lost_or_damaged(store: SessionStore) -> None:
    head = save(store, grown(300), name="a")
    index = store.directory / "index.json"
    for content in (None, b"", b"{}", b'{"heads":{"x":1},"checksum":"0"}', b"\xff"):
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        assert [h.id for h in SessionStore(store.directory).heads()] == [head.id]
    assert "heads" in json.loads(index.read_bytes())


def test_a_damaged_segment_costs_what_follows_it(store: SessionStore) -> None:
    head = save(store, grown(700))
    path = store.path(head.chain[1].name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    warnings: list[str] = []
    fresh = SessionStore(store.directory, warn=warnings.append)
    segments = list(fresh.read(head))
    assert [part.stop for part in segments] == [256]
    assert len(warnings) == 1
    assert "quarantine" in warnings[0]
    assert list((store.directory / "quarantine").iterdir())
    # Saved again it is whole again.
    head = save(fresh, grown(700), earlier=head)
    assert is_right(list(fresh.read(head)))
    assert audit(fresh).sound


def test_reading_deletes_nothing(store: SessionStore) -> None:
    head = save(store, grown(300))
    before = files(store)
    for _ in range(3):
        list(store.read(store.use(store.find(head.id))))
    assert files(store) == before
    assert store.find(head.id).hits == 3


def test_the_least_valuable_go_when_the_budget_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SessionStore(tmp_path, just_used=0)
    now = time.time()
    for i, hours in enumerate((40, 30, 0.5)):
        monkeypatch.setattr(time, "time", lambda hours=hours: now - 3600 * hours)
        save(store, grown(600, i), name=str(i))
    monkeypatch.setattr(time, "time", lambda: now)
    store.use(store.find("0"))  # the oldest, but it was just gone on with
    dropped = store.prune(store.figures().nbytes - 1)
    assert [head.name for head in dropped] == ["1"]


def test_what_is_in_use_or_was_just_saved_is_not_evicted(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, budget=1, just_used=0)
    first = save(store, grown(600, 0))
    store.in_use.add(first.id)
    second = save(store, grown(600, 1))
    assert {head.id for head in store.heads()} == {first.id, second.id}
    third = save(store, grown(600, 2))
    assert {head.id for head in store.heads()} == {first.id, third.id}


def test_a_session_goes_to_another_store_and_back_in_one_file(store: SessionStore, tmp_path: Path) -> None:
    sample = grown(700)
    head = save(store, sample, name="a", messages=[{"role": "user", "content": "hi"}])
    export_bundle(store, "a", tmp_path / "a.tar")
    other = SessionStore(tmp_path / "other")
    assert load_bundle(other, tmp_path / "a.tar") == head
    assert is_right(list(other.read(other.find("a"))))
    assert load_bundle(other, tmp_path / "a.tar").id == head.id  # not twice
    assert len(other.heads()) == 1


def test_a_damaged_export_is_refused(store: SessionStore, tmp_path: Path) -> None:
    save(store, grown(700), name="a")
    path = tmp_path / "a.tar"
    export_bundle(store, "a", path)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", data[:30000] + b"x" + data[30001:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="no whole exported session"):
            load_bundle(SessionStore(tmp_path / "other"), path)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        SessionStore(tmp_path / "file")


def test_ids_may_be_shortened(store: SessionStore) -> None:
    head = save(store, grown(10))
    assert store.find(head.id[:5]).id == head.id
    with pytest.raises(UserError, match="no session 'nope'"):
        store.find("nope")
