"""Reading the streams behind layers, and adding to them."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.errors import UserError

from support import ModelIn

IDS = [5, 17, 99, 3, 250, 41, 8]


@pytest.fixture
def model(model_in: ModelIn) -> LanguageModel:
    return model_in("fp32_plain")


def direction(model: LanguageModel, seed: int = 0) -> mx.array:
    """[N, D]"""
    return mx.random.normal((model.config.hc_mult, model.config.hidden_size), key=mx.random.key(seed))


def test_the_last_streams_are_those_that_forward_gives(model: LanguageModel) -> None:
    streams = model.streams(IDS)
    ((_, last),) = model.forward([(model.session(), IDS)], with_streams=True)
    assert streams.shape == (model.config.num_hidden_layers, *last.shape)
    assert np.array_equal(np.array(streams[-1]), np.array(last))


def test_an_addition_is_there_behind_its_layer_and_not_before(model: LanguageModel) -> None:
    added = direction(model)
    plain, steered = model.streams(IDS), model.steered({1: added}).streams(IDS)
    assert np.array_equal(np.array(steered[0]), np.array(plain[0]))
    assert np.array_equal(np.array(steered[1]), np.array(plain[1] + added))
    assert not np.array_equal(np.array(steered[2]), np.array(plain[2]))


def test_one_vector_is_added_to_all_streams(model: LanguageModel) -> None:
    vector = direction(model)[0]
    both = mx.broadcast_to(vector, (model.config.hc_mult, *vector.shape))
    one, all_ = (model.steered({0: addition}).session().feed(IDS) for addition in (vector, both))
    assert np.array_equal(np.array(one), np.array(all_))


def test_fed_in_pieces_it_is_steered_alike(model: LanguageModel) -> None:
    steered = model.steered({1: direction(model)})
    whole = steered.session().feed(IDS)
    session = model.steered({1: direction(model)}).session()
    pieces = mx.concatenate([session.feed(IDS[:3]), session.feed(IDS[3:4]), session.feed(IDS[4:])])
    assert np.allclose(np.array(whole), np.array(pieces), atol=2e-4)


def test_nothing_added_changes_nothing(model: LanguageModel) -> None:
    zero = mx.zeros_like(direction(model))
    assert np.array_equal(np.array(model.steered({1: zero}).session().feed(IDS)), np.array(model.session().feed(IDS)))


def test_memories_are_not_shared_with_the_model(model: LanguageModel) -> None:
    ids = [i % 200 for i in range(300)]
    model.session().feed(ids)
    one, other = model.steered({1: direction(model)}), model.steered({1: direction(model, 1)})
    assert one.session().resume(ids) == 0
    assert len({model.mark, one.mark, other.mark}) == 3
    assert one.mark == model.steered({1: direction(model)}).mark


@pytest.mark.parametrize(
    ("layer", "shape", "complaint"), [(99, (4, 64), "no layer 99"), (0, (3,), r"has shape \(3,\); expected")]
)
def test_what_cannot_be_added(model: LanguageModel, layer: int, shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        model.steered({layer: mx.zeros(shape)})
