"""End to end against DeepSeek's own code: prefills, decodes and the MTP block, in every numerical mode.

The bounds are those that came with the golden numbers: other backends than the CPU sum in another order and get the
wider one for fp32_plain.
"""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.model.linear import on_cpu

from model.compare import distance
from support import Golden, ModelIn

PLAIN = 1e-4 if on_cpu() else 5e-3


def prefill(model: LanguageModel, ids: list[int]) -> np.ndarray:
    return np.array(model.session().feed(ids))


def decode(model: LanguageModel, ids: list[int], start: int) -> np.ndarray:
    """Prefills ids[:start], then one token at a time; rows from the last prefill position on."""
    session = model.session()
    rows = [session.feed(ids[:start])[-1:]]
    rows += [session.feed([token]) for token in ids[start:]]
    return np.array(mx.concatenate(rows))


def test_prefill_fp32_plain(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    got = prefill(model_in("fp32_plain"), tokens)
    assert np.abs(got - golden("logits")["prefill_fp32_plain"]).max() <= PLAIN


def test_prefills_of_every_golden_length(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("logits"), model_in("fp32_plain")
    for n, want in zip(z["lens"], z["lastrow_fp32_plain"], strict=True):
        got = np.array(model.session().feed(tokens[:n], last_only=True))
        assert np.abs(got[0] - want).max() <= PLAIN, f"length {n}"


@pytest.mark.parametrize(("start", "stop"), [(1, 24), (37, 72), (120, 140), (250, 266)])
def test_decode_fp32_plain(model_in: ModelIn, golden: Golden, tokens: list[int], start: int, stop: int) -> None:
    got = decode(model_in("fp32_plain"), tokens[:stop], start)
    want = golden("logits")[f"decode_{start}_{stop}_fp32_plain"]
    assert np.abs(got - want[: len(got)]).max() <= PLAIN


def test_prefill_with_simulation(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    d = distance(prefill(model_in("fp32_kvq"), tokens), golden("logits")["prefill_fp32_kvq"])
    assert d.rms <= 0.10
    assert d.argmax >= 0.90
    assert d.kl <= 0.03


@pytest.mark.parametrize(("start", "stop"), [(37, 72), (120, 140)])
def test_decode_with_simulation(model_in: ModelIn, golden: Golden, tokens: list[int], start: int, stop: int) -> None:
    got = decode(model_in("fp32_kvq"), tokens[:stop], start)
    d = distance(got, golden("logits")[f"decode_{start}_{stop}_fp32_kvq"][: len(got)])
    assert d.rms <= 0.10
    assert d.argmax >= 0.90
    assert d.kl <= 0.03


def test_prefill_in_bf16_against_fp32_with_simulation(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    d = distance(prefill(model_in("bf16"), tokens), golden("logits")["prefill_fp32_kvq"])
    assert d.rms <= 0.17
    assert d.argmax >= 0.80
    assert d.kl <= 0.09


def test_prefill_in_bf16_against_the_official_arithmetic(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    d = distance(prefill(model_in("bf16"), tokens), golden("logits")["prefill_official"])
    assert d.rms <= 0.22
    assert d.argmax >= 0.75
    assert d.kl <= 0.13


@pytest.mark.parametrize(("start", "stop"), [(37, 72), (120, 140)])
def test_decode_in_bf16_against_the_official_arithmetic(
    model_in: ModelIn, golden: Golden, tokens: list[int], start: int, stop: int
) -> None:
    got = decode(model_in("bf16"), tokens[:stop], start)
    d = distance(got, golden("logits")[f"decode_{start}_{stop}_official"][: len(got)])
    assert d.rms <= 0.22
    assert d.argmax >= 0.75
    assert d.kl <= 0.13


def test_mtp_over_the_whole_prompt_fp32_plain(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("logits"), model_in("fp32_plain")
    ((_, h),) = model.forward([(model.session(), tokens[:271])], with_streams=True)
    got = np.array(model.mtp_logits(h, tokens[1:272]))
    assert np.abs(got[z["mtp_rows"]] - z["mtp_fp32_plain"]).max() <= PLAIN


def test_mtp_alone_from_given_streams(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("logits"), model_in("fp32_plain")
    got = np.array(model.mtp_logits(mx.array(z["mtp_h_in"]), tokens[1:21]))
    assert np.abs(got - z["mtp_from_h_in"]).max() <= PLAIN


def test_mtp_fed_in_pieces_equals_mtp_fed_at_once(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("logits"), model_in("fp32_plain")
    h = mx.array(z["mtp_h_in"])
    state = model.new_mtp_state()
    parts = [model.mtp_logits(h[a:b], tokens[1 + a : 1 + b], state=state) for a, b in ((0, 1), (1, 8), (8, 20))]
    assert np.abs(np.array(mx.concatenate(parts)) - z["mtp_from_h_in"]).max() <= PLAIN


@pytest.mark.parametrize(
    ("mode", "golden_mode", "rms", "argmax", "kl"),
    [("fp32_kvq", "fp32_kvq", 0.10, 0.90, 0.03), ("bf16", "official", 0.22, 0.75, 0.13)],
)
def test_mtp_with_simulation(
    model_in: ModelIn,
    golden: Golden,
    tokens: list[int],
    mode: str,
    golden_mode: str,
    rms: float,
    argmax: float,
    kl: float,
) -> None:
    z, model = golden("logits"), model_in(mode)
    ((_, h),) = model.forward([(model.session(), tokens[:271])], with_streams=True)
    d = distance(np.array(model.mtp_logits(h, tokens[1:272]))[z["mtp_rows"]], z[f"mtp_{golden_mode}"])
    assert d.rms <= rms
    assert d.argmax >= argmax
    assert d.kl <= kl


def test_a_0731_checkpoint_runs_with_its_drafter_set_aside(dspark_model: LanguageModel) -> None:
    from support import DSPARK_CHECKPOINT

    with np.load(DSPARK_CHECKPOINT.parent / "drafter.npz") as z:
        got = prefill(dspark_model, z["tokens"].tolist())
        assert np.abs(got - z["main_logits_fp32_plain"]).max() <= PLAIN
    assert dspark_model.checkpoint.dspark_stages == 3
    assert "mtp" not in dspark_model.network
