"""Characters out of tokens, and stop strings out of characters."""

import random

import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.text import StopMatcher, TextStream

TEXT = "Zürich 北京 👩‍👩‍👧 ﷽ कोड <think>ok</think>｜DSML｜ 1 < 2\r\n\n"


def pieces(tokenizer, ids):
    stream = TextStream(tokenizer)
    return [*(stream.feed(token_id) for token_id in ids), stream.finish()]


def shown(matcher, chunks):
    out = ""
    for chunk in chunks:
        text, stopped = matcher.feed(chunk)
        out += text
        if stopped:
            return out, True
    return out + matcher.finish(), False


@pytest.mark.parametrize("tokenizer", ["real_tokenizer", "small_tokenizer"])
def test_pieces_join_to_the_text(tokenizer, request):
    tokenizer = request.getfixturevalue(tokenizer)
    assert "".join(pieces(tokenizer, tokenizer.encode(TEXT))) == TEXT


@pytest.mark.parametrize("tokenizer", ["real_tokenizer", "small_tokenizer"])
def test_no_piece_holds_half_a_character(tokenizer, request):
    tokenizer = request.getfixturevalue(tokenizer)
    assert not any("\ufffd" in piece for piece in pieces(tokenizer, tokenizer.encode(TEXT)))


def test_a_character_comes_with_its_last_byte(small_tokenizer):
    ids = small_tokenizer.encode("北")
    assert len(ids) == 3
    assert pieces(small_tokenizer, ids) == ["", "", "北", ""]


def test_any_ids_join_to_what_decode_gives(small_tokenizer):
    for seed in range(200):
        ids = random.Random(seed).choices(range(-1, 400), k=30)
        joined = b"".join(small_tokenizer.token_bytes(token_id) for token_id in ids).decode(errors="replace")
        assert "".join(pieces(small_tokenizer, ids)) == small_tokenizer.decode(ids) == joined


def test_an_unfinished_character_is_replaced_at_the_end(small_tokenizer):
    assert pieces(small_tokenizer, small_tokenizer.encode("北")[:2]) == ["", "", "\ufffd"]


def test_text_ends_before_the_stop_string():
    assert shown(StopMatcher(["END"]), ["abc E", "ND def"]) == ("abc ", True)


def test_nothing_follows_a_stop():
    matcher = StopMatcher(["x"])
    matcher.feed("ax")
    assert matcher.feed("b") == ("", True)
    assert matcher.finish() == ""


def test_what_could_begin_a_stop_string_is_held_back():
    matcher = StopMatcher(["END", "\n\n"])
    assert matcher.feed("a\nE") == ("a\n", False)
    assert matcher.feed("N") == ("", False)
    assert matcher.feed("T") == ("ENT", False)
    assert matcher.feed("\n") == ("", False)
    assert matcher.finish() == "\n"


def test_the_stop_string_that_is_complete_first_wins():
    assert shown(StopMatcher(["abc", "b"]), ["abc"]) == ("a", True)


def test_of_two_that_end_together_the_longer_wins():
    assert shown(StopMatcher(["c", "abc"]), ["xabc"]) == ("x", True)


def test_stops_do_not_depend_on_the_pieces():
    for seed in range(500):
        rng = random.Random(seed)
        text = "".join(rng.choices("ab", k=12))
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(2)]
        assert shown(StopMatcher(stops), [text]) == shown(StopMatcher(stops), text)


def test_without_stop_strings_text_passes():
    assert StopMatcher([]).feed("abc") == ("abc", False)


def test_one_string_is_one_stop():
    assert shown(StopMatcher("ab"), ["a-ab"]) == ("a-", True)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="stop string"):
        StopMatcher(["a", ""])
