"""Constraints: which tokens may come next, so that a tool call or a JSON answer cannot come out malformed.

`build_constraint` makes one for a request, `engine.request.Constraint` says how it is used. Grammars are llguidance's;
what an answer is made of and when a grammar applies is decided here:

    [reasoning </think>]  free text  |  `\\n\\n<｜DSML｜` and from there a block of calls  |  JSON

Nothing is enforced in reasoning and in free text, and nothing is spent there; only where something must follow the
reasoning, the answer may not end in it.
"""

from __future__ import annotations

import codecs
import copy
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ds4_mlx.engine.grammar import BLOCK_START, Grammar, json_grammar, tools_grammar
from ds4_mlx.engine.schemas import Schema
from ds4_mlx.engine.token_table import TokenTable, token_table
from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer
from ds4_mlx.text.special import THINK_END
from ds4_mlx.text.tool_block import PARAMETER_CLOSE, TOOLS_OPEN, ToolBlockReader

if TYPE_CHECKING:
    from llguidance import LLMatcher

_GRAMMARS_KEPT = 64
_THINK_END, _BLOCK_START, _CLOSING = THINK_END.encode(), BLOCK_START.encode(), PARAMETER_CLOSE.encode()


def build_constraint(
    tokenizer: Tokenizer,
    *,
    tools: Sequence[dict[str, Any]] | None = None,
    tool_choice: str | dict[str, Any] | None = None,
    parallel: bool = True,
    response_format: dict[str, Any] | None = None,
    thinking: bool = False,
    vocab_size: int | None = None,
) -> GrammarConstraint | None:
    """The constraint a request asks for; None if it asks for none.

    Args:
        tokenizer: the model's.
        tools: `{"type": "function", "function": {"name", "parameters", "strict"}}` each.
        tool_choice: "auto" (also None) lets the model open a block of calls and enforces it from there; "required"
            makes it open one as soon as it has thought; "none" keeps it from opening one;
            `{"type": "function", "function": {"name"}}` makes it call that tool, once.
        parallel: whether a block may have several calls.
        response_format: None or `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema",
            "json_schema": {"schema"}}`. An answer with JSON is nothing else; with tools it is the JSON or a block.
        thinking: whether the prompt ends in `<think>`.
        vocab_size: rows of the model's output matrix; the tokenizer's size by default. No grammar allows rows that are
            no token.

    Raises:
        UserError: a tool, a schema or a choice cannot be used; the sentence says which and why.
    """
    choice, callable_tools = _choose(tools or [], tool_choice)
    schema = _response_schema(response_format)
    if not callable_tools and schema is None:
        return None if not tools else GrammarConstraint(tokenizer, None, thinking=thinking, vocab_size=vocab_size)
    compiler = _compiler(tokenizer)
    if not callable_tools:
        compiled = compiler.json(schema)
    else:
        compiled = compiler.tools(
            callable_tools,
            parallel=parallel and not isinstance(tool_choice, dict),
            after_start=choice == "auto" and schema is None,
            instead=None if choice == "required" else schema,
        )
    return GrammarConstraint(tokenizer, compiled, thinking=thinking, vocab_size=vocab_size)


def _choose(tools: Sequence[dict[str, Any]], choice: object) -> tuple[str, list[dict[str, Any]]]:
    """("auto" or "required", the tools that may be called)."""
    if choice is None or choice == "auto":
        return "auto", list(tools)
    if choice == "none":
        return "auto", []
    named = list(tools)
    if choice != "required":
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        named = [tool for tool in tools if isinstance(f := tool.get("function"), dict) and f.get("name") == name]
    if not named:
        raise UserError(
            f"tool_choice is {json.dumps(choice)[:80]}; expected 'auto', 'none', or 'required' or a function "
            "with a tool that can be called."
        )
    return "required", named


def _response_schema(response_format: object) -> object:
    """The JSON Schema an answer must follow, None if it is free."""
    kind = response_format.get("type") if isinstance(response_format, dict) else response_format
    if kind is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = response_format.get("json_schema") if isinstance(response_format, dict) else None
    if kind == "json_schema" and isinstance(inner, dict) and isinstance(inner.get("schema"), (dict, bool)):
        return inner["schema"]
    raise UserError("response_format must be of type 'text', 'json_object' or 'json_schema' with json_schema.schema.")


class _Compiled:
    """A grammar and a matcher at its beginning, to be copied.

    head: what a block has before the reader's part; None if there is no block. optional: whether JSON may stand instead
    """

    def __init__(self, table: TokenTable, grammar: Grammar, *, head: str | None, optional: bool = False) -> None:
        from llguidance import LLMatcher, LLParserLimits

        self.grammar = grammar
        self.head = head
        self.optional = optional
        # Ten times llguidance's own limits: a slow step is better than an answer that ends in the middle.
        limits = LLParserLimits(initial_lexer_fuel=10_000_000, step_lexer_fuel=2_000_000, step_max_items=500_000)
        self.matcher = LLMatcher(table.matcher_tokenizer, grammar.text, log_level=0, limits=limits)
        self.error = _sentence(self.matcher.get_error())


