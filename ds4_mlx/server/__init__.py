"""The model behind HTTP: OpenAI's chat completions, completions and responses, Anthropic's messages.

What lives here: a file per API (its request schema, and an adapter from the engine's pieces to its events), and what
they share: `ask` (what any request comes down to), `prompt` (conversation -> token ids), `exchange` (from the engine's
thread to asyncio), `streaming` (server-sent events, heartbeats, clients that go away), `errors`, `app` (all of it).

Who may import it: the command line. It imports everything but cli and chat.

What it must not know: mlx, and how answers are made: all it asks of an engine is on `ds4_mlx.engine.request`.
"""
