"""POST /v1/completions: a text continued as it is. OpenAI's older API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ds4_mlx.server import ask as asking
from ds4_mlx.server.ask import MAX_CHOICES, Ask, Thinking
from ds4_mlx.server.errors import invalid
from ds4_mlx.server.schema import ChunkedBody, refuse
from ds4_mlx.server.served import ServedModel, ServerOptions

DEFAULT_MAX_TOKENS = 16
Ids = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(ChunkedBody):
    """The body of a completion."""

    model: str = Field(max_length=512)
    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    # Known, and refused where it asks for something.
    suffix: str | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt as it was given."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def asks(self, model: ServedModel, options: ServerOptions) -> list[Ask]:
        """One for each prompt. Raises a 400 that names what cannot be honoured."""
        refuse(self, {"suffix": "text is continued at its end only."})
        n = asking.choices(self.n)
        if self.best_of not in (None, n):
            raise invalid("best_of must be the same as n: all answers are returned.", "best_of")
        if self.echo and self.logprobs is not None:
            raise invalid("echo with logprobs is not supported here: prompts have none.", "echo")
        self.check_stream_options()
        prompts = self.prompts()
        if len(prompts) * n > MAX_CHOICES:
            raise invalid(f"{len(prompts)} prompts with n = {n}; at most {MAX_CHOICES} answers are made.", "prompt")
        return [
            Ask(
                model=self.model,
                thinking=Thinking(False),
                prompt=prompt,
                sampling=self.sampling(),
                max_tokens=asking.positive(self.max_tokens, "max_tokens") or DEFAULT_MAX_TOKENS,
                stop=asking.stop_strings(self.stop),
                top_logprobs=asking.top_logprobs(self.logprobs, "logprobs"),
                choices=n,
            )
            for prompt in prompts
        ]
