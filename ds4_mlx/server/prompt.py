"""From a conversation as clients send it to the engine's request: arranged, encoded, tokenised, constrained.

Everything that can be wrong with a request is found here, before a byte of the answer is sent. Runs in a worker thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ds4_mlx.engine.request import Constraint, Keeping, Request
from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.errors import UserError
from ds4_mlx.server.ask import Ask, Thinking
from ds4_mlx.server.errors import context_overflow, invalid
from ds4_mlx.server.served import CHAT, ServedModel
from ds4_mlx.server.thinking_budget import ThinkingBudget
from ds4_mlx.text import encode_messages
from ds4_mlx.text.special import THINK, THINK_END

Message = dict[str, Any]

BILLING_HEADER = "x-anthropic-billing-header:"
_NO_EFFORT = "none"
# What clients call their efforts -> ours (spec 15.7).
_EFFORTS = {
    "april": {"minimal": "high", "low": "high", "medium": "high", "high": "high", "xhigh": "high", "max": "max"},
    "0731": {"minimal": "low", "low": "low", "medium": "low", "high": "high", "xhigh": "high", "max": "max"},
}


def thinking_of(
    name: str,
    profile: Literal["april", "0731"],
    *,
    asked: bool | None,
    effort: str | None,
    default: bool,
    budget: int | None = None,
    param: str = "reasoning_effort",
) -> Thinking:
    """Whether to think. What the request says outright comes first, then its effort, then the model's name.

    name: one of ours. asked: thinking enabled or disabled by name; None when not said. default: what this API means by
    silence. Raises a 400 for an unknown effort.
    """
    known = _EFFORTS[profile]
    if effort is not None and effort != _NO_EFFORT and effort not in known:
        raise invalid(f"{param} is {effort[:40]!r}; expected one of none, {', '.join(known)}.", param)
    if asked is not None:
        on = asked
    elif effort is not None:
        on = effort != _NO_EFFORT
    else:
        on = default and name != CHAT
    return Thinking(on, known.get(effort or "") if on else None, budget if on else None)


def engine_requests(ask: Ask, model: ServedModel) -> list[Request]:
    """One engine request for each answer that is asked for.

    Raises `ApiError` (a 400) when the conversation cannot be encoded, does not fit, or a schema cannot be kept to.
    """
    try:
        return _engine_requests(ask, model)
    except UserError as error:
        raise invalid(str(error)) from None


def _engine_requests(ask: Ask, model: ServedModel) -> list[Request]:
    keeping = None
    if ask.prompt is not None:
        ids, thinking = _raw_ids(ask.prompt, model), False
    else:
        messages = arrange(ask)
        if model.replay is not None:
            messages = model.replay.attach(messages)
        text = encode_messages(
            messages,
            thinking_mode="thinking" if ask.thinking.on else "chat",
            reasoning_effort=ask.thinking.effort,
            profile=model.profile,
        )
        ids, thinking = model.tokenizer.encode(text), text.endswith(THINK)
        keeping = Keeping(messages, {"thinking": ask.thinking.on})
    if len(ids) >= model.context:
        raise context_overflow(len(ids), model.context - 1)
    try:
        ask.sampling.check_vocabulary(model.vocab_size)
    except UserError as error:
        raise invalid(str(error), "logit_bias") from None
    return [
        Request(
            prompt=ids,
            sampling=_sampling(ask.sampling, i),
            max_tokens=ask.max_tokens,
            stop=ask.stop,
            top_logprobs=ask.top_logprobs,
            raw=ask.prompt is not None,
            thinking=thinking,
            constraint=_constraint(ask, model, thinking),
            keeping=keeping,
        )
        for i in range(ask.choices)
    ]


def _sampling(options: SamplingOptions, choice: int) -> SamplingOptions:
    """Each of several answers has a seed of its own."""
    if options.seed is None or choice == 0:
        return options
    return replace(options, seed=(options.seed + choice) % 2**64)


def count_tokens(ask: Ask, model: ServedModel) -> int:
    """How many tokens the prompt has."""
    return len(engine_requests(ask, replace(model, context=2**62, constrain=None))[0].prompt)


def _raw_ids(prompt: str | list[int], model: ServedModel) -> list[int]:
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise invalid("The prompt is empty; give it at least one token.", "prompt")
    wrong = [token for token in ids if not 0 <= token < model.vocab_size]
    if wrong:
        raise invalid(f"Token id {wrong[0]} is outside the vocabulary (0 to {model.vocab_size - 1}).", "prompt")
    return ids


def _constraint(ask: Ask, model: ServedModel, thinking: bool) -> Constraint | None:
    """A constraint has a state, so each answer gets its own."""
    constraint = None
    if model.constrain is not None and (ask.tools or ask.response_format):
        allowed = ask.tool_choice.among
        tools = [
            {"type": "function", "function": {**tool["function"], "strict": tool["strict"]}}
            for tool in ask.tools
            if allowed is None or tool["function"]["name"] in allowed
        ]
        choice: Any = ask.tool_choice.mode
        if ask.tool_choice.mode == "named":
            choice = {"type": "function", "function": {"name": ask.tool_choice.name}}
        try:
            constraint = model.constrain(
                model.tokenizer,
                tools=tools,
                tool_choice=choice,
                parallel=ask.parallel,
                response_format=ask.response_format,
                thinking=thinking,
                vocab_size=model.vocab_size,
            )
        except UserError as error:
            raise invalid(str(error), "response_format" if ask.response_format else "tools") from None
    if thinking and ask.thinking.budget is not None:
        end = model.tokenizer.id_of(THINK_END)
        assert end is not None
        return ThinkingBudget(constraint, end, ask.thinking.budget, model.vocab_size)
    return constraint


def arrange(ask: Ask) -> list[Message]:
    """The conversation as the encoder knows conversations: one system message, then turns.

    Clients put system and developer messages anywhere. The encoder writes a system message without a mark of its own
    and no `<｜Assistant｜>` behind it, so those at the beginning become one, and later ones a part of the user's turn.
    """
    messages = list(ask.messages)
    system: list[str] = []
    while messages and messages[0]["role"] in ("system", "developer"):
        system.append(messages.pop(0)["content"])
    turns: list[Message] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            text = f"<system-reminder>\n{message['content']}\n</system-reminder>"
            turns.append({"role": "user", "content": text})
        elif role == "assistant" and turns and turns[-1]["role"] == "assistant":
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(dict(message))
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": ""})
    last = turns[-1]
    if last["role"] == "assistant":
        if last.get("tool_calls"):
            raise invalid("The last message calls tools; their results must follow it.", "messages")
        last["wo_eos"] = True  # the client began the answer; it is continued
    head: Message = {"role": "system", "content": "\n\n".join(text for text in system if text)}
    if ask.tools:
        head["tools"] = ask.tools
    if ask.response_format is not None:
        head["response_format"] = _shown_format(ask.response_format)
    return [head, *turns] if len(head) > 2 or head["content"] else turns


def _joined(first: Message, second: Message) -> Message:
    """Two assistant messages in a row are one turn: Responses has an item for each part of it."""
    joined = {**first, "content": (first.get("content") or "") + (second.get("content") or "")}
    reasoning = [m["reasoning_content"] for m in (first, second) if m.get("reasoning_content")]
    if reasoning:
        joined["reasoning_content"] = "\n\n".join(reasoning)
    calls = [*(first.get("tool_calls") or []), *(second.get("tool_calls") or [])]
    if calls:
        joined["tool_calls"] = calls
    return joined


def _shown_format(response_format: dict[str, Any]) -> Any:
    """What the model is shown of a response format: the schema that it is held to."""
    if response_format.get("type") == "json_schema":
        return response_format["json_schema"]["schema"]
    return {"type": "object"}


def assistant_message(content: str, reasoning: str, calls: list[Message]) -> Message:
    """An assistant turn; parts that are empty are left out."""
    message: Message = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def tool_call(call_id: str, name: str, arguments: str) -> Message:
    """A call in an assistant turn. Clients write a call without arguments as "{}", as "" and as "null"."""
    if arguments.strip() in ("", "null"):
        arguments = "{}"
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}


def without_billing(texts: list[str]) -> list[str]:
    """System texts without Claude Code's billing line: it holds a hash of the first message, and would be the first
    thing in every prompt, so that no two conversations had a beginning in common.
    """
    return [text for text in texts if not text.startswith(BILLING_HEADER)]
