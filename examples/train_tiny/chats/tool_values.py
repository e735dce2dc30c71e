"""Values of tool parameters and results: for each kind its JSON schema and how one is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .copying import code_string
from .stories import foreign_phrase, phrase, title
from .words import CITIES, DAYS, FIRST_NAMES, MONTHS, NOUNS, SURNAMES, WORDS, made_up_word, split, word

Draw = Callable[[random.Random], Any]

_FOLDERS = split("src docs tests data notes images build config scripts home tmp reports")
_ENDINGS = split("txt py md json csv log yaml html")
_ROOMS = split("kitchen bedroom bathroom hall office garage attic cellar nursery study library lounge")
_CURRENCIES = split("USD EUR GBP JPY CHF SEK NOK DKK PLN CZK INR CAD AUD NZD BRL MXN")
_LANGUAGES = split(
    "French German Spanish Italian Portuguese Dutch Polish Swedish Danish Finnish Greek Turkish Japanese"
)
_CONDITIONS = ("sunny", "rainy", "cloudy", "windy", "foggy", "snowy", "stormy", "clear", "dry", "humid")
_DISHES = split("pizza sushi pasta curry soup salad tacos noodles burgers dumplings pancakes risotto")
_COMMANDS = ("ls -l", "pwd", "whoami", "date", "git status", "git log", "make test", "df -h", "uname -a",
             "python --version",
             "ls {f}", "cat {f}/{w}.txt", "mkdir {w}", "wc -l {w}.py", "python {w}.py", "rm {w}.log", "touch {w}.md",
             "echo {w}", "head {w}.csv", "grep {w} {f}/*.py", "cd {f}", "make {w}", "git add {w}.py")  # fmt: skip


def _one_of(values: tuple[Any, ...]) -> Draw:
    return lambda rng: rng.choice(values)


def _number(low: int, high: int) -> Draw:
    return lambda rng: rng.randint(low, high)


def _command(rng: random.Random) -> str:
    return rng.choice(_COMMANDS).format(w=word(rng), f=rng.choice(_FOLDERS))


def _path(rng: random.Random) -> str:
    name = f"{word(rng, 9)}.{rng.choice(_ENDINGS)}"
    style = rng.random()
    if style < 0.35:
        return name
    folder = f"{rng.choice(_FOLDERS)}/" + (f"{word(rng)}/" if style > 0.8 else "")
    return folder + name if style < 0.9 else f"/{folder}{name}"


def _folder(rng: random.Random) -> str:
    return rng.choice(_FOLDERS) if rng.random() < 0.4 else f"{rng.choice(_FOLDERS)}/{word(rng)}"


def _person(rng: random.Random) -> str:
    first = rng.choice(FIRST_NAMES)
    return first if rng.random() < 0.3 else f"{first} {rng.choice(SURNAMES)}"


def _email(rng: random.Random) -> str:
    return f"{rng.choice(FIRST_NAMES).lower()}@{word(rng)}.{rng.choice(('com', 'org', 'net'))}"


def _restaurant(rng: random.Random) -> str:
    return f"{rng.choice(('Casa', 'Chez', 'The', 'Villa', 'Cafe'))} {word(rng).capitalize()}"


def _items(rng: random.Random) -> list[str]:
    return rng.sample(NOUNS, rng.randint(1, 3))


_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_STRINGS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}

# kind -> (schema, draw)
KINDS: dict[str, tuple[dict[str, Any], Draw]] = {
    "city": (_STRING, _one_of(CITIES)),
    "temperature_unit": ({"type": "string", "enum": ["celsius", "fahrenheit"]}, _one_of(("celsius", "fahrenheit"))),
    "degrees": (_INTEGER, _number(-15, 40)),
    "warm": (_INTEGER, _number(15, 28)),
    "condition": (_STRING, _one_of(_CONDITIONS)),
    "int": (_INTEGER, _number(1, 999)),
    "small": (_INTEGER, _number(2, 60)),
    "few": (_INTEGER, _number(2, 9)),
    "large": (_INTEGER, _number(10000, 9999999)),
    "percent": (_INTEGER, _number(1, 100)),
    "sides": (_INTEGER, _one_of((4, 6, 8, 10, 12, 20))),
    "price": ({"type": "number"}, lambda rng: rng.randint(11, 9999) / 10),
    "weight": ({"type": "number"}, lambda rng: rng.randint(1, 400) / 4),
    "bool": (_BOOLEAN, lambda rng: rng.random() < 0.5),
    "word": (_STRING, lambda rng: word(rng, 9)),
    "noun": (_STRING, _one_of(NOUNS)),
    "topic": (_STRING, lambda rng: rng.choice((rng.choice(NOUNS) + "s",
    f"{word(rng)} {rng.choice(NOUNS)}s", phrase(rng)))),
    "phrase": (_STRING, phrase),
    "foreign": (_STRING, foreign_phrase),
    "title": (_STRING, title),
    "url": (_STRING, lambda rng: f"https://{word(rng)}.{rng.choice(('com', 'org', 'net', 'io'))}/{word(rng)}"),
    "path": (_STRING, _path),
    "image": (_STRING, lambda rng: f"{word(rng)}.{rng.choice(('png', 'jpg', 'gif'))}"),
    "folder": (_STRING, _folder),
    "files": (_STRINGS, lambda rng: [f"{w}.{rng.choice(_ENDINGS)}" for w in rng.sample(WORDS, rng.randint(1, 4))]),
    "command": (_STRING, _command),
    "zero": (_INTEGER, _one_of((0,))),
    "http": (_INTEGER, _one_of((200,))),
    "email": (_STRING, _email),
    "phone": (_STRING, lambda rng: f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"),
    "currency": (_STRING, _one_of(_CURRENCIES)),
    "time": (_STRING, lambda rng: f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45, rng.randint(0, 59))):02}"),
    "date": (_STRING, lambda rng: rng.choice((f"{rng.randint(1, 28)} {rng.choice(MONTHS)}", rng.choice(DAYS),
                                              f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"))),
    "language": (_STRING, _one_of(_LANGUAGES)),
    "symbol": (_STRING, lambda rng: "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(3, 4)))),
    "person": (_STRING, _person),
    "room": (_STRING, _one_of(_ROOMS)),
    "restaurant": (_STRING, _restaurant),
    "code": (_STRING, lambda rng: code_string(rng, 5, 8)),
    "hash": (_STRING, lambda rng: f"{rng.getrandbits(28):07x}"),
    "list_name": (_STRING, _one_of(("shopping", "todo", "packing", "gift", "reading", "party", "work", "travel"))),
    "items": (_STRINGS, _items),
    "dish": (_STRING, _one_of(_DISHES)),
    "made_up": (_STRING, made_up_word),
    "status": (_STRING, _one_of(("ok", "done"))),
    "ok": (_STRING, _one_of(("ok",))),
    "on": (_STRING, _one_of(("on",))),
    "sent": (_STRING, _one_of(("sent",))),
    "playing": (_STRING, _one_of(("playing",))),
}  # fmt: skip


def shown(value: Any) -> str:
    """A value as people and answers write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return value[0] if len(value) == 1 else f"{', '.join(value[:-1])} and {value[-1]}"
    return str(value)
