"""Files: read what is secret, and what tells of others."""

from .. import reasons
from ..attacks.files import OF_THE_MACHINE, PLACES, there_are
from ..row import Row


def _closed(paths):
    return reasons.because({name: reasons.unreadable(path) for name, path in there_are(paths).items()})


ROWS = (
    Row(1, "read keys, tokens, data, checkpoints", "landlock", "files:credentials"),
    Row(1, "read and do what is forbidden from another thread", "landlock, seccomp", "threads:forbidden"),
    Row(
        2, "list homes, the project, and the machine", "landlock", "files:folders", no_control=_closed(PLACES)
    ),
    Row(
        2,
        "read accounts, and what the machine tells of itself",
        "landlock",
        "files:of_the_machine",
        no_control=_closed(OF_THE_MACHINE),
    ),
)
