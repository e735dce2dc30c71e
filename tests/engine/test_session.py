"""Sessions and the forward call refuse what they cannot serve, with a sentence, and stay usable."""

import mlx.core as mx
import numpy as np
import pytest

import ds4_mlx
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.errors import UserError

from support import DSPARK_CHECKPOINT, ModelIn


@pytest.fixture
def model(model_in: ModelIn) -> LanguageModel:
    return model_in("fp32_plain")


def test_position_counts_the_tokens_fed(model: LanguageModel) -> None:
    session = model.session()
    session.feed([1, 2, 3])
    session.feed(np.array([4]))
    session.feed(mx.array([5, 6]))
    assert session.position == 6
    assert session.token_ids == [1, 2, 3, 4, 5, 6]


def test_feed_gives_one_fp32_row_of_logits_per_token(model: LanguageModel) -> None:
    logits = model.session().feed([7, 8, 9])
    assert logits.shape == (3, model.config.vocab_size)
    assert logits.dtype == mx.float32


def test_progress_is_told_after_each_chunk(model: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    model.session().feed(range(10), chunk=4, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no tokens"),
        ([400], "400 is outside the vocabulary"),
        ([3, -1], "-1 is outside"),
        ([[1, 2]], "flat list"),
        ([[1], [2, 3]], "flat list"),
        ([1.5], "whole numbers"),
        (["a"], "whole numbers"),
    ],
)
def test_unusable_ids_are_refused(model: LanguageModel, ids: list[object], message: str) -> None:
    session = model.session()
    with pytest.raises(UserError, match=message):
        session.feed(ids)  # type: ignore[arg-type]
    assert session.position == 0


def test_a_session_cannot_be_twice_in_one_call(model: LanguageModel) -> None:
    session = model.session()
    with pytest.raises(UserError, match="only once"):
        model.forward([(session, [1]), (session, [2])])


def test_a_session_of_another_model_is_refused(model: LanguageModel, dspark_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="another model"):
        model.forward([(dspark_model.session(), [1])])


def test_a_prompt_beyond_the_limit_is_refused_before_its_first_chunk(model: LanguageModel) -> None:
    session = model.session()
    session.sequence.token_ids = [0] * (model.config.max_position_embeddings - 5)
    with pytest.raises(UserError, match="6 more would pass"):
        session.feed(range(6), chunk=2)


def test_mtp_blocks_and_states_are_checked(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="no MTP block 5"):
        model.mtp_logits(mx.zeros((1, 4, 256)), [1], block=5)
    with pytest.raises(UserError, match="belongs to the main model"):
        model.mtp_logits(mx.zeros((1, 4, 256)), [1], state=model.session().state)


def test_an_empty_call_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="at least one"):
        model.forward([])


def test_the_position_limit_of_the_model_holds(model: LanguageModel) -> None:
    session = model.session()
    session.sequence.token_ids = [0] * model.config.max_position_embeddings
    with pytest.raises(UserError, match="1048576"):
        session.feed([1])


def test_reset_forgets(model: LanguageModel) -> None:
    session = model.session()
    first = session.feed([5, 6])
    session.reset()
    assert session.position == 0
    assert mx.array_equal(session.feed([5, 6]), first)


def test_a_dtype_that_activations_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        ds4_mlx.load(dtype=mx.float16)


def test_mtp_wants_one_stream_row_per_token(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"expected \(2, 4, 256\)"):
        model.mtp_logits(mx.zeros((3, 4, 256)), [1, 2])


def test_mtp_of_a_model_without_the_block_is_refused(dspark_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="no MTP block"):
        dspark_model.mtp_logits(mx.zeros((1, 4, 256)), [1])


def test_weights_are_read_at_first_use_only() -> None:
    from ds4_mlx.engine.language_model import open_model

    model = open_model(DSPARK_CHECKPOINT)
    assert model._network is None
    seen: list[tuple[int, int]] = []
    model.fill(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (model.checkpoint.memory_bytes(),) * 2
