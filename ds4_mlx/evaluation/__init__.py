"""How good a model is: losses on a text, distance between two models, known continuations, small graded tasks.

What lives here: the measures and the files they read. How they are shown is in `ds4_mlx.commands.eval`. Imports the
engine; nothing imports it but the commands.
"""
