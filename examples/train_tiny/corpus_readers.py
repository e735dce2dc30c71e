"""Files of packages to raw documents: HTML, manual pages, pod, dictionaries, novels, game scripts, code."""

from __future__ import annotations

import gzip
import html
import re
import subprocess
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

from corpus_cleaning import SENTENCE_END, one_line, rewrap


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
    for sentence in SENTENCE_END.split(one_line(read_text(path))):
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
