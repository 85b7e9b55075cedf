"""Data sets of the user's: formats are recognised by looking, read into one table, validated, and opened.

A format is one module with a reader from a `Source` to a `Table`; it is listed in ``READERS`` (`opening`) and
recognised in `recognise`. `writing` writes data sets.
"""

from ziggurat.data.formats.check import find_faults
from ziggurat.data.formats.opening import open_dataset, recognise_tasks
from ziggurat.data.formats.table import Fault, Summary
from ziggurat.data.formats.writing import WRITTEN, convert, write_dataset

__all__ = [
    "WRITTEN",
    "Fault",
    "Summary",
    "convert",
    "find_faults",
    "open_dataset",
    "recognise_tasks",
    "write_dataset",
]
