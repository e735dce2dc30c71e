"""Grammars, in llguidance's dialect of Lark, of what may be sampled: DSML tool calls by the tools' schemas, and JSON.

Every text these allow is accepted by `parse_completion`, with two exceptions that a grammar cannot express, or only at
a price, and the constraint looks after: a parameter beyond those a schema names may be given once only, and a value
ends with the first closing tag in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4_mlx.engine.schemas import WRITTEN_LIKE_PROMPTS, Schema, SchemaCleaner, split_strings
from ds4_mlx.errors import UserError
from ds4_mlx.text.special import DSML
from ds4_mlx.text.templates import to_json
from ds4_mlx.text.tool_block import (
    INVOKE_CLOSE,
    INVOKE_OPEN,
    JSON,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    STRING,
    TOOLS_CLOSE,
    TOOLS_OPEN,
)

# The text after which nothing but a block can follow: from here on one is enforced, or here none may begin.
BLOCK_START = f"\n\n<{DSML}"

_MOST_IN_ANY_ORDER = 60  # a rule's argument has 64 bits, one per parameter
_CLOSE = rf"<\/{DSML}parameter"
_ANY_KEY = r'/[^"<>\\｜\x00-\x1f\x7f]+/'
_PARAMETER_END = f"<{PARAMETER_CLOSE}>\n"

CheckSchema = Callable[[Schema], str]  # why a JSON schema cannot be enforced, "" if it can


@dataclass
class Grammar:
    """text: the grammar. open_tools: tools that take parameters their schema does not name. loosened: what is not
    enforced, sentence by sentence.
    """

    text: str
    open_tools: frozenset[str] = frozenset()
    loosened: list[str] = field(default_factory=list)


def json_grammar(schema: object, owner: str) -> Grammar:
    """JSON by a schema, and nothing else. UserError for a schema that cannot be enforced."""
    cleaned = SchemaCleaner(owner, schema, strict=True).clean(schema)
    return Grammar(f"start: {_json(cleaned if isinstance(cleaned, dict) else {'anyOf': [cleaned]})}\n")


def tools_grammar(
    tools: Sequence[dict[str, Any]],
    *,
    parallel: bool,
    after_start: bool,
    instead: Grammar | None = None,
    check: CheckSchema | None = None,
) -> Grammar:
    """A block of calls to these tools.

    Args:
        tools: as in a chat request: `{"function": {"name", "parameters" (a JSON Schema), "strict"}}` each.
        parallel: whether there may be several calls.
        after_start: whether `BLOCK_START` is sampled already.
        instead: what may be written in place of a block.
        check: finds schemas that the grammar's engine refuses; without it they are taken as they come.

    Raises:
        UserError: a tool has no usable name or schema, or is strict and has one that cannot be enforced.
    """
    rules = _Rules(check)
    names = [rules.add_tool(tool) for tool in tools]
    if len(set(names)) < len(names):
        raise UserError(f"The tools have the same name twice: {max(names, key=names.count)!r}.")
    opening = TOOLS_OPEN.removeprefix(BLOCK_START) if after_start else TOOLS_OPEN
    calls = " | ".join(f"tool{i}" for i in range(len(tools)))
    start = f"start: block{' | other' if instead else ''}"
    block = f"block: {_text(opening + '>' + chr(10))} invoke{'+' if parallel else ''} {_text(TOOLS_CLOSE)}"
    invoke = f"invoke: {_text(INVOKE_OPEN + ' name=' + chr(34))} ({calls}) {_text(INVOKE_CLOSE + '>' + chr(10))}"
    lines = [start, block, invoke, *rules.lines]
    if instead is not None:
        lines.append(instead.text.strip().replace("start:", "other:", 1))
    return Grammar("\n".join(lines) + "\n", frozenset(rules.open_tools), rules.loosened)


class _Rules:
    """The rules of all tools; equal ones are written once."""

    def __init__(self, check: CheckSchema | None) -> None:
        self.lines: list[str] = []
        self.open_tools: set[str] = set()
        self.loosened: list[str] = []
        self._check = check
        self._tools = 0
        self._names: dict[str, str] = {}  # body of a rule -> its name

    def add_tool(self, tool: dict[str, Any]) -> str:
        """Adds the rule of a tool, from its name to before the closing tag of its call."""
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not re.fullmatch(r"[\w.:/ -]+", name):
            raise UserError(f"A tool has no usable name: {to_json(tool)[:80]}. Use letters, digits, '_', '-' or '.'.")
        owner = f"The tool {name!r}"
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        if PARAMETER_CLOSE in to_json(schema):
            raise UserError(f"{owner}: its schema holds the text {PARAMETER_CLOSE!r}, which belongs to the format.")
        cleaner = SchemaCleaner(owner, schema, strict=bool(function.get("strict")))
        parameters = _Parameters(cleaner, schema)
        rule = f"tool{self._tools}"
        self._tools += 1
        self.lines.append(f"{rule}: {_text(name + chr(34) + '>' + chr(10))} {self._all_parameters(rule, parameters)}")
        if parameters.others is not False:
            self.open_tools.add(name)
        self.loosened += [f"{owner}: {what} is not enforced." for what in cleaner.loosened]
        return name

    def _all_parameters(self, tool: str, parameters: _Parameters) -> str:
        """The rule body for all parameters of a call; an empty line stands for none (spec 15.5)."""
        named = [
            self._parameter(_text(f'{PARAMETER_OPEN} name="{key}'), schema, parameters.cleaner)
            for key, schema in parameters.named.items()
        ]
        others = None
        if parameters.others is not False:
            names = "|".join(map(_escaped, parameters.named))
            key = self._named("KEY", f"{_ANY_KEY} & ~/({names})/" if names else _ANY_KEY)
            others = self._parameter(
                f"{_text(PARAMETER_OPEN + ' name=' + chr(34))} {key}", parameters.others, parameters.cleaner
            )
        required = [key in parameters.required for key in parameters.named]
        none = "" if any(required) else ' | "\\n"'
        if not named and others is None:
            return '"\\n"'
        if len(named) > _MOST_IN_ANY_ORDER:
            body = " ".join(part if must else f"{part}?" for part, must in zip(named, required, strict=True))
            return f"{body}{f' {others}*' if others else ''}"
        # One bit per named parameter: in any order, each at most once, those required before the end.
        enough = _all_set([bit for bit, must in enumerate(required) if must])
        given = [f"{part} {tool}_more::set_bit({bit}) %if bit_clear({bit})" for bit, part in enumerate(named)]
        given += [f"{others} {tool}_more::_"] if others else []
        self.lines.append(f'{tool}_more::_: {" | ".join(given)} | "" %if {enough}')
        first = [f"{part} {tool}_more::{1 << bit}" for bit, part in enumerate(named)]
        first += [f"{others} {tool}_more::0"] if others else []
        return f"({' | '.join(first)}{none})"

    def _parameter(self, head: str, schema: Schema | bool, cleaner: SchemaCleaner) -> str:
        """A rule for one parameter: its tags and a value by its schema. `head` is its opening tag up to the key."""
        strings, others = split_strings(schema, cleaner)
        values = [f"{_text(STRING)} {self._string(option, cleaner)}" for option in strings]
        if others:
            combined = others[0] if len(others) == 1 else {"anyOf": others}
            values.append(f"{_text(JSON)} {self._json(combined, cleaner)} {_text(_PARAMETER_END)}")
        if not values:
            raise UserError(f"{cleaner.owner}: a parameter has a schema that nothing satisfies.")
        return self._named("parameter", f"{head} ({' | '.join(values)})")

    def _string(self, schema: Schema, cleaner: SchemaCleaner) -> str:
        """A raw string up to and with its closing tag: one lexeme, because only the tag says where it ends."""
        if "enum" in schema:
            return f"({' | '.join(_text(value + _PARAMETER_END) for value in schema['enum'])})"
        least, most = schema.get("minLength") or 0, schema.get("maxLength")
        counted = "minLength" in schema or "maxLength" in schema
        value = f"(?s:.{{{least},{'' if most is None else most}}})" if counted else "(?s:.*)"
        if "pattern" in schema:
            pattern = _whole(schema["pattern"])
            if pattern is None:
                cleaner.loosen(f"the pattern {schema['pattern']!r}")
            else:
                if counted:  # together they can take more states than there is room for
                    cleaner.loosen("a length beside a pattern")
                value = pattern
        # Not a terminal and a literal: only with the tag in it the end of the value is found, and found early.
        return f"{self._named('value', f'/{value}{_CLOSE}/', '[lazy]')} {_text('>' + chr(10))}"

    def _json(self, schema: Schema | bool, cleaner: SchemaCleaner) -> str:
        part = schema if isinstance(schema, dict) else {"anyOf": [schema]}
        if '"$ref"' in to_json(part):
            part = {**part, **cleaner.definitions()}
        problem = self._check(part) if self._check is not None else ""
        if problem:
            cleaner.loosen(f"a schema ({problem})")
            part = {}
        return self._named("json", _json(part))

    def _named(self, kind: str, body: str, options: str = "") -> str:
        if body not in self._names:
            name = f"{kind}{len(self._names)}"
            self._names[body] = name
            self.lines.append(f"{name}{options}: {body}")
        return self._names[body]


class _Parameters:
    """The schema of a tool's parameters, read as a list of them.

    named:     key -> schema
    required:  keys that must be given
    others:    the schema of further parameters, False if there may be none
    """

    def __init__(self, cleaner: SchemaCleaner, schema: object) -> None:
        self.cleaner = cleaner
        self.named: dict[str, Schema | bool] = {}
        self.required: set[str] = set()
        self.others: Schema | bool = False
        top = cleaner.clean(schema, "parameters")
        if top is True or top == {}:
            top = {"type": "object"}
        if not isinstance(top, dict):
            raise UserError(f"{cleaner.owner}: its parameters must be a JSON Schema of an object.")
        self._read(top)
        if "object" not in (kinds := top.get("type", "object")) and "$ref" not in top:
            raise UserError(f"{cleaner.owner}: its parameters are of type {to_json(kinds)}; they must be an object.")
        if not self.named and "additionalProperties" not in top and "properties" not in top:
            self.others = True
        for key in sorted(self.required - self.named.keys()):
            self.named[key] = self.others or True
        for key in self.named:
            if '"' in key or "\n" in key or DSML in key or not key:
                raise UserError(f"{cleaner.owner}: the parameter {key!r} has a name that the format cannot write.")

    def _read(self, top: Schema, depth: int = 8) -> None:
        if "$ref" in top and depth:
            target = self.cleaner.clean(self.cleaner.resolve(top["$ref"]), "parameters")
            if isinstance(target, dict):
                self._read(target, depth - 1)
        self.named.update(top.get("properties", {}))
        self.required.update(top.get("required", []))
        if "additionalProperties" in top:
            self.others = top["additionalProperties"]
        for key in ("enum", "const", "minProperties", "maxProperties", "patternProperties"):
            if key in top:
                self.cleaner.loosen(f"{key!r} of the parameters")
        if "patternProperties" in top:
            self.others = True
        for key in ("allOf", "anyOf", "oneOf"):
            options = [option for option in top.get(key, []) if isinstance(option, dict)]
            if options and key != "allOf":
                self.cleaner.loosen(f"{key!r} of the parameters")
            for option in options if depth else []:
                required = set(self.required)
                self._read(option, depth - 1)
                self.required = self.required if key == "allOf" else required


def _json(schema: Schema) -> str:
    return f"%json {json.dumps({'x-guidance': WRITTEN_LIKE_PROMPTS, **schema}, ensure_ascii=False)}"


def _text(text: str) -> str:
    """A literal."""
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """A literal inside of a regular expression."""
    return re.sub(r"([^\w ])", r"\\\1", text)


def _all_set(bits: Sequence[int]) -> str:
    condition = "true"
    for bit in bits:
        condition = f"bit_set({bit})" if condition == "true" else f"and({condition}, bit_set({bit}))"
    return condition


def _whole(pattern: object) -> str | None:
    """A schema's pattern, which may match anywhere in a string, as a regular expression of the whole string; None if it
    says more about places than that it begins or ends there.
    """
    from llguidance import regex_to_lark

    if not isinstance(pattern, str):
        return None
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    core = pattern[begins : len(pattern) - ends]
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "", core)  # without escapes and character classes
    looks_around = re.search(r"[$^]|\(\?[=!<]|\\[bBAzZ1-9]", re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[$^\\]", "", core))
    if looks_around or ((begins or ends) and "|" in re.sub(r"\([^()]*\)", "", plain)):
        return None
    anything = "(?s:.*)"
    try:
        return f"{'' if begins else anything}(?:{regex_to_lark(core, 'dw')}){'' if ends else anything}"
    except ValueError:
        return None
