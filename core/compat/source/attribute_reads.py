"""Attributes that a plugin's source text reads of what ringfence hands it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .imported_names import PUBLIC
from .module_files import (
    MAX_FILES,
    Defined,
    Foreign,
    Function,
    Module,
    Modules,
    absolute_name,
    inner_nodes,
    parameter_names,
)
from .version_guards import AllGuards, Span, is_within, span

#: Of functions, each with what it is handed; beyond that it is not told what is read.
MAX_READS = 2000


@dataclass(frozen=True, slots=True)
class Use:
    """An attribute that is read from a hook's argument, or from a value of a public type.

    Attributes:
        attribute: Its name, or None where the name is computed.
        path: File.
        line: Line.
        guarded: True if ``hasattr`` or ``getattr`` with a default provides for its absence.
        method: ``"forward"`` or ``"backward"`` for a hook's argument, else ``""``.
        argument: The hook's argument, else ``""``.
        type_name: Public type by annotation or construction, else ``""``.
    """

    attribute: str | None
    path: Path
    line: int
    guarded: bool = False
    method: str = ""
    argument: str = ""
    type_name: str = ""

    @property
    def subject(self) -> str:
        """The value that the attribute is read from, in words."""
        return f"'{self.argument}' of {self.method}()" if self.argument else f"a {self.type_name}"


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a local name: an argument of a hook, or a value of a public type."""

    method: str = ""
    argument: str = ""
    type_name: str = ""


Subjects = frozenset[tuple[str, Subject]]
#: Names of arguments or variables, each with an attribute that ``hasattr`` was asked for.
Provided = frozenset[tuple[str, str | None]]


def own_modules(modules: Modules, start: Sequence[Module]) -> list[Module]:
    """Return ``start`` and the plugin's own modules that they import, and those in turn."""
    found = {module.name: module for module in start}
    queue = list(start)
    while queue and len(found) < MAX_FILES:
        for name in _imported_names(modules, queue.pop()):
            module = modules.find(name)
            if module is not None and name not in found:
                found[name] = module
                queue.append(module)
    return list(found.values())


def uses_of(
    modules: Modules,
    own: Iterable[Module],
    hooks: Iterable[tuple[Defined, str, tuple[str, ...]]],
    member: Callable[[str], Defined | None],
    guards: AllGuards,
) -> tuple[Use, ...]:
    """Return the attributes that a plugin reads from what ringfence hands it.

    Args:
        modules: To follow names with.
        own: The plugin's files; every function in them is read for annotated parameters.
        hooks: Function, method name and arguments of each hook; calls of helpers are followed from there.
        member: Looks up ``self.<name>``.
        guards: Of the modules.

    Raises:
        TooManyCallsError: They cannot be told in a sensible time.
    """
    reader = _Uses(modules, member, guards)
    for function, method, arguments in hooks:
        reader.read(function, {name: Subject(method, name) for name in arguments})
    for module in own:
        for node in module.parts:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                typed = reader.annotated(module, node)
                if typed:
                    reader.read(Defined(module, node), typed)
            elif isinstance(node, ast.Call):
                reader.construction(module, node)
    reader.finish()
    return tuple(sorted(reader.found, key=lambda use: (str(use.path), use.line, use.attribute or "")))


class TooManyCallsError(ValueError):
    """A plugin's functions call each other in too many ways to follow them all; the message is a clause."""


