"""An agent on OpenAI's responses; the server keeps the conversation, each request brings only what is new.

pip install openai; ds4-mlx serve; python examples/agent_openai_responses.py [URL [QUESTION]]
"""

import json
import sys
from pathlib import Path

import openai

ASKED = "What does README.md contain?"
PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS: list = [
    {"type": "function", "name": name, "description": description, "parameters": PATH, "strict": False}
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
    new: list = [{"role": "user", "content": asked}]
    previous = None
    while new:
        with client.responses.stream(input=new, previous_response_id=previous, **OPTIONS) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    print(event.delta, end="", flush=True)
            response = stream.get_final_response()
        previous, new = response.id, []
        for call in response.output:
            if call.type == "function_call":
                arguments = json.loads(call.arguments)
                result = run(call.name, arguments["path"])
                print(f"{call.name}({arguments['path']}) -> {result}")
                new.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    print()


if __name__ == "__main__":
    main(*sys.argv[1:3])
