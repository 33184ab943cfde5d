"""Files by other ways than their names, and traps for whoever cleans up."""

import errno
import os
import tempfile

from .. import reasons
from ..row import Row

_TWO_FILE_SYSTEMS = frozenset({errno.EXDEV})
_NOT_HERE = frozenset({errno.EOPNOTSUPP})


def _nameless():
    """Make a file without a name, where files for a short time are kept."""
    os.close(os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR, 0o600))


ROWS = (
    Row(
        3,
        "read secrets through links, handles and /proc",
        "landlock",
        "links:escapes",
        also={
            "hard_link": _TWO_FILE_SYSTEMS,
            "hard_link_of_handle": _TWO_FILE_SYSTEMS,
            "hard_link_of_nameless_handle": _TWO_FILE_SYSTEMS | {errno.ENOENT},
        },
        no_control=reasons.because(
            {"hard_link_of_nameless_handle": reasons.lacks("DAC_READ_SEARCH", anywhere=True)}
        ),
    ),
    Row(
        4,
        "move files out of the scratch folder, or into it",
        "landlock",
        "links:moves",
        also=_TWO_FILE_SYSTEMS | _NOT_HERE,
        no_control=reasons.because({"link_nameless_out": reasons.fails(_nameless)}),
    ),
    Row(
        5,
        "leave links, pipes and sockets to be cleaned up",
        "landlock, seccomp",
        "traps:made",
        also={"hard_link": _TWO_FILE_SYSTEMS},
    ),
)