class _Uses:
    """Collects uses; a helper is read once for each set of subjects that it is called with."""

    def __init__(self, modules: Modules, member: Callable[[str], Defined | None], guards: AllGuards) -> None:
        self.found: set[Use] = set()
        self._modules = modules
        self._member = member
        self.guards = guards
        self._known: set[tuple[int, Subjects, Provided]] = set()
        self._ahead: list[tuple[Defined, Mapping[str, Subject], Provided]] = []
        self._asked: dict[str, list[tuple[Span, tuple[str, str]]]] = {}
        self.step = modules.effort.step

    def read(
        self, function: Defined, subjects: Mapping[str, Subject], provided: Provided = frozenset()
    ) -> None:
        """Have ``finish`` collect what ``function`` reads from its local names ``subjects``.

        Args:
            function: The function.
            subjects: Local name to what it stands for.
            provided: (name, attribute) that whoever calls it has asked ``hasattr`` for.
        """
        key = id(function.node), frozenset(subjects.items()), provided
        if key in self._known or not isinstance(function.node, Function):
            return
        if len(self._known) >= MAX_READS:
            raise TooManyCallsError(f"its functions call each other in more than {MAX_READS} ways")
        self._known.add(key)
        self._ahead.append((function, subjects, provided))

    def finish(self) -> None:
        """Collect from all functions that are to be read, and from those that they call."""
        while self._ahead:
            function, subjects, provided = self._ahead.pop()
            self._modules.effort.look()
            body = getattr(function.node, "body", [])
            reader = _FunctionUses(self, function, dict(subjects), provided | self._hasattr(function))
            for statement in body if isinstance(body, list) else [body]:
                reader.visit(statement)

    def _hasattr(self, function: Defined) -> Provided:
        """Return (name, attribute) of the ``hasattr`` tests in a function."""
        module, (start, end) = function.module, span(function.node)
        if module.name not in self._asked:
            self._asked[module.name] = _hasattr_tests(module)
        inside = (what for (first, last), what in self._asked[module.name] if start <= first and last <= end)
        return frozenset(inside)

    def public_type(self, module: Module, annotation: ast.expr | None) -> str:
        """Return the name of the public type that ``annotation`` spells, or ``""``."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return ""
        if not isinstance(annotation, ast.Name | ast.Attribute):
            return ""
        match self._modules.resolve(module, annotation):
            case Foreign(dotted) if dotted.rpartition(".")[0] == PUBLIC:
                return dotted.rpartition(".")[2]
        return ""

    def annotated(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Subject]:
        """Return the parameters that are annotated with a public type."""
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = {argument.arg: self.public_type(module, argument.annotation) for argument in arguments}
        return {argument: Subject(type_name=name) for argument, name in names.items() if name}

    def construction(self, module: Module, call: ast.Call) -> None:
        """Take the keywords of ``LossTerm(value=…)`` as uses of the attributes they set."""
        name = self.public_type(module, call.func) if call.keywords else ""
        for keyword in call.keywords if name else ():
            if keyword.arg is not None:
                self.found.add(Use(keyword.arg, module.path, call.lineno, type_name=name))

    def follow(
        self, function: Defined, call: ast.Call, subjects: Mapping[str, Subject], provided: Provided
    ) -> None:
        """Read the helper that ``call`` calls, if it is the plugin's own and is handed a subject."""
        target, bound = self._target(function, call.func)
        if target is None or not isinstance(target.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        names = [a.arg for a in (*target.node.args.posonlyargs, *target.node.args.args)][bound:]
        handed = [(name, value) for name, value in zip(names, call.args, strict=False)]
        handed += [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg is not None]
        named = [
            (name, value.id) for name, value in handed if isinstance(value, ast.Name) and value.id in subjects
        ]
        if named:
            inner = {name: subjects[outer] for name, outer in named}
            asked = {
                (name, attribute) for name, outer in named for own, attribute in provided if own == outer
            }
            self.read(target, inner, frozenset(asked))

    def _target(self, function: Defined, callee: ast.expr) -> tuple[Defined | None, int]:
        match callee:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                member = self._member(name)
                decorators = getattr(member.node, "decorator_list", []) if member is not None else []
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in decorators)
                return member, 0 if static else 1
            case ast.Name() | ast.Attribute():
                resolved = self._modules.resolve(function.module, callee)
                return (resolved if isinstance(resolved, Defined) else None), 0
        return None, 0


