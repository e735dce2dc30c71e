"""An agent on Anthropic's messages: the model reads files and lists folders until it can answer.

pip install anthropic; ds4-mlx serve; python examples/agent_anthropic.py [URL [QUESTION]]
"""

import json
import sys
from pathlib import Path

import anthropic

ASKED = "What does README.md contain?"
PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS: list = [
    {"name": "read_file", "description": "Read a file.", "input_schema": PATH},
    {"name": "list_directory", "description": "List the files in a directory.", "input_schema": PATH},
]
# deepseek-chat: no thinking. Version 2 of the SDK has no argument for the temperature.
OPTIONS: dict = {"model": "deepseek-chat", "max_tokens": 4000, "tools": TOOLS, "extra_body": {"temperature": 0}}


def run(name: str, path: str) -> str:
    """Executes a call."""
    try:
        if name == "read_file":
            return json.dumps({"content": Path(path).read_text(encoding="utf-8")[:200]})
        return json.dumps({"files": sorted(entry.name for entry in Path(path).iterdir())})
    except OSError as error:
        return json.dumps({"error": error.strerror})


def main(url: str = "http://127.0.0.1:8000", asked: str = ASKED) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none needed")
    messages: list = [{"role": "user", "content": asked}]
    while True:
        with client.messages.stream(messages=messages, **OPTIONS) as stream:
            for text in stream.text_stream:
                print(text, end="", flush=True)
            message = stream.get_final_message()
        messages.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            print()
            return
        results = []
        for use in message.content:
            if use.type == "tool_use":
                result = run(use.name, use.input["path"])
                print(f"{use.name}({use.input['path']}) -> {result}")
                results.append({"type": "tool_result", "tool_use_id": use.id, "content": result})
        messages.append({"role": "user", "content": results})


if __name__ == "__main__":
    main(*sys.argv[1:3])
