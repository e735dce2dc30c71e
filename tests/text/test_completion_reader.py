"""Calls that come out while they are sampled: equal to the strict parser, whatever the pieces; and how they may end."""

import json
import random
from pathlib import Path

import pytest

from ds4_mlx.text import CompletionReader, TextStream, parse_completion

CASES = json.loads((Path(__file__).parent / "data" / "encoding.json").read_text(encoding="utf-8"))["parse"]
GOOD = [pytest.param(case, id=case["name"]) for case in CASES if "error" not in case]
ALL = [pytest.param(case, id=case["name"]) for case in CASES]

EOS = "<｜end▁of▁sentence｜>"
OPEN, CLOSE = "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"
INVOKE, INVOKE_END = '<｜DSML｜invoke name="f">\n', "</｜DSML｜invoke>\n"
VALUE_END = "</｜DSML｜parameter>\n"


def key(name, kind="true"):
    return f'<｜DSML｜parameter name="{name}" string="{kind}">'


CALL = INVOKE + key("x") + 'a "b"\n' + VALUE_END + key("y", "false") + "[1, 2]" + VALUE_END + INVOKE_END
ARGUMENTS = '{"x": "a \\"b\\"\\n", "y": [1, 2]}'


class Answer:
    """The pieces of a completion, joined."""

    def __init__(self, pieces, thinking_mode="chat", streaming=True):
        reader = CompletionReader(thinking_mode, streaming=streaming)
        self.pieces = [piece for text in pieces for piece in reader.feed(text)] + reader.finish()
        self.texts = {"reasoning": "", "content": ""}
        self.calls = []
        self.ended = []
        for piece in self.pieces:
            if piece.kind in self.texts:
                self.texts[piece.kind] += piece.text
            elif piece.kind == "call_begin":
                assert piece.call == len(self.calls)
                self.calls.append({"name": piece.text, "arguments": ""})
            else:
                assert piece.call == len(self.calls) - 1
                self.calls[-1]["arguments"] += piece.text
                self.ended += [piece.call] if piece.kind == "call_end" else []
        self.calls_text = reader.calls_text
        self.unfinished = reader.unfinished

    def joined(self):
        return self.texts, self.calls, self.ended, self.calls_text, self.unfinished


