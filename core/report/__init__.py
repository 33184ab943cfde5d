"""Write what happens in a run to its folder, and make a page of it."""

from ..tracking.metrics_log import RunRecorder
from .page import write_report

__all__ = ["RunRecorder", "write_report"]