class _FunctionUses(ast.NodeVisitor):
    """Walks one function in the order of its lines; a name that is bound anew is no longer followed."""

    def __init__(
        self, uses: _Uses, function: Defined, subjects: dict[str, Subject], provided: Provided
    ) -> None:
        self._uses = uses
        self._function = function
        self._subjects = subjects
        self._provided = provided
        self._guards = uses.guards.of(function.module)
        self._functions: set[str] = set()

    def generic_visit(self, node: ast.AST) -> None:
        """Visit what is inside, as the base does, but for names and operators, which hold nothing."""
        for inner in inner_nodes(node):
            self.visit(inner)

    # what is read

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._name(node.value)
        if name:
            self._add(name, node.attr, node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=name), attribute, *default]) if (
                name in self._subjects
            ):
                computed = not (isinstance(attribute, ast.Constant) and isinstance(attribute.value, str))
                written = None if computed else str(getattr(attribute, "value", ""))
                self._add(name, written, node, guarded=bool(default))
            case ast.Call(func=ast.Name(id=name)) if name in self._functions:
                pass  # one that is written inside this function has no other of that name followed
            case _:
                self._uses.follow(self._function, node, self._subjects, self._provided)
        self.generic_visit(node)

    def _name(self, expression: ast.expr) -> str:
        """Return the name of the subject that an expression is, ``""`` if it is none."""
        match expression:
            case ast.Name(id=name):
                return name if name in self._subjects else ""
            case ast.NamedExpr(value=value):
                return self._name(value)
            case ast.IfExp(body=body, orelse=orelse):
                return self._name(body) or self._name(orelse)
        return ""

    def _add(self, name: str, attribute: str | None, node: ast.expr, *, guarded: bool = False) -> None:
        self._uses.step()
        subject = self._subjects[name]
        guarded = guarded or (name, attribute) in self._provided or is_within(node, self._guards.reads)
        path = self._function.module.path
        self._uses.found.add(
            Use(attribute, path, node.lineno, guarded, subject.method, subject.argument, subject.type_name)
        )

    # what is bound

    def _bind(self, target: ast.expr | ast.pattern | None, same: str = "") -> None:
        """Forget the names that ``target`` binds; one that is ``same`` by another name is followed on."""
        subject = self._subjects.get(same)
        for inner in ast.walk(target) if target is not None else ():
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self._subjects.pop(inner.id, None)
        if isinstance(target, ast.Name) and subject is not None:
            self._subjects[target.id] = subject

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        same = self._name(node.value)
        for target in node.targets:
            if not isinstance(target, ast.Name):
                self.visit(target)
            self._bind(target, same)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, self._name(node.value))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, self._name(node.value))

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._bind(node.target)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.visit_For(node)

    def visit_withitem(self, node: ast.withitem) -> None:
        self.visit(node.context_expr)
        self._bind(node.optional_vars)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._subjects.pop(node.name or "", None)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self._subjects.pop(node.name or "", None)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        self.visit_MatchAs(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            self._subjects.pop(alias.asname or alias.name.partition(".")[0], None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.visit_Import(node)

    def visit_If(self, node: ast.If) -> None:
        match node.test:
            case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id=name), _]) if (
                name in self._subjects
            ):
                subject = self._subjects.pop(name)  # there it is of another type
                for statement in node.body:
                    self.visit(statement)
                self._subjects[name] = subject
                for statement in node.orelse:
                    self.visit(statement)
            case _:
                self.generic_visit(node)

    # scopes of their own

    def _comprehension(self, generators: list[ast.comprehension], *results: ast.expr) -> None:
        self._uses.step()
        outer = dict(self._subjects)
        for generator in generators:
            self.visit(generator.iter)
            self._bind(generator.target)
            for condition in generator.ifs:
                self.visit(condition)
        for result in results:
            self.visit(result)
        self._subjects = outer

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.visit_ListComp(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_ListComp(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)

    def _nested(self, node: Function) -> None:
        self._uses.step()
        own = parameter_names(node.args)
        kept = {name: subject for name, subject in self._subjects.items() if name not in own}
        inner = _FunctionUses(self._uses, self._function, kept, self._provided)
        inner._functions = self._functions
        for statement in node.body if isinstance(node.body, list) else [node.body]:
            inner.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._subjects.pop(node.name, None)
        self._functions.add(node.name)
        self._nested(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._nested(node)


def _hasattr_tests(module: Module) -> list[tuple[Span, tuple[str, str]]]:
    """Return where ``hasattr`` is asked in a module, and of which name and attribute."""
    found = []
    for node in module.parts:
        match node:
            case ast.Call(
                func=ast.Name(id="hasattr"), args=[ast.Name(id=name), ast.Constant(value=str(value))]
            ):
                found.append((span(node), (name, value)))
    return found


def _imported_names(modules: Modules, module: Module) -> Iterator[str]:
    """Yield every dotted name that may be a module which ``module`` imports."""
    for node in module.parts:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = absolute_name(module, node)
            yield package
            names = [alias.name for alias in node.names]
            yield from (f"{package}.{name}" for name in (_all(modules, package) if "*" in names else names))


def _all(modules: Modules, package: str) -> list[str]:
    """Return what ``__all__`` of one of the plugin's packages lists: ``import *`` imports such modules."""
    found = modules.find(package)
    match None if found is None else found.bindings.get("__all__"):
        case ast.Assign(value=ast.List(elts=names) | ast.Tuple(elts=names)):
            return [str(name.value) for name in names if isinstance(name, ast.Constant)]
    return []
