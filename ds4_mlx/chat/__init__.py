"""A conversation in the terminal: `ds4-mlx chat` and `python -m ds4_mlx.chat`.

What lives here, from the inside out: `conversation` (messages, session, settings: no terminal), `files` (what is
attached), `commands` (the lines that begin with a slash), `loop` (a line in, an answer out), and the two faces it may
wear: `prompt` and `screen` on a terminal, `plain` in a pipe or a terminal that cannot move its cursor.

Who may import it: the command line. What it must not know: the server, HTTP, the insides of the model.
"""
