"""Schemas as nobody would write them: keywords in odd places, with values of the wrong kind."""

import random
from typing import Any

KEYWORDS = {
    "type": (
        "string",
        "integer",
        "number",
        "object",
        "array",
        "boolean",
        "null",
        ["string", "null"],
        ["integer", "string"],
    ),
    "enum": ([1, "a"], ["a", None, "b"], [[1], {"a": 1}]),
    "const": ("a", 1, None, {"a": "b"}),
    "required": (["a"], ["a", "b"], ["z"], []),
    "pattern": ("^a+$", "a|b", "(x", "[a-z]{2,3}", r"\d+", "^(a|b)$", "(?=x)", r"\bfoo", "^a|b$", "/", "<b>"),
    "$ref": ("#/$defs/a", "#/definitions/b", "#", "https://example.com"),
    "format": ("date", "email", "nonsense"),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), (0, 1, 3, -1)
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (0, 2, 10, -1, 1.5)),
    **dict.fromkeys(("not", "if", "contains", "propertyNames", "dependentRequired"), ({}, False, {"type": "string"})),
    "uniqueItems": (True, False),
    **dict.fromkeys(("title", "description", "default", "x-foo", "nullable", "$schema", "$id"), ("a", 1, None)),
}
ONE, LISTS = ("items", "additionalProperties"), ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS = ("properties", "$defs", "definitions", "patternProperties")
JUNK: tuple[Any, ...] = (None, True, 0, -1, 1.5, 10**30, "", "a", "\ud800", "x" * 300, [], {}, ["a", 1], {"a": 1}, [[]])


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    if depth > 3:
        return rng.choice([{}, True, False, {"type": "string"}, {"type": "integer"}])
    schema: dict[str, Any] = {}
    for key in rng.choices((*KEYWORDS, *(ONE + LISTS + MAPS) * 3), k=rng.randint(0, 4)):
        if rng.random() < 0.2:
            schema[key] = rng.choice(JUNK)
        elif key in ONE:
            schema[key] = random_schema(rng, depth + 1)
        elif key in LISTS:
            schema[key] = [random_schema(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        elif key in MAPS:
            schema[key] = {name: random_schema(rng, depth + 1) for name in rng.sample(["a", "b", "z y", "^a"], k=2)}
        else:
            schema[key] = rng.choice(KEYWORDS[key])
    return schema
