"""Write what happens in a run to its folder, and make a page of it."""

from .html import write_report
from .recorder import RunRecorder

__all__ = ["RunRecorder", "write_report"]
