"""Read what a run has written line by line."""

from ringfence.tracking.json_lines import MAX_METRICS_BYTES, bounds_of, read_lines
from ringfence.tracking.untrusted_folder import Tree


def read_journal(path):
    """Yield the records of a file, without a last line that a kill cut short; none if it is missing."""
    for line in read_lines(Tree(path.parent), path.name, bounds_of(MAX_METRICS_BYTES)):
        if line.record is not None:
            yield line.record
