"""What a run shows at its end: pictures, curves and tables of what its model can do and what it cannot."""

from ziggurat.report.write import write_report

__all__ = ["write_report"]
