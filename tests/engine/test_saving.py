"""Sessions saved by a model and restored by it, in this and in another process."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from engine import continuing

import ds4_mlx
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.saving import SavePolicy
from ds4_mlx.errors import UserError

from support import GOLDEN_CHECKPOINT, ModelIn

IDS = np.random.default_rng(0).integers(3, 390, 140).tolist()


@pytest.fixture
def model(tmp_path: Path, model_in: ModelIn) -> LanguageModel:
    return twin(model_in("fp32_kvq"), tmp_path / "kv")


def twin(model: LanguageModel, directory: Path) -> LanguageModel:
    """The same weights with nothing in memory."""
    other = LanguageModel(model.checkpoint, model.tokenizer, model.numerics, store=SessionStore(directory))
    other._network = model.network
    return other


def fed(model: LanguageModel, ids: list[int] = IDS) -> ds4_mlx.Session:
    session = model.session()
    session.feed(ids, last_only=True)
    return session


def fresh(model: LanguageModel) -> LanguageModel:
    return twin(model, model.store.directory)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_another_process_goes_on_bit_for_bit(dtype: str) -> None:
    outcome = continuing.run("golden", dtype, 4)
    assert outcome.whole == outcome.points == 4
    assert outcome.rows > 4 * sum(continuing.FURTHER)
    assert outcome.different == 0


def test_a_session_comes_back_by_name_id_or_exported_file(model: LanguageModel, tmp_path: Path) -> None:
    from ds4_mlx.cache.bundle import export_bundle

    session = fed(model)
    head = session.save("a", messages=[{"role": "user", "content": "hi"}])
    export_bundle(model.store, "a", tmp_path / "a.tar")
    assert session.logits is not None
    for reference in ("a", head.id, None, tmp_path / "a.tar"):
        back = fresh(model).restore(reference)
        assert back.token_ids == IDS
        assert back.logits is not None
        assert mx.array_equal(back.logits, session.logits)
        assert back.head is not None
        assert back.head.messages == head.messages


def test_the_text_of_the_tokens_is_saved_with_them(model: LanguageModel) -> None:
    head = fed(model).save()
    text = "".join(segment.text for segment in model.store.read(head))
    assert text[:100] == model.tokenizer.decode(IDS)[:100]


def test_a_restored_session_that_is_saved_stays_one_session(model: LanguageModel) -> None:
    fed(model).save("a")
    back = fresh(model).restore("a")
    back.feed([1, 2, 3])
    back.save()
    (head,) = model.store.heads()
    assert (head.name, head.tokens, head.revision) == ("a", 143, 2)


def test_a_request_resumes_from_disk_where_memory_has_less(model: LanguageModel) -> None:
    fed(model).save()
    other = fresh(model)
    session = other.session_for([*IDS, 7, 8])
    assert session.position == len(IDS)
    expected = fed(model).feed([7, 8])
    assert mx.array_equal(session.feed([7, 8]), expected)
    assert other.session_for(IDS[:100]).position == 0  # no state is kept within


def test_another_checkpoint_dtype_or_profile_is_refused(model: LanguageModel) -> None:
    session = fed(model)
    session.save("a")
    with pytest.raises(UserError, match="another checkpoint"):
        ds4_mlx.load(dtype=mx.float32, kv_dir=model.store.directory).restore("a")
    bf16 = ds4_mlx.load(GOLDEN_CHECKPOINT, kv_dir=model.store.directory)
    with pytest.raises(UserError, match="computed in 'float32"):
        bf16.restore("a")
    other = fresh(model)
    other.mark = replace_weights(other)
    with pytest.raises(UserError, match="allow_other_weights"):
        other.restore("a")
    back = other.restore("a", allow_other_weights=True)
    assert back.token_ids == IDS
    back.feed([1])
    # Computed half by the one and half by the other, it is neither's from now on.
    assert back.save().mark.weights == "exact + q2 abc"
    assert other.store.match(IDS, other.mark) is None
    assert model.store.match(IDS, model.mark) is None


def replace_weights(model: LanguageModel) -> object:
    return model.mark._replace(weights="q2 abc")


def test_damage_costs_tokens_and_no_error(model: LanguageModel) -> None:
    head = fed(model).save("a", messages=[{"role": "user", "content": "hi"}])
    path = model.store.path(head.chain[-1].name)
    path.write_bytes(path.read_bytes()[:-5])
    told: list[str] = []
    other = fresh(model)
    other.store.warn = told.append
    back = other.restore("a")
    assert back.token_ids == IDS[:128]
    assert back.head is not None
    assert back.head.messages == [{"role": "user", "content": "hi"}]
    assert len(told) == 1
    assert mx.array_equal(back.feed(IDS[128:], last_only=True)[-1], fed(model).logits)
    assert back.save().tokens == 140


def test_a_fork_is_saved_as_a_session_of_its_own(model: LanguageModel) -> None:
    session = fed(model)
    one = session.save()
    twin = session.fork()
    twin.feed([5])
    assert twin.save().id != one.id
    assert len(model.store.heads()) == 2


def test_generation_goes_on_where_nothing_can_be_saved_and_says_so_once(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model.store.directory = tmp_path / "file" / "kv"
    told: list[str] = []
    model.saving = SavePolicy("all", told.append)
    session = model.session()
    for _ in range(2):
        events = list(model.stream("hi", session=session, max_tokens=3, seed=1))
        assert events[-1].kind == "done"
        model.saving.message_ended(session)
    assert len(told) == 1
    assert "cannot be saved" in told[0]


def test_by_default_only_saved_sessions_are_saved_again(model: LanguageModel) -> None:
    session = fed(model)
    model.saving.message_ended(session)
    assert model.store.heads() == []
    session.save("a")
    session.feed([1])
    model.saving.message_ended(session, [{"role": "user", "content": "hi"}])
    assert model.store.find("a").tokens == 141
