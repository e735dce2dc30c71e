"""Threads that compute with MLX. They are used again and never end.

A thread's streams, and what `mx.compile` remembers of it, are freed when it ends; the latter needs the interpreter, and
aborts the process if that is being shut down meanwhile (MLX 0.32: before Python 3.13 `Thread.join` returns too early
to prevent it). Parked, a thread costs nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

_Task = tuple[Callable[[], None], "Future[None]"]
_idle: list[queue.SimpleQueue[_Task]] = []
_lock = threading.Lock()


def start(function: Callable[[], None]) -> Future[None]:
    """Runs a function in a thread of its own; the future tells when it is done."""
    done: Future[None] = Future()
    with _lock:
        tasks = _idle.pop() if _idle else None
    if tasks is None:
        tasks = queue.SimpleQueue()
        threading.Thread(target=_work, args=(tasks,), name="ds4-mlx", daemon=True).start()
    tasks.put((function, done))
    return done


def _work(tasks: queue.SimpleQueue[_Task]) -> None:
    while True:
        function, done = tasks.get()
        error: BaseException | None = None
        try:
            function()
        except BaseException as raised:
            error = raised
        del function
        with _lock:
            _idle.append(tasks)
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        del done, error
