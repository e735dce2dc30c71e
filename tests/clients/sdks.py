"""OpenAI's and Anthropic's own clients against ds4-tiny, the server restarted between two turns. Prints a table.

    python tests/clients/sdks.py

Each API: turn 1 with a tool call, streamed; the server is stopped and started; turn 2 with another tool call. Then
structured output. A minute or two.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import anthropic
import openai

from clients import structured
from clients.conversations import Chat, Conversation, Messages, Responses, StoredResponses
from clients.serving import serving
from clients.table import Row, show
from clients.toolbox import Toolbox

APIS = (
    (Chat, "openai chat", openai.__version__),
    (Responses, "openai responses", openai.__version__),
    (StoredResponses, "openai responses, stored", openai.__version__),
    (Messages, "anthropic messages", anthropic.__version__),
)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ds4-mlx-sdks-") as name:
        rows = [_row(Path(name) / api.__name__, api, client, version) for api, client, version in APIS]
        with serving(Path(name) / "structured") as server:
            for parse in (structured.chat, structured.responses, structured.messages):
                client = "anthropic parse" if parse is structured.messages else f"openai {parse.__name__} parse"
                version = anthropic.__version__ if parse is structured.messages else openai.__version__
                rows.append(Row(client, version, "ds4-tiny", 1, 0, "", "", f"parsed {parse(server.url)}"))
    show(rows)
    return any(row.verdict.startswith("WRONG") for row in rows)


def _row(folder: Path, api: type[Conversation], client: str, version: str) -> Row:
    toolbox = Toolbox(folder / "files")
    with serving(folder) as server:
        talk = api(server.url, toolbox, stream=True)
        first = talk.say("What does notes.txt contain?")
    known = talk.usages[-1].prompt + talk.usages[-1].generated
    requests = len(talk.usages)
    with serving(folder) as server:
        talk.url = server.url
        second = talk.say("Which files are in / ?")
    usage = talk.usages[requests]
    good = "buy milk and bread" in first and "notes.txt" in second and usage.cached >= known - 1
    verdict = ("" if good else "WRONG: ") + f"restarted in between; of turn 2 {usage.prompt - usage.cached} tokens read"
    cached = f"{usage.cached} of {usage.prompt}"
    return Row(client, version, "ds4-tiny", 2, len(toolbox.executed), cached, "", verdict)


if __name__ == "__main__":
    sys.exit(main())
