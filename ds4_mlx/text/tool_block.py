"""One block of tool calls read as it is sampled: the one definition of what a well-formed block is (spec 15.6).

`parse_completion` gives the reader all the text at once, `CompletionReader` whatever has been sampled, a constraint
every token it accepts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

from ds4_mlx.text.errors import DSMLError
from ds4_mlx.text.special import DSML
from ds4_mlx.text.stream import open_suffix
from ds4_mlx.text.templates import to_json

TOOLS_OPEN = f"\n\n<{DSML}tool_calls"  # without its `>`: what follows is checked by the reader
TOOLS_CLOSE = f"</{DSML}tool_calls>"
INVOKE_OPEN = f"<{DSML}invoke"
INVOKE_CLOSE = f"</{DSML}invoke"
PARAMETER_OPEN = f"<{DSML}parameter"
PARAMETER_CLOSE = f"/{DSML}parameter"  # searched without its `<`, as the reference does; values may hold any other tag
STRING, JSON = '" string="true">', '" string="false">'

_CLOSING = f"</{DSML}"  # once this stands in a value, the rest of the closing tag is all but certain


class CallPiece(NamedTuple):
    """A call begins (`text`: the tool's name), has more JSON text of its arguments, or ends."""

    kind: Literal["begin", "arguments", "end"]
    text: str = ""


class ToolBlockReader:
    """Reads one block of tool calls, from just after `TOOLS_OPEN` to its closing tag, in pieces of any size.

    The arguments of a call come out as they are read: the pieces joined are the JSON text of an object, in which the
    text of string="true" parameters is escaped and that of string="false" ones stands as sampled.

    name:      the tool of the call being read
    keys:      the parameters it has so far
    complete:  whether the closing tag has been read
    error:     why the text cannot become a block any more, None while it can; nothing is read after it
    """

    def __init__(self) -> None:
        """Begin just after `TOOLS_OPEN`."""
        self.name = ""
        self.keys: set[str] = set()
        self.complete = False
        self.error: DSMLError | None = None
        self._read: list[str] = []  # the text accepted so far, in pieces
        self._ahead = ""  # and what follows it
        self._pieces: list[CallPiece] = []
        self._key = ""
        self._is_string = False
        # What is read next: does as much as it can and says whether something else comes now. Not a bound method, so
        # that a copy of a reader is one.
        self._step: Callable[[ToolBlockReader], bool] = ToolBlockReader._opening

    @property
    def read(self) -> str:
        """The text accepted so far. Joined with `rest` it is all the text given."""
        return "".join(self._read)

    @property
    def rest(self) -> str:
        """The text not accepted: what follows a complete block, what makes one malformed, or what is undecided."""
        return self._ahead

    @property
    def in_value(self) -> bool:
        """Whether a parameter's value is being read, or what may be its closing tag."""
        return self._step is ToolBlockReader._value

    @property
    def in_markup(self) -> bool:
        """Whether the next character is one of a tag or a name; not so where it may be a value's."""
        return not self.in_value or self._ahead.startswith(_CLOSING)

    @property
    def key_begun(self) -> str | None:
        """What has been read of a parameter's name and what follows it; None where no name is read."""
        return self._ahead if self._step is ToolBlockReader._parameter_head else None

    def feed(self, text: str) -> list[CallPiece]:
        """Take more text; what became known of the calls with it. Look at `complete` and `error` afterwards."""
        self._ahead += text
        if not self.complete and self.error is None:
            try:
                while self._step(self):
                    pass
            except DSMLError as error:
                self.error = error
        pieces, self._pieces = self._pieces, []
        return pieces

    def copy(self) -> ToolBlockReader:
        """A second reader that stands at the same place."""
        twin = copy.copy(self)
        twin._read, twin.keys = list(self._read), set(self.keys)
        return twin

    # The grammar.

    def _opening(self) -> bool:
        return self._go_on(self._one_of(">\n"), ToolBlockReader._between_calls)

    def _between_calls(self) -> bool:
        tag = self._one_of(INVOKE_OPEN, TOOLS_CLOSE)
        if tag == TOOLS_CLOSE:
            self.complete = True
            return False
        return self._go_on(tag, ToolBlockReader._before_name)

    def _before_name(self) -> bool:
        return self._go_on(self._one_of(' name="'), ToolBlockReader._name)

    def _name(self) -> bool:
        found = self._until('">\n')
        if found is None:
            return False
        self.name = found[0]
        self._pieces.append(CallPiece("begin", self.name))
        self.keys = set()
        self._step = ToolBlockReader._first_parameter
        return True

    def _first_parameter(self) -> bool:
        """A parameter or the end of the call; an empty line stands for no parameters."""
        return self._parameter_or_end(self._one_of(PARAMETER_OPEN, INVOKE_CLOSE, "\n" + INVOKE_CLOSE))

    def _next_parameter(self) -> bool:
        return self._parameter_or_end(self._one_of(PARAMETER_OPEN, INVOKE_CLOSE))

    def _parameter_or_end(self, tag: str | None) -> bool:
        return self._go_on(tag, ToolBlockReader._before_key if tag == PARAMETER_OPEN else ToolBlockReader._end_of_call)

    def _end_of_call(self) -> bool:
        if not self._go_on(self._one_of(">\n"), ToolBlockReader._between_calls):
            return False
        self._pieces += [CallPiece("arguments", "}" if self.keys else "{}"), CallPiece("end")]
        return True

    def _before_key(self) -> bool:
        return self._go_on(self._one_of(' name="'), ToolBlockReader._parameter_head)

    def _parameter_head(self) -> bool:
        found = self._until(STRING, JSON, PARAMETER_CLOSE)
        if found is None:
            return False
        self._key, kind = found
        if kind == PARAMETER_CLOSE:
            raise DSMLError(f'A parameter has no string="true" or string="false": {self._key[:40]!r}.')
        if self._key in self.keys:
            raise DSMLError(f"The parameter {self._key!r} is given twice.")
        self._is_string = kind == STRING
        quote = '"' if self._is_string else ""
        self._pieces.append(CallPiece("arguments", f"{', ' if self.keys else '{'}{to_json(self._key)}: {quote}"))
        self.keys.add(self._key)
        self._step = ToolBlockReader._value
        return True

    def _value(self) -> bool:
        at = self._ahead.find(PARAMETER_CLOSE)
        if at < 0:
            self._take_value(len(self._ahead) - open_suffix(self._ahead, ("<" + PARAMETER_CLOSE, PARAMETER_CLOSE)))
            return False
        if not self._ahead[:at].endswith("<"):
            raise DSMLError(f"The parameter {self._key!r} is not closed with <{PARAMETER_CLOSE}>.")
        self._take_value(at - 1)
        self._take(1 + len(PARAMETER_CLOSE))
        if self._is_string:
            self._pieces.append(CallPiece("arguments", '"'))
        self._step = ToolBlockReader._end_of_parameter
        return True

    def _end_of_parameter(self) -> bool:
        return self._go_on(self._one_of(">\n"), ToolBlockReader._next_parameter)

    # How it reads.

    def _go_on(self, read: str | None, step: Callable[[ToolBlockReader], bool]) -> bool:
        """To `step`, if what stands before it has been read."""
        if read is None:
            return False
        self._step = step
        return True

    def _one_of(self, *options: str) -> str | None:
        """Accept the option that comes next; None if that is not yet clear, DSMLError as soon as none of them can."""
        for option in options:
            if self._ahead.startswith(option):
                return self._take(len(option))
        ahead = self._ahead[: max(map(len, options))]
        if not any(option.startswith(ahead) for option in options):
            raise DSMLError(f"Expected {' or '.join(map(repr, options))} in the tool calls, not {ahead!r}.")
        return None

    def _until(self, *markers: str) -> tuple[str, str] | None:
        """Accept everything up to and with the first of `markers`: (text before it, the marker)."""
        found = [(at, marker) for marker in markers if (at := self._ahead.find(marker)) >= 0]
        if not found:
            return None
        at, marker = min(found)
        return self._take(at + len(marker))[:at], marker

    def _take_value(self, length: int) -> None:
        text = self._take(length)
        if text:
            self._pieces.append(CallPiece("arguments", to_json(text)[1:-1] if self._is_string else text))

    def _take(self, length: int) -> str:
        text, self._ahead = self._ahead[:length], self._ahead[length:]
        if text:
            self._read.append(text)
        return text
