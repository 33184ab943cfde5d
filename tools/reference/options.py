"""What the choices of a job take, told from the functions and classes that take it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import docstrings
import pydantic


def object_schema(taker: Callable[..., Any]) -> dict[str, Any]:
    """Return the JSON schema of the options of a reader, a model, a loss or a schedule.

    Args:
        taker: A function, whose keyword-only parameters are options, or a dataclass, whose fields are.
    """
    kinds = {inspect.Parameter.KEYWORD_ONLY}
    if inspect.isclass(taker):
        kinds.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    hints = typing.get_type_hints(taker, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(taker).parameters.items()
        if parameter.kind in kinds
    }
    schema = inlined(pydantic.create_model("Options", **fields).model_json_schema())
    doc = docstrings.read(taker)
    said = doc.entries("Args") | doc.entries("Attributes")
    for name, option in schema["properties"].items():
        if name in said:
            option["description"] = said[name].rstrip(".")
    return schema


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of pydantic's with every reference replaced by what it leads to, and no titles."""
    definitions = schema.get("$defs", {})

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            target = definitions[part["$ref"].rpartition("/")[2]]
            return walk({**target, **{key: value for key, value in part.items() if key != "$ref"}})
        return {
            key: walk(value)
            for key, value in part.items()
            # A title that pydantic makes of a name tells nothing; a property may be called "title".
            if key != "$defs" and not (key == "title" and isinstance(value, str))
        }

    walked: dict[str, Any] = walk(schema)
    walked.setdefault("properties", {})
    return walked
