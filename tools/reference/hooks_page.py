"""The page with every hook, and with what hooks receive and return."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import docstrings

from ringfence.hooks import specs, types
from ringfence.hooks.connect import connect
from ringfence.hooks.role import METHODS
from ringfence.hooks.series import Index

_HEAD = """\
# Hooks

<!-- Made by `python tools/reference` from `core/hooks/`. Change it there. -->

"""
#: What hooks receive and return, in the order of the page; what a type is made of follows it.
TYPES: tuple[type, ...] = (
    types.StepInfo,
    types.Batch,
    types.TensorMap,
    types.TensorSpec,
    types.LossTerm,
    types.LossScale,
    types.AnotherPass,
    types.Report,
    types.Histogram,
)
FUNCTIONS: tuple[Callable[..., Any], ...] = (types.passthrough, types.derive_seed, connect)
#: Methods that only the host calls.
_HOST_ONLY = ("for_plugin",)
#: Name in a signature to the type that it is another name of.
_ALIASES = {"Parameters": "TensorMap", "Gradients": "TensorMap"}


def text() -> str:
    """Return the page."""
    module = docstrings.parse(specs.__doc__ or "")
    parts = [_HEAD + module.summary, *module.paragraphs, _roles()]
    parts += [part for hook in specs.HOOKS for part in _hook(hook)]
    parts += ["## What hooks receive and return", *docstrings.parse(types.__doc__ or "").paragraphs]
    parts.append("All of these are imported from `ringfence`: `from ringfence import Batch, passthrough`.")
    parts += [part for each in TYPES for part in _type(each)]
    parts += [part for each in FUNCTIONS for part in _function(each)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _roles() -> str:
    rows = [
        "## Roles",
        "",
        "| role | `forward` | `backward` | a fault means | or may mean | in a job |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for role in specs.ROLES.values():
        changed = [role.methods[name].changes for name in METHODS]
        does = ["reads" if name is None else f"changes the {name}" for name in changed]
        others = [word for word in ("restart", "disable", "abort") if word != role.on_failure]
        may = [word for word in others if word != "disable" or role.may_disable]
        count = "exactly one" if role.exactly_one else "any number"
        cells = [*does, f"`{role.on_failure}`", ", ".join(f"`{word}`" for word in may), count]
        rows.append(f"| `{role.name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _hook(hook: Callable[..., Any]) -> Iterator[str]:
    role, _, method = hook.__name__.partition("_")
    doc = docstrings.read(hook)
    signature = inspect.signature(hook)
    said = doc.entries("Args")
    yield f"## {role}.{method}"
    yield f"```python\n{_written(method, hook, of_class=True)}\n```"
    yield doc.summary
    yield from (part for part in doc.paragraphs if not part.startswith("If it fails:"))
    rows = ["| argument | type | what it is | since |", "| --- | --- | --- | --- |"]
    for name, parameter in signature.parameters.items():
        since = _since(hook.__name__, name)
        rows.append(f"| `{name}` | {_linked(parameter.annotation)} | {said.get(name, '')} | {since} |")
    yield "\n".join(rows)
    returns = f"**May return** {_linked(signature.return_annotation)}."
    yield " ".join([returns, doc.sections.get("Returns", "")]).strip()
    failing = [part for part in doc.paragraphs if part.startswith("If it fails:")]
    default = f"By default a fault of a plugin of this role means `{specs.ROLES[role].on_failure}`."
    yield "\n\n".join([*failing, default])


def _since(hook: str, argument: str) -> str:
    """Return the first series in which a hook has an argument, and the one that drops it, if any."""
    index = Index.read()
    known = [index.snapshots[series.name] for series in index.series if series.name in index.snapshots]
    first = next((one.series for one in known if argument in one.hooks.get(hook, ())), "the next")
    drops = specs.DEPRECATED.get(f"{hook}.{argument}") or specs.DEPRECATED.get(hook)
    return f"{first}, until {drops}" if drops else first


def _type(cls: type) -> Iterator[str]:
    doc = docstrings.read(cls)
    names = [alias for alias, of in _ALIASES.items() if of == cls.__name__]
    yield f"### {cls.__name__}"
    if names:
        yield f"`{'` and `'.join(names)}` are other names for it, which say what it holds."
    yield doc.summary
    yield from doc.paragraphs
    said = doc.entries("Attributes") or doc.entries("Args")
    if not said and dataclasses.is_dataclass(cls):
        said = {field.name: "" for field in dataclasses.fields(cls)}
    rows = ["| attribute | type | what it is |", "| --- | --- | --- |"]
    for name, what in said.items():
        rows.append(f"| `{name}` | {_linked(_annotation(cls, name))} | {what} |")
    yield "\n".join(rows) if said else ""
    methods = ["| method | what it does |", "| --- | --- |"]
    for name, member in vars(cls).items():
        what = docstrings.read(member).summary.replace("\n", " ")
        if name.startswith("_") or name in _HOST_ONLY or not what:
            continue
        if isinstance(member, property):
            methods.append(f"| `{name}` | {what} |")
        elif isinstance(member, classmethod):
            methods.append(f"| `{cls.__name__}.{_called(name, member.__func__)}` | {what} |")
        elif inspect.isfunction(member):
            methods.append(f"| `{_called(name, member)}` | {what} |")
    yield "\n".join(methods) if len(methods) > 2 else ""  # noqa: PLR2004 - the two lines of the head


def _function(function: Callable[..., Any]) -> Iterator[str]:
    doc = docstrings.read(function)
    yield f"### {function.__name__}"
    yield f"```python\n{_written(function.__name__, function)}\n```"
    yield doc.summary
    yield from doc.paragraphs
    for section in ("Args", "Raises"):
        entries = doc.entries(section)
        rows = [f"| {'argument' if section == 'Args' else 'raises'} | |", "| --- | --- |"]
        yield "\n".join(
            [*rows, *(f"| `{name}` | {what} |" for name, what in entries.items())] if entries else []
        )


def _written(name: str, function: Callable[..., Any], *, of_class: bool = False) -> str:
    """Return a definition as its author writes it."""
    # Annotations are text here, which str() puts in quotes.
    signature = re.sub(r"'([^']*)'", r"\1", str(inspect.signature(function)))
    return f"def {name}({'self, ' if of_class else ''}{signature[1:]}"


def _called(name: str, method: Callable[..., Any]) -> str:
    """Return a method as it is called, for a table, where a bar would end the cell."""
    signature = re.sub(r"'([^']*)'", r"\1", str(inspect.signature(method)))
    return re.sub(r"^\((?:self|cls)(?:, )?", f"{name}(", signature).replace(" | ", " or ")


def _annotation(cls: type, name: str) -> str:
    for base in cls.__mro__:
        if name in inspect.get_annotations(base):
            return str(inspect.get_annotations(base)[name])
    parameter = inspect.signature(cls).parameters.get(name)
    return str(parameter.annotation) if parameter else ""


def _linked(annotation: str) -> str:
    """Return a type as Markdown, each part that is on this page as a link to it."""
    return " or ".join(_link(part.strip()) for part in annotation.split(" | "))


def _link(name: str) -> str:
    home = _ALIASES.get(name, name)
    if home in {cls.__name__ for cls in TYPES}:
        return f"[`{name}`](#{home.lower()})"
    return f"`{name}`" if name else ""
