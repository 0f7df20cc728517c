"""robokd: from a policy that knows everything in simulation to one that sees, and onto a robot."""

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake of the user's: the command line prints it as one line and exits with 2.

    The message says what was got, what was wanted and what exists.
    """
