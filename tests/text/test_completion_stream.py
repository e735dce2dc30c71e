"""The incremental reader: equal to the strict parser where that accepts, nothing lost where it does not."""

import json
import random
from pathlib import Path

import pytest

from ds4_mlx.text import CompletionStream, EncodingError, parse_completion

CASES = json.loads((Path(__file__).parent / "data" / "encoding.json").read_text(encoding="utf-8"))["parse"]
GOOD = [pytest.param(case, id=case["name"]) for case in CASES if "error" not in case]
ALL = [pytest.param(case, id=case["name"]) for case in CASES]

EOS = "<｜end▁of▁sentence｜>"
OPEN, CLOSE = "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"
CALL = '<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x" string="true">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
BLOCK = OPEN + CALL + CLOSE
PARSED = {"name": "f", "arguments": '{"x": "1"}'}


def read(pieces, thinking_mode="chat"):
    """(reasoning, content, tool calls) of a completion that comes in these pieces."""
    stream = CompletionStream(thinking_mode)
    events = [event for piece in pieces for event in stream.feed(piece)] + stream.finish()
    texts = {"reasoning": "", "content": ""}
    for event in events:
        if event.kind != "tool_call":
            assert event.text
            assert event.tool_call is None
            texts[event.kind] += event.text
    return texts["reasoning"], texts["content"], [event.tool_call for event in events if event.kind == "tool_call"]


def random_pieces(text, seed):
    rng = random.Random(seed)
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def parts(message):
    return message["reasoning_content"], message["content"], [call["function"] for call in message["tool_calls"]]


@pytest.mark.parametrize("case", GOOD)
def test_one_character_at_a_time_equals_the_strict_parser(case):
    assert read(case["text"], case["thinking_mode"]) == parts(case["message"])


@pytest.mark.parametrize("case", GOOD)
def test_every_cut_in_two_equals_the_strict_parser(case):
    text = case["text"]
    for cut in range(len(text) + 1):
        assert read([text[:cut], text[cut:]], case["thinking_mode"]) == parts(case["message"])


@pytest.mark.parametrize("case", GOOD)
def test_random_pieces_equal_the_strict_parser(case):
    expected = parts(parse_completion(case["text"], thinking_mode=case["thinking_mode"]))
    for seed in range(50):
        assert read(random_pieces(case["text"], seed), case["thinking_mode"]) == expected


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("thinking_mode", ["chat", "thinking"])
def test_the_parts_do_not_depend_on_the_pieces(case, thinking_mode):
    whole = read([case["text"]], thinking_mode)
    assert read(case["text"], thinking_mode) == whole
    for seed in range(50):
        assert read(random_pieces(case["text"], seed), thinking_mode) == whole


def test_shuffled_markup_gives_the_same_parts_in_any_pieces():
    atoms = [OPEN, CLOSE, CALL, BLOCK, EOS, OPEN[:-2], "</think>", "\n", ">", "<", "a", "｜DSML｜", *CALL.split("｜")]
    for seed in range(300):
        rng = random.Random(seed)
        text = "".join(rng.choices(atoms, k=rng.randint(1, 12)))
        whole = read([text])
        assert read(text) == whole
        assert read(random_pieces(text, seed)) == whole
        if not whole[2] and OPEN + CLOSE not in text:
            assert whole[1] == text.replace(EOS, "")


@pytest.mark.parametrize("case", [case for case in CASES if "error" in case], ids=lambda case: case["name"])
def test_a_malformed_completion_is_never_lost(case):
    reasoning, content, calls = read(case["text"], case["thinking_mode"])
    rest = case["text"].replace(BLOCK.replace('"f"', '"a"'), "") if calls else case["text"]
    assert reasoning + content == rest.replace(EOS, "")


def test_reasoning_and_content_come_out_at_once():
    stream = CompletionStream("thinking")
    assert [tuple(event) for event in stream.feed("because")] == [("reasoning", "because", None)]
    assert [tuple(event) for event in stream.feed("</think>so")] == [("content", "so", None)]


def test_only_the_beginning_of_a_marker_is_held_back():
    stream = CompletionStream("chat")
    assert "".join(event.text for event in stream.feed("a\n\n<｜D")) == "a"
    assert "".join(event.text for event in stream.feed("x\n")) == "\n\n<｜Dx"
    assert "".join(event.text for event in stream.finish()) == "\n"


def test_a_block_gives_its_calls_when_it_is_complete():
    stream = CompletionStream("chat")
    assert stream.feed(OPEN + CALL + CALL + CLOSE[:-1]) == []
    assert [event.tool_call for event in stream.feed(">")] == [PARSED, PARSED]


def test_a_malformed_block_comes_out_as_soon_as_it_is_one():
    stream = CompletionStream("chat")
    assert "".join(event.text for event in stream.feed(OPEN + "oops")) == OPEN + "oops"


def test_a_good_block_after_a_malformed_one_is_read():
    assert read(OPEN + "oops" + BLOCK) == ("", OPEN + "oops", [PARSED])


def test_text_after_a_block_is_content():
    assert read(BLOCK + " extra" + EOS) == ("", " extra", [PARSED])


def test_an_unfinished_block_is_content():
    text = "Sure." + OPEN + CALL
    assert read(text + EOS) == ("", text, [])


def test_a_block_inside_the_reasoning_is_reasoning():
    assert read("hm" + BLOCK + "</think>so", "thinking") == ("hm" + BLOCK, "so", [])


def test_reasoning_that_never_ends_is_reasoning():
    assert read("no end" + EOS, "thinking") == ("no end", "", [])


def test_a_value_may_hold_the_tags_of_a_block():
    text = BLOCK.replace(">1<", f">{CLOSE}{EOS}<")
    assert read(text) == ("", "", [{"name": "f", "arguments": json.dumps({"x": CLOSE + EOS}, ensure_ascii=False)}])


def test_a_long_value_is_read_a_character_at_a_time():
    value = "x" * 30_000
    assert read(BLOCK.replace(">1<", f">{value}<"))[2] == [{"name": "f", "arguments": f'{{"x": "{value}"}}'}]


def test_an_unknown_thinking_mode_is_refused():
    with pytest.raises(EncodingError, match="thinking_mode"):
        CompletionStream("maybe")
