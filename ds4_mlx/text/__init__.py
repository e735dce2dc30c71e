"""Text in and out of the model: tokenizer, DeepSeek's prompt format, and completions read back as they are sampled.

What lives here: `encode_messages` (a conversation -> the prompt, spec 15.2 to 15.5), `parse_completion` (a whole
completion -> a message, strict, spec 15.6), `Tokenizer` (text <-> ids <-> bytes), and what reads a completion while it
is sampled: `TextStream` (ids -> text), `StopMatcher` (stop strings), `CompletionReader` (text -> reasoning, content,
calls piece by piece), `CompletionStream` (the same with whole calls).

Who may import it: everything. It imports only `ds4_mlx.errors` and the standard library; tokenizers and sentencepiece
are loaded when a tokenizer is.

What it must not know: mlx, the model, sampling, sessions, HTTP or any API's shape of an event.
"""

from ds4_mlx.text.completion import CompletionEvent, CompletionPiece, CompletionReader, CompletionStream
from ds4_mlx.text.dsml import parse_completion, render_tool_calls
from ds4_mlx.text.encoding import encode_messages
from ds4_mlx.text.errors import DSMLError, EncodingError
from ds4_mlx.text.stream import StopMatcher, TextStream
from ds4_mlx.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "CompletionEvent",
    "CompletionPiece",
    "CompletionReader",
    "CompletionStream",
    "DSMLError",
    "EncodingError",
    "StopMatcher",
    "TextStream",
    "Tokenizer",
    "encode_messages",
    "load_tokenizer",
    "parse_completion",
    "render_tool_calls",
]
