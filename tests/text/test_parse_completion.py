"""The strict parser against DeepSeek's own (golden cases), and what it accepts and refuses beyond them."""

import json
from pathlib import Path

import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.text import DSMLError, EncodingError, parse_completion, render_tool_calls

CASES = json.loads((Path(__file__).parent / "data" / "encoding.json").read_text(encoding="utf-8"))["parse"]
GOOD = [pytest.param(case, id=case["name"]) for case in CASES if "error" not in case]
BAD = [pytest.param(case, id=case["name"]) for case in CASES if "error" in case]

EOS = "<｜end▁of▁sentence｜>"
OPEN, CLOSE = "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"
INVOKE, INVOKE_END = '<｜DSML｜invoke name="f">\n', "</｜DSML｜invoke>\n"


def parameter(value, key="x", kind="true"):
    return f'<｜DSML｜parameter name="{key}" string="{kind}">{value}</｜DSML｜parameter>\n'


def calls_of(text):
    return [call["function"] for call in parse_completion(text, thinking_mode="chat")["tool_calls"]]


@pytest.mark.parametrize("case", GOOD)
def test_message_equals_the_reference(case):
    assert parse_completion(case["text"], thinking_mode=case["thinking_mode"]) == case["message"]


@pytest.mark.parametrize("case", BAD)
def test_what_the_reference_refuses_is_refused(case):
    with pytest.raises(DSMLError):
        parse_completion(case["text"], thinking_mode=case["thinking_mode"])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"text": 'a < b </b> "q" \\ \n 北京', "empty": ""},
        {"n": -1.5, "yes": True, "nothing": None, "list": [1, {"k": "ü"}], "object": {}},
        {'odd " string="key': "x", "": "no key"},
        {"tags": '<｜DSML｜invoke name="g">\n</｜DSML｜tool_calls>'},
    ],
)
def test_rendered_calls_parse_back(arguments):
    function = {"name": "f", "arguments": json.dumps(arguments, ensure_ascii=False)}
    assert calls_of(render_tool_calls([{"function": function}] * 2) + EOS) == [function, function]


def test_eos_is_optional_after_tool_calls():
    assert calls_of(OPEN + INVOKE + parameter("1") + INVOKE_END + CLOSE) == [{"name": "f", "arguments": '{"x": "1"}'}]


def test_a_block_without_calls_is_no_calls():
    assert calls_of(OPEN + CLOSE + EOS) == []


@pytest.mark.parametrize(
    "text",
    [
        OPEN[:-1] + INVOKE + INVOKE_END + CLOSE,
        OPEN + "\n" + INVOKE + INVOKE_END + CLOSE,
        OPEN + INVOKE.replace(" name", "  name") + INVOKE_END + CLOSE,
        OPEN + INVOKE.replace('"f"', "f") + INVOKE_END + CLOSE,
        OPEN + INVOKE + "\n\n" + INVOKE_END + CLOSE,
        OPEN + INVOKE + "\n" + parameter("1") + INVOKE_END + CLOSE,
        OPEN + INVOKE + parameter("1") + "\n" + INVOKE_END + CLOSE,
        OPEN + INVOKE + parameter("1").rstrip() + INVOKE_END + CLOSE,
        OPEN + INVOKE + parameter("1").replace("</", "/") + INVOKE_END + CLOSE,
        OPEN + INVOKE + parameter("1") + CLOSE,
        OPEN + INVOKE + INVOKE_END + OPEN + CLOSE,
        OPEN + INVOKE + INVOKE_END,
        OPEN + INVOKE + INVOKE_END + CLOSE + EOS + EOS,
        "",
        "<think>a" + EOS,
        "<｜begin▁of▁sentence｜>a" + EOS,
    ],
)
def test_a_slip_in_the_format_is_refused(text):
    with pytest.raises(DSMLError):
        parse_completion(text, thinking_mode="chat")


def test_special_tokens_are_refused_in_reasoning_too():
    with pytest.raises(DSMLError, match="<think>"):
        parse_completion("<think>a</think>b" + EOS, thinking_mode="thinking")


def test_an_unknown_thinking_mode_is_refused():
    with pytest.raises(EncodingError, match="thinking_mode"):
        parse_completion(EOS, thinking_mode="maybe")


def test_a_dsml_error_is_a_user_error_and_a_value_error():
    assert issubclass(DSMLError, UserError)
    assert issubclass(DSMLError, ValueError)
