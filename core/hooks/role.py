"""What a role is: two methods with a specification each, and how plugins of it are treated."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pluggy

PROJECT = "ringfence"
METHODS = ("forward", "backward")
DEADLINE_S = 30.0  # of a call, where neither its role nor the job says otherwise

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

OnFailure = Literal["restart", "disable", "abort"]


class Moment(enum.IntEnum):
    """When in a step a hook fires, in order."""

    BATCH = enum.auto()
    PARAMETERS = enum.auto()
    LOSS = enum.auto()
    AFTER_LOSS = enum.auto()
    GRADIENTS = enum.auto()
    UPDATE = enum.auto()
    AFTER_UPDATE = enum.auto()
    AFTER_STEP = enum.auto()


@dataclass(frozen=True, slots=True)
class Method:
    """One of the two methods of a role.

    Attributes:
        hook: Declares its arguments and documents it.
        fires: When.
        changes: The argument that its result replaces; None if it only reads.
    """

    hook: Callable[..., Any]
    fires: Moment
    changes: str | None = None

    @property
    def order(self) -> tuple[Moment, bool]:
        """Its place in a step: what only reads comes last at a moment, and sees what becomes of it."""
        return self.fires, self.changes is None


@dataclass(frozen=True, slots=True)
class Role:
    """What a role may change and how it is treated; the transport and the fold read only this.

    Attributes:
        name: As plugins write it in ``role``.
        forward: What ``forward`` is given, when, and what it may change.
        backward: The same of ``backward``.
        on_failure: What happens after a fault unless the job says otherwise.
        may_disable: Whether a run makes sense without the plugin.
        observes: True if the plugin is given snapshots and never waited for.
        runs_ahead: True if ``forward`` runs ahead of the loop, in several workers.
        exactly_one: True if a job needs one plugin of this role, and only one.
        autograd: True if torch records graphs in its plugins, as it does outside.
        deadline_s: Longest that one call may take unless the job says otherwise.
        fires_in: The commands that call its plugins; a job for another may not have one.
    """

    name: str
    forward: Method
    backward: Method
    on_failure: OnFailure = "restart"
    may_disable: bool = True
    observes: bool = False
    runs_ahead: bool = False
    exactly_one: bool = False
    autograd: bool = False
    deadline_s: float = DEADLINE_S
    fires_in: frozenset[str] = frozenset({"train"})

    @property
    def methods(self) -> Mapping[str, Method]:
        """Its methods by name."""
        return {"forward": self.forward, "backward": self.backward}
