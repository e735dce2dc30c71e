"""An agent in 40 lines: lists and reads files until it can answer. python agent.py [MODEL [QUESTION]]"""

import json
import sys
from pathlib import Path

import ds4_mlx


def tool(name: str, about: str) -> dict:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = {
    "read_file": lambda path: Path(path).read_text(encoding="utf-8")[:4000],
    "list_directory": lambda path: "\n".join(sorted(p.name for p in Path(path).iterdir())),
}
ABOUT = [tool("read_file", "Read a text file."), tool("list_directory", "List the files in a directory.")]


def main(folder: str | None = None, question: str = "What does notes.txt contain?") -> None:
    model = ds4_mlx.load(folder)
    session = model.session()
    messages = [{"role": "system", "content": "", "tools": ABOUT}, {"role": "user", "content": question}]
    for _ in range(8):
        text, calls = "", []
        for event in model.stream(messages, session=session, thinking=False, temperature=0, max_tokens=300):
            text += event.text
            calls += [event.tool_call] if event.tool_call else []
        if not calls:
            return print("answer:", text)
        messages.append({"role": "assistant", "content": text, "tool_calls": [{"function": call} for call in calls]})
        for call in calls:
            try:
                result = TOOLS[call["name"]](**json.loads(call["arguments"]))
            except (OSError, KeyError, TypeError) as error:
                result = f"error: {error}"
            print(f"{call['name']}({call['arguments']}) -> {result[:80]!r}")
            messages.append({"role": "tool", "content": result})


if __name__ == "__main__":
    main(*sys.argv[1:3])
