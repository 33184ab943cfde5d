"""Where a plugin's source text provides for what an older series lacks."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .modules import Module

_Node = TypeVar("_Node", bound=ast.expr | ast.stmt)

_EVERYTHING = {"Exception", "BaseException"}
_OF_IMPORTS = {"ImportError", "ModuleNotFoundError", *_EVERYTHING}
_OF_READS = {"AttributeError", *_EVERYTHING}


@dataclass(frozen=True, slots=True)
class Guards:
    """Lines of one module on which something may be missing.

    Attributes:
        imports: Where an import may fail.
        reads: Where an attribute may be absent.
    """

    imports: frozenset[int]
    reads: frozenset[int]

    @classmethod
    def of(cls, module: Module) -> Guards:
        """Read them.

        What guards is a ``try`` or ``suppress`` that catches the error and does not raise it again, a test
        with ``hasattr`` or of the version, and ``if TYPE_CHECKING``. Whether the version that is asked for is
        the right one shows as the plugin runs, and is not read here.
        """
        imports: set[int] = set()
        reads: set[int] = set()
        for node in module.parts:
            body: Sequence[ast.expr | ast.stmt]
            match node:
                case ast.Try(body=body, handlers=handlers) | ast.TryStar(body=body, handlers=handlers):
                    caught = {name for handler in handlers for name in _caught(handler)}
                case ast.With(body=body, items=items):
                    caught = {name for item in items for name in _suppressed(item.context_expr)}
                case ast.If(test=test, body=then, orelse=otherwise):
                    body, caught = _chosen(test, then, otherwise), _EVERYTHING
                case ast.IfExp(test=test, body=value, orelse=other):
                    body, caught = _chosen(test, [value], [other]), _EVERYTHING
                case _:
                    continue
            lines = set(_lines(body)) if caught else set()
            imports |= lines if caught & _OF_IMPORTS else set()
            reads |= lines if caught & _OF_READS else set()
        return cls(frozenset(imports), frozenset(reads))


def _caught(handler: ast.ExceptHandler) -> set[str]:
    if isinstance(handler.body[-1], ast.Raise):
        return set()
    return _EVERYTHING if handler.type is None else _names(handler.type)


def _suppressed(context: ast.expr) -> set[str]:
    match context:
        case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=args):
            return {name for each in args for name in _names(each)}
    return set()


def _names(expression: ast.expr) -> set[str]:
    """Return the last parts of the names of exceptions."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {name}
        case ast.Tuple(elts=each):
            return {name for inner in each for name in _names(inner)}
    return set()


def _chosen(test: ast.expr, then: Sequence[_Node], otherwise: Sequence[_Node]) -> list[_Node]:
    """Return what runs only where the test has found that nothing is missing."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return list(then)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _chosen(operand, otherwise, then)
    asked = list(ast.walk(test))
    if any(isinstance(node, ast.Call) and _is_called(node, "hasattr") for node in asked):
        return list(then)
    if any("__version__" in (getattr(node, "id", ""), getattr(node, "attr", "")) for node in asked):
        return [*then, *otherwise]
    return []


def _is_called(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == name


def _lines(nodes: Iterable[ast.expr | ast.stmt]) -> Iterable[int]:
    for node in nodes:
        yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)
