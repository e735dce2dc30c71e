"""The chats that ds4-tiny is trained on: deterministic, split, rendered whole, and right."""

import importlib
import json
import random
import re
import sys
from pathlib import Path

import pytest

from ds4_mlx.text import parse_completion
from ds4_mlx.text.special import EOS

_FOLDER = str(Path(__file__).parents[2] / "examples" / "train_tiny")
sys.path.insert(0, _FOLDER)
try:
    chats = importlib.import_module("chats")
    code = importlib.import_module("chats.code")
    grading = importlib.import_module("chats.grading")
    knowledge = importlib.import_module("chats.knowledge")
finally:
    sys.path.remove(_FOLDER)

_FILLER = [
    "The old mill stood by the river. Nobody had used it for years. Grass grew on its roof, and birds lived there.",
    "In the evening the wind came from the sea. It smelled of salt and of rain. The boats moved in the harbour.",
    "A library is a quiet place. People read, think, and sometimes sleep. The lamps are green, the chairs are deep.",
]
CONTEXT = chats.Context(_FILLER, lambda text: len(re.findall(r"\w+|[^\w\s]|\s+(?=\n)", text)))
FAMILIES = sorted(chats.FAMILIES)


def _made(family: str, count: int, held_out: bool = False) -> list:
    rng = random.Random(f"{family} {held_out}")
    return [chats.make(family, rng, held_out=held_out, context=CONTEXT) for _ in range(count)]


def _questions(example) -> list[str]:
    return [message["content"] for message in example.messages if message["role"] == "user"]


def test_the_shares_add_up_to_one():
    assert sum(chats.FAMILIES.values()) == pytest.approx(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_makes_the_same_chats(family):
    assert _made(family, 20) == _made(family, 20)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_completion_are_the_whole_rendered_chat(family, held_out):
    for example in _made(family, 40, held_out):
        start, completion = chats.prompt(example)
        assert start + completion == chats.render(example)
        assert completion.endswith(EOS)
        assert chats.render(example).isascii() or "｜" in chats.render(example)
        assert example.messages[-1]["role"] == "assistant"
        assert example.family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_grading_accepts_the_expected_and_nothing_else(family):
    for example in _made(family, 30):
        completion = chats.prompt(example)[1]
        assert chats.correct(example, completion)
        assert chats.correct(example, completion.removesuffix(EOS))
        if example.messages[-1].get("tool_calls"):
            assert not chats.correct(example, completion.replace('name="', 'name="x', 1))
        else:
            assert not chats.correct(example, completion.replace(EOS, " and more" + EOS))
        assert not chats.correct(example, EOS)


def test_grading_ignores_the_reasoning():
    example = next(example for example in _made("addition", 50) if example.thinking)
    answer = example.messages[-1]["content"]
    assert chats.correct(example, f"Another thought.</think>{answer}{EOS}")
    assert not chats.correct(example, answer)


def _sums(family: str, held_out: bool) -> set[tuple[int, int]]:
    found = set()
    for example in _made(family, 1500, held_out):
        for message in example.messages:
            if message["role"] == "assistant":
                a, b = map(int, re.match(r"(\d+) [+-] (\d+) = ", message["content"]).groups())
                found.add((message["content"].split()[1], min(a, b), max(a, b)))
    return found


@pytest.mark.parametrize("family", ["addition", "subtraction"])
def test_held_out_sums_are_never_trained(family):
    assert not _sums(family, False) & _sums(family, True)


def _names(held_out: bool) -> set[str]:
    known = importlib.import_module("chats.words")
    text = " ".join(chats.render(example) for example in _made("recall", 80, held_out))
    pairs = re.findall(r"([A-Z]\w+) (?=([A-Z]\w+))", text)
    return {f"{a} {b}" for a, b in pairs if a in known.FIRST_NAMES and b in known.SURNAMES}


def test_held_out_names_are_never_trained():
    held_out = _names(True)
    assert len(held_out) > 100
    assert not held_out & _names(False)


def _calls(example) -> list[str]:
    calls = [call for message in example.messages for call in message.get("tool_calls", ())]
    return [f"{call['function']['name']} {call['function']['arguments']}" for call in calls]


def test_held_out_tool_arguments_are_never_trained():
    sides = [{call for example in _made("tool_call", 300, side) for call in _calls(example)} for side in (False, True)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("family", ["addition", "subtraction"])
def test_sums_are_right(family):
    for example in _made(family, 500):
        left, right = example.messages[-1]["content"].split(" = ")
        assert eval(left) == int(right)
        a, b = re.findall(r"\d+", left)
        assert {a, b} <= set(re.findall(r"\d+", _questions(example)[-1]))
        thought = example.messages[-1].get("reasoning_content", f"Result {right}.")
        assert thought.endswith(f"Result {right}.")
        for step in re.findall(r"(\d[\d+]*\+\d)=(\d+)|(-?\d+-\d+)=(-?\d+)", thought):
            assert eval(step[0] or step[2]) == int(step[1] or step[3])


_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}


@pytest.mark.parametrize("held_out", [False, True])
def test_tool_calls_follow_their_schema(held_out):
    for example in _made("tool_call", 150, held_out):
        completion = chats.prompt(example)[1]
        message = parse_completion(completion, thinking_mode="thinking" if example.thinking else "chat")
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in example.messages[0]["tools"]}
        assert message["tool_calls"]
        for call in message["tool_calls"]:
            schema = tools[call["function"]["name"]]
            arguments = json.loads(call["function"]["arguments"])
            assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
            for name, value in arguments.items():
                wanted = schema["properties"][name]
                assert isinstance(value, _TYPES[wanted["type"]])
                assert isinstance(value, bool) == (wanted["type"] == "boolean")
                assert value in wanted.get("enum", [value])


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("tokens", [200, 500, 1000, 2000, 4000])
def test_recall_hits_its_length_and_asks_for_what_the_text_says(tokens, crowd):
    for seed in range(8):
        example = chats.recall(
            random.Random(seed), held_out=seed % 2 == 1, context=CONTEXT, tokens=tokens, questions=6, crowd=crowd
        )
        text = chats.render(example)
        assert 0.97 * tokens <= CONTEXT.count(text) <= tokens
        last = example.messages[-1]["content"]
        asked = _questions(example)[-1]
        before = text[: text.rindex(asked)]
        if last != "The text does not say.":
            values = {word.strip(".") for word in last.split() if word.strip(".") not in asked} - {
                "coins",
                "years",
                "old",
            }
            assert values
            assert all(value in before for value in values if value[0].isdigit() or len(values) == 1)


def test_every_code_task_runs():
    assert len({task.name for task in code.TASKS}) >= 120
    for task in code.TASKS:
        for seed in range(3):
            text, _ = code.source(random.Random(seed), task, task.name)
            space = {}
            exec(text, space)
            assert callable(space[task.name])


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("lcm", (4, 6), 12),
        ("recursive_factorial", (5,), 120),
        ("bubble_sort", ([3, 1, 2],), [1, 2, 3]),
        ("binary_search", ([1, 3, 5], 5), 2),
        ("caesar", ("xyz", 3), "abc"),
        ("median", ([4, 1, 3, 2],), 2.5),
        ("fizzbuzz", (10,), "Buzz"),
    ],
)
def test_code_tasks_compute(name, arguments, result):
    task = next(task for task in code.TASKS if task.name == name)
    space = {}
    exec(code.source(random.Random(1), task, "other_name")[0], space)
    assert space["other_name"](*arguments) == result


def test_there_are_enough_facts():
    assert knowledge.number_of_facts() >= 400
