"""What the request schemas of all APIs share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.server.errors import ApiError, invalid, unsupported

Json = dict[str, Any]


class Body(BaseModel):
    """A request's body. Keys that no API documents are ignored: agents send some."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingBody(Body):
    """How to sample. OpenAI's parameters, and those that local models have besides."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        None
    )

    def sampling(self) -> SamplingOptions:
        """The options that were given, the others as the model card has them."""
        given = {
            "temperature": self.temperature,
            "top_p": 1e-6 if self.top_p == 0 else self.top_p,  # 0 is allowed, and means the likeliest token alone
            "top_k": self.top_k and max(self.top_k, 0),  # -1 is a way to say off
            "min_p": self.min_p,
            "seed": self.seed and self.seed % 2**64,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }
        return SamplingOptions(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


class StreamOptions(Body):
    """What a stream carries besides the answer. `include_progress` is ours: a chunk for each step of the prefill."""

    include_usage: bool | None = None
    include_progress: bool | None = None
    include_obfuscation: bool | None = None


class ChunkedBody(SamplingBody):
    """What is answered in OpenAI's chunks."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_stream_options(self) -> None:
        """Raises a 400 for options of a stream that was not asked for."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is only allowed with stream: true.", "stream_options")


def described(items: Json) -> Any:
    """A field whose objects are checked by us, not by pydantic: what the OpenAPI page says of them."""
    return Field(json_schema_extra={"items": items})


def refuse(body: Body, reasons: dict[str, str]) -> None:
    """A 400 for the first parameter with a value that asks for something this server does not do."""
    for name, why in reasons.items():
        value = getattr(body, name)
        if value is not None and value is not False and value not in ([], ""):
            raise unsupported(name, why)


def text_of(content: object, where: str, *, kinds: tuple[str, ...] = ("text",), pictures: bool = False) -> str:
    """The text of a message's content: a string, a list of parts of these kinds, or nothing.

    pictures: whether parts that are not text become a note, as the encoder writes it in tool results, so that an agent
    that looked at a picture can go on. Raises a 400 that names the part.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where} must be text or a list of parts.", where)
    texts = []
    for index, part in enumerate(content):
        here = f"{where}[{index}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise invalid(f"{here} must be an object with a type.", here)
        if kind in kinds:
            text = part.get("text", part.get("refusal"))
            if not isinstance(text, str):
                raise invalid(f"{here} has no text.", here)
            texts.append(text)
        elif pictures:
            texts.append(f"[Unsupported {kind}]")
        else:
            raise no_picture(kind, here)
    return "\n\n".join(texts)


def no_picture(kind: str, where: str) -> ApiError:
    """The 400 for a part that is not text."""
    what = "images" if "image" in kind else f"content of type {kind[:40]!r}"
    return invalid(f"{where}: this model reads text only; {what} cannot be used.", where, "unsupported_content")


def schema_format(schema: object, name: object, where: str) -> Json:
    """A JSON schema as the response format that prompts and grammars take."""
    if not isinstance(schema, dict):
        raise invalid(f"{where} must be a JSON schema, an object.", where)
    return {
        "type": "json_schema",
        "json_schema": {"name": name if isinstance(name, str) else "answer", "schema": schema},
    }
