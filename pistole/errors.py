"""The one error type that a user's mistake raises."""


class UserError(ValueError):
    """A mistake that the user can mend: one line with what is wrong, its value and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """
