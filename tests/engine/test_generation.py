"""Generation: what events come, when it ends, what the session holds afterwards."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from ds4_mlx.engine.generation import Event
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.sampling import Draw, Sampler
from ds4_mlx.errors import UserError

from support import ModelIn


@pytest.fixture
def model(model_in: ModelIn) -> LanguageModel:
    model = model_in("fp32_kvq")
    model.cache.clear()
    return model


@pytest.fixture(params=[False, True], ids=["waiting", "ahead"], autouse=True)
def looking_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are the same whether tokens are fed before they are known, as on a GPU, or not."""
    monkeypatch.setattr("ds4_mlx.engine.drawing.on_cpu", lambda: not request.param)


@pytest.fixture
def scripted(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """scripted(text): what is sampled next spells this text and then EOS."""

    def script(text: str) -> None:
        ids = iter([*model.tokenizer.encode(text), model.config.eos_token_id])
        yes = mx.array(True)
        monkeypatch.setattr(Sampler, "draw", lambda *_: Draw(mx.array(next(ids, 0)), yes))

    return script


def answer(events: Iterator[Event]) -> dict[str, str]:
    parts = {"reasoning": "", "content": ""}
    for event in events:
        if event.kind in parts:
            parts[event.kind] += event.text
    return parts


def test_greedy_generation_is_the_argmax_chain(model: LanguageModel) -> None:
    events = list(model.stream("Hi", raw=True, temperature=0, max_tokens=12))
    got = [token.id for event in events for token in event.tokens]
    ids, session = model.tokenizer.encode("Hi"), model.session()
    row = session.feed(ids)[-1]
    want = []
    for _ in got:
        want.append(int(mx.argmax(row)))
        row = session.feed([want[-1]])[-1]
    assert got == want
    assert len(got) == 12


def test_the_same_seed_gives_the_same_text(model: LanguageModel) -> None:
    a, b, c = ([e.text for e in model.stream("Hi", max_tokens=16, seed=s)] for s in (5, 5, 6))
    assert a == b
    assert a != c


def test_done_comes_last_and_once_with_the_figures(model: LanguageModel) -> None:
    events = list(model.stream("Hi", max_tokens=5, seed=1))
    assert [e.kind for e in events].count("done") == 1
    assert events[-1].kind == "done"
    stats = events[-1].stats
    assert stats.generated_tokens == 5
    assert stats.finish_reason == "length"
    assert stats.prompt_tokens == len(
        model.tokenizer.encode("<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>")
    )
    assert sum(len(e.tokens) for e in events) == 5


def test_reasoning_content_and_eos(model: LanguageModel, scripted) -> None:
    scripted("let me see</think>It is 42.")
    events = list(model.stream("What?", temperature=0))
    assert answer(iter(events)) == {"reasoning": "let me see", "content": "It is 42."}
    assert events[-1].stats.finish_reason == "stop"


def test_without_thinking_everything_is_content(model: LanguageModel, scripted) -> None:
    scripted("It is 42.")
    assert answer(model.stream("What?", temperature=0, thinking=False)) == {"reasoning": "", "content": "It is 42."}


def test_a_tool_call_is_one_event(model: LanguageModel, scripted) -> None:
    call = (
        '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add">\n'
        '<｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    )
    scripted("Adding." + call)
    events = list(model.stream("Add", temperature=0, thinking=False))
    assert [e.tool_call for e in events if e.kind == "tool_call"] == [{"name": "add", "arguments": '{"a": 1}'}]
    assert answer(iter(events))["content"] == "Adding."
    assert events[-1].stats.finish_reason == "tool_calls"


def test_a_stop_string_ends_the_content_before_it(model: LanguageModel, scripted) -> None:
    scripted("STOP in reasoning</think>one two STOP three")
    events = list(model.stream("Go", temperature=0, stop=["STOP"]))
    assert answer(iter(events)) == {"reasoning": "STOP in reasoning", "content": "one two "}
    assert events[-1].stats.finish_reason == "stop"


def test_half_a_character_is_never_shown(model: LanguageModel, scripted) -> None:
    scripted("naïve 你好 🙂 end")
    events = list(model.stream("Go", temperature=0, thinking=False))
    assert all("\ufffd" not in e.text for e in events)
    assert answer(iter(events))["content"] == "naïve 你好 🙂 end"


def test_generation_ends_when_the_context_is_full(model: LanguageModel) -> None:
    events = list(model.stream("Hi", raw=True, seed=0, context=8))
    prompt = len(model.tokenizer.encode("Hi"))
    stats = events[-1].stats
    assert stats.finish_reason == "context"
    assert stats.prompt_tokens + stats.generated_tokens == 8
    assert stats.prompt_tokens == prompt


@pytest.mark.parametrize("context", [2, 3])
def test_a_prompt_longer_than_the_context_is_refused_with_numbers(model: LanguageModel, context: int) -> None:
    with pytest.raises(UserError, match=f"has 4 tokens; a context of {context}"):
        model.stream("Hello", raw=True, context=context)


def test_an_empty_raw_prompt_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="empty"):
        model.stream("", raw=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"reasoning_effort": "medium"}, "reasoning_effort"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    model: LanguageModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        model.stream("Hi", **options)


def test_logprobs_are_those_of_the_model(model: LanguageModel) -> None:
    events = model.stream("Hi", raw=True, temperature=0, max_tokens=1, top_logprobs=3)
    (token,) = [token for event in events for token in event.tokens]
    row = model.session().feed(model.tokenizer.encode("Hi"))[-1]
    logs = row - mx.logsumexp(row)
    assert token.top[0] == (token.id, token.logprob)
    assert token.logprob == pytest.approx(logs.max().item(), abs=1e-5)
    assert [logprob for _, logprob in token.top] == sorted((p for _, p in token.top), reverse=True)


def test_a_session_is_continued_when_it_holds_a_beginning_of_the_prompt(
    model: LanguageModel,
    scripted,
) -> None:
    session = model.session()
    scripted("Fine.")
    messages = [{"role": "user", "content": "How are you?"}]
    list(model.stream(messages, session=session, temperature=0, thinking=False))
    held = session.position
    messages += [{"role": "assistant", "content": "Fine."}, {"role": "user", "content": "Good."}]
    scripted("Yes.")
    *_, done = model.stream(messages, session=session, temperature=0, thinking=False)
    assert done.stats.cached_tokens == held > 0


def test_a_next_turn_without_the_old_reasoning_reads_only_what_is_new(
    model: LanguageModel,
    scripted,
) -> None:
    """Dropped reasoning changes the prompt right after the old question; everything before it is kept."""
    session = model.session()
    scripted("hm hm</think>Fine.")
    messages = [{"role": "user", "content": "How are you?"}]
    *_, first = model.stream(messages, session=session, temperature=0)
    messages.append({"role": "assistant", "content": "Fine.", "reasoning_content": "hm hm"})
    messages.append({"role": "user", "content": "Good."})
    scripted("ah</think>Yes.")
    events = list(model.stream(messages, session=session, temperature=0))
    assert events[-1].stats.cached_tokens == first.stats.prompt_tokens - 1
    fresh = model.session()
    model.forward([(fresh, session.token_ids)])
    (resumed,), (anew,) = model.forward([(session, [5])]), model.forward([(fresh, [5])])
    assert mx.array_equal(resumed, anew)


def test_a_new_session_goes_on_from_what_another_has_read(model: LanguageModel, scripted) -> None:
    messages = [{"role": "user", "content": "How are you?"}]
    scripted("Fine.")
    *_, first = model.stream(messages, temperature=0, thinking=False)
    scripted("Fine.")
    *_, again = model.stream(messages, temperature=0, thinking=False)
    assert again.stats.cached_tokens == first.stats.prompt_tokens - 1
    messages += [{"role": "assistant", "content": "Fine."}, {"role": "user", "content": "Good."}]
    scripted("Yes.")
    *_, later = model.stream(messages, temperature=0, thinking=False)
    answer_tokens = first.stats.generated_tokens - 1  # the last one, EOS, was never fed
    assert later.stats.cached_tokens == first.stats.prompt_tokens + answer_tokens


def test_an_answer_that_nobody_waited_for_is_kept(model: LanguageModel, scripted) -> None:
    scripted("Fine, thank you.")
    stream = model.stream("Hi", temperature=0, thinking=False)
    next(stream)
    stream.close()
    assert model.cache.figures().tail_states == 2
    assert model.cache.figures().sequences == 0


def test_a_session_that_holds_something_else_starts_over(model: LanguageModel) -> None:
    session = model.session()
    session.feed([9, 9, 9])
    *_, done = model.stream("Hi", session=session, max_tokens=2, seed=0)
    assert done.stats.cached_tokens == 0
    assert session.token_ids[: done.stats.prompt_tokens] == model.tokenizer.encode(
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>"
    )


def test_closing_the_stream_early_leaves_the_session_usable(model: LanguageModel) -> None:
    session = model.session()
    stream = model.stream("Hi", session=session, seed=0)
    next(stream)
    stream.close()
    assert len(session.token_ids) == session.position
    session.feed([1])


def test_an_answer_begun_by_the_caller_is_continued_as_content(model: LanguageModel, scripted) -> None:
    scripted(" 42.")
    messages = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "reasoning_content": "hm", "content": "It is", "wo_eos": True},
    ]
    assert answer(model.stream(messages, temperature=0)) == {"reasoning": "", "content": " 42."}


def test_what_was_fed_ahead_is_taken_back(model: LanguageModel, scripted) -> None:
    """A session holds all tokens of an answer but the last, and goes on as if it had never seen more."""
    session = model.session()
    scripted("It is 42.")
    tokens = [t.id for e in model.stream("Why?", raw=True, temperature=0, session=session) for t in e.tokens]
    assert session.token_ids == [*model.tokenizer.encode("Why?"), *tokens[:-1]]
    assert session.position == session.state.position
    other = model.session()
    expected = other.feed(session.token_ids)[-1]
    assert session.logits is not None
    assert mx.abs(session.logits - expected).max() < 1e-3


def test_an_answer_across_pages_leaves_whole_pages(model: LanguageModel) -> None:
    session = model.session()
    options = {"raw": True, "temperature": 0, "max_tokens": 140}
    got = [t.id for e in model.stream("Hi", session=session, **options) for t in e.tokens]
    again = [t.id for e in model.stream("Hi", **options) for t in e.tokens]
    assert got == again
    assert session.sequence.node.depth == session.state.full_pages == session.position // 128
