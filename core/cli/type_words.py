"""Spell the type and the default of a plugin's option as a job would, not as Python does."""

from __future__ import annotations

import ast
import json

from ..compat.source.plugin_source import Parameter

_WORDS = {
    "Any": "anything",
    "bool": "true or false",
    "dict": "mapping",
    "float": "number",
    "int": "whole number",
    "list": "list",
    "str": "text",
}
_BOUNDS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
_LISTS = {"frozenset", "list", "List", "Sequence", "set", "tuple", "Tuple"}
_MAPPINGS = {"dict", "Dict", "Mapping"}


def type_words(parameter: Parameter) -> str:
    """Return the type of an option in words; as its author wrote it where there are none for it."""
    if parameter.annotation is None:
        return "not said"
    try:
        return _words(parameter.annotation)
    except LookupError:
        return parameter.annotation_text


def default_words(parameter: Parameter) -> str:
    """Return the default of an option as YAML, or that it is needed."""
    if parameter.default_text is None:
        return "(needed)"
    try:
        value = ast.literal_eval(parameter.default_text)
        return (
            value
            if isinstance(value, str) and value.isidentifier()
            else json.dumps(value, ensure_ascii=False)
        )
    except (ValueError, TypeError, SyntaxError):
        return parameter.default_text


def _words(node: ast.expr) -> str:
    """Return a type in words.

    Raises:
        LookupError: There are none for it.
    """
    match node:
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _WORDS[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{_words(left)} or {_words(right)}"
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inside):
            return _generic(name, inside.elts if isinstance(inside, ast.Tuple) else [inside])
    raise LookupError


def _generic(name: str, items: list[ast.expr]) -> str:
    match name, items:
        case "Literal", _:
            return " or ".join(_literal(item) for item in items)
        case "Optional", [item]:
            return f"{_words(item)} or null"
        case "Union", _:
            return " or ".join(map(_words, items))
        case "Annotated", [kind, *constraints]:
            bounds = ", ".join(filter(None, map(_bound, constraints)))
            return f"{_words(kind)} {bounds}".rstrip()
        case "tuple" | "Tuple", [_, second, *_] if not _is_ellipsis(second):
            return f"list of {', '.join(map(_words, items))}"
        case _, [item, *_] if name in _LISTS:
            return f"list of {_words(item)}"
        case _, [_, value] if name in _MAPPINGS:
            return "mapping" if _words(value) == _WORDS["Any"] else f"mapping to {_words(value)}"
    raise LookupError


def _literal(item: ast.expr) -> str:
    match item:
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=value):
            return json.dumps(value)
    raise LookupError


def _bound(constraint: ast.expr) -> str:
    """Return a bound of a number; nothing for what is no bound."""
    match constraint:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[value]) if name in _BOUNDS:
            return f"{_BOUNDS[name]} {ast.unparse(value)}"
    return ""


def _is_ellipsis(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and item.value is ...
