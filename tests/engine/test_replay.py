"""The book of what was sampled: found again by ids, after any end of the process, within its bounds."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from ds4_mlx.engine.replay import FILE_NAME, ReplayBook


def assistant(*ids, **more):
    calls = [{"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for call_id in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def known(book, *ids):
    (message,) = book.attach([assistant(*ids)])
    return message.get("calls_text"), message.get("reasoning_content")


def test_calls_and_reasoning_come_back_by_any_of_the_ids(tmp_path):
    book = ReplayBook(tmp_path)
    book.remember(["a", "b"], "block", "because")
    book.remember(["c"], "other")
    assert known(book, "a", "b") == known(book, "b") == known(book, "x", "a") == ("block", "because")
    assert known(book, "c") == ("other", None)
    assert known(book, "x") == (None, None)


def test_what_the_client_sent_stays(tmp_path):
    book = ReplayBook(tmp_path)
    book.remember(["a"], "block", "because")
    (message,) = book.attach([assistant("a", reasoning_content="mine", calls_text="theirs")])
    assert (message["reasoning_content"], message["calls_text"]) == ("mine", "theirs")


def test_the_messages_given_are_not_changed(tmp_path):
    book = ReplayBook(tmp_path)
    book.remember(["a"], "block")
    messages = [{"role": "user", "content": "a", "id": "a"}, assistant("a"), {"role": "tool", "tool_call_id": "a"}]
    attached = book.attach(messages)
    assert messages[1] == assistant("a")
    assert attached == [messages[0], assistant("a", calls_text="block"), messages[2]]


def test_a_message_may_have_an_id_of_its_own(tmp_path):
    book = ReplayBook(tmp_path)
    book.remember(["msg_1"], "", "because")
    (message,) = book.attach([{"role": "assistant", "content": "So.", "id": "msg_1"}])
    assert message["reasoning_content"] == "because"
    assert "calls_text" not in message


def test_a_long_history_is_looked_up(tmp_path):
    book = ReplayBook(tmp_path)
    for i in range(1200):
        book.remember([f"id{i}"], f"block{i}")
    attached = book.attach([assistant(f"id{i}") for i in range(1200)])
    assert [message["calls_text"] for message in attached] == [f"block{i}" for i in range(1200)]


@pytest.mark.parametrize("ids", [[None], [3], ["\ud800"], [""], ["'; DROP TABLE ids; --"], ["x" * 100_000]])
def test_odd_ids_find_nothing(tmp_path, ids):
    assert known(ReplayBook(tmp_path), *ids) == (None, None)


def test_it_survives_a_restart(tmp_path):
    book = ReplayBook(tmp_path)
    book.remember(["a"], "北京 block", "because")
    book.close()
    assert known(ReplayBook(tmp_path), "a") == ("北京 block", "because")


def test_it_survives_sigkill(tmp_path):
    program = """
import pathlib, sys
from ds4_mlx.engine.replay import ReplayBook
book = ReplayBook(pathlib.Path(sys.argv[1]))
i = 0
while True:
    book.remember([f"id{i}"], f"block{i}" * 100, "because")
    print(i, flush=True)
    i += 1
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "200\n":
                os.kill(process.pid, signal.SIGKILL)
                break
    book = ReplayBook(tmp_path)
    assert all(known(book, f"id{i}") == (f"block{i}" * 100, "because") for i in range(200))


def test_the_oldest_are_dropped_beyond_the_bounds(tmp_path):
    book = ReplayBook(tmp_path, max_answers=100)
    for i in range(250):
        book.remember([f"id{i}", f"other{i}"], "block")
    alive = [i for i in range(250) if known(book, f"id{i}")[0]]
    assert alive == list(range(alive[0], 250))
    assert 90 <= len(alive) <= 100
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        assert database.execute("SELECT COUNT(*) FROM ids").fetchone() == (2 * len(alive),)


def test_bytes_are_bounded_too_and_a_huge_answer_does_not_break_it(tmp_path):
    book = ReplayBook(tmp_path, max_bytes=10_000)
    for i in range(50):
        book.remember([f"id{i}"], "x" * 1000)
    assert known(book, "id49")[0]
    assert not known(book, "id30")[0]
    book.remember(["huge"], "x" * 50_000)
    book.remember(["after"], "block")
    assert known(book, "after") == ("block", None)


@pytest.mark.parametrize("damage", ["not a database", "middle", "emptied"])
def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path, damage):
    book = ReplayBook(tmp_path)
    for i in range(300):
        book.remember([f"id{i}"], "block" * 100)
    book.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    if damage == "not a database":
        path.write_bytes(b"hello" * 1000)
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        data[len(data) // 3 : 2 * len(data) // 3] = os.urandom(2 * len(data) // 3 - len(data) // 3)
        path.write_bytes(bytes(data))
    warnings = []
    book = ReplayBook(tmp_path, warn=warnings.append)
    book.remember(["new"], "block")
    assert known(book, "new") == ("block", None)
    if damage != "emptied":
        assert "is damaged" in warnings[0]
        assert list((tmp_path / "quarantine").iterdir())


def test_a_file_damaged_while_it_is_open_costs_no_answer(tmp_path):
    warnings = []
    book = ReplayBook(tmp_path, warn=warnings.append)
    book.remember(["a"], "block")
    book.close()
    for path in tmp_path.glob(f"{FILE_NAME}*"):
        path.write_bytes(b"\xff" * 8192)
    book.remember(["b"], "block")
    assert known(book, "a") == (None, None)
    assert known(book, "b") == ("block", None)


def test_a_place_that_cannot_be_written_costs_no_answer(tmp_path):
    (tmp_path / "file").write_text("in the way")
    warnings = []
    book = ReplayBook(tmp_path / "file" / "folder", warn=warnings.append)
    book.remember(["a"], "block")
    assert known(book, "a") == (None, None)
    assert len(warnings) == 1


def test_threads_share_a_book(tmp_path):
    book = ReplayBook(tmp_path)

    def use(thread):
        for i in range(50):
            book.remember([f"{thread}-{i}"], f"block {thread} {i}")
            assert known(book, f"{thread}-{i}") == (f"block {thread} {i}", None)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(known(book, f"{thread}-{i}")[0] for thread in range(4) for i in range(50))


def test_two_processes_share_a_file(tmp_path):
    one, two = ReplayBook(tmp_path), ReplayBook(tmp_path)
    one.remember(["a"], "block")
    assert known(two, "a") == ("block", None)
