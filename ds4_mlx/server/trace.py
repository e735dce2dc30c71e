"""--trace FILE: every request and its answer, one JSON object a line. For finding out what a client really sends."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ds4_mlx.errors import UserError
from ds4_mlx.server.collected import Collected


class Trace:
    """Writes on a thread of its own; the file only grows. Keys and headers are not written."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` if the file cannot be written."""
        try:
            self._file = path.open("a", encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"The trace {path} cannot be written: {error.strerror}.") from None
        self._writer = ThreadPoolExecutor(1, "trace")

    def write(self, **fields: Any) -> None:
        """One line; the time is added."""
        self._writer.submit(self._write, {"time": datetime.now(timezone.utc).isoformat(), **fields})

    def close(self) -> None:
        """Writes what is left."""
        self._writer.shutdown()
        self._file.close()

    def _write(self, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps(fields, ensure_ascii=False, default=repr) + "\n")
        self._file.flush()


def answer_fields(answer: Collected) -> dict[str, Any]:
    """An answer as it is traced."""
    stats = answer.stats
    return {
        "reasoning": answer.reasoning,
        "content": answer.content,
        "calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.calls.values()],
        "calls_text": answer.calls_text,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "generated_tokens": answer.generated_tokens,
        "finish_reason": stats.finish_reason if stats else None,
        "prefill_seconds": stats.prefill_seconds if stats else None,
        "decode_seconds": stats.decode_seconds if stats else None,
        "failed": answer.failed,
    }
