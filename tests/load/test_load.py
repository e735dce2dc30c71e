"""The short form of `load.engine_load`."""

from pathlib import Path

from engine.serving import shallow

from ds4_mlx.cache.store import SessionStore

from load.engine_load import storm
from support import ModelIn


def test_a_storm_leaves_nobody_without_an_answer_and_nothing_behind(model_in: ModelIn, tmp_path: Path) -> None:
    model = shallow(model_in("fp32_plain"), SessionStore(tmp_path / "kv"))
    model.cache.budget = 8 << 20
    outcome = storm(model, requests=24, clients=12, seed=2, longest=150)
    assert outcome.wrong == []
    assert outcome.counts["answered"] + outcome.counts["cancelled"] == 24
    assert outcome.counts["cancelled"] > 2
    figures = model.cache.figures()
    assert figures.sequences == 0
    assert figures.bytes <= 8 << 20
    assert not model.store.in_use
