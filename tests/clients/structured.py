"""Structured output: each client's own `parse`, which raises unless the answer is what was asked for."""

from __future__ import annotations

from typing import Literal

import anthropic
import openai
from pydantic import BaseModel

QUESTION = "What is the weather in Paris? Answer in JSON."
_ASKED = [{"role": "user", "content": QUESTION}]
MODEL = "deepseek-chat"


class Weather(BaseModel):
    """Words to choose from, so that a small model cannot run on."""

    city: Literal["Paris", "Rome", "Oslo"]
    condition: Literal["sunny", "rainy", "cloudy"]
    cold: bool


def chat(url: str) -> Weather | None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    answer = client.chat.completions.parse(model=MODEL, messages=_ASKED, response_format=Weather, max_tokens=200)
    return answer.choices[0].message.parsed


def responses(url: str) -> Weather | None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    return client.responses.parse(model=MODEL, input=QUESTION, text_format=Weather, max_output_tokens=200).output_parsed


def messages(url: str) -> Weather | None:
    client = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)
    answer = client.messages.parse(model=MODEL, messages=_ASKED, output_format=Weather, max_tokens=200)
    return answer.parsed_output
