"""What can be wrong with a prompt or a completion."""

from ds4_mlx.errors import UserError

THINKING_MODES = ("chat", "thinking")


class EncodingError(UserError):
    """The conversation, or an option given with it, cannot be written as a prompt."""


class DSMLError(UserError, ValueError):
    """The completion is not what DeepSeek's format allows (spec 15.6)."""


def check_thinking_mode(thinking_mode: object) -> None:
    """Raise EncodingError unless `thinking_mode` is "chat" or "thinking"."""
    if thinking_mode not in THINKING_MODES:
        raise EncodingError(f"thinking_mode must be 'chat' or 'thinking', not {thinking_mode!r}.")