def random_pieces(text, seed):
    rng = random.Random(seed)
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("case", GOOD)
def test_a_character_at_a_time_equals_the_strict_parser(case, streaming):
    answer = Answer(case["text"], case["thinking_mode"], streaming)
    message = parse_completion(case["text"], thinking_mode=case["thinking_mode"])
    assert answer.texts == {"reasoning": message["reasoning_content"], "content": message["content"]}
    assert answer.calls == [call["function"] for call in message["tool_calls"]]
    assert answer.ended == list(range(len(answer.calls)))
    assert not answer.unfinished


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("case", ALL)
def test_the_parts_do_not_depend_on_the_pieces(case, streaming):
    for text in (case["text"], case["text"][: len(case["text"]) * 2 // 3]):
        whole = Answer([text], case["thinking_mode"], streaming).joined()
        assert Answer(text, case["thinking_mode"], streaming).joined() == whole
        for seed in range(40):
            assert Answer(random_pieces(text, seed), case["thinking_mode"], streaming).joined() == whole


@pytest.mark.parametrize("streaming", [True, False])
def test_shuffled_markup_gives_the_same_parts_in_any_pieces(streaming):
    atoms = [OPEN, CLOSE, CALL, OPEN + CALL + CLOSE, EOS, "</think>", "\n", "<", "｜DSML｜", *CALL.split("｜")]
    for seed in range(300):
        rng = random.Random(seed)
        text = "".join(rng.choices(atoms, k=rng.randint(1, 12)))
        whole = Answer([text], streaming=streaming).joined()
        assert Answer(text, streaming=streaming).joined() == whole
        assert Answer(random_pieces(text, seed), streaming=streaming).joined() == whole


def test_random_values_are_escaped_as_they_come():
    for seed in range(200):
        rng = random.Random(seed)
        value = "".join(
            rng.choices(["a", '"', "\\", "\n", "\x01", "<", "/", "</", "｜DSML｜", "北", "👩‍👧", EOS], k=12)
        )
        text = OPEN + INVOKE + key("x") + value + VALUE_END + INVOKE_END + CLOSE
        assert Answer(random_pieces(text, seed)).calls == [
            {"name": "f", "arguments": json.dumps({"x": value}, ensure_ascii=False)}
        ]


def test_a_call_comes_out_while_it_is_sampled():
    reader = CompletionReader("chat", streaming=True)
    assert reader.feed(OPEN + INVOKE[:-1]) == []
    assert [tuple(piece) for piece in reader.feed("\n")] == [("call_begin", "f", 0)]
    assert [tuple(piece) for piece in reader.feed(key("x"))] == [("arguments", '{"x": "', 0)]
    assert [tuple(piece) for piece in reader.feed('a"')] == [("arguments", 'a\\"', 0)]
    assert reader.feed("</") == []
    assert [tuple(piece) for piece in reader.feed("b")] == [("arguments", "</b", 0)]
    assert [tuple(piece) for piece in reader.feed(VALUE_END + INVOKE_END)] == [
        ("arguments", '"', 0),
        ("arguments", "}", 0),
        ("call_end", "", 0),
    ]


def test_held_back_a_block_comes_out_whole():
    reader = CompletionReader("chat", streaming=False)
    assert reader.feed(OPEN + CALL + CALL + CLOSE[:-1]) == []
    assert [piece.call for piece in reader.feed(">") if piece.kind == "call_end"] == [0, 1]


def test_the_block_is_kept_exactly_as_sampled():
    block = (OPEN + CALL + INVOKE + "\n" + INVOKE_END + CLOSE).replace("[1, 2]", "[1,2 ]")
    for streaming in (True, False):
        answer = Answer(random_pieces("Sure." + block + EOS, 1), streaming=streaming)
        assert answer.calls_text == block
        assert answer.calls[1] == {"name": "f", "arguments": "{}"}


def test_calls_are_numbered_across_blocks():
    answer = Answer([OPEN + CALL + CLOSE + "and" + OPEN + CALL + CLOSE])
    assert [call["arguments"] for call in answer.calls] == [ARGUMENTS, ARGUMENTS]
    assert answer.texts["content"] == "and"


@pytest.mark.parametrize("length", [3, 12, 40])
def test_a_call_that_was_cut_off_stays_incomplete(length):
    text = OPEN + CALL + INVOKE + key("x") + "rm -rf /home/me/tmp"[:length]
    answer = Answer([text])
    assert answer.ended == [0]
    assert answer.calls[0]["arguments"] == ARGUMENTS
    assert answer.calls[1]["arguments"] == '{"x": "' + "rm -rf /home/me/tmp"[:length]
    assert answer.unfinished
    assert answer.calls_text == ""
    assert answer.texts["content"] == ""


def test_a_cut_between_calls_leaves_only_whole_ones():
    answer = Answer([OPEN + CALL + "<｜DSML｜inv"])
    assert answer.ended == [0]
    assert not answer.unfinished
    assert answer.texts["content"] == ""


def test_a_mistake_in_a_streamed_call_leaves_it_open_and_the_rest_is_content():
    answer = Answer([OPEN + INVOKE + key("x") + "1" + VALUE_END + "oops" + EOS])
    assert answer.calls == [{"name": "f", "arguments": '{"x": "1"'}]
    assert answer.unfinished
    assert answer.texts["content"] == "oops"


def test_a_parameter_given_twice_is_a_mistake_before_its_value():
    answer = Answer([OPEN + INVOKE + key("x") + "1" + VALUE_END + key("x") + "2" + VALUE_END])
    assert answer.calls == [{"name": "f", "arguments": '{"x": "1"'}]
    assert answer.unfinished


def test_a_mistake_before_any_call_makes_the_block_content():
    assert Answer([OPEN + "oops" + EOS]).texts["content"] == OPEN + "oops"


def test_no_piece_holds_half_a_character(real_tokenizer):
    text = OPEN + INVOKE + key("x") + "Zürich 北京 👩‍👩‍👧 ﷽" + VALUE_END + INVOKE_END + CLOSE + EOS
    stream = TextStream(real_tokenizer)
    answer = Answer(stream.feed(token) for token in real_tokenizer.encode(text))
    assert answer.calls == [{"name": "f", "arguments": '{"x": "Zürich 北京 👩‍👩‍👧 ﷽"}'}]
