"""Check a job's options against a plugin's constructor, read as text; the plugin is not imported."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ..compat.source.plugin_source import Parameter
from .annotation_types import option_type
from .problems import Path, Problem, describe, explain, nearest, suggest

#: What plugins call the option that holds arguments of the class or function that they wrap.
_HANDED_ON = "options"
_SWITCH_DEFAULTS = ("True", "False")
#: An annotation or a default that has infinity in it, as in ``Le(math.inf)``, takes it; no other does.
_INFINITY = re.compile(r"\binf\b")


@dataclass
class CheckedOptions:
    """Options of a job checked against the text of a plugin.

    Attributes:
        problems: Faults, each with its path inside the options.
        untold: Options that the text cannot judge, with the reason; constructing the plugin in
            its sandbox settles them. Never counted as fitting.
    """

    problems: list[Problem] = field(default_factory=list)
    untold: dict[str, str] = field(default_factory=dict)


def check_plugin_options(
    options: Mapping[str, Any],
    parameters: Sequence[Parameter],
    *,
    takes_any: bool = False,
    owner: str = "the plugin",
) -> CheckedOptions:
    """Compare ``options`` with the parameters of the constructor.

    Args:
        options: As the job gives them.
        parameters: As the source gives them.
        takes_any: True if the constructor takes ``**kwargs`` or could not be read.
        owner: What takes the options, as the subject of a sentence.
    """
    found = CheckedOptions()
    known = {parameter.name: parameter for parameter in parameters}
    for name, value in options.items():
        if name in known:
            _check_option(known[name], value, found)
        elif takes_any:
            found.untold[name] = "the constructor takes any option"
        else:
            found.problems.append(Problem((name,), _unknown_option(name, known), at_key=True))
    found.problems += [
        Problem((name,), f"is missing; {owner} needs it{_of_type(parameter)}")
        for name, parameter in known.items()
        if parameter.required and name not in options
    ]
    return found


def _unknown_option(name: str, known: Mapping[str, Parameter]) -> str:
    """Say what an option may be instead; one that takes a mapping called so hands it on to something else."""
    message = f"unknown option; {suggest(name, known)}"
    if _HANDED_ON not in known or nearest(name, known):
        return message
    return f"{message}. An argument of what it calls goes into '{_HANDED_ON}': {{{name}: …}}"


def _check_option(parameter: Parameter, value: object, found: CheckedOptions) -> None:
    name = parameter.name
    if value is None and parameter.default_text == "None":
        return
    told = option_type(parameter.annotation)
    if told.type is Any and parameter.default_text in _SWITCH_DEFAULTS and isinstance(value, str):
        # Any text would switch it on, 'no' as well.
        found.problems.append(Problem((name,), f"expected true or false, got {describe(value)}"))
        return
    infinite = list(_infinite(value))
    if infinite and not _takes_infinity(parameter):
        found.problems += [Problem((name, *p), "expected a finite number, got infinity") for p in infinite]
        return
    if told.untold:
        found.untold[name] = f"its type has a part that only the plugin knows: {', '.join(told.untold)}"
    try:
        adapter = TypeAdapter(told.type)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, ValueError) as error:
        found.untold[name] = f"its type {parameter.annotation_text} makes no sense as text: {error}"
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        found.problems.append(_problem(parameter, value, error))
    except TypeError:
        # A bound that does not fit its type, such as Ge(0) on text.
        found.untold[name] = f"its bounds cannot be compared with {describe(value)}"


def _takes_infinity(parameter: Parameter) -> bool:
    annotation = "" if parameter.annotation is None else ast.unparse(parameter.annotation)
    return _INFINITY.search(f"{annotation} {parameter.default_text}") is not None


def _infinite(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the places inside of ``value`` that hold a number which is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _infinite(item, (*path, key))


def _problem(parameter: Parameter, value: object, error: ValidationError) -> Problem:
    records = error.errors(include_url=False)
    name = parameter.name
    if len(records) == 1 and records[0]["type"] != "missing":
        return Problem((name, *_inside(records[0]["loc"], value)), explain(records[0]))
    # A union reports a fault for every type it tried; bounds are what the right type said.
    ranged = [record for record in records if "ctx" in record and record["type"] != "literal_error"]
    if len(ranged) == 1:
        return Problem((name, *_inside(ranged[0]["loc"], value)), explain(ranged[0]))
    shown = parameter.annotation_text or "another type"
    return Problem((name,), f"expected {shown}, got {describe(value)}")


def _inside(location: tuple[int | str, ...], value: object) -> Path:
    """Return the part of pydantic's location that is a path in ``value``; the rest names types."""
    path: list[int | str] = []
    for part in location:
        inside = (
            value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        )
        if part in inside:
            value = inside[part]
            path.append(part)
    return tuple(path)


def _of_type(parameter: Parameter) -> str:
    return f" ({parameter.annotation_text})" if parameter.annotation_text else ""
