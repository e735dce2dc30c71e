"""What the checked mode finds.

| kind | means |
|---|---|
| `out-of-bounds` | access outside of an array, or a write to an input |
| `race` | two threads touch the same threadgroup memory, at least one writes, and no barrier orders them |
| `device-race` | the same for an output; threads of different threadgroups are never ordered |
| `uninitialised` | threadgroup memory or an output is read before it was written |
| `unwritten` | elements of an output that no thread wrote |
| `barrier-divergence` | some threads of a threadgroup do not arrive at its barrier |
| `simd-divergence` | some lanes do not arrive at an operation of the simdgroup (strict runs) |
| `inactive-lane` | a shuffle reads from a lane that does not exist or does not take part |
| `undefined` | misaligned vector, shift count, signed overflow, division by zero, float to int out of range, index |
| `threadgroup-memory` | more than 32 KB of threadgroup variables |
| `endless` | the kernel was stopped at its time limit |
| `emulator` | the emulator itself ran out of memory |
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """`where` is "NAME.metal:LINE", "NAME.header.metal:LINE" or "" if it has no line."""

    kind: str
    where: str
    text: str


class EmulationError(RuntimeError):
    """A kernel did something wrong; `findings` says what."""

    def __init__(self, kernel: str, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        rows = (f"  {f.kind}: {f.text}{f' [{f.where}]' if f.where else ''}" for f in findings)
        super().__init__("\n".join([f"kernel {kernel}:", *rows]))


def read_findings(rows: str, library: Path) -> list[Finding]:
    """From the runtime's rows (runtime/report.cpp) and the compiled kernel they are about."""
    findings = []
    for row in rows.splitlines():
        kind, file, line, offset, text = row.split("\t", 4)
        where = f"{Path(file).name}:{line}" if file else ""
        if int(offset) >= 0:
            where = _line_at(library, int(offset))
        findings.append(Finding(kind, where, text))
    return findings


def _line_at(library: Path, offset: int) -> str:
    """The kernel's line for an address behind a call in the library: the innermost that stands in the kernel's text."""
    command = ["addr2line", "--exe", str(library), "--inlines", hex(offset - 1)]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [Path(row.split(" ")[0]).name for row in rows]
    return next((line for line in lines if ".metal:" in line), "")
