"""Running a model: loading it, sessions, sampling, generation. The only owner of the GPU.

May import everything but server, cli and chat. Knows nothing of HTTP or terminals.
"""
