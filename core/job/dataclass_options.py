"""Check options of a job against the fields of one of our own dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from ..compat.source.plugin_source import Parameter
from .plugin_options import check_plugin_options
from .problems import Problem, nearest


def check_fields(cls: type, options: Mapping[str, Any], owner: str) -> list[Problem]:
    """Return what is wrong with the options that an object of ``cls`` is to be made of.

    Args:
        cls: A dataclass, whose ``ValueError`` for what is out of range starts with the option it is about.
        options: As the job gives them.
        owner: What takes them, as the subject of a sentence.
    """
    problems = check_plugin_options(options, _fields(cls), owner=owner).problems
    if problems:
        return problems
    try:
        cls(**options)
    except ValueError as error:
        option = nearest(str(error).partition(" ")[0], options)
        return [Problem((option,) if option else (), str(error))]
    return []


def _fields(cls: type) -> list[Parameter]:
    """Describe the fields as a plugin's options are described."""
    # Of each class that adds some, where a dataclass is made of another.
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        annotations |= inspect.get_annotations(base)
    return [
        Parameter(
            name=field.name,
            annotation=ast.parse(str(annotations[field.name]), mode="eval").body,
            annotation_text=str(annotations[field.name]),
            default_text=None if field.default is dataclasses.MISSING else repr(field.default),
            required=field.default is dataclasses.MISSING,
            line=0,
        )
        for field in dataclasses.fields(typing.cast(Any, cls))
    ]
