"""JSON Schemas as tools and response formats bring them, made ready for a grammar.

What only describes is taken out, what cannot be enforced is refused or left out, as the caller asked, and an object
that lists its properties has no others unless the schema says so. Knows nothing of DSML or of grammars' text.
"""

from __future__ import annotations

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
        self._check_type(schema, where)
        kept = {
            key: self._value(key, value, where) for key, value in schema.items() if self._is_kept(key, value, where)
        }
        combined = kept.keys() & {"additionalProperties", "$ref", "anyOf", "oneOf"}
        if self._closes and "properties" in kept and not combined:
            kept["additionalProperties"] = False
        return kept

    def _is_kept(self, key: str, value: object, where: str) -> bool:
        if key in _NOT_ENFORCED and value not in _VACUOUS.get(key, ()):
            self.loosen(f"the keyword {key!r} in {where}")
        return key in ENFORCED and (key != "format" or value in _FORMATS)

    def _value(self, key: str, value: Any, where: str) -> object:
        """The value of a keyword, with the schemas in it cleaned."""
        where = f"{where}.{key}"
        if key in _LISTS or (key in _ONE and isinstance(value, list)):
            return [self.clean(item, where) for item in self._list(value, where)]
        if key in _ONE:
            return self.clean(value, where)
        if key in _MAPS:
            return {name: self.clean(item, f"{where}.{name}") for name, item in self._map(value, where).items()}
        if key == "$ref":
            self.resolve(value, where)
        return value

    def loosen(self, what: str) -> None:
        """Notes that `what` is not enforced; UserError if strict."""
        if self.strict:
            raise UserError(
                f"{self.owner}: {what} cannot be enforced. Leave it out of a strict schema; what can be used is "
                f"{', '.join(key for key in ENFORCED if key != 'definitions')}."
            )
        self.loosened.append(what)

    def resolve(self, ref: object, where: str) -> object:
        """The schema a reference names. UserError if it is not one of the root's definitions."""
        if isinstance(ref, str):
            for key in ("$defs", "definitions"):
                name = ref.removeprefix(f"#/{key}/")
                found = self._root.get(key) if isinstance(self._root, dict) else None
                if name != ref and isinstance(found, dict) and name in found:
                    return found[name]
        raise UserError(f"{self.owner}: {where} refers to {ref!r}; only the schema's own '#/$defs/NAME' can be used.")

    def definitions(self) -> Schema:
        """The root's definitions, cleaned, to be put beside a part of it."""
        root = self._root if isinstance(self._root, dict) else {}
        return {key: self.clean({key: root[key]}, "the schema")[key] for key in ("$defs", "definitions") if key in root}  # type: ignore[index]

    def _check_type(self, schema: Schema, where: str) -> None:
        kind = schema.get("type")
        for name in kind if isinstance(kind, list) else [] if kind is None else [kind]:
            if name not in _TYPES:
                raise UserError(f"{self.owner}: {where} has the type {name!r}; the types are {', '.join(_TYPES)}.")

    def _list(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise UserError(f"{self.owner}: {where} must be a list of schemas.")
        return value

    def _map(self, value: object, where: str) -> Schema:
        if not isinstance(value, dict):
            raise UserError(f"{self.owner}: {where} must be an object of schemas.")
        return value


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
        target = cleaner.clean(cleaner.resolve(schema["$ref"], "the schema"))
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
