"""Check options of a job against the typed keyword parameters of the function that takes them."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pydantic

from ..hooks.errors import RingfenceError
from .problems import Problem, describe, dotted_path, either, explain, suggest
from .user_code import is_import_path, suggest_own

_FINITE = pydantic.ConfigDict(allow_inf_nan=False)


class OptionError(ValueError):
    """Options do not fit.

    Attributes:
        problems: Each with its path inside the options.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"option '{dotted_path(p.path)}' {p.message}" for p in self.problems))


@functools.lru_cache(64)
def _model_of(function: Callable[..., Any]) -> type[pydantic.BaseModel]:
    """Return what checks the keyword-only parameters of a function; to make it takes long."""
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is inspect.Parameter.empty else p.default)
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return pydantic.create_model("Options", __config__=_FINITE, **fields)


def check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the types that the keyword-only parameters of ``function`` ask for.

    Types are checked as written in a job: a number in quotes is no number, and
    true is no integer; a string is a path, and a list a tuple, where one is wanted.

    Args:
        function: Its annotations may carry ranges, as in ``Annotated[int, Field(ge=1)]``.
        options: Plain data from the job.

    Raises:
        OptionError: A name is unknown, a value does not fit, or one without a default is missing.
    """
    parameters = inspect.signature(function).parameters
    taken = {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    problems = _unknown_option(options, taken)
    known = {name: value for name, value in options.items() if name in taken}
    try:
        # JSON in strict mode is just what a job can say.
        checked = _model_of(function).model_validate_json(json.dumps(known, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise OptionError(problems + _explain(error)) from None
    if problems:
        raise OptionError(problems)
    return {name: getattr(checked, name) for name in known}


def check_named(
    kind: str,
    name: str,
    options: Mapping[str, Any],
    known: Mapping[str, Callable[..., Any]],
    error: type[RingfenceError],
) -> dict[str, Any]:
    """Return ``options`` with the types of what the job names; nothing is made.

    Options of a ``module:function`` are returned as they are: it is not imported yet.

    Raises:
        RingfenceError: Of type ``error``: there is no such ``kind``.
        OptionError: An option does not fit; it lists the problems with their paths.
    """
    if is_import_path(name):
        return dict(options)
    if name not in known:
        raise error(f"{kind} '{name}' is unknown; {suggest_own(name, known)}")
    return check_options(known[name], options)


def check_call(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    given: Collection[str] = (),
    beside: Collection[str] = (),
) -> None:
    """Check the names of ``options`` against a function of the user's, whose types are its own matter.

    All but one: where it wants true or false no text is taken, since any would mean true, ``no`` as well.

    Args:
        function: Any callable.
        options: Keyword arguments from the job.
        given: Names that the caller passes when the function takes them.
        beside: Names that the job may have beside the function's own, for messages.

    Raises:
        OptionError: A name is unknown, or one without a default is missing, or text stands for a boolean.
    """
    parameters = inspect.signature(function).parameters.values()
    keyword = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    problems = [] if open_ended else _unknown_option(options, keyword, beside)
    problems += [
        Problem((name,), "is missing; it has no default")
        for name, parameter in keyword.items()
        if parameter.default is parameter.empty and name not in options and name not in given
    ]
    problems += [
        Problem((name,), f"expected true or false, got {describe(options[name])}")
        for name, parameter in keyword.items()
        if isinstance(options.get(name), str) and _is_switch(parameter)
    ]
    if problems:
        raise OptionError(problems)


def _is_switch(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is true or false, and never text: by its annotation, or else its default."""
    if parameter.annotation is parameter.empty:
        return isinstance(parameter.default, bool)
    written = inspect.formatannotation(parameter.annotation)
    return "bool" in written and "str" not in written and "Literal" not in written


def _unknown_option(
    options: Mapping[str, Any], known: Collection[str], beside: Collection[str] = ()
) -> list[Problem]:
    return [
        Problem((name,), f"is unknown; {suggest(name, [*known, *beside])}", at_key=True)
        for name in options
        if name not in known
    ]


def _explain(error: pydantic.ValidationError) -> list[Problem]:
    """Say what is wrong with each option; a union reports one fault for every type that it tried."""
    messages: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        said = messages.setdefault(str(fault["loc"][0]), [])
        text = "is missing; it has no default" if fault["type"] == "missing" else explain(fault)
        if text not in said:
            said.append(text)
    return [Problem((option,), either(said)) for option, said in messages.items()]
