"""The refusal of a network that cannot be traced."""

from ziggurat.errors import UserError


class CannotCut(UserError):  # noqa: N818 - reads as what happened
    """A network that cannot be cut into stages; the message says why, and what helps."""


class DrawsNumbers(CannotCut):
    """One that draws numbers while it runs, by which it may choose what it computes."""