class _Compiler:
    """Compiles grammars for one tokenizer and keeps the latest: an agent sends the same tools with every request."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._kept: OrderedDict[bytes, _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def json(self, schema: object) -> _Compiled:
        return self._get(["json", schema], lambda: self._json(schema))

    def tools(
        self, tools: list[dict[str, Any]], *, parallel: bool, after_start: bool, instead: object | None
    ) -> _Compiled:
        options = (parallel, after_start, instead)
        return self._get(["tools", tools, *options], lambda: self._tools(tools, *options))

    def _get(self, asked: list[Any], compile_it: Callable[[], _Compiled]) -> _Compiled:
        try:
            key = json.dumps(asked, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise UserError(
                "The tools or the response format hold text that is not valid Unicode, or nest too deep."
            ) from error
        with self._lock:
            if key not in self._kept:
                self._kept[key] = compile_it()
            self._kept.move_to_end(key)
            if len(self._kept) > _GRAMMARS_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _json(self, schema: object) -> _Compiled:
        compiled = _Compiled(self._table, json_grammar(schema, "response_format"), head=None)
        if compiled.error:
            raise UserError(f"response_format: the schema cannot be enforced: {compiled.error}")
        return compiled

    def _tools(
        self, tools: list[dict[str, Any]], parallel: bool, after_start: bool, instead: object | None
    ) -> _Compiled:
        other = None if instead is None else self._json(instead).grammar
        head = TOOLS_OPEN.removeprefix(BLOCK_START) if after_start else TOOLS_OPEN
        for check in (None, _problem_of):  # one by one only if they do not compile together: it takes longer
            grammar = tools_grammar(tools, parallel=parallel, after_start=after_start, instead=other, check=check)
            compiled = _Compiled(self._table, grammar, head=head, optional=other is not None)
            if not compiled.error:
                return compiled
        raise UserError(f"The tools cannot be enforced: {compiled.error}")


@lru_cache(maxsize=4)
def _compiler(tokenizer: Tokenizer) -> _Compiler:
    return _Compiler(token_table(tokenizer))


def _problem_of(schema: Schema) -> str:
    from llguidance import LLMatcher

    problem: str = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
    return "" if problem.startswith("WARNING") else _sentence(problem)


def _sentence(problem: str) -> str:
    """The first sentence of what llguidance says; where it looked and its advice are of use to its own users only."""
    return problem.rpartition("failed to compile JSON schema: ")[2].partition("\n")[0].partition(". ")[0]


class GrammarConstraint:
    """A grammar along one answer (`engine.request.Constraint`).

    loosened: what of the tools' schemas is not enforced, a sentence each
    """

    def __init__(
        self, tokenizer: Tokenizer, compiled: _Compiled | None, *, thinking: bool, vocab_size: int | None
    ) -> None:
        """Begin an answer. Without a grammar, all that is enforced is that no block of tool calls begins."""
        self._table = token_table(tokenizer)
        self._size = -(-(vocab_size or tokenizer.vocab_size) // 32)
        self._words = np.zeros(max(self._size, -(-tokenizer.vocab_size // 32)), np.uint32)
        self._grammar = compiled.grammar if compiled else Grammar("")
        self.loosened = self._grammar.loosened
        self._matcher: LLMatcher | None = compiled.matcher.deep_copy() if compiled else None
        self._optional = compiled is not None and compiled.optional
        self._head = compiled.head if compiled else None  # what is still to come of it
        # The grammar applies at once unless it is that of a block that the model may or may not open.
        waits = compiled is None or compiled.head not in (None, TOOLS_OPEN)
        self._markers = [_THINK_END] * thinking + [_BLOCK_START] * waits  # what it waits for, in order
        self._tail = b""  # the end of the text that may be the beginning of a marker
        self._over = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._block: ToolBlockReader | None = None

    def mask(self) -> np.ndarray | None:
        """Allowed tokens as bits, uint32 [ceil(vocab_size / 32)], valid until the next call; None when all are.

        Raises UserError if the grammar grew beyond its limits, which only far-fetched schemas bring about.
        """
        if self._over:
            return None
        if self._markers:
            forbidden = self._forbidden_before_marker()
            if not forbidden:
                return None
            self._words[:] = 0xFFFFFFFF
        else:
            assert self._matcher is not None
            own = self._words[: -(-len(self._table.bytes_of) // 32)]
            self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
            if self._matcher.is_error():
                raise UserError(f"The grammar of the answer is too complex: {_sentence(self._matcher.get_error())}.")
            forbidden = self._forbidden_in_block()
        for token_id in forbidden:
            self._words[token_id >> 5] &= ~np.uint32(1 << (token_id & 31))
        return self._words[: self._size]

    def greedy(self) -> bool:
        """Whether this position is markup or a name in a block of calls."""
        if self._markers or self._over or self._head is None:
            return False
        if self._block is None:
            return not self._optional or self._head != TOOLS_OPEN
        return self._block.in_markup

    def accept(self, token_id: int) -> None:
        """Tells what was sampled. ValueError for a token that was not allowed."""
        data = self._table.bytes_of[token_id] if 0 <= token_id < len(self._table.bytes_of) else b""
        if token_id == self._table.eos_id:
            if not self._markers and not (self._matcher and self._matcher.is_accepting()):
                raise ValueError("The answer may not end here.")
            self._over = True
        elif self._markers:
            self._look_for_marker(data)
        else:
            self._consume([token_id], data)

    def forced(self) -> list[int]:
        """The tokens that are certain to come next, as the tokenizer would write them; often none."""
        if self._markers or self._over or self._matcher is None:
            return []
        return self._matcher.compute_ff_tokens()

    def clone(self) -> GrammarConstraint:
        """A second one that stands at the same place: to try tokens that may be taken back."""
        twin = copy.copy(self)
        twin._words = self._words.copy()
        twin._markers = list(self._markers)
        twin._matcher = self._matcher and self._matcher.deep_copy()
        twin._block = self._block and self._block.copy()
        twin._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        twin._decoder.setstate(self._decoder.getstate())
        return twin

    def _look_for_marker(self, data: bytes) -> None:
        marker, text = self._markers[0], self._tail + data
        at = text.find(marker)
        if at < 0:
            self._tail = _beginning(marker, text)
            return
        if marker == _BLOCK_START and self._matcher is None:
            raise ValueError("A block of tool calls begins, which the constraint does not allow.")
        del self._markers[0]
        self._tail, rest = b"", text[at + len(marker) :]
        if self._markers:
            self._look_for_marker(rest)
        elif rest:
            self._consume(self._table.tokens_of(rest), rest)

    def _forbidden_before_marker(self) -> list[int]:
        """A block that may not begin; an end before what must come; tokens that end what is free and run on."""
        marker = self._markers[0]
        if marker == _BLOCK_START:
            forbidden = self._table.completing if self._matcher is None else self._table.overrunning
            return forbidden(self._tail, marker)
        if len(self._markers) > 1:  # free text follows the reasoning
            return []
        return [self._table.eos_id, *self._table.overrunning(self._tail, marker)]

    def _consume(self, token_ids: list[int], data: bytes) -> None:
        if self._over or self._matcher is None or not self._matcher.consume_tokens(token_ids):
            raise ValueError(f"The constraint does not allow {data!r} here.")
        if self._head is None:
            return
        text = self._decoder.decode(data)
        if self._block is None:
            text = self._read_head(text)
        if self._block is not None:
            self._block.feed(text)
            self._tail = _beginning(_CLOSING, self._tail + data)

    def _read_head(self, text: str) -> str:
        """Cuts off what comes before the reader's part."""
        assert self._head is not None
        common = text[: len(self._head)]
        if not self._head.startswith(common):
            self._head = None  # it is the JSON that may stand instead
            return ""
        self._head = self._head[len(common) :]
        if not self._head:
            self._block = ToolBlockReader()
        return text[len(common) :]

    def _forbidden_in_block(self) -> list[int]:
        """What the grammar allows and a block must not hold (see `engine.grammar`)."""
        block = self._block
        if block is None:
            return []
        key = block.key_begun
        if key is not None and block.name in self._grammar.open_tools:
            ends = [f'{given[len(key) :]}"' for given in block.keys if given.startswith(key)]
            return [token_id for end in ends for token_id in self._table.starting_with(end.encode())]
        if not block.in_value:
            return []
        return [i for i in self._table.completing(self._tail, _CLOSING) if self._allows(i) and not self._closes(i)]

    def _allows(self, token_id: int) -> bool:
        return bool(self._words[token_id >> 5] >> np.uint32(token_id & 31) & 1)

    def _closes(self, token_id: int) -> bool:
        """Whether the closing tag that this token completes is one for the grammar too, and not text of the value."""
        assert self._matcher is not None
        ahead = self._matcher.deep_copy()
        ahead.consume_token(token_id)
        behind = (self._tail + self._table.bytes_of[token_id]).partition(_CLOSING)[2]
        return (behind + ahead.compute_ff_bytes()).startswith(b">\n")


def _beginning(marker: bytes, text: bytes) -> bytes:
    """The longest end of `text` that is a proper beginning of `marker`."""
    lengths = range(min(len(text), len(marker) - 1), 0, -1)
    return next((marker[:length] for length in lengths if text.endswith(marker[:length])), b"")
