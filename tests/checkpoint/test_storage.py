"""How a folder says what each matrix is stored as, and which arrays follow from that."""

import json
from pathlib import Path

import pytest

from ds4_mlx.checkpoint.items import Item, in_layers, model_items
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError

from support import GOLDEN_CHECKPOINT

CONFIG = ModelConfig.from_dict(json.loads((Path(GOLDEN_CHECKPOINT) / "config.json").read_text()))
ITEMS = {item.name: item for item in model_items(CONFIG)}
EXPERTS = Item("layers.0.ffn.experts.w2", "layers.0.ffn.experts.w2.weight", (5, 128, 256), "mxfp4", ())


def test_a_matrix_in_a_format_has_one_array_per_part() -> None:
    assert EXPERTS.arrays("q2_k") == [
        ("layers.0.ffn.experts.w2.q", (5, 128, 16), "U32"),
        ("layers.0.ffn.experts.w2.sm", (5, 128, 16), "U8"),
        ("layers.0.ffn.experts.w2.dm", (5, 128, 1, 2), "F16"),
    ]


def test_a_plain_item_has_the_name_it_was_released_with() -> None:
    assert ITEMS["layers.3.attn.wq_a"].arrays("F16") == [("layers.3.attn.wq_a.weight", (128, 256), "F16")]
    assert ITEMS["layers.3.hc_attn_fn"].arrays("F32") == [("layers.3.hc_attn_fn", (24, 1024), "F32")]


@pytest.mark.parametrize(
    ("item", "storage"),
    [
        ("layers.3.attn_norm", "q8_0"),  # no matrix
        ("layers.3.hc_attn_fn", "q8_0"),  # none that inputs are multiplied with
        ("layers.0.ffn.gate.tid2eid", "F32"),
        ("layers.3.attn.wq_a", "I32"),
        ("layers.3.attn.wq_a", "q9"),
        ("layers.3.attn.wo_b", "iq2_xxs"),  # 128 wide
    ],
)
def test_what_cannot_be_stored_so(item: str, storage: str) -> None:
    with pytest.raises(UserError, match=f"{item}.* cannot be stored as"):
        ITEMS[item].arrays(storage)


def test_all_experts_of_a_layer_are_one_item() -> None:
    item = ITEMS["layers.3.ffn.experts.w1"]
    assert item.shape == (5, 128, 256)
    assert item.sources[4] == "layers.3.ffn.experts.4.w1"


def test_some_layers_leave_the_rest_out() -> None:
    names = {item.name.split(".")[1] for item in in_layers(ITEMS.values(), (2, 3))}
    assert names == {"2", "3"}
    assert not any(item.name.startswith("mtp.") for item in in_layers(ITEMS.values(), (0, 6)))


def test_one_entry_speaks_for_all_layers_and_exceptions_go_before() -> None:
    choices = {name: item.released for name, item in ITEMS.items()}
    choices["layers.4.ffn.experts.w1"] = "q4_k"
    storage = Storage.of_each(choices)
    assert storage.table["layers.*.ffn.experts.w1"] == "mxfp4"
    assert storage.table["layers.4.ffn.experts.w1"] == "q4_k"
    assert len(storage.table) < 80
    assert {name: storage.of(name) for name in choices} == choices
    assert Storage.from_json(json.loads(json.dumps(storage.table))).table == storage.table


@pytest.mark.parametrize("value", [None, [], "exact", {"embed": 3}])
def test_a_table_that_is_none(value: object) -> None:
    with pytest.raises(UserError, match="does not say how its tensors are stored"):
        Storage.from_json(value)


def test_an_item_that_the_table_forgets() -> None:
    with pytest.raises(UserError, match=r"does not say how layers\.3\.attn\.wkv is stored"):
        Storage({"layers.*.attn.wq_a": "mxfp8"}).of("layers.3.attn.wkv")
