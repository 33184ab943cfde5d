"""What a row of the matrix says: what is tried, which layer stops it, and what may come of it."""

import errno
from dataclasses import dataclass, field

from .attacks.hostile import NOTHING

#: The sandbox said no, or there was nothing to be had.
REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, NOTHING})


@dataclass(frozen=True)
class Row:
    """One attack that is made of attempts, each of which has to be refused.

    Attributes:
        number: Its place in the list of attacks, or a label of its own; several rows may share one.
        title: What is tried.
        layer: What stops it.
        attack: ``"module:function"`` below ``attacks/``.
        plugin: Class that makes the attempts.
        also: Errors that mean refusal here, besides the usual; for single attempts by name.
        no_control: Attempt (or ``"*"`` for all) to the reason why it cannot be shown to succeed.
        control_prefix: Command that the control runs under, to keep harm to itself.
        harms: What becomes of the unprotected trainer: ``""``, ``"stopped"`` or ``"ended"``.
        heard: Listeners that hear of it where no sandbox is.
    """

    number: int | str
    title: str
    layer: str
    attack: str
    plugin: str = "Hostile"
    also: frozenset[int] | dict[str, frozenset[int]] = frozenset()
    no_control: dict[str, str] = field(default_factory=dict)
    control_prefix: tuple[str, ...] = ()
    harms: str = ""
    heard: tuple[str, ...] = ()

    def allowed(self, attempt):
        """Return what may come of an attempt."""
        also = self.also.get(attempt, frozenset()) if isinstance(self.also, dict) else self.also
        return REFUSED | also

    def why_no_control(self, attempt):
        """Return why an attempt has no control, or ``""``."""
        return self.no_control.get(attempt) or self.no_control.get("*", "")

    def __str__(self):
        return f"{self.number:0>2}-{self.attack.replace(':', '-')}"
