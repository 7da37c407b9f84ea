"""The one error that users see for bad input."""


class InputError(ValueError):
    """Bad input from a user: the message names the input and the remedy. The command prints it without a traceback."""
