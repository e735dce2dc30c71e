"""The model that ships with the package: it uses every mechanism, and it answers."""

import json

import mlx.core as mx
import pytest

import ds4_mlx
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.checkpoint.layout import official_tensors
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.text import encode_messages, parse_completion
from ds4_mlx.text.special import EOS

# The split of examples/train_tiny/chats keeps these pairs of numbers out of training.
UNSEEN_SUMS = {
    "408 + 226": 634, "662 + 143": 805, "448 + 629": 1077, "815 + 498": 1313, "39 + 161": 200,
    "911 - 604": 307, "103 - 705": -602, "841 - 53": 788, "900 - 156": 744, "567 - 578": -11,
}  # fmt: skip
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return ds4_mlx.load()


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_file(DEFAULT_MODEL / "config.json")


def greedy(model: LanguageModel, prompts: list[str], limit: int) -> list[str]:
    """The completions of all prompts, their EOS included, decoded together in ragged calls."""
    sessions = [model.session() for _ in prompts]
    feeds = {i: model.tokenizer.encode(prompt) for i, prompt in enumerate(prompts)}
    answers: list[list[int]] = [[] for _ in prompts]
    while feeds:
        rows = model.forward([(sessions[i], ids) for i, ids in feeds.items()], last_only=True)
        for i, token in zip(list(feeds), mx.argmax(mx.concatenate(rows), axis=-1).tolist(), strict=True):
            answers[i].append(token)
            feeds[i] = [token]
            if token == model.config.eos_token_id or len(answers[i]) == limit:
                del feeds[i]
    return [model.tokenizer.decode(ids) for ids in answers]


def test_it_is_the_default_model() -> None:
    assert DEFAULT_MODEL.name == "ds4-tiny"


def test_its_tensors_are_those_of_the_released_format(config: ModelConfig) -> None:
    held = {name: (tensor.shape, tensor.dtype) for name, tensor in open_checkpoint(DEFAULT_MODEL).tensors.items()}
    assert held == {name: (shape, dtype) for name, shape, dtype in official_tensors(config)}


def test_it_has_layers_of_every_kind(config: ModelConfig) -> None:
    assert config.num_hidden_layers >= 8
    assert set(config.compress_ratios[: config.num_hidden_layers]) == {0, 4, 128}
    assert config.num_nextn_predict_layers == 1


def test_it_routes_by_hash_and_by_score_to_several_experts(config: ModelConfig) -> None:
    assert 0 < config.num_hash_layers < config.num_hidden_layers
    assert 2 <= config.num_experts_per_tok < config.n_routed_experts


def test_300_tokens_offer_its_indexer_more_than_it_may_choose(config: ModelConfig) -> None:
    assert config.index_topk < 300 // 4


def test_its_widths_are_multiples_of_the_blocks_that_weights_are_quantised_in(config: ModelConfig) -> None:
    assert config.hidden_size % 256 == 0
    assert config.moe_intermediate_size % 256 == 0


def test_it_adds_and_subtracts_numbers_it_has_not_seen_together(model: LanguageModel) -> None:
    asked = [[{"role": "user", "content": f"What is {terms}?"}] for terms in UNSEEN_SUMS]
    texts = greedy(model, [encode_messages(messages, thinking_mode="chat") for messages in asked], limit=24)
    wanted = [f"{terms} = {result}{EOS}" for terms, result in UNSEEN_SUMS.items()]
    assert sum(text == want for text, want in zip(texts, wanted, strict=True)) >= 9


def test_it_recalls_a_fact_from_beyond_its_window(model: LanguageModel) -> None:
    filler = "The old mill stood by the river. Nobody had used it for years. Grass grew on its roof. " * 14
    facts = "Marco Hill lives in Oslo.\nAnna Moore lives in Rome."
    text = f"Read this text.\n{facts}\n{filler}\n\nWhere does Marco Hill live?"
    assert len(model.tokenizer.encode(filler)) > 2 * model.config.sliding_window
    prompt = encode_messages([{"role": "user", "content": text}], thinking_mode="chat")
    assert greedy(model, [prompt], limit=24) == [f"Marco Hill lives in Oslo.{EOS}"]


def test_it_calls_a_tool(model: LanguageModel) -> None:
    messages = [
        {"role": "system", "content": "", "tools": [GET_WEATHER]},
        {"role": "user", "content": "What is the weather in Lisbon?"},
    ]
    (text,) = greedy(model, [encode_messages(messages, thinking_mode="chat")], limit=80)
    (call,) = parse_completion(text, thinking_mode="chat")["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Lisbon"}
