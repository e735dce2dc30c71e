"""Tools: the model asks for a call, the program answers it, until there is nothing left to call."""

import json
import sys

import ds4_mlx

WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def get_weather(city: str) -> str:
    return json.dumps({"city": city, "temperature": 21, "sky": "clear"})


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    session = model.session()  # holds what was read, so that a turn reads only what is new
    messages = [
        {"role": "system", "content": "", "tools": [{"type": "function", "function": WEATHER}]},
        {"role": "user", "content": "What is the weather in Paris?"},
    ]
    for _ in range(4):
        text, calls = "", []
        for event in model.stream(messages, session=session, temperature=0, thinking=False, max_tokens=200):
            text += event.text
            calls += [event.tool_call] if event.tool_call else []
        message = {"role": "assistant", "content": text}
        if not calls:
            print("answer:", text)
            return
        messages.append({**message, "tool_calls": [{"type": "function", "function": call} for call in calls]})
        for call in calls:
            result = get_weather(**json.loads(call["arguments"]))
            print(f"{call['name']}({call['arguments']}) -> {result}")
            messages.append({"role": "tool", "content": result})


if __name__ == "__main__":
    main(*sys.argv[1:2])
