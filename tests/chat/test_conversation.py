"""A conversation: asking, going back, and its sessions on disk."""

from pathlib import Path

import pytest

from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.engine.generation import Event
from ds4_mlx.errors import UserError

from chat.talk import conversation, ignore, said, say
from support import ModelIn


@pytest.fixture
def talk(model_in: ModelIn, tmp_path: Path) -> Conversation:
    return conversation(model_in("bf16"), tmp_path / "kv")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_second_message_reads_only_what_is_new(talk: Conversation) -> None:
    say(talk, "hello")
    say(talk, "again")
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
    assert talk.last is not None
    assert talk.last.cached_tokens > 0
    assert (talk.totals.answers, talk.totals.generated) == (2, 6)


def test_a_stopped_answer_is_kept_as_far_as_it_came(talk: Conversation) -> None:
    talk.settings.max_tokens = 50
    shown: list[Event] = []

    def show(event: Event) -> None:
        shown.append(event)
        if len(shown) == 3:
            raise KeyboardInterrupt

    assert talk.say({"role": "user", "content": "hello"}, show)
    assert talk.messages[-1]["content"] == "".join(event.text for event in shown)
    say(talk, "go on")
    assert len(talk.messages) == 4


def test_a_message_stopped_before_an_answer_is_not_taken(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_mlx.engine.language_model.Session.feed", interrupt)
    assert not say(talk, "a long paste")
    assert talk.messages == []


def test_an_error_leaves_the_conversation_as_it_was(talk: Conversation) -> None:
    say(talk, "hello")
    before = talk.messages

    def fail(event: Event) -> None:
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        talk.say({"role": "user", "content": "again"}, fail)
    assert talk.messages is before


def test_retry_with_a_seed_asks_the_same_with_another_one(talk: Conversation) -> None:
    say(talk, "hello")
    assert talk.last is not None
    first = talk.last.seed
    assert talk.retry(ignore)
    assert said(talk) == ["hello"]
    assert talk.last.seed == first + 1


def test_undo_brings_the_answer_before_a_retry_back(talk: Conversation) -> None:
    say(talk, "hello")
    before = talk.messages
    talk.retry(ignore)
    assert talk.undo() == "retry"
    assert talk.messages is before


def test_a_retry_that_is_stopped_leaves_the_earlier_answer(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    say(talk, "hello")
    before = talk.messages
    monkeypatch.setattr("ds4_mlx.engine.language_model.Session.feed", interrupt)
    assert not talk.retry(ignore)
    assert talk.messages is before


def test_rewind_goes_back_and_undo_forward_again(talk: Conversation) -> None:
    for text in ("one", "two", "three"):
        say(talk, text)
    before, position = talk.messages, talk.session.position
    assert talk.rewind(2)[0]["content"] == "two"
    assert said(talk) == ["one"]
    assert talk.session.position < position
    talk.undo()
    assert talk.messages is before


def test_rewind_over_more_than_there_is_says_how_much_there_is(talk: Conversation) -> None:
    say(talk, "one")
    with pytest.raises(UserError, match="There are 1 messages to go back over, not 2"):
        talk.rewind(2)


def test_nothing_to_undo(talk: Conversation) -> None:
    with pytest.raises(UserError, match="nothing to undo"):
        talk.undo()


def test_replace_asks_something_else_instead(talk: Conversation) -> None:
    say(talk, "one")
    say(talk, "two")
    talk.replace({"role": "user", "content": "zwei"}, ignore)
    assert said(talk) == ["one", "zwei"]


def test_a_rewound_conversation_is_saved_as_it_is_now(talk: Conversation) -> None:
    say(talk, "one")
    say(talk, "two")
    talk.rewind()
    assert talk.session.head is not None
    messages = talk.model.store.find(talk.session.head.id).messages
    assert messages == talk.messages


def test_begin_keeps_the_system_message_and_the_saved_session(talk: Conversation) -> None:
    talk.system("Be brief.")
    say(talk, "one")
    old = talk.session.head
    talk.begin("other")
    assert talk.messages == [{"role": "system", "content": "Be brief."}]
    assert talk.session.position == 0
    say(talk, "two")
    assert old is not None
    assert {head.name or head.id for head in talk.saved()} == {old.id, "other"}


def test_undo_of_begin_goes_on_with_the_session_before(talk: Conversation) -> None:
    say(talk, "one")
    old, before = talk.session.head, talk.messages
    talk.begin()
    say(talk, "two")
    assert [talk.undo(), talk.undo()] == ["message", "new"]
    assert talk.messages is before
    assert (talk.session.head and talk.session.head.id) == (old and old.id)


def test_undo_of_begin_brings_back_what_was_never_saved(talk: Conversation) -> None:
    talk.model.saving.which = "none"
    say(talk, "one")
    talk.begin()
    talk.undo()
    assert said(talk) == ["one"]
    say(talk, "two")
    assert said(talk) == ["one", "two"]
    assert talk.saved() == []


def test_load_goes_on_where_it_ended_with_its_thinking(talk: Conversation) -> None:
    say(talk, "one")
    talk.save("first")
    position = talk.session.position
    talk.begin()
    talk.settings.thinking = True
    talk.load("first")
    assert said(talk) == ["one"]
    assert talk.session.position == position
    assert talk.settings.thinking is False


def test_load_takes_the_place_in_the_list(talk: Conversation) -> None:
    say(talk, "one")
    talk.begin()
    say(talk, "two")
    talk.load("2")
    assert said(talk) == ["one"]


def test_fork_leaves_the_original_as_it_was(talk: Conversation) -> None:
    say(talk, "one")
    original, copy = talk.fork("branch")
    say(talk, "two")
    assert talk.label == "branch"
    assert talk.model.store.find("branch").id == copy.id
    kept = talk.model.store.find(original.id).messages
    assert [m["content"] for m in kept or [] if m["role"] == "user"] == ["one"]


def test_a_taken_name_is_refused_before_anything_changes(talk: Conversation) -> None:
    say(talk, "one")
    talk.save("mine")
    for change in (talk.fork, talk.begin):
        with pytest.raises(UserError, match="another session named 'mine'"):
            change("mine")
    assert said(talk) == ["one"]


def test_there_is_nothing_to_save_before_a_message(talk: Conversation) -> None:
    with pytest.raises(UserError, match="nothing to save"):
        talk.save("early")


def test_the_system_message_is_replaced_and_removed(talk: Conversation) -> None:
    talk.system("A")
    say(talk, "one")
    talk.system("B")
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant"]
    assert talk.system_text == "B"
    talk.system(None)
    assert talk.system_text is None
    talk.undo()
    assert talk.system_text == "B"


def test_what_was_typed_for_a_file_is_not_sent(talk: Conversation) -> None:
    talk.say({"role": "user", "content": "long text", "typed": "/read x"}, ignore)
    assert talk.last is not None
    with_typed = talk.last.prompt_tokens
    talk.begin()
    say(talk, "long text")
    assert talk.last.prompt_tokens == with_typed
