"""Play an earlier series: hide from a plugin, in its own process, what that series lacked.

No old core is needed: two snapshots say what is missing, and names, arguments and
attributes are taken away before the plugin is imported. What it then does without them,
it would do there. What a hook did otherwise under the same name is not told by this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from ..hooks.series import SeriesSnapshot

_PUBLIC = __name__.partition(".")[0]
#: Public types some of whose values have more than is on record, for who asks whether it is there.
_WITH_MORE = ("TensorMap",)


@dataclass(frozen=True, slots=True)
class Lack:
    """The lack of an earlier series, of what the running one offers.

    Attributes:
        series: Its name.
        names: Of ``from ringfence import …``.
        hooks: Hooks that it does not have at all.
        arguments: Hook to the arguments that it does not hand over.
        attributes: Public type to the attributes that its values do not have.
    """

    series: str
    names: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def between(cls, earlier: SeriesSnapshot, running: SeriesSnapshot) -> Lack:
        """Return what ``earlier`` lacks of ``running``."""
        shared = earlier.hooks.keys() & running.hooks.keys()
        return cls(
            series=earlier.series,
            names=_missing(running.names, earlier.names),
            hooks=_missing(running.hooks, earlier.hooks),
            arguments=_by_key({hook: _missing(running.hooks[hook], earlier.hooks[hook]) for hook in shared}),
            attributes=_by_key(
                {
                    name: _missing(attributes, earlier.types.get(name, frozenset()))
                    for name, attributes in running.types.items()
                    if name in earlier.types
                }
            ),
        )

    @property
    def is_empty(self) -> bool:
        """Tell whether that series offers all that the running one does."""
        return not (self.names or self.hooks or self.arguments or self.attributes)

    def offered(self, role: str, accepts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return which of the arguments that a class takes it would be given, by method.

        A method without its hook is never called. One that takes an argument which is not
        given fails when it is called, as any call in Python that leaves an argument out.
        """
        return {
            method: tuple(name for name in names if name not in self.arguments.get(f"{role}_{method}", ()))
            for method, names in accepts.items()
            if f"{role}_{method}" not in self.hooks
        }

    def hide(self, own: Iterable[str]) -> None:
        """Take names and attributes away in this process, for good.

        Args:
            own: Modules of the plugin; what the outermost packages of these cannot see, ringfence still can.
        """
        packages = frozenset(name.partition(".")[0] for name in own)
        package = sys.modules[_PUBLIC]
        hidden: dict[type, set[str]] = {}
        for name, gone in self.attributes.items():
            hidden.setdefault(getattr(package, name), set()).update(gone)
        for name in _WITH_MORE:
            cls = getattr(package, name)
            more = {attribute for special in cls.__subclasses__() for attribute in vars(special)}
            hidden.setdefault(cls, set()).update(more - vars(cls).keys())
        for cls, attributes in hidden.items():
            _hide_attributes(cls, frozenset(attributes), packages, self.series)
        _hide_names(package, frozenset(self.names), self.series)
        setattr(package, "__version__", f"{self.series}.0")  # noqa: B010 - a module's attribute, not ours


def _hide_names(package: ModuleType, hidden: frozenset[str], series: str) -> None:
    offered = vars(package)["__getattr__"]

    def __getattr__(name: str) -> object:  # noqa: N807 - what Python looks for in a module
        if name in hidden:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r} in series {series}")
        return offered(name)

    for name in hidden:
        vars(package).pop(name, None)
    setattr(package, "__getattr__", __getattr__)  # noqa: B010 - a module's attribute, not a variable of ours
    setattr(package, "__all__", [name for name in package.__all__ if name not in hidden])  # noqa: B010


def _hide_attributes(cls: type, hidden: frozenset[str], packages: frozenset[str], series: str) -> None:
    usual: Any = cls.__getattribute__

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807 - what Python looks for in a class
        if name in hidden and _asks(sys._getframe(1), packages):  # noqa: SLF001 - whose line this is
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r} in series {series}")
        return usual(self, name)

    setattr(cls, "__getattribute__", __getattribute__)  # noqa: B010 - of a class that is not ours to write


def _asks(frame: Any, packages: frozenset[str]) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in packages


def _missing(running: Iterable[str], earlier: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(running) - set(earlier)))


def _by_key(found: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {key: found[key] for key in sorted(found) if found[key]}
