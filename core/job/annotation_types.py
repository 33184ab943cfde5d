"""Turn the annotations of a plugin's options, read as text, into types that can be checked.

Only what a job file can say has a type here: numbers, text, booleans, null,
lists, mappings, choices and ranges of these. Nothing of the plugin runs; a name
that is not listed below is left for the sandbox, which constructs the plugin
before the run starts.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import Strict

#: Scalars are strict: a number in quotes is no number, true is no integer; 1 is a fine float.
_SCALARS: dict[str, Any] = {
    "bool": Annotated[bool, Strict()],
    "float": Annotated[float, Strict()],
    "int": Annotated[int, Strict()],
    "str": Annotated[str, Strict()],
    "Path": Annotated[str, Strict()],
    "None": None,
}
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "set", "Set", "frozenset", "FrozenSet"}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
_TUPLES = {"tuple", "Tuple"}
_CONSTRAINTS: dict[str, Callable[..., Any]] = {
    name: getattr(annotated_types, name)
    for name in ("Ge", "Gt", "Interval", "Le", "Len", "Lt", "MaxLen", "MinLen", "MultipleOf")
}
_FIELD_ARGUMENTS = {
    "ge": annotated_types.Ge,
    "gt": annotated_types.Gt,
    "le": annotated_types.Le,
    "lt": annotated_types.Lt,
    "max_length": annotated_types.MaxLen,
    "min_length": annotated_types.MinLen,
}


def _union(types: Sequence[Any]) -> Any:
    return Union[tuple(types)]  # noqa: UP007 - built from values


_ANY_NUMBER = 0
#: Generic name to how many types it takes, and what they make. What a job writes as a list is checked as one.
_GENERICS: dict[str, tuple[int, Callable[[Sequence[Any]], Any]]] = {
    "Optional": (1, lambda types: _union([*types, None])),
    "Union": (_ANY_NUMBER, _union),
    **dict.fromkeys(_LISTS, (1, lambda types: list.__class_getitem__(types[0]))),
    **dict.fromkeys(_MAPPINGS, (2, lambda types: dict.__class_getitem__(tuple(types)))),
}
_CONSTANTS = {"inf": math.inf, "pi": math.pi, "e": math.e}
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class OptionType:
    """The type that the text of an annotation names.

    Attributes:
        type: For pydantic's ``TypeAdapter``; ``Any`` in the places that could not be told.
        untold: The parts that could not be told, as written; empty if all could.
    """

    type: Any
    untold: tuple[str, ...] = ()


class _Untold(Exception):  # noqa: N818 - a finding, not an error
    """A part of an annotation is not among what is known here."""


def option_type(annotation: ast.expr | None) -> OptionType:
    """Return the type that ``annotation`` stands for; None stands for no annotation."""
    if annotation is None:
        return OptionType(Any, ("no annotation",))
    reader = _TypeReader()
    return OptionType(reader.read(annotation, 0), tuple(reader.untold))


class _TypeReader:
    def __init__(self) -> None:
        self.untold: list[str] = []

    def read(self, node: ast.expr, depth: int) -> Any:
        """Return the type of ``node``; ``Any``, with a note, if it cannot be told."""
        try:
            return self._read(node, depth + 1)
        except _Untold:
            self.untold.append(ast.unparse(node))
            return Any

    def _read(self, node: ast.expr, depth: int) -> Any:
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str(text)) if depth < _MAX_DEPTH:
                return self.read(_parse(text), depth)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _union([self.read(left, depth), self.read(right, depth)])
            case ast.Name() | ast.Attribute():
                return _unparametrised(_last(node))
            case ast.Subscript(value=value, slice=inner):
                return self._generic(_last(value), _items(inner), depth)
        raise _Untold

    def _generic(self, name: str, items: list[ast.expr], depth: int) -> Any:
        if name == "Literal":
            return Literal[tuple(_constant(item) for item in items)]
        if name == "Annotated":
            return self._annotated(items, depth)
        if name in _TUPLES:
            return self._tuple(items, depth)
        if name in _GENERICS:
            count, build = _GENERICS[name]
            if count in {len(items), _ANY_NUMBER}:
                return build([self.read(item, depth) for item in items])
        raise _Untold

    def _tuple(self, items: list[ast.expr], depth: int) -> Any:
        match items:
            case [item, ast.Constant(value=value)] if value is Ellipsis:
                return tuple.__class_getitem__((self.read(item, depth), ...))
            case [ast.Tuple(elts=[])]:
                return tuple[()]
        return tuple.__class_getitem__(tuple(self.read(item, depth) for item in items))

    def _annotated(self, items: list[ast.expr], depth: int) -> Any:
        base = self.read(items[0], depth)
        bounds: list[Any] = []
        for item in items[1:]:
            try:
                bounds += _constraints(item)
            except _Untold:
                self.untold.append(ast.unparse(item))
        # A bound is meaningless on what could not be told.
        return base if base is Any or not bounds else Annotated[(base, *bounds)]


def _unparametrised(name: str) -> Any:
    if name in _SCALARS:
        return _SCALARS[name]
    if name in _LISTS | _TUPLES:
        return list[Any]
    if name in _MAPPINGS:
        return dict[Any, Any]
    if name in {"Any", "object"}:
        return Any
    raise _Untold


def _constraints(node: ast.expr) -> list[Any]:
    """Return the bounds of one item of ``Annotated[…]``; documentation has none."""
    match node:
        case ast.Constant(value=str()):
            return []
        case ast.Call(func=func, args=args, keywords=keywords):
            values = [_constant(argument) for argument in args]
            named = {str(keyword.arg): _constant(keyword.value) for keyword in keywords}
            name = _last(func)
            if name == "Field" and not values:
                return [
                    _FIELD_ARGUMENTS[key](value) for key, value in named.items() if key in _FIELD_ARGUMENTS
                ]
            if name in _CONSTRAINTS:
                return [_built(_CONSTRAINTS[name], values, named)]
    raise _Untold


def _built(constraint: Callable[..., Any], values: Sequence[Any], named: Mapping[str, Any]) -> Any:
    try:
        return constraint(*values, **named)
    except TypeError as error:
        raise _Untold from error


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(_number(left), op, _number(right))
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="inf" | "-inf" as text)]):
            return float(text)
    raise _Untold


def _number(node: ast.expr) -> int | float:
    value = _constant(node)
    if isinstance(value, int | float):
        return value
    raise _Untold


def _arithmetic(left: float, op: ast.operator, right: float) -> int | float:
    """Work out constants such as ``1 / 255``; powers only as large as a bound can be."""
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if right:
            return left / right
        case ast.Pow() if isinstance(left, int) and isinstance(right, int) and 0 <= right <= 64 >= abs(left):  # noqa: PLR2004
            return int(left**right)
    raise _Untold


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _Untold from error


def _items(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) and node.elts else [node]


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name; ``typing.Literal`` and ``t.Literal`` are both ``Literal``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    raise _Untold
