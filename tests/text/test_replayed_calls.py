"""Tool calls written into a prompt as they were sampled, as long as they are the same calls."""

import json

import pytest

from ds4_mlx.text import CompletionReader, EncodingError, encode_messages, render_tool_calls

EOS = "<｜end▁of▁sentence｜>"
# Not as the encoder would write it: no space after the comma, an exponent, keys in the model's own order.
SAMPLED = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="b" string="false">[1,2e1]'
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="a" string="true">x "y"</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    '<｜DSML｜invoke name="g">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
ARGUMENTS = {"a": 'x "y"', "b": [1, 20]}


def call(name, arguments, call_id="1"):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


CALLS = [call("f", ARGUMENTS), call("g", {}, "2")]


def written(tool_calls, calls_text=SAMPLED):
    """How these calls stand in a prompt."""
    answer = {"role": "assistant", "content": "Hm.", "tool_calls": tool_calls, "calls_text": calls_text}
    messages = [{"role": "user", "content": "Go."}, answer, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
    prompt = encode_messages(messages, thinking_mode="chat")
    return prompt.partition("Hm.")[2].partition(EOS)[0]


def test_the_same_calls_are_written_as_sampled():
    assert written(CALLS) == SAMPLED


def test_what_a_client_got_is_the_same():
    pieces = CompletionReader("chat", streaming=True).feed(SAMPLED)
    arguments = [
        "".join(piece.text for piece in pieces if piece.kind == "arguments" and piece.call == i) for i in (0, 1)
    ]
    assert written([call("f", arguments[0]), call("g", arguments[1])]) == SAMPLED
    parsed = [json.loads(text) for text in arguments]
    assert written([call("f", parsed[0]), call("g", parsed[1])]) == SAMPLED


@pytest.mark.parametrize(
    "calls",
    [
        [call("f", {**ARGUMENTS, "a": "z"}), CALLS[1]],
        [call("f", {**ARGUMENTS, "c": 1}), CALLS[1]],
        [call("f", {"a": ARGUMENTS["a"], "b": [True, 20]}), CALLS[1]],
        [call("f", {"a": ARGUMENTS["a"], "b": [1]}), CALLS[1]],
        [call("h", ARGUMENTS), CALLS[1]],
        [call("f", "not JSON"), CALLS[1]],
        CALLS[:1],
        [*CALLS, CALLS[1]],
        CALLS[::-1],
    ],
)
def test_other_calls_are_rendered_anew(calls):
    assert written(calls) == render_tool_calls(calls)


@pytest.mark.parametrize(
    "text",
    ["", None, "x", SAMPLED[:-5], SAMPLED + "more", SAMPLED * 2, SAMPLED.lstrip(), SAMPLED.replace("invoke", "call")],
)
def test_a_text_that_is_no_block_of_these_calls_is_not_written(text):
    assert written(CALLS, text) == render_tool_calls(CALLS)


def test_arguments_that_never_were_json_are_compared_as_text():
    sampled = SAMPLED.replace("[1,2e1]", "[1,")
    assert written([call("f", '{"b": [1,, "a": "x \\"y\\""}'), CALLS[1]], sampled) == sampled


def test_without_calls_there_is_nothing_to_write():
    assert written([], SAMPLED) == ""


def test_it_must_be_text():
    with pytest.raises(EncodingError, match="calls_text"):
        written(CALLS, 3)
