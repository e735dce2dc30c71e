"""JSON Schemas as tools and response formats bring them, made ready for a grammar.

What only describes is taken out, what cannot be enforced is refused or left out, as the caller asked, and an object
that lists its properties has no others unless the schema says so. Knows nothing of DSML or of grammars' text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ds4_mlx.errors import UserError
from ds4_mlx.text.templates import to_json

Schema = dict[str, Any]

# How JSON is written in prompts (`to_json`), so in answers too: there is one way, and whitespace cannot run on.
WRITTEN_LIKE_PROMPTS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_ONE = ("items", "additionalProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_PLAIN = (
    *("type", "enum", "const", "$ref", "required", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
ENFORCED = (*_PLAIN, *_ONE, *_LISTS, *_MAPS, "format")
# JSON Schema's other assertions; a keyword that is in neither list asserts nothing.
_NOT_ENFORCED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
)
_VACUOUS = {
    "uniqueItems": (False,),
    "propertyNames": ({}, True, {"type": "string"}),
    "not": (False,),
    "contains": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
}
# `format` asserts nothing by JSON Schema's own rules; these are enforced in JSON all the same.
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_DEEPEST = 60


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(value: object) -> bool:
    return value in _TYPES or (isinstance(value, list) and bool(value) and all(kind in _TYPES for kind in value))


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# What the values of keywords must be; llguidance looks at the others.
_EXPECTED: dict[str, tuple[str, Callable[[object], bool]]] = {
    "type": (f"one of {', '.join(_TYPES)}, or a list of them", _is_type),
    "enum": ("a list of at least one value", lambda value: isinstance(value, list) and bool(value)),
    "required": ("a list of names", _is_text_list),
    "pattern": ("text", lambda value: isinstance(value, str)),
    **dict.fromkeys(_COUNTS, ("a number from 0 on", _is_count)),
}


class SchemaCleaner:
    """Makes schemas of one owner ready for a grammar.

    loosened: what was left out because it cannot be enforced, one phrase each; empty if `strict`
    """

    def __init__(self, owner: str, root: object, *, strict: bool) -> None:
        """`owner` begins the sentences of errors; references are looked up in `root`."""
        self.owner = owner
        self.strict = strict
        self.loosened: list[str] = []
        self._root = root
        self._depth = 0
        # Closing one part of a schema that is combined with others would forbid what the others ask for.
        self._closes = '"allOf"' not in to_json(root)

    def clean(self, schema: object, where: str = "the schema") -> Schema | bool:
        """A schema that asks for nothing but what can be enforced. UserError for what is no schema, and, if strict, for
        what cannot be enforced.
        """
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UserError(f"{self.owner}: {where} must be a JSON Schema object, not {to_json(schema)[:60]}.")
        if self._depth == _DEEPEST:
            raise UserError(f"{self.owner}: the schema is nested more than {_DEEPEST} deep.")
        self._depth += 1
        kept = {
            key: self._value(key, value, where) for key, value in schema.items() if self._is_kept(key, value, where)
        }
        self._depth -= 1
        combined = kept.keys() & {"additionalProperties", "$ref", "anyOf", "oneOf"}
        if self._closes and "properties" in kept and not combined:
            kept["additionalProperties"] = False
        return kept

    def _is_kept(self, key: str, value: object, where: str) -> bool:
        if key in _NOT_ENFORCED and value not in _VACUOUS.get(key, ()):
            self.loosen(f"the keyword {key!r} in {where}")
        if key == "$ref" and self.resolve(value) is None:
            self.loosen(f"{where} refers to {to_json(value)[:80]}, which is not one of its own '#/$defs/NAME' and")
            return False
        if key in _EXPECTED and not _EXPECTED[key][1](value):
            self.loosen(f"{where}.{key} is {to_json(value)[:60]}, but must be {_EXPECTED[key][0]}, and")
            return False
        return key in ENFORCED and (key != "format" or value in _FORMATS)

    def _value(self, key: str, value: Any, where: str) -> object:
        """The value of a keyword, with the schemas in it cleaned."""
        where = f"{where}.{key}"
        if key in _LISTS or (key == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise UserError(f"{self.owner}: {where} must be a list of schemas.")
            return [self.clean(item, where) for item in value]
        if key in _ONE:
            return self.clean(value, where)
        if key in _MAPS:
            if not isinstance(value, dict):
                raise UserError(f"{self.owner}: {where} must be an object of schemas.")
            return {name: self.clean(item, f"{where}.{name}") for name, item in value.items()}
        return value

    def loosen(self, what: str) -> None:
        """Notes that `what` is not enforced; UserError if strict."""
        if self.strict:
            raise UserError(
                f"{self.owner}: {what} cannot be enforced. Leave it out of a strict schema; what can be used is "
                f"{', '.join(key for key in ENFORCED if key != 'definitions')}."
            )
        self.loosened.append(what)

    def resolve(self, ref: object) -> object:
        """The schema that a reference names; None unless it is one of the root's definitions."""
        for key in ("$defs", "definitions"):
            found = self._root.get(key) if isinstance(self._root, dict) else None
            if isinstance(ref, str) and ref.startswith(f"#/{key}/") and isinstance(found, dict):
                return found.get(ref.removeprefix(f"#/{key}/"))
        return None

    def definitions(self) -> Schema:
        """The root's definitions, cleaned, to be put beside a part of it."""
        root = self._root if isinstance(self._root, dict) else {}
        return {key: self._value(key, root[key], "the schema") for key in ("$defs", "definitions") if key in root}


