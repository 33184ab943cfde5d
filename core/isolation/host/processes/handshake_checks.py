"""Checks of what a worker says of itself, before anything is built on it."""

from __future__ import annotations

from ....hooks.role import METHODS
from ...policy.layer_status import LAYER_PROBES
from ...transport.messages import Locked, MessageError, Ready

_PROBES = frozenset(name for names in LAYER_PROBES.values() for name in names)
_MAX_ARGUMENTS = 64
_MAX_NAME = 200


def check_locked(locked: Locked) -> None:
    """Check that layers and probes are those that there are, each layer once.

    Raises:
        MessageError: One is not.
    """
    names = [layer.name for layer in locked.layers]
    unknown = [name for name in names if name not in LAYER_PROBES]
    unknown += [name for name in locked.probes if name not in _PROBES]
    if unknown:
        raise MessageError(f"a layer or probe that there is not: {unknown[0]!r:.80}")
    if len(set(names)) < len(names):
        raise MessageError("a layer twice")


def check_ready(ready: Ready) -> None:
    """Check that methods and arguments have names that a plugin's can have.

    Whether they fit the hooks is for others to judge, who say how they do not.

    Raises:
        MessageError: They have not.
    """
    for method, arguments in ready.accepts.items():
        if method not in METHODS:
            raise MessageError(f"a method {method!r:.80}; plugins have {' and '.join(METHODS)}")
        if len(arguments) > _MAX_ARGUMENTS:
            raise MessageError(f"{len(arguments)} arguments of {method}(); at most {_MAX_ARGUMENTS}")
        odd = [name for name in arguments if not name.isidentifier() or len(name) > _MAX_NAME]
        if odd:
            raise MessageError(f"an argument of {method}() that is no name: {odd[0]!r:.80}")
        if len(set(arguments)) < len(arguments):
            raise MessageError(f"an argument of {method}() twice")
