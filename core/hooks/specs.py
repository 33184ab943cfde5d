"""The hooks of one training step, in firing order.

    (the timeline, made of the files of the roles)

A plugin is a class with an attribute ``role`` and two methods, ``forward`` and
``backward``. A method may take any subset of its hook's arguments, by name. One
that has nothing to do is written ``forward = passthrough`` and costs nothing.

With gradient accumulation some hooks fire for every micro-batch and others once a
step, as each of them says. ``augment.forward`` runs ahead of the loop, in
several workers; when ``augment.backward`` is not a pass-through it runs in step
with the loop, in one worker, so that what it learns never depends on timing.

Two more methods are optional for every role: ``state_dict()`` returns what the
plugin needs to go on after a restart (dicts, lists, strings, numbers, booleans,
None and tensors), and ``load_state_dict(state)`` takes it back. Neither need copy:
what is returned is read at once, and what is given is the plugin's own from then on.

Attributes that a plugin may leave out spare the run work, and one that is seen not to hold is a fault:
``draws = False`` says that it never draws from a global generator, ``one_pass = True`` that
an optimizer never returns ``AnotherPass``, ``reads_bytes = True`` that an augmentation takes
images of bytes as those, uint8 in place of float32 in [0, 1]; what it returns is float32.
``takes_trees = True`` says that a plugin knows inputs, targets and outputs that are dicts and lists of
tensors; one that leaves it out and takes any of them is refused where they are no tensor each.
Whether a trusted plugin draws is looked at in its first call and in every 16th from there; what it draws
in between comes from the run's own generators, and the weights are not those of a sandbox.

Anything a plugin logs with ``step.log(name, value)`` reaches the run's metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from operator import attrgetter
from typing import Any

from .role import Moment, Role
from .roles import find_roles

#: Role by name: those that change a run, then those that only watch it.
ROLES: dict[str, Role] = {role.name: role for role in sorted(find_roles(), key=attrgetter("observes"))}

_METHODS = sorted((m for role in ROLES.values() for m in role.methods.values()), key=attrgetter("order"))

#: Hooks in firing order; ``test_specs.py`` holds this, the docstring above and a recorded run together.
HOOKS: tuple[Callable[..., Any], ...] = tuple(method.hook for method in _METHODS)

#: What will go, spelt ``hook``, ``hook.argument``, ``Name`` or ``Type.attribute``, to the series
#: that drops it. It must stand here for two series before.
DEPRECATED: dict[str, str] = {}

#: What happens right before a moment.
_BEFORE = {
    Moment.LOSS: ["# outputs = model(normalise(batch.inputs)); loss = criterion(outputs, batch.targets)"],
    Moment.GRADIENTS: ["# loss.backward()"],
}


def _timeline() -> str:
    lines: list[str] = []
    for moment in Moment:
        fired = [method.hook for method in _METHODS if method.fires == moment]
        calls = [
            f"{hook.__name__.replace('_', '.')}({', '.join(signature(hook).parameters)})" for hook in fired
        ]
        lines += [*_BEFORE.get(moment, []), *calls]
    return "\n".join(f"    {line}" for line in lines)


__doc__ = (__doc__ or "").replace("    (the timeline, made of the files of the roles)", _timeline())
