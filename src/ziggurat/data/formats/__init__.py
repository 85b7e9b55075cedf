"""Data sets of the user's: formats are recognised by looking, read into one table, validated, and opened.

A format is one module with a reader from a `Source` to a `Table`, registered in `builtin` and recognised in `recognise`;
`registry` says how one from outside is added. `writing` writes data sets.
"""

from ziggurat.data.faults import Fault
from ziggurat.data.formats.check import find_faults
from ziggurat.data.formats.opening import open_split, recognise_annotations
from ziggurat.data.formats.recognise import NotServedError
from ziggurat.data.formats.registry import FORMATS, Format, register_format
from ziggurat.data.formats.table import Summary
from ziggurat.data.formats.writing import write_dataset

__all__ = [
    "FORMATS",
    "Fault",
    "Format",
    "NotServedError",
    "Summary",
    "find_faults",
    "open_split",
    "recognise_annotations",
    "register_format",
    "write_dataset",
]
