"""What a process gets from the one that started it, and what it shares with it."""

import errno

from .. import reasons
from ..row import Row

_NO_SUCH = frozenset({errno.EBADF, errno.ENOENT})
_TOO_MANY = frozenset({errno.EMFILE, errno.EINVAL, errno.EBADF})
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
#: Either right does.
_MAP_FILES = reasons.lacks("CHECKPOINT_RESTORE") and reasons.lacks("SYS_ADMIN")

ROWS = (
    Row(
        15,
        "use descriptors of the trainer",
        "fds",
        "descriptors:inherited",
        also=_NO_SUCH,
        no_control={"standard_input": "the tests give a trainer /dev/null for standard input as well"},
    ),
    Row(16, "find variables of the trainer", "environment", "search:environment"),
    Row(17, "find the trainer's memory in one's own", "a clean zygote", "search:canary"),
    Row(25, "use up descriptors", "rlimits", "descriptors:exhausted", also=_TOO_MANY),
    Row(27, "shrink shared memory", "sealed memory", "shared_memory:shrink", harms="ended"),
    Row(
        28,
        "grow, hollow out and seal shared memory",
        "sealed memory, seccomp",
        "shared_memory:grow",
        also=_UNSUPPORTED,
    ),
    Row(28, "run code that lies in shared memory", "seccomp", "shared_memory:run"),
    Row(
        29,
        "write into what is handed out to be read",
        "sealed memory, seccomp",
        "shared_writes:through_descriptors",
    ),
    Row(
        29,
        "write into what is mapped to be read",
        "sealed memory, landlock, seccomp",
        "shared_writes:through_mappings",
        no_control=reasons.because({"map_files": _MAP_FILES}),
    ),
)
