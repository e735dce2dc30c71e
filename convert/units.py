"""Bytes, times and paths as a person reads them."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Bytes in decimal units, as disks and downloads are labelled: 3.6 GB."""
    value = float(nbytes)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min or 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
