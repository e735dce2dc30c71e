"""The prompt encoder against DeepSeek's own (golden cases), and what it says about bad input."""

import copy
import json
from pathlib import Path

import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.text import EncodingError, encode_messages, render_tool_calls

CASES = json.loads((Path(__file__).parent / "data" / "encoding.json").read_text(encoding="utf-8"))["encode"]
GOOD = [pytest.param(case, id=case["name"]) for case in CASES if "error" not in case]
BAD = [pytest.param(case, id=case["name"]) for case in CASES if "error" in case]
OPTIONS = ("thinking_mode", "reasoning_effort", "drop_thinking", "add_bos", "context", "profile")

USER = {"role": "user", "content": "q"}
TOOL = {"type": "function", "function": {"name": "f"}}


def encode(case):
    return encode_messages(case["messages"], **{option: case[option] for option in OPTIONS})


def call(arguments="{}", **fields):
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **fields}


@pytest.mark.parametrize("case", GOOD)
def test_prompt_equals_the_reference(case):
    assert encode(case) == case["prompt"]


@pytest.mark.parametrize("case", GOOD)
def test_ids_equal_the_reference(case, real_tokenizer):
    assert real_tokenizer.encode(encode(case)) == case["ids"]


@pytest.mark.parametrize("case", BAD)
def test_what_the_reference_refuses_is_refused(case):
    with pytest.raises(EncodingError):
        encode(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_messages_of_the_caller_are_left_alone(case):
    messages, context = copy.deepcopy(case["messages"]), copy.deepcopy(case["context"])
    try:
        encode(case)
    except EncodingError:
        assert "error" in case
    assert (case["messages"], case["context"]) == (messages, context)


def test_a_prompt_without_messages_is_bos_alone():
    assert encode_messages([]) == "<｜begin▁of▁sentence｜>"


def test_options_default_to_thinking_april_with_bos():
    assert encode_messages([USER]) == "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>"


@pytest.mark.parametrize("task", ["query", "authority", "domain", "title", "read_url"])
def test_a_task_ends_the_prompt_with_its_token(task):
    prompt = encode_messages([{**USER, "task": task}], thinking_mode="chat")
    assert prompt == f"<｜begin▁of▁sentence｜><｜User｜>q<｜{task}｜>"


def test_a_task_of_a_user_message_that_joins_tool_results_is_lost():
    messages = [{"role": "tool", "content": "r"}, {**USER, "task": "query"}]
    prompt = encode_messages(messages, thinking_mode="chat", add_bos=False)
    assert prompt == "<｜User｜><tool_result>r</tool_result>\n\nq<｜Assistant｜></think>"


def test_tool_results_join_a_user_turn_that_has_a_task():
    messages = [{**USER, "task": "query"}, {"role": "tool", "content": "r"}]
    prompt = encode_messages(messages, thinking_mode="chat", add_bos=False)
    assert prompt == "<｜User｜>q\n\n<tool_result>r</tool_result><｜query｜>"


def test_developer_and_unknown_messages_before_the_last_user_are_dropped_with_the_thinking():
    messages = [{"role": "developer", "content": "d"}, {"role": "narrator", "content": "n"}, USER]
    assert encode_messages(messages) == encode_messages([USER])


def test_developer_messages_stay_in_chat_mode():
    messages = [{"role": "developer", "content": "d"}, USER]
    prompt = encode_messages(messages, thinking_mode="chat", add_bos=False)
    assert prompt == "<｜User｜>d<｜User｜>q<｜Assistant｜></think>"


def test_no_message_is_dropped_when_there_are_tools():
    messages = [{"role": "developer", "content": "d", "tools": [TOOL]}, USER]
    assert "<｜User｜>d\n\n## Tools" in encode_messages(messages)


def test_no_effort_text_after_a_context():
    prompt = encode_messages([USER], context=[USER], reasoning_effort="max")
    assert prompt == "<｜User｜>q<｜Assistant｜><think>"


def test_effort_text_follows_dropped_messages():
    messages = [{"role": "developer", "content": "d"}, USER]
    assert encode_messages(messages, reasoning_effort="max") == encode_messages([USER], reasoning_effort="max")


def test_only_new_messages_are_rendered_when_messages_of_the_context_are_dropped():
    context = [USER, {"role": "developer", "content": "d"}, {"role": "assistant", "content": "a"}]
    assert encode_messages([USER], context=context) == "<｜User｜>q<｜Assistant｜><think>"


def test_tool_results_after_a_context_are_sorted_by_its_calls():
    context = [USER, {"role": "assistant", "tool_calls": [call(id="1"), call(id="2")]}]
    results = [{"role": "tool", "tool_call_id": i, "content": f"r{i}"} for i in ("2", "1")]
    prompt = encode_messages(results, context=context, thinking_mode="chat")
    assert prompt.startswith("<｜User｜><tool_result>r1</tool_result>\n\n<tool_result>r2</tool_result>")


def test_texts_keep_their_place_among_sorted_tool_results():
    results = [{"role": "tool", "tool_call_id": i, "content": f"r{i}"} for i in ("2", "1")]
    calls = {"role": "assistant", "tool_calls": [call(id="1"), call(id="2")]}
    prompt = encode_messages([USER, calls, results[0], USER, results[1]], thinking_mode="chat")
    assert "<tool_result>r1</tool_result>\n\nq\n\n<tool_result>r2</tool_result>" in prompt


def test_an_assistant_message_may_lack_content():
    with_none = [USER, {"role": "assistant", "content": None, "reasoning_content": None, "tool_calls": [call()]}]
    without = [USER, {"role": "assistant", "tool_calls": [call()]}]
    assert encode_messages(with_none) == encode_messages(without)


def test_a_developer_message_may_carry_a_response_format():
    message = {"role": "developer", "content": "d", "response_format": {"type": "json_object"}}
    prompt = encode_messages([message], thinking_mode="chat", add_bos=False)
    assert prompt == (
        "<｜User｜>d\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
        '{"type": "json_object"}<｜Assistant｜></think>'
    )


def test_no_tool_calls_render_to_nothing():
    assert render_tool_calls([]) == ""


@pytest.mark.parametrize("tool_calls", [["f"], [{}], [{"function": "f"}]])
def test_tool_calls_without_a_function_are_refused(tool_calls):
    with pytest.raises(EncodingError, match="function"):
        render_tool_calls(tool_calls)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"thinking_mode": "loud"}, "thinking_mode"),
        ({"thinking_mode": None}, "thinking_mode"),
        ({"profile": "may"}, "profile"),
        ({"profile": None}, "profile"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": ["max"]}, "reasoning_effort"),
        ({"reasoning_effort": "medium", "profile": "0731"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "thinking_mode": "chat"}, "reasoning_effort"),
        ({"context": "earlier"}, "context must be a list"),
        ({"context": [USER, 7]}, r"context\[1\]"),
    ],
)
def test_a_bad_option_is_named(options, says):
    with pytest.raises(EncodingError, match=says):
        encode_messages([USER], **options)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("hello", "must be an object"),
        (None, "must be an object"),
        ({"content": "x"}, "no role"),
        ({"role": 3, "content": "x"}, "no role"),
        ({"role": "narrator", "content": "x"}, "narrator"),
        ({"role": "direct_search_results", "content": "x"}, "direct_search_results"),
        ({"role": "user"}, "no content"),
        ({"role": "user", "content": None}, "no content"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "must be text"),
        ({"role": "system", "content": 4}, "must be text"),
        ({"role": "developer"}, "no content"),
        ({"role": "developer", "content": ""}, "empty content"),
        ({"role": "latest_reminder"}, "no content"),
        ({"role": "tool"}, "no content"),
        ({"role": "tool", "content": ["x"]}, "every part"),
        ({"role": "tool", "content": [{"type": "text"}]}, "no text"),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, "tool_call_id"),
        ({"role": "user", "content": "x", "task": "sing"}, "sing"),
        ({"role": "system", "content": "x", "tools": {"f": 1}}, "tools must be a list"),
        ({"role": "system", "content": "x", "tools": [{"name": "f"}]}, "every entry of tools"),
        ({"role": "system", "content": "x", "tools": [{"function": {"name": {1, 2}}}]}, "JSON"),
        ({"role": "system", "content": "x", "response_format": {1, 2}}, "JSON"),
        ({"role": "assistant", "content": "x", "reasoning_content": 1}, "reasoning_content"),
        ({"role": "assistant", "tool_calls": "f()"}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": ["f"]}, "every entry of tool_calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "name"),
        ({"role": "assistant", "tool_calls": [call("[1]")]}, "JSON object"),
        ({"role": "assistant", "tool_calls": [call("3")]}, "JSON object"),
        ({"role": "assistant", "tool_calls": [call({"a": 1})]}, "JSON text"),
    ],
)
def test_a_bad_message_is_named(message, says):
    with pytest.raises(EncodingError, match=says):
        encode_messages([message], thinking_mode="chat")


def test_messages_must_be_a_list():
    with pytest.raises(EncodingError, match="messages must be a list"):
        encode_messages("hello")


def test_the_place_of_a_bad_message_is_told():
    with pytest.raises(EncodingError, match=r"messages\[1\] \(role 'user'\)"):
        encode_messages([USER, {"role": "user"}])


def test_arguments_nested_without_end_stay_text():
    text = "[" * 100_000
    assert f'name="arguments" string="true">{text}<' in render_tool_calls([call(text)])


def test_an_encoding_error_is_a_user_error():
    assert issubclass(EncodingError, UserError)
