"""Write the snapshot of the current series from the live specifications.

    python tools/snapshot.py           writes core/hooks/snapshots/X.Y.json
    python tools/snapshot.py --check   exits with 1 if it is stale

Run it after any change to ``core/hooks/roles``, ``types.py`` or the public API.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from packaging.version import Version

import ringfence
from ringfence.hooks import specs
from ringfence.hooks.role import Method
from ringfence.hooks.series import FOLDER, series_of
from ringfence.plugins.result_kinds import kind_of


def snapshot() -> dict[str, Any]:
    """Return what plugins can use of the live core."""
    public = {name: getattr(ringfence, name) for name in ringfence.__all__}
    return {
        "series": series_of(Version(ringfence.__version__)),
        "roles": sorted(specs.ROLES),
        "hooks": {hook.__name__: _arguments(hook) for hook in specs.HOOKS},
        "results": {method.hook.__name__: _result(method) for method in _methods()},
        "when": {method.hook.__name__: method.fires.name.lower() for method in _methods()},
        "names": sorted(public),
        "types": {name: _attributes(value) for name, value in public.items() if inspect.isclass(value)},
        "deprecated": specs.DEPRECATED,
    }


def text() -> str:
    """Return the snapshot as it is written: sorted, one item a line."""
    return json.dumps(snapshot(), indent=2, sort_keys=True) + "\n"


def path() -> Path:
    """Return the file of the current series."""
    return FOLDER / f"{series_of(Version(ringfence.__version__))}.json"


def _arguments(hook: Any) -> list[str]:
    """Return ``name: type`` for each argument, in order."""
    return [
        f"{name}: {parameter.annotation}" for name, parameter in inspect.signature(hook).parameters.items()
    ]


def _methods() -> list[Method]:
    return [method for role in specs.ROLES.values() for method in role.methods.values()]


def _result(method: Method) -> dict[str, Any]:
    """Return what a hook says it returns, and what of that is accepted."""
    kind = kind_of(method)
    return {
        "type": str(inspect.signature(method.hook).return_annotation),
        "changes": method.changes,
        "forms": list(kind.forms),
        "held to": kind.measured_by or None,
        "limits": dict(kind.limits),
    }


def _attributes(cls: type) -> list[str]:
    """Return the public attributes and methods of a type, those set by its constructor included."""
    names = {name for name in dir(cls) if not name.startswith("_")}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "ringfence":
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            names |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
                and not node.attr.startswith("_")
            }
            names |= {name for name in vars(base).get("__annotations__", {}) if not name.startswith("_")}
    return sorted(names)


def main() -> int:
    """Write or check the file; return the exit status."""
    current = path().read_text(encoding="utf-8") if path().exists() else ""
    if "--check" not in sys.argv[1:]:
        path().write_text(text(), encoding="utf-8")
    elif current != text():
        sys.stderr.write(f"{path()} is stale; run: python tools/snapshot.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
