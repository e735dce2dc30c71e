"""The scheduler's answers are those that each request would get alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine.serving import Calls, Client, shallow, twin, until

from ds4_mlx.cache.store import SessionStore
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.request import CallBegin, Keeping, QueueFullError, Request, Text
from ds4_mlx.engine.saving import SavePolicy
from ds4_mlx.engine.scheduler import Scheduler
from ds4_mlx.errors import UserError

from support import ModelIn


def prompt(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 390, count).tolist()


@pytest.fixture
def model(model_in: ModelIn, tmp_path: Path) -> LanguageModel:
    return shallow(model_in("fp32_plain"), SessionStore(tmp_path / "kv"))


@pytest.fixture
def calls(model: LanguageModel) -> Calls:
    return Calls(model)


@pytest.fixture
def engine(model: LanguageModel, calls: Calls) -> Iterator[Scheduler]:
    """Small chunks, nothing on disk."""
    with Scheduler(model, max_batch=3, max_queue=4, chunk=64, busy_chunk=32, saving=SavePolicy("none")) as engine:
        yield engine
        calls.gate.set()


def alone(model: LanguageModel, ids: list[int], count: int, **options: object) -> list[int]:
    """What `generate_events` makes of a prompt, by itself."""
    other = twin(model, model.store)
    other.tokenizer.encode = lambda _: ids  # type: ignore[method-assign]
    try:
        events = list(other.stream("x", raw=True, max_tokens=count, **{"temperature": 0, **options}))
    finally:
        del other.tokenizer.encode
    return [token.id for event in events for token in event.tokens]


def test_a_batch_gives_each_request_the_tokens_it_gets_alone(engine: Scheduler, model: LanguageModel) -> None:
    prompts = [prompt(n, n) for n in (1, 40, 150)]
    clients = [Client(engine, ids, max_tokens=8) for ids in prompts]
    for client, ids in zip(clients, prompts, strict=True):
        assert client.done.stats.generated_tokens == 8
        assert client.ids == alone(model, ids, 8)


def test_the_same_seed_gives_the_same_text_alone_and_in_a_batch(engine: Scheduler, model: LanguageModel) -> None:
    options = {"temperature": 1.3, "top_p": 0.95, "seed": 11}
    clients = [Client(engine, prompt(20, seed), max_tokens=8, **options) for seed in (1, 2)]
    for client, seed in zip(clients, (1, 2), strict=True):
        assert client.wait().ids == alone(model, prompt(20, seed), 8, **options)


def test_more_requests_than_slots_are_all_answered(engine: Scheduler, calls: Calls) -> None:
    clients = [Client(engine, prompt(9, seed), max_tokens=3) for seed in range(7)]
    assert all(client.done.stats.finish_reason == "length" for client in clients)
    assert max(map(len, calls.parts)) <= 3


def test_a_long_prompt_never_delays_a_running_answer_by_more_than_a_chunk(engine: Scheduler, calls: Calls) -> None:
    running = Client(engine, prompt(5), max_tokens=30)
    until(lambda: running.ids)
    Client(engine, prompt(300, 1), max_tokens=1).wait()
    running.wait()
    first = next(i for i, parts in enumerate(calls.parts) if max(parts) == 32)
    reading = [parts for parts in calls.parts[first:] if len(parts) == 2 and parts[1] > 1]
    assert len(reading) >= 10  # 300 tokens went in beside 30
    assert all(parts[0] == 1 and parts[1] <= 32 for parts in reading)


def test_a_prompt_that_is_alone_is_read_in_large_chunks(engine: Scheduler, calls: Calls) -> None:
    Client(engine, prompt(129), max_tokens=1).wait()
    assert calls.parts == [[64], [64], [1]]


def test_progress_tells_what_is_read_and_what_was_there(engine: Scheduler) -> None:
    first = Client(engine, prompt(130), max_tokens=1).wait()
    assert [(p.done, p.total, p.cached) for p in first.progress] == [
        (0, 130, 0), (64, 130, 0), (128, 130, 0), (129, 130, 0), (130, 130, 0)
    ]  # fmt: skip
    again = Client(engine, prompt(130), max_tokens=1).wait()
    assert [(p.done, p.cached) for p in again.progress] == [(129, 129), (130, 129)]
    assert again.done.stats.cached_tokens == 129


def test_a_short_prompt_passes_a_long_one(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    long, short = Client(engine, prompt(600, 1), max_tokens=1), Client(engine, prompt(50, 2), max_tokens=1)
    calls.gate.set()
    short.wait()
    assert not long.is_over
    long.wait()


def test_a_long_prompt_has_its_turn_however_many_short_ones_come(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    long = Client(engine, prompt(300, 99), max_tokens=1)
    calls.gate.set()
    for seed in range(40):
        Client(engine, prompt(63, seed), max_tokens=1).wait()
        if long.is_over:
            break
    assert long.is_over


def test_what_prompts_have_in_common_is_read_once(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    common = prompt(300)
    clients = [Client(engine, [*common, *prompt(20, seed)], max_tokens=1) for seed in (1, 2, 3)]
    calls.gate.set()
    assert sorted(client.done.stats.cached_tokens for client in clients) == [0, 256, 256]
    assert sum(map(sum, calls.parts)) == 320 + 2 * 64


def test_prompts_that_share_little_do_not_wait(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    first = Client(engine, [5], max_tokens=1)  # keeps the engine until both are there
    clients = [Client(engine, [*prompt(10), *prompt(20, seed)], max_tokens=1) for seed in (1, 2)]
    calls.gate.set()
    first.wait()
    assert [client.done.stats.cached_tokens for client in clients] == [0, 0]
    assert any(parts.count(29) == 2 for parts in calls.parts)


def test_a_full_queue_refuses_and_says_when_to_come_back(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    clients = [Client(engine, prompt(5), max_tokens=2) for _ in range(7)]
    with pytest.raises(QueueFullError) as refused:
        Client(engine, prompt(5))
    assert 1 <= refused.value.retry_after <= 60
    calls.gate.set()
    for client in clients:
        client.wait()
    Client(engine, prompt(5), max_tokens=1).wait()
    assert engine.figures().refused == 1


def test_a_request_cancelled_in_the_queue_is_never_begun(engine: Scheduler, calls: Calls) -> None:
    calls.gate.clear()
    others = [Client(engine, prompt(5, seed), max_tokens=4) for seed in range(3)]
    waiting = Client(engine, prompt(200, 9))
    waiting.ticket.cancel()
    calls.gate.set()
    for other in others:
        other.wait()
    assert waiting.pieces == []
    assert max(map(max, calls.parts)) < 10
    assert engine.figures().cancelled == 1


def test_a_request_cancelled_while_it_is_read_stops_and_keeps_what_was_read(engine: Scheduler, calls: Calls) -> None:
    client = Client(engine, prompt(600), cancel_after=2)
    Client(engine, prompt(5, 7), max_tokens=1).wait()
    assert sum(map(max, calls.parts)) < 400
    assert len(client.pieces) == 3
    again = Client(engine, prompt(600), max_tokens=1)
    assert again.done.stats.cached_tokens >= 128


def test_a_request_cancelled_while_it_decodes_stops_and_keeps_its_answer(engine: Scheduler) -> None:
    client = Client(engine, prompt(140), cancel_after=8)
    until(lambda: engine.figures().cancelled)
    made = client.ids
    again = Client(engine, [*prompt(140), *made, 5], max_tokens=1)
    assert again.done.stats.cached_tokens >= 140 + len(made) - 1


def test_a_receiver_that_fails_is_taken_for_gone(engine: Scheduler) -> None:
    def fails(piece: object) -> None:
        raise ValueError("a mistake")

    engine.submit(Request(prompt(5)), fails)
    Client(engine, prompt(5, 1), max_tokens=2).wait()
    until(lambda: engine.figures().cancelled)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "empty"),
        ([5, 400], {}, "outside the vocabulary"),
        ([5] * 400, {}, "no room"),
        ([5], {"max_tokens": 0}, "max_tokens"),
        ([5], {"top_logprobs": 500}, "top_logprobs"),
        ([5], {"logit_bias": {400: 1.0}}, "logit_bias"),
        ([5], {"stop": ("",)}, "stop string"),
    ],
)
def test_a_request_that_can_never_be_answered_is_refused(
    model: LanguageModel, ids: list[int], options: dict[str, object], message: str
) -> None:
    with Scheduler(model, context=300) as engine, pytest.raises(UserError, match=message):
        Client(engine, ids, **options)


def test_an_answer_ends_with_the_context(model: LanguageModel) -> None:
    with Scheduler(model, context=30) as engine:
        done = Client(engine, prompt(25)).done
    assert (done.stats.finish_reason, done.stats.generated_tokens) == ("context", 5)


def test_logprobs_are_those_of_the_model_whatever_the_sampling(engine: Scheduler, model: LanguageModel) -> None:
    client = Client(engine, prompt(20), max_tokens=1, top_logprobs=3, logit_bias={7: 100.0})
    token = client.wait().pieces[-1].tokens or client.pieces[-2].tokens  # type: ignore[union-attr]
    logs = np.array(model.session().feed(prompt(20))[-1])
    logs = logs - np.log(np.exp(logs - logs.max()).sum()) - logs.max()
    assert token[0].id == 7
    assert token[0].logprob == pytest.approx(logs[7], abs=1e-4)
    assert [i for i, _ in token[0].top] == np.argsort(-logs)[:3].tolist()


def test_a_device_that_fails_costs_those_in_the_call_and_nobody_else(
    engine: Scheduler, model: LanguageModel, calls: Calls
) -> None:
    forward, failing = calls._forward, [True]

    def fails(parts: object, **options: object) -> object:
        if failing:
            failing.clear()
            model.cache.lose()
            raise RuntimeError("out of memory")
        return forward(parts, **options)  # type: ignore[call-overload]

    calls.gate.clear()
    calls._forward = fails  # type: ignore[assignment]
    first = Client(engine, prompt(100), max_tokens=2)
    calls.gate.set()
    assert "out of memory" in first.failed
    assert Client(engine, prompt(100), max_tokens=2).wait().ids == alone(model, prompt(100), 2)


class OnlyOne:
    """A constraint that allows one token at a time."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.accepted = ids, list[int]()

    def mask(self) -> np.ndarray:
        mask = np.zeros(13, np.uint32)
        if len(self.accepted) < len(self.ids):
            token = self.ids[len(self.accepted)]
            mask[token // 32] = 1 << token % 32
        return mask

    def greedy(self) -> bool:
        return False

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def test_a_constraint_decides_what_may_come(engine: Scheduler) -> None:
    constraint = OnlyOne([31, 32, 399 - 1, 8])
    client = Client(engine, prompt(20), max_tokens=4, constraint=constraint, temperature=1.5)
    assert client.wait().ids == constraint.accepted == [31, 32, 398, 8]


def test_a_grammar_without_a_way_on_fails_only_its_own_request(engine: Scheduler) -> None:
    other = Client(engine, prompt(9), max_tokens=6)
    client = Client(engine, prompt(20), max_tokens=4, constraint=OnlyOne([31]))
    assert "allows no token" in client.failed
    assert other.done.stats.generated_tokens == 6


def test_tool_calls_come_as_pieces_with_their_text(engine: Scheduler, model: LanguageModel) -> None:
    block = (
        '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="at" string="true">x'
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    )
    ids = [*model.tokenizer.encode("why</think>Yes." + block), model.config.eos_token_id]
    client = Client(engine, prompt(9), raw=False, thinking=True, constraint=OnlyOne(ids))
    assert client.done.calls_text == block
    assert client.done.stats.finish_reason == "tool_calls"
    assert [p.name for p in client.pieces if isinstance(p, CallBegin)] == ["look"]
    assert client.ids == ids
    texts = [(p.kind, p.text) for p in client.pieces if isinstance(p, Text)]
    assert "".join(text for kind, text in texts if kind == "reasoning") == "why"
    assert "".join(text for kind, text in texts if kind == "content") == "Yes."


def test_a_stop_string_ends_the_answer_and_is_named(engine: Scheduler, model: LanguageModel) -> None:
    ids = model.tokenizer.encode("one two three")
    client = Client(engine, prompt(9), constraint=OnlyOne(ids), stop=("three four", " two"))
    assert (client.done.stop, client.text, client.done.stats.finish_reason) == (" two", "one", "stop")


def keeping(text: str) -> Keeping:
    return Keeping([{"role": "user", "content": text}], {"thinking": False})


def test_a_session_is_saved_and_goes_on_after_a_restart(model: LanguageModel) -> None:
    with Scheduler(model) as engine:
        first = Client(engine, prompt(300), max_tokens=3, keeping=keeping("Hi")).wait()
    (head,) = model.store.heads()
    assert model.store.find(head.id).messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": first.text, "reasoning_content": ""},
    ]
    assert head.tokens == 300 + 2
    fresh = twin(model, SessionStore(model.store.directory))
    with Scheduler(fresh) as engine:
        longer = [*prompt(300), *first.ids, 5, 6]
        second = Client(engine, longer, max_tokens=3)
        assert second.done.stats.cached_tokens >= 256
        assert second.ids == alone(model, longer, 3)


