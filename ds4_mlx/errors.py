"""The one exception a person is meant to read. Knows nothing of the rest of the package."""


class UserError(Exception):
    """Something the user gave (a path, a flag, a file, a prompt) cannot be used.

    The message says what was wrong, what was expected and what to do, in one or two sentences. The command line prints
    it without a traceback and exits with code 2; library callers can catch it.
    """
