"""Data sets of the user's: formats are recognised by looking, read into one table, judged, and opened.

A format is one module with a reader from a `Source` to a `Table`; it is listed in ``READERS`` (`opening`) and
recognised in `recognise`.
"""

from ziggurat.data.formats.check import find_faults
from ziggurat.data.formats.opening import open_dataset
from ziggurat.data.formats.table import Fault, Summary

__all__ = ["Fault", "Summary", "find_faults", "open_dataset"]
