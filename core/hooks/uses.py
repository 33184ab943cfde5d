"""What a plugin's source text uses of ringfence: names it imports, attributes it reads."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .modules import Defined, Foreign, Module, Modules, imported_from

PUBLIC = "ringfence"
MAX_FILES = 500

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Import:
    """A name of ringfence that a file uses.

    Attributes:
        module: ``"ringfence"``, or a module below it.
        name: The name, ``"*"`` for all.
        path: File.
        line: Line.
        guarded: True inside ``try … except ImportError`` or ``if TYPE_CHECKING``.
    """

    module: str
    name: str
    path: Path
    line: int
    guarded: bool = False


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
        """What the attribute is read from, in words."""
        return f"'{self.argument}' of {self.method}()" if self.argument else f"a {self.type_name}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a local name stands for: an argument of a hook, or a value of a public type."""

    method: str = ""
    argument: str = ""
    type_name: str = ""


def own_modules(modules: Modules, start: Sequence[Module]) -> list[Module]:
    """Return ``start`` and the plugin's own modules that they import, and those in turn."""
    found = {module.name: module for module in start}
    queue = list(start)
    while queue and len(found) < MAX_FILES:
        for name in _imported_names(queue.pop()):
            module = modules.find(name)
            if module is not None and name not in found:
                found[name] = module
                queue.append(module)
    return list(found.values())


def imports_of(modules: Modules, module: Module) -> Iterator[Import]:
    """Yield the names of ringfence that ``module`` imports, or reads from ``import ringfence``."""

    def is_public(name: str) -> bool:
        return (name == PUBLIC or name.startswith(f"{PUBLIC}.")) and not modules.owns(name)

    guarded = _guarded_lines(module)
    aliases: dict[str, str] = {}
    for node in module.parts:
        if isinstance(node, ast.ImportFrom) and is_public(imported_from(module, node)):
            for alias in node.names:
                source = imported_from(module, node)
                yield Import(source, alias.name, module.path, node.lineno, node.lineno in guarded)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_public(alias.name):
                    aliases[alias.asname or PUBLIC] = alias.name if alias.asname else PUBLIC
    for node in module.parts if aliases else ():
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in aliases:
                line = node.lineno
                yield Import(aliases[name], attribute, module.path, line, line in guarded)


def uses_of(
    modules: Modules,
    own: Iterable[Module],
    hooks: Iterable[tuple[Defined, str, tuple[str, ...]]],
    member: Callable[[str], Defined | None],
) -> tuple[Use, ...]:
    """Return the attributes that a plugin reads from what ringfence hands it.

    Args:
        modules: To follow names with.
        own: The plugin's files; every function in them is read for annotated parameters.
        hooks: Function, method name and arguments of each hook; calls of helpers are followed from there.
        member: Looks up ``self.<name>``.
    """
    reader = _Uses(modules, member)
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
    return tuple(sorted(reader.found, key=lambda use: (str(use.path), use.line, use.attribute or "")))


