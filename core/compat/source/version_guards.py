"""Parts of a plugin's source text that run only on series that have what they use."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .effort import Effort
from .module_files import Module

_Node = TypeVar("_Node", bound=ast.expr | ast.stmt)

_EVERYTHING = {"Exception", "BaseException"}
_OF_IMPORTS = {"ImportError", "ModuleNotFoundError", *_EVERYTHING}
_OF_READS = {"AttributeError", *_EVERYTHING}


Span = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Guards:
    """Places of one module where something may be missing.

    What guards is a ``try`` or ``suppress`` that catches the error and does not raise it again, a test with
    ``hasattr`` or of the version, and ``if TYPE_CHECKING``. Whether it is the right version that is asked for
    shows as the plugin runs, and is not read here.

    Attributes:
        imports: Where an import may fail.
        reads: Where an attribute of a value may be absent; ``hasattr`` counts for the one it names, not here.
        names: Where a name of a module may be absent.
    """

    imports: Sequence[Span]
    reads: Sequence[Span]
    names: Sequence[Span]

    @classmethod
    def of(cls, module: Module, effort: Effort) -> Guards:
        """Read them."""
        imports: list[Span] = []
        reads: list[Span] = []
        asked: list[Span] = []
        # Most modules hold none of them, and a walk through every test is most of what reading guards costs.
        may_test = any(word in module.text for word in ("TYPE_CHECKING", "__version__", "hasattr"))
        for node in module.parts:
            effort.step()
            match node:
                case ast.Try(body=body, handlers=handlers) | ast.TryStar(body=body, handlers=handlers):
                    caught = {name for handler in handlers for name in _caught(handler)}
                    _add(body, caught, imports, reads)
                case ast.With(body=body, items=items):
                    caught = {name for item in items for name in _suppressed_errors(item.context_expr)}
                    _add(body, caught, imports, reads)
                case ast.If(test=test, body=then, orelse=otherwise) if may_test:
                    _add(_chosen(test, then, otherwise), _EVERYTHING, imports, reads)
                    asked += _spans(_hasattr_branch(test, then, otherwise))
                case ast.IfExp(test=test, body=value, orelse=other) if may_test:
                    _add(_chosen(test, [value], [other]), _EVERYTHING, imports, reads)
                    asked += _spans(_hasattr_branch(test, [value], [other]))
        return cls([*imports, *asked], reads, [*reads, *asked])


class AllGuards:
    """The guards of a plugin's modules, each read once."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._read: dict[str, Guards] = {}

    def of(self, module: Module) -> Guards:
        """Return those of ``module``."""
        if module.name not in self._read:
            self._read[module.name] = Guards.of(module, self._effort)
        return self._read[module.name]


def is_within(node: ast.expr | ast.stmt, spans: Iterable[Span]) -> bool:
    """Tell whether ``node`` lies in one of ``spans``."""
    at = (node.lineno, node.col_offset)
    return any(start <= at <= end for start, end in spans)


def span(node: ast.expr | ast.stmt) -> Span:
    """Return where a node begins and ends; of those inside, both lie between."""
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _spans(nodes: Iterable[ast.expr | ast.stmt]) -> list[Span]:
    return [span(node) for node in nodes]


def _add(
    nodes: Sequence[ast.expr | ast.stmt], caught: set[str], imports: list[Span], reads: list[Span]
) -> None:
    if caught & _OF_IMPORTS:
        imports += _spans(nodes)
    if caught & _OF_READS:
        reads += _spans(nodes)


def _caught(handler: ast.ExceptHandler) -> set[str]:
    if isinstance(handler.body[-1], ast.Raise):
        return set()
    return _EVERYTHING if handler.type is None else _names(handler.type)


def _suppressed_errors(context: ast.expr) -> set[str]:
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
    """Return what runs only for a type checker, or as the version that is asked for."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return list(then)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _chosen(operand, otherwise, then)
    mentioned = {getattr(node, name, "") for node in ast.walk(test) for name in ("id", "attr")}
    return [*then, *otherwise] if "__version__" in mentioned else []


def _hasattr_branch(test: ast.expr, then: Sequence[_Node], otherwise: Sequence[_Node]) -> list[_Node]:
    """Return what runs only where ``hasattr`` was true."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _hasattr_branch(test.operand, otherwise, then)
    calls = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    return list(then) if any(isinstance(f, ast.Name) and f.id == "hasattr" for f in calls) else []
