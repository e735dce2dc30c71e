"""GET /v1/models: the names that are served. Both APIs look here, so an entry has the keys of both."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI

from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.served import ServedModel, ServerOptions


def add_catalog(app: FastAPI, options: ServerOptions, model: ServedModel) -> None:
    """Adds the two endpoints."""
    created = int(time.time())

    def entry(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "deepseek-ai",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "context_length": model.context,
            "max_model_len": model.context,
        }

    @app.get("/v1/models", tags=["server"])
    def models() -> dict[str, Any]:
        """The names in the list; any other is answered by the same model too."""
        names = options.names()
        data = [entry(name) for name in names]
        return {"object": "list", "data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}

    @app.get("/v1/models/{name:path}", tags=["server"], responses={404: {"description": "No such name."}})
    def one_model(name: str) -> dict[str, Any]:
        """One of the list."""
        if name not in options.names():
            raise ApiError("not_found", f"There is no model {name[:80]!r} in the list.", "model", "model_not_found")
        return entry(name)