class _Uses:
    """Collects uses; a helper is read once for each set of subjects that it is called with."""

    def __init__(self, modules: Modules, member: Callable[[str], Defined | None]) -> None:
        self.found: set[Use] = set()
        self._modules = modules
        self._member = member
        self._done: set[tuple[int, frozenset[tuple[str, Subject]]]] = set()

    def read(self, function: Defined, subjects: Mapping[str, Subject]) -> None:
        """Collect what ``function`` reads from its local names ``subjects``."""
        key = id(function.node), frozenset(subjects.items())
        if key in self._done or not isinstance(function.node, Function):
            return
        self._done.add(key)
        body = function.node.body
        reader = _FunctionUses(self, function, dict(subjects), _hasattr(function))
        for statement in body if isinstance(body, list) else [body]:
            reader.visit(statement)

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
        name = self.public_type(module, call.func)
        for keyword in call.keywords if name else ():
            if keyword.arg is not None:
                self.found.add(Use(keyword.arg, module.path, call.lineno, type_name=name))

    def follow(self, function: Defined, call: ast.Call, subjects: Mapping[str, Subject]) -> None:
        """Read the helper that ``call`` calls, if it is the plugin's own and is handed a subject."""
        target, bound = self._target(function, call.func)
        if target is None or not isinstance(target.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        names = [a.arg for a in (*target.node.args.posonlyargs, *target.node.args.args)][bound:]
        handed = [(name, value) for name, value in zip(names, call.args, strict=False)]
        handed += [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg is not None]
        inner = {
            name: subjects[value.id]
            for name, value in handed
            if isinstance(value, ast.Name) and value.id in subjects
        }
        if inner:
            self.read(target, inner)

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
        self,
        uses: _Uses,
        function: Defined,
        subjects: dict[str, Subject],
        provided: frozenset[tuple[str, str]],
    ) -> None:
        self._uses = uses
        self._function = function
        self._subjects = subjects
        self._provided = provided

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self._subjects:
            self._add(node.value.id, node.attr, node.lineno)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=name), attribute, *default]) if (
                name in self._subjects
            ):
                computed = not (isinstance(attribute, ast.Constant) and isinstance(attribute.value, str))
                written = None if computed else str(getattr(attribute, "value", ""))
                self._add(name, written, node.lineno, guarded=bool(default))
        self._uses.follow(self._function, node, self._subjects)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        same = self._subjects.get(node.value.id) if isinstance(node.value, ast.Name) else None
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._subjects.pop(target.id, None)
                if same is not None:
                    self._subjects[target.id] = same
            else:
                self.visit(target)
                for inner in ast.walk(target):
                    if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                        self._subjects.pop(inner.id, None)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        for inner in ast.walk(node.target):
            if isinstance(inner, ast.Name):
                self._subjects.pop(inner.id, None)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def _nested(self, node: Function) -> None:
        arguments = node.args
        own = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        kept = {name: subject for name, subject in self._subjects.items() if name not in own}
        inner = _FunctionUses(self._uses, self._function, kept, self._provided)
        for statement in node.body if isinstance(node.body, list) else [node.body]:
            inner.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._nested(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._nested(node)

    def _add(self, name: str, attribute: str | None, line: int, *, guarded: bool = False) -> None:
        subject = self._subjects[name]
        guarded = guarded or (name, attribute) in self._provided
        self._uses.found.add(
            Use(
                attribute,
                self._function.module.path,
                line,
                guarded,
                subject.method,
                subject.argument,
                subject.type_name,
            )
        )


def _hasattr(function: Defined) -> frozenset[tuple[str, str]]:
    """Return (name, attribute) of the ``hasattr`` tests in a function."""
    start, end = _span(function.node)
    found = set()
    for node in function.module.parts:
        match node:
            case ast.Call(
                func=ast.Name(id="hasattr"), args=[ast.Name(id=name), ast.Constant(value=str(value))]
            ):
                first, last = _span(node)
                if start <= first and last <= end:
                    found.add((name, value))
    return frozenset(found)


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where a node begins and ends; of those inside, both lie between."""
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _imported_names(module: Module) -> Iterator[str]:
    """Yield every dotted name that may be a module which ``module`` imports."""
    for node in module.parts:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = imported_from(module, node)
            yield package
            yield from (f"{package}.{alias.name}" for alias in node.names)


def _guarded_lines(module: Module) -> set[int]:
    """Return the lines inside ``try … except ImportError`` and ``if TYPE_CHECKING``."""
    lines: set[int] = set()
    for node in module.parts:
        match node:
            case ast.Try(body=body, handlers=handlers) if any(
                "ImportError" in ast.unparse(h.type) or "ModuleNotFoundError" in ast.unparse(h.type)
                for h in handlers
                if h.type is not None
            ):
                pass
            case ast.If(test=test, body=body) if "TYPE_CHECKING" in ast.unparse(test):
                pass
            case _:
                continue
        for statement in body:
            lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return lines