def test_a_conversation_that_goes_on_stays_one_session(model: LanguageModel) -> None:
    with Scheduler(model) as engine:
        first = Client(engine, prompt(140), max_tokens=2, keeping=keeping("Hi")).wait()
        answer = {"role": "assistant", "content": first.text}
        longer = Keeping([*keeping("Hi").messages, answer, {"role": "user", "content": "And?"}])
        Client(engine, [*prompt(140), *first.ids, 9, 9], max_tokens=2, keeping=longer).wait()
        Client(engine, [*prompt(140), 7, 7], max_tokens=2, keeping=keeping("Something else")).wait()
    assert sorted(len(model.store.find(head.id).messages or ()) for head in model.store.heads()) == [2, 4]
    assert not model.store.in_use


def test_a_conversation_stays_one_session_when_its_reasoning_is_left_out(model: LanguageModel) -> None:
    """The prompt of the second turn differs from the first answer's tokens early, within the first page."""
    with Scheduler(model) as engine:
        first = Client(engine, prompt(20), max_tokens=9, keeping=keeping("Hi")).wait()
        answer = {"role": "assistant", "content": first.text, "reasoning_content": "Well."}
        until(lambda: engine.figures().saved == 1)
        turn = Keeping([*keeping("Hi").messages, answer, {"role": "user", "content": "And?"}])
        Client(engine, [*prompt(18), 9, 9, 9], max_tokens=2, keeping=turn).wait()
        other = Keeping([*keeping("Hi").messages, {"role": "assistant", "content": "?"}, *keeping("And?").messages])
        Client(engine, [*prompt(18), 8, 8], max_tokens=2, keeping=other).wait()
    assert sorted(len(model.store.find(head.id).messages or ()) for head in model.store.heads()) == [4, 4]