def split_strings(
    schema: Schema | bool, cleaner: SchemaCleaner, depth: int = 8
) -> tuple[list[Schema], list[Schema | bool]]:
    """A cleaned schema as (schemas of strings, schemas of everything else): DSML writes the two differently.

    Each schema of strings has at most enum, minLength, maxLength and pattern. References are followed `depth` times.
    """
    if schema is True or schema == {}:
        return [{}], [{"type": [kind for kind in _TYPES if kind != "string"]}]
    if isinstance(schema, bool) or depth == 0:
        return [], [schema]
    if schema.keys() == {"$ref"}:
        target = cleaner.clean(cleaner.resolve(schema["$ref"]))
        strings, others = split_strings(target, cleaner, depth - 1)
        return strings, others if strings else [schema]
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        if options and schema.keys() <= {key, "type"} and (key != "allOf" or len(options) == 1):
            parts = [split_strings(option, cleaner, depth - 1) for option in options]
            return _joined(key, parts, cleaner)
    return _split_values(schema) if "const" in schema or "enum" in schema else _split_types(schema, cleaner)


def _joined(
    key: str, parts: list[tuple[list[Schema], list[Schema | bool]]], cleaner: SchemaCleaner
) -> tuple[list[Schema], list[Schema | bool]]:
    strings = [string for options, _ in parts for string in options]
    others = [other for _, options in parts for other in options]
    if key != "oneOf":
        return strings, others
    if len(strings) > 1 and not all("enum" in string for string in strings):
        cleaner.loosen("'oneOf' of several kinds of strings")
    return strings, [{"oneOf": others}] if len(others) > 1 else others


def _split_values(schema: Schema) -> tuple[list[Schema], list[Schema | bool]]:
    values = [schema["const"]] if "const" in schema else list(schema["enum"])
    texts = [value for value in values if isinstance(value, str)]
    others = [value for value in values if not isinstance(value, str)]
    return [{"enum": texts}] if texts else [], [{"enum": others}] if others else []


def _split_types(schema: Schema, cleaner: SchemaCleaner) -> tuple[list[Schema], list[Schema | bool]]:
    kinds = schema.get("type", list(_TYPES))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" not in kinds:
        return [], [schema]
    if any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref")):
        cleaner.loosen("a string that is combined with other schemas")
    string: Schema = {key: schema[key] for key in ("minLength", "maxLength", "pattern") if key in schema}
    others = [kind for kind in kinds if kind != "string"]
    return [string], [{**schema, "type": others}] if others else []
