"""A response's answer in OpenAI's events, or one object.

An answer is a list of items: reasoning, a message, calls. Every item ends in an `output_item.done` with all of it:
Codex looks at nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from ds4_mlx.engine.request import CallArguments, CallBegin, CallEnd, Done, Piece, Text
from ds4_mlx.server.collected import Collected
from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.logprobs import chat_logprobs
from ds4_mlx.server.responses import ENCRYPTED, ResponsesRequest
from ds4_mlx.server.responses_items import sealed
from ds4_mlx.server.responses_tools import InputReader, Tools, custom_input
from ds4_mlx.server.streaming import named_event
from ds4_mlx.text import Tokenizer

Item = dict[str, Any]


class ResponsesEvents:
    """Writes the events of one response. save: gets the finished response, before its client hears of it."""

    def __init__(
        self,
        body: ResponsesRequest,
        answer: Collected,
        request_id: str,
        tools: Tools,
        tokenizer: Tokenizer,
        save: Callable[[dict[str, Any]], None],
    ) -> None:
        self._body = body
        self._answer = answer
        self._tools = tools
        self._tokenizer = tokenizer
        self._save = save
        self._id = f"resp_{request_id}"
        self._created = int(time.time())
        self._number = -1  # of the last event
        self._output: list[Item] = []
        self._open: str | None = None  # the kind of the last item, while it goes on
        self._parts: list[str] = []  # its text
        self._input = InputReader()  # of the custom call that is open
        self._done: dict[str, Any] | None = None
        self._logprobs = body.wants_logprobs

    def begin(self) -> str:
        """The response, empty."""
        return self._lifecycle("created") + self._lifecycle("in_progress")

    def feed(self, choice: int, piece: Piece) -> str:
        """A piece as events."""
        self._answer.add(piece)
        if isinstance(piece, Text):
            kind = "reasoning" if piece.kind == "reasoning" else "message"
            text = self._enter(kind) if self._open != kind else ""
            return text + (self._reasoning(piece) if kind == "reasoning" else self._content(piece))
        if isinstance(piece, CallBegin):
            return self._leave() + self._begin_call(piece)
        if isinstance(piece, CallArguments):
            self._parts.append(piece.text)
            item = self._output[-1]
            if item["type"] == "custom_tool_call":
                text = self._input.feed(piece.text)
                return self._event("custom_tool_call_input.delta", **self._place(), delta=text) if text else ""
            return self._event("function_call_arguments.delta", **self._place(), delta=piece.text)
        if isinstance(piece, (CallEnd, Done)):
            return self._leave(complete=isinstance(piece, CallEnd) or self._open != "call")
        return ""

    def beat(self) -> str:
        """in_progress once more; it carries the progress."""
        progress = self._answer.progress
        if progress is None:
            return self._lifecycle("in_progress")
        done = {"done": progress.done, "total": progress.total, "cached": progress.cached}
        return self._lifecycle("in_progress", progress=done)

    def end(self) -> str:
        """The whole response."""
        response = self.result()
        return self._event(response["status"], response=response)

    def fail(self, error: ApiError) -> str:
        """The response, failed."""
        wrong = {"code": error.type("openai"), "message": error.message}
        return self._event("failed", response=self._response("failed", error=wrong))

    def result(self) -> dict[str, Any]:
        """The whole response."""
        if self._done is None:
            reason = self._answer.stats.finish_reason if self._answer.stats else None
            cut = reason in ("length", "context")
            details = {"reason": "max_output_tokens"} if cut else None
            status = "incomplete" if cut else "completed"
            self._done = self._response(status, incomplete_details=details, usage=usage_of(self._answer))
            self._save(self._done)
        return self._done

    # Items

    def _enter(self, kind: str) -> str:
        text = self._leave()
        self._open = kind
        if kind == "message":
            item = {"id": _new("msg_"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}
            text += self._add(item)
            return text + self._event("content_part.added", **self._part(_output_text("", [])))
        item = {"id": _new("rs_"), "type": "reasoning", "summary": []}
        if self._body.shows_summary:
            text += self._add(item)
            part = {"type": "summary_text", "text": ""}
            return text + self._event("reasoning_summary_part.added", **self._place(), summary_index=0, part=part)
        item["content"] = []
        text += self._add(item)
        return text + self._event("content_part.added", **self._part(_reasoning_text("")))

    def _begin_call(self, piece: CallBegin) -> str:
        self._open = "call"
        call = self._answer.calls[piece.index]
        origin = self._tools.origin(piece.name)
        item: Item = {"id": _new("fc_" if origin.kind == "function" else "ctc_")}
        if origin.kind == "function":
            item |= {"type": "function_call", "status": "in_progress", "arguments": ""}
        else:
            item |= {"type": "custom_tool_call", "status": "in_progress", "input": ""}
            self._input = InputReader()
        item |= {"call_id": call.id, "name": origin.name}
        if origin.namespace is not None:
            item["namespace"] = origin.namespace
        return self._add(item)

    def _reasoning(self, piece: Text) -> str:
        self._parts.append(piece.text)
        if self._body.shows_summary:
            return self._event("reasoning_summary_text.delta", **self._place(), summary_index=0, delta=piece.text)
        return self._event("reasoning_text.delta", **self._place(), content_index=0, delta=piece.text)

    def _content(self, piece: Text) -> str:
        self._parts.append(piece.text)
        logprobs = chat_logprobs(piece.tokens, self._tokenizer, "x")["x"] if self._logprobs else []
        place = {**self._place(), "content_index": 0}
        return self._event("output_text.delta", **place, delta=piece.text, logprobs=logprobs)

    def _leave(self, *, complete: bool = True) -> str:
        """Ends the item that is open. A call that is not complete must not be: Codex would run it."""
        if self._open is None:
            return ""
        kind, text, item = self._open, "".join(self._parts), self._output[-1]
        self._open, self._parts = None, []
        if kind == "reasoning":
            events = self._end_reasoning(item, text)
        elif kind == "message":
            events = self._end_message(item, text)
        else:
            events = self._end_call(item, text, complete)
        if "status" in item:
            item["status"] = "completed" if complete else "incomplete"
        place = {"output_index": len(self._output) - 1}
        return events + (self._event("output_item.done", **place, item=item) if complete else "")

    def _end_reasoning(self, item: Item, text: str) -> str:
        if ENCRYPTED in (self._body.include or []):
            item["encrypted_content"] = sealed(text)
        if self._body.shows_summary:
            part = {"type": "summary_text", "text": text}
            item["summary"] = [part]
            place = {**self._place(), "summary_index": 0}
            events = self._event("reasoning_summary_text.done", **place, text=text)
            return events + self._event("reasoning_summary_part.done", **place, part=part)
        item["content"] = [_reasoning_text(text)]
        events = self._event("reasoning_text.done", **self._place(), content_index=0, text=text)
        return events + self._event("content_part.done", **self._part(_reasoning_text(text)))

    def _end_message(self, item: Item, text: str) -> str:
        logprobs = []
        if self._logprobs:
            logprobs = chat_logprobs(self._answer.content_tokens, self._tokenizer, "x")["x"]
        part = _output_text(text, logprobs)
        item["content"] = [part]
        place = {**self._place(), "content_index": 0}
        events = self._event("output_text.done", **place, text=text, logprobs=logprobs)
        return events + self._event("content_part.done", **self._part(part))

    def _end_call(self, item: Item, arguments: str, complete: bool) -> str:
        if item["type"] == "custom_tool_call":
            item["input"] = custom_input(arguments)
            return self._event("custom_tool_call_input.done", **self._place(), input=item["input"])
        item["arguments"] = arguments or ("{}" if complete else "")
        if not complete:
            return ""
        return self._event(
            "function_call_arguments.done", **self._place(), name=item["name"], arguments=item["arguments"]
        )

    def _add(self, item: Item) -> str:
        self._output.append(item)
        # A copy: the event says what the item is now, not what becomes of it.
        return self._event("output_item.added", output_index=len(self._output) - 1, item=dict(item))

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _part(self, part: Item) -> dict[str, Any]:
        return {**self._place(), "content_index": 0, "part": part}

    # Events

    def _lifecycle(self, status: str, **extra: Any) -> str:
        return self._event(status, response=self._response("in_progress"), **extra)

    def _event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        name = f"response.{kind}"
        return named_event(name, {"type": name, "sequence_number": self._number, **fields})

    def _response(
        self,
        status: str,
        *,
        error: dict[str, Any] | None = None,
        incomplete_details: dict[str, Any] | None = None,
        usage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        body = self._body
        reasoning = body.reasoning.model_dump(include={"effort", "summary"}) if body.reasoning else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": incomplete_details,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [] if status == "in_progress" else self._output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": reasoning or {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": body.user,
            "metadata": body.metadata or {},
        }


def usage_of(answer: Collected) -> dict[str, Any]:
    """OpenAI's usage in responses: input_tokens include the cached ones."""
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens},
        "output_tokens": answer.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": len(answer.reasoning_tokens)},
        "total_tokens": answer.prompt_tokens + answer.generated_tokens,
    }


def _output_text(text: str, logprobs: list[Any]) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _reasoning_text(text: str) -> Item:
    return {"type": "reasoning_text", "text": text}


def _new(prefix: str) -> str:
    return prefix + secrets.token_hex(16)
