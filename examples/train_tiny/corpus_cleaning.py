"""Raw text to clean documents: prose in paragraphs, code in files, both in plain ASCII and of a bounded length."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator

SHORTEST, LONGEST = 500, 30_000  # characters of a document


_ASCII = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\u2043\u00b7\u2022\u25cf\u2219", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00b6\ufffd", ""),
        "\u2026": "...",
        "\u2192": "->",
        "\u21d2": "=>",
        "\u2264": "<=",
        "\u2265": ">=",
        "\u00d7": "x",
        "\ufb01": "fi",
        "\ufb02": "fl",
    }
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SENTENCE_END = re.compile(r"(?<=[a-z)\"][.!?]) +(?=[A-Z\"])")
_LEGAL = re.compile(r"copyright|licen[cs]e|all rights reserved|warranty|spdx|©", re.IGNORECASE)


def normalise(text: str) -> str:
    """NFC, plain ASCII punctuation, no control characters, no trailing blanks, one empty line at most in prose."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).translate(_ASCII)
    text = re.sub(" ?[\u2014\u2015] ?", " -- ", text)
    return re.sub(r"[ \t]+$", "", _CONTROL.sub("", text), flags=re.MULTILINE)


def one_line(text: str) -> str:
    """All white space to single spaces."""
    return " ".join(text.split())


def rewrap(text: str) -> str:
    """Hard-wrapped prose to one line per paragraph; indented blocks (verses, tables, listings) keep their lines."""
    blocks = []
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = block.split("\n")
        indented = [line for line in lines if line.startswith(("  ", "\t"))]
        if len(lines) > 1 and len(indented) == len(lines):
            blocks.append("\n".join(line.strip() for line in lines))
        else:
            blocks.append(one_line(block))
    return "\n\n".join(blocks)


def good_paragraph(paragraph: str) -> bool:
    """False for what teaches nothing: pages of numbers, rulers, legal notices, web addresses alone."""
    if len(paragraph) < 40:
        return bool(re.search(r"[A-Za-z]{2}", paragraph))
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    if letters < 0.6 * len(paragraph):
        return False
    return not (_LEGAL.search(paragraph) and re.search(r"\(c\)|all rights reserved|without warranty", paragraph, re.I))


def split_prose(text: str) -> Iterator[str]:
    """Documents of at most LONGEST characters, cut between paragraphs; a longer paragraph is left out."""
    held: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        if size + len(paragraph) > LONGEST and held:
            yield "\n\n".join(held)
            held, size = [], 0
        if len(paragraph) <= LONGEST:
            held.append(paragraph)
            size += len(paragraph) + 2
    if held:
        yield "\n\n".join(held)


def clean_prose(text: str, seen: set[bytes]) -> Iterator[str]:
    """The documents in a raw text, without bad paragraphs and without paragraphs that an earlier document had."""
    kept = []
    for block in re.split(r"\n\s*\n", normalise(text)):
        paragraph = block.strip("\n")
        if not paragraph.strip() or not good_paragraph(paragraph):
            continue
        mark = hashlib.sha256(paragraph.encode()).digest()[:12]
        if len(paragraph) >= 60:  # headings may come again
            if mark in seen:
                continue
            seen.add(mark)
        if kept and kept[-1] == paragraph:
            continue
        kept.append(paragraph)
    while kept and len(kept[-1]) < 40 and kept[-1][-1:] not in '.!?)"':
        kept.pop()  # a heading with nothing under it
    for document in split_prose("\n\n".join(kept)):
        if len(document) >= SHORTEST and is_english(document):
            yield document


def is_english(text: str) -> bool:
    """Nearly all ASCII, mostly letters, with the commonest English words, and sentences rather than a list of names."""
    if sum(character < "\x80" for character in text) < 0.985 * len(text):
        return False
    if sum(len(paragraph) for paragraph in text.split("\n\n") if len(paragraph) < 40) > 0.2 * len(text):
        return False
    words = re.findall(r"[A-Za-z']+", text.lower())
    common = sum(word in _COMMON for word in words)
    return len(words) > 60 and common > 0.16 * len(words)


_COMMON = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "and",
        "in",
        "is",
        "it",
        "that",
        "for",
        "was",
        "on",
        "are",
        "as",
        "with",
        "he",
        "be",
        "at",
        "by",
        "this",
        "had",
        "not",
        "but",
        "from",
        "or",
        "have",
        "they",
        "you",
        "which",
        "his",
        "were",
        "her",
        "she",
        "there",
        "been",
        "one",
        "all",
        "we",
        "when",
        "who",
        "will",
        "if",
        "can",
        "i",
        "my",
        "your",
        "their",
        "has",
        "its",
        "no",
        "so",
        "do",
    ]
)


def clean_code(text: str, seen: set[bytes]) -> Iterator[str]:
    """The documents in a Python file, without its licence header; nothing for data tables and generated files."""
    text = normalise(text).expandtabs(4).strip("\n")
    head = re.match(r"(?:[ \t]*#[^\n]*\n|[ \t]*\n)+", text)
    if head and _LEGAL.search(head.group()):
        text = text[head.end() :]
    text = re.sub(r"\n{4,}", "\n\n\n", re.sub(r"\A#!.*\n|\A# -\*-.*\n", "", text)).strip("\n")
    lines = text.split("\n")
    odd = sum(not (c.isalpha() or c.isspace() or c in "_()[]{}.,:=\"'#-+*/<>") for c in text)
    if (
        any(len(line) > 200 for line in lines)
        or odd > 0.12 * len(text)
        or sum(c > "\x7f" for c in text) > 0.005 * len(text)
    ):
        return
    mark = hashlib.sha256(text.encode()).digest()[:12]
    if mark in seen or not re.search(r"^(def|class|import|from|async def) ", text, re.MULTILINE):
        return
    seen.add(mark)
    yield from (part for part in split_code(text) if len(part) >= SHORTEST)


def split_code(text: str) -> Iterator[str]:
    """Documents of at most LONGEST characters, cut before top-level definitions; a longer definition is left out."""
    held = ""
    for piece in re.split(r"(?m)^(?=(?:@|def |class |async def ))", text):
        if len(held) + len(piece) > LONGEST and not held.rstrip().rpartition("\n")[2].startswith("@"):
            if SHORTEST <= len(held) <= LONGEST:
                yield held.strip("\n")
            held = ""
        held += piece
    if len(held) <= LONGEST:
        yield held.strip("\n")
