"""A conversation as the prompt DeepSeek V4 was trained on: `encode_messages`, equal to DeepSeek's encoder (spec 15).

Knows nothing of token ids. The caller's messages are never changed.
"""

from collections.abc import Sequence
from typing import Any

from ds4_mlx.text import special
from ds4_mlx.text.dsml import replayed_tool_calls
from ds4_mlx.text.errors import EncodingError, check_thinking_mode
from ds4_mlx.text.templates import effort_text, response_format_text, tools_text
from ds4_mlx.text.turns import Block, Turns, arrange
from ds4_mlx.text.validate import Message, check_messages

_TASK_TOKENS = {
    "action": special.ACTION,
    "query": special.QUERY,
    "authority": special.AUTHORITY,
    "domain": special.DOMAIN,
    "title": special.TITLE,
    "read_url": special.READ_URL,
}


def encode_messages(
    messages: Sequence[dict[str, Any]],
    *,
    thinking_mode: str = "thinking",
    reasoning_effort: str | None = None,
    drop_thinking: bool = True,
    add_bos: bool = True,
    context: Sequence[dict[str, Any]] | None = None,
    profile: str = "april",
) -> str:
    """Write a conversation as a prompt, up to where the model goes on (spec 15.2 to 15.5, 15.7).

    Args:
        messages: OpenAI-like messages with role system, user, developer, assistant, tool or latest_reminder. Tools and
            a response_format ride on the system (or developer) message; an assistant message may carry
            reasoning_content, tool_calls, calls_text (these calls as they were sampled, written as they stand if they
            still are the same) and wo_eos (to be continued); any message may carry a task.
        thinking_mode: "thinking" opens the answer with `<think>`, "chat" with `</think>`.
        reasoning_effort: "high" or "max" (april); "low", "high" or "max" (0731); None adds nothing. Thinking only.
        drop_thinking: forget the reasoning of turns before the last user message; ignored when a message has tools.
        add_bos: begin with BOS. Never done after a context.
        context: messages whose prompt exists already; only what follows them is returned.
        profile: the encoder of the "april" or of the "0731" checkpoint.

    Raises:
        EncodingError: an option or a message cannot be used; the sentence says which.
    """
    check_thinking_mode(thinking_mode)
    thinking = thinking_mode == "thinking"
    preamble = effort_text(profile, reasoning_effort)
    new = check_messages(messages, "messages")
    before = [] if context is None else check_messages(context, "context")
    turns = arrange(new, before, thinking=thinking, drop_thinking=drop_thinking)

    prompt = special.BOS if add_bos and not before else ""
    for index in range(turns.first_new, len(turns.messages)):
        if index == 0 and thinking:
            prompt += preamble
        prompt += _body(turns, index, thinking) + _transition(turns, index, thinking)
    return prompt


def _body(turns: Turns, index: int, thinking: bool) -> str:
    message = turns.messages[index]
    role = message["role"]
    if role == "system":
        return (message.get("content") or "") + _attachments(message)
    if role == "user":
        return special.USER + "\n\n".join(_block_text(block) for block in message["blocks"])
    if role == "developer":
        return special.USER + message["content"] + _attachments(message)
    if role == "latest_reminder":
        return special.LATEST_REMINDER + message["content"]
    if role == "assistant":
        return _assistant(turns, index, thinking)
    raise EncodingError(
        f"A message has the role {role!r}; use system, user, developer, assistant, tool or latest_reminder."
    )


def _attachments(message: Message) -> str:
    text = ""
    if message.get("tools"):
        text += "\n\n" + tools_text(message["tools"])
    if message.get("response_format"):
        text += "\n\n" + response_format_text(message["response_format"])
    return text


def _block_text(block: Block) -> str:
    return f"<tool_result>{block.text}</tool_result>" if block.is_tool_result else block.text


def _assistant(turns: Turns, index: int, thinking: bool) -> str:
    message = turns.messages[index]
    # A task asks for a bare answer: its turn opened neither with <think> nor with </think>.
    answers_task = index > 0 and turns.messages[index - 1].get("task") is not None
    text = ""
    if thinking and not answers_task and (turns.keep_thinking or index > turns.last_user):
        text += (message.get("reasoning_content") or "") + special.THINK_END
    text += message.get("content") or ""
    text += replayed_tool_calls(message.get("tool_calls") or [], message.get("calls_text"))
    return text if message.get("wo_eos") else text + special.EOS


def _transition(turns: Turns, index: int, thinking: bool) -> str:
    """What hands the turn to the model, written after the last message and before each assistant turn."""
    message = turns.messages[index]
    is_last = index + 1 == len(turns.messages)
    if not is_last and turns.messages[index + 1]["role"] not in ("assistant", "latest_reminder"):
        return ""
    task = message.get("task")
    if task is not None:
        return _task_text(task, thinking)
    if message["role"] not in ("user", "developer"):
        return ""
    thinks = thinking and (turns.keep_thinking or index >= turns.last_user)
    return special.ASSISTANT + (special.THINK if thinks else special.THINK_END)


def _task_text(task: object, thinking: bool) -> str:
    if not isinstance(task, str) or task not in _TASK_TOKENS:
        raise EncodingError(f"A message has the task {task!r}; the tasks are {', '.join(_TASK_TOKENS)}.")
    if task == "action":
        return special.ASSISTANT + (special.THINK if thinking else special.THINK_END) + special.ACTION
    return _TASK_TOKENS[task]
