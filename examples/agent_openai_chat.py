"""An agent on OpenAI's chat completions: the model reads files and lists folders until it can answer.

pip install openai; ds4-mlx serve; python examples/agent_openai_chat.py [URL [QUESTION]]
"""

import json
import sys
from pathlib import Path

import openai

ASKED = "What does README.md contain?"
PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": description, "parameters": PATH}}
    for name, description in [("read_file", "Read a file."), ("list_directory", "List the files in a directory.")]
]
OPTIONS: dict = {"model": "deepseek-chat", "tools": TOOLS, "temperature": 0}  # deepseek-chat: no thinking


def run(name: str, path: str) -> str:
    """Executes a call."""
    try:
        if name == "read_file":
            return json.dumps({"content": Path(path).read_text(encoding="utf-8")[:200]})
        return json.dumps({"files": sorted(entry.name for entry in Path(path).iterdir())})
    except OSError as error:
        return json.dumps({"error": error.strerror})


def main(url: str = "http://127.0.0.1:8000", asked: str = ASKED) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none needed")
    messages: list = [{"role": "user", "content": asked}]
    while True:
        with client.chat.completions.stream(messages=messages, **OPTIONS) as stream:
            for event in stream:
                if event.type == "content.delta":
                    print(event.delta, end="", flush=True)
            message = stream.get_final_completion().choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            print()
            return
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = run(call.function.name, arguments["path"])
            print(f"{call.function.name}({arguments['path']}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main(*sys.argv[1:3])
