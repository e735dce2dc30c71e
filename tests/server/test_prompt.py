"""From conversations to prompts: what the encoder gets of what clients send."""

from __future__ import annotations

import numpy as np
import pytest

from ds4_mlx.engine.request import Constraint
from ds4_mlx.server.ask import Ask, Thinking, ToolChoice, function_tool
from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.prompt import arrange, engine_requests, thinking_of
from ds4_mlx.server.thinking_budget import ThinkingBudget

from server.running import running, tiny_model
from server.scripted_engine import Reply

USER = {"role": "user", "content": "hi"}
TOOL = function_tool("f", None, None, "tools[0]")


def ask(*messages: dict, **more: object) -> Ask:
    return Ask("x", Thinking(True), list(messages), **more)  # type: ignore[arg-type]


def text_of(asked: Ask) -> str:
    return tiny_model().tokenizer.decode(engine_requests(asked, tiny_model())[0].prompt)


def test_system_messages_at_the_beginning_become_one() -> None:
    messages = arrange(ask({"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, USER))
    assert messages == [{"role": "system", "content": "a\n\nb"}, USER]


def test_later_system_message_is_part_of_the_users_turn() -> None:
    text = text_of(ask(USER, {"role": "system", "content": "mind this"}))
    assert text.endswith("hi\n\n<system-reminder>\nmind this\n</system-reminder><｜Assistant｜><think>")


def test_tools_ride_on_a_system_message_even_without_one() -> None:
    assert arrange(ask(USER, tools=[TOOL]))[0] == {"role": "system", "content": "", "tools": [TOOL]}


def test_assistant_messages_in_a_row_are_one_turn() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}}
    parts = [
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    result = {"role": "tool", "tool_call_id": "1", "content": "ok"}
    joined = arrange(ask(USER, *parts, result))[1]
    assert joined == {"role": "assistant", "content": "yes", "reasoning_content": "hm", "tool_calls": [call]}


def test_begun_answer_is_continued() -> None:
    text = text_of(ask(USER, {"role": "assistant", "content": "Once"}))
    assert text.endswith("</think>Once")


def test_calls_without_results_are_refused() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(ApiError, match="results must follow"):
        arrange(ask(USER, {"role": "assistant", "content": "", "tool_calls": [call]}))


def test_conversation_that_an_assistant_begins_has_an_empty_turn_before() -> None:
    messages = arrange(ask({"role": "assistant", "content": "Hello!"}, USER))
    assert messages[0] == {"role": "user", "content": ""}


@pytest.mark.parametrize(
    ("name", "asked", "effort", "default", "expected"),
    [
        ("deepseek-v4-flash", None, None, True, Thinking(True)),
        ("deepseek-v4-flash", None, None, False, Thinking(False)),
        ("deepseek-chat", None, None, True, Thinking(False)),
        ("deepseek-chat", True, None, True, Thinking(True)),
        ("deepseek-reasoner", False, "high", True, Thinking(False)),
        ("deepseek-v4-flash", None, "none", True, Thinking(False)),
        ("deepseek-v4-flash", None, "medium", True, Thinking(True, "low")),
        ("deepseek-v4-flash", None, "xhigh", True, Thinking(True, "high")),
        ("deepseek-v4-flash", None, "max", True, Thinking(True, "max")),
    ],
)
def test_thinking_is_what_is_said_then_effort_then_name(
    name: str, asked: bool | None, effort: str | None, default: bool, expected: Thinking
) -> None:
    assert thinking_of(name, "0731", asked=asked, effort=effort, default=default) == expected


def test_april_knows_no_low_effort() -> None:
    assert thinking_of("x", "april", asked=None, effort="low", default=True).effort == "high"


def test_names_choose_thinking() -> None:
    with running(Reply("a", "b"), aliases={"quick": "deepseek-chat"}) as server:
        for name, thinks in (("deepseek-chat", False), ("deepseek-reasoner", True), ("gpt-6", True), ("quick", False)):
            server.post("/v1/chat/completions", model=name, messages=[USER])
            assert server.engine.requests[-1].thinking is thinks


def test_grammar_gets_what_was_asked_for() -> None:
    seen: dict = {}

    def constrain(tokenizer: object, **options: object) -> Constraint | None:
        seen.update(options)
        return None

    model = tiny_model(constrain=constrain)
    other = function_tool("g", None, None, "tools[1]", strict=True)
    choice = ToolChoice("required", among=("g",))
    engine_requests(ask(USER, tools=[TOOL, other], tool_choice=choice, parallel=False), model)
    assert [tool["function"]["name"] for tool in seen["tools"]] == ["g"]
    assert seen["tools"][0]["function"]["strict"] is True
    assert (seen["tool_choice"], seen["parallel"], seen["thinking"]) == ("required", False, True)
    engine_requests(ask(USER, tools=[TOOL], tool_choice=ToolChoice("named", "f")), model)
    assert seen["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_model_does_not_see_strict() -> None:
    assert '"strict"' not in text_of(ask(USER, tools=[function_tool("f", None, None, "x", strict=True)]))


def test_sampled_calls_are_remembered_and_attached() -> None:
    class Book:
        def __init__(self) -> None:
            self.kept: dict[tuple[str, ...], tuple[str, str]] = {}
            self.seen: list[list[dict]] = []

        def remember(self, ids: list[str], calls_text: str, reasoning: str) -> None:
            self.kept[tuple(ids)] = (calls_text, reasoning)

        def attach(self, messages: list[dict]) -> list[dict]:
            self.seen.append(messages)
            return messages

    book = Book()
    with running(Reply("", "hm", [("f", {"a": 1})]), model=tiny_model(replay=book)) as server:
        answer = server.post("/v1/chat/completions", model="x", messages=[USER]).json()
        call = answer["choices"][0]["message"]["tool_calls"][0]
        calls_text, reasoning = book.kept[(call["id"],)]
        assert 'invoke name="f"' in calls_text
        assert reasoning == "hm"
        assert book.seen == [[USER]]


def test_budget_ends_the_reasoning() -> None:
    budget = ThinkingBudget(None, think_end=70, budget=2, vocab_size=100)
    assert budget.mask() is None
    budget.accept(5)
    assert budget.mask() is None
    budget.accept(6)
    mask = budget.mask()
    assert mask is not None
    assert mask.dtype == np.uint32
    assert np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist() == [70]
    budget.accept(70)
    assert budget.mask() is None


def test_budget_leaves_reasoning_that_ends_by_itself_alone() -> None:
    budget = ThinkingBudget(None, think_end=70, budget=2, vocab_size=100)
    for token in (70, 1, 2, 3):
        budget.accept(token)
        assert budget.mask() is None