def test_saving_does_not_hold_up_running_answers(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk waits until another answer, begun later, is complete."""
    written = threading.Event()
    save = SessionStore.save

    def slow(*args: object, **options: object) -> object:
        assert written.wait(60)
        return save(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionStore, "save", slow)
    with Scheduler(model) as engine:
        Client(engine, prompt(20), max_tokens=1, keeping=keeping("Hi")).wait()
        Client(engine, prompt(20, 1), max_tokens=5).wait()
        assert engine.figures().saved == 0
        written.set()
    assert engine.figures().saved == 1


def test_close_lets_running_answers_end_and_refuses_new_ones(model: LanguageModel, calls: Calls) -> None:
    engine = Scheduler(model, max_batch=2)
    clients = [Client(engine, prompt(20, seed), max_tokens=6, keeping=keeping(str(seed))) for seed in range(2)]
    until(lambda: all(client.pieces for client in clients))
    engine.close()
    assert [client.done.stats.generated_tokens for client in clients] == [6, 6]
    with pytest.raises(QueueFullError):
        Client(engine, prompt(5))
    assert len(model.store.heads()) == 2


def test_close_under_load_cuts_what_runs_and_saves_it(model: LanguageModel) -> None:
    engine = Scheduler(model, max_batch=2, chunk=64)
    clients = [Client(engine, prompt(300, seed), keeping=keeping(str(seed))) for seed in range(4)]
    until(lambda: any(client.ids for client in clients))
    engine.close(timeout=0)
    assert all("shutting down" in client.failed for client in clients)
    begun = [client for client in clients if len(client.progress) > 1]
    assert begun
    saved = {model.store.find(head.id).messages[0]["content"] for head in model.store.heads()}  # type: ignore[index]
    assert saved >= {str(clients.index(client)) for client in begun}
    fresh = twin(model, SessionStore(model.store.directory))
    with Scheduler(fresh) as again:
        for client in begun:
            done = client.progress[-1].done
            seed = clients.index(client)
            assert Client(again, prompt(300, seed), max_tokens=1).done.stats.cached_tokens >= (done - 1) // 128 * 128


def test_memory_bounds_how_many_are_read_at_once(model: LanguageModel, calls: Calls) -> None:
    model.cache.budget = 6 * model.cache.pool.page_bytes
    with Scheduler(model, chunk=64, saving=SavePolicy("none")) as engine:
        calls.gate.clear()
        clients = [Client(engine, prompt(400, seed), max_tokens=2) for seed in range(2)]
        calls.gate.set()
        for client in clients:
            client.wait()
    assert max(map(len, calls.parts)) == 1
