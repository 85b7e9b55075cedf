"""Proof, for a network at hand, that one step on several workers is the step on one: `ziggurat verify`."""

from ziggurat.verification.request import DEFAULT_INPUT
from ziggurat.verification.table import format_result
from ziggurat.verification.verify import verify

__all__ = ["DEFAULT_INPUT", "format_result", "verify"]
