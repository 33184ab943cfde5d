"""Names of ringfence that a plugin's source text imports."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from .module_files import Foreign, Function, Module, Modules, absolute_name, parameter_names
from .version_guards import Guards, is_within

PUBLIC = "ringfence"
#: In the place of a name.
ALL, WHOLE = "*", ""
_IMPORTERS = {"import_module", "__import__"}


@dataclass(frozen=True, slots=True)
class Import:
    """A name of ringfence that a file uses.

    Attributes:
        module: ``"ringfence"``, or a module below it.
        name: The name; ``ALL`` for ``import *``; ``WHOLE`` where it is handed on, so that it cannot be told.
        path: File.
        line: Line.
        guarded: True where its absence is provided for (``version_guards``).
    """

    module: str
    name: str
    path: Path
    line: int
    guarded: bool = False


def imports_of(modules: Modules, module: Module, guards: Guards) -> list[Import]:
    """Return the names of ringfence that ``module`` imports, or reads from the module ``ringfence``."""
    reader = _Names(modules, module, guards)
    walks = False
    for node in module.parts:
        match node:
            case ast.ImportFrom():
                reader.imported_names(node)
            case ast.Import():
                reader.imported_modules(node)
            case ast.Call():
                walks = walks or bool(_imported_by_call(node))
    if walks or reader.aliases:
        reader.visit(module.tree)
    return reader.found


def _imported_by_call(node: ast.expr) -> str:
    """Return which module of ringfence ``import_module("…")`` gives; ``""`` for anything else."""
    match node:
        case ast.Call(
            func=ast.Name(id=function) | ast.Attribute(attr=function),
            args=[ast.Constant(value=str(dotted)), *_],
        ) if function in _IMPORTERS and dotted.partition(".")[0] == PUBLIC:
            return dotted
    return ""


class _Names(ast.NodeVisitor):
    """Follows what stands for a module of ringfence through one file."""

    def __init__(self, modules: Modules, module: Module, guards: Guards) -> None:
        self.found: list[Import] = []
        self.aliases: dict[str, str] = {}
        self._modules = modules
        self._module = module
        self._guards = guards

    def imported_names(self, node: ast.ImportFrom) -> None:
        """Take ``from ringfence import …``, and the module itself where another file hands it on."""
        source = absolute_name(self._module, node)
        for alias in node.names:
            if self._is_public(source):
                self._import(source, alias.name, node)
            elif self._modules.owns(source):
                bound = alias.asname or alias.name
                if self._modules.resolve(self._module, ast.Name(id=bound)) == Foreign(PUBLIC):
                    self.aliases[bound] = PUBLIC

    def imported_modules(self, node: ast.Import) -> None:
        """Take ``import ringfence``, and modules below it."""
        for alias in node.names:
            if self._is_public(alias.name):
                self.aliases[alias.asname or PUBLIC] = alias.name if alias.asname else PUBLIC
                parent, _, inner = alias.name.rpartition(".")
                if parent:
                    self._import(parent, inner, node)

    def _is_public(self, name: str) -> bool:
        return name.partition(".")[0] == PUBLIC and not self._modules.owns(name)

    def _import(self, source: str, name: str, node: ast.stmt) -> None:
        self._modules.effort.step()
        guarded = is_within(node, self._guards.imports)
        self.found.append(Import(source, name, self._module.path, node.lineno, guarded))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        dotted = self._dotted(node.value)
        if dotted:
            self._add(dotted, node.attr, node)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id in self.aliases:
            self._add(self.aliases[node.id], WHOLE, node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        if not self._dotted(node):
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Pass over ``ringfence is not None``, after an import that may have failed."""
        if not all(isinstance(other, ast.Constant) for other in node.comparators):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="hasattr"), args=[asked, _]) if self._dotted(asked):
                return
            case ast.Call(func=ast.Name(id="getattr"), args=[asked, name, *default]) if (
                dotted := self._dotted(asked)
            ):
                written = name.value if isinstance(name, ast.Constant) else None
                self._add(dotted, str(written) if written else WHOLE, node, guarded=bool(default))
                for each in default:
                    self.visit(each)
                return
        dotted = _imported_by_call(node)
        if dotted:
            self._add(dotted, WHOLE, node)
        else:
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        dotted = self._dotted(node.value)
        if dotted and all(isinstance(target, ast.Name) for target in node.targets):
            self.aliases |= {target.id: dotted for target in node.targets if isinstance(target, ast.Name)}
        else:
            self.generic_visit(node)

    def _function(self, node: Function) -> None:
        self._modules.effort.step()
        own = parameter_names(node.args)
        outer = self.aliases
        self.aliases = {name: dotted for name, dotted in outer.items() if name not in own}
        self.generic_visit(node)
        self.aliases = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def _dotted(self, expression: ast.expr) -> str:
        """Return the module of ringfence that an expression stands for, ``""`` if it does for none."""
        match expression:
            case ast.Name(id=name):
                return self.aliases.get(name, "")
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                dotted = self._dotted(value)
                if dotted:
                    self.aliases[name] = dotted
                return dotted
        return _imported_by_call(expression)

    def _add(self, dotted: str, name: str, node: ast.expr, *, guarded: bool = False) -> None:
        self._modules.effort.step()
        guarded = guarded or is_within(node, self._guards.names)
        self.found.append(Import(dotted, name, self._module.path, node.lineno, guarded))
