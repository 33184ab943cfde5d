"""Read what a plugin is from its source text; nothing of it is imported or run.

What is read: the class behind an entry point, its bases in the plugin's own
files, its two methods, the options that its constructor takes, what it says that
it needs (``declared_needs.py``), and what it uses of ringfence (``imported_names.py``,
``attribute_reads.py``). What the text does not settle is listed in
``PluginSource.unresolved``, never guessed. Not seen at all: what code outside the
plugin's own files does with a batch or step that it is given.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...hooks.permissions import Need
from .attribute_reads import TooManyCallsError, Use, own_modules, uses_of
from .declared_needs import NeedFault, NotLiteralError, read_needs
from .effort import Effort, TooMuchEffortError
from .imported_names import ALL, WHOLE, Import, imports_of
from .module_files import MAX_FILES, Defined, Foreign, Module, Modules, statements
from .version_guards import AllGuards

METHODS = ("forward", "backward")
STATE_METHODS = ("state_dict", "load_state_dict")
BUILTIN = "ringfence.builtin"

#: Bases that bring neither hooks, nor a role, nor options.
_EMPTY_BASES = {"object", "abc.ABC", "typing.Generic", "typing.Protocol", "typing_extensions.Protocol"}
#: Decorators after which a method still takes the arguments that are written.
_HARMLESS = {
    "abc.abstractmethod",
    "torch.inference_mode",
    "torch.no_grad",
    "typing.final",
    "typing.override",
    "typing_extensions.override",
}
#: Decorators that make a method something that cannot be a hook.
_UNBOUND = {"staticmethod", "classmethod", "property"}
_DATACLASS = "dataclasses.dataclass"
_PASSTHROUGH = {"ringfence.passthrough", "ringfence.hooks.types.passthrough"}
MAX_BASES = 20
#: Options of one constructor that are read; its sandbox tells of more.
MAX_OPTIONS = 200
MAX_ALIASES = 10
#: Syntax nodes that are put in for a plugin's aliases, all its options together: a few lines of
#: aliases of aliases stand for millions.
MAX_ALIASED = 50_000

About = Literal["class", "arguments", "options", "role", "names", "attributes", "needs"]


@dataclass(frozen=True, slots=True)
class Method:
    """One of the plugin's two methods, as written.

    Attributes:
        name: ``"forward"`` or ``"backward"``.
        path: File it is written in.
        line: Line of its ``def``.
        arguments: Names after ``self``, in order; those with a default included.
        defaults: Those of ``arguments`` that have a default.
        unnamed: What is in its signature and cannot be given by name: ``"*args"``, ``"gradients, /"``.
        passthrough: True for ``forward = passthrough``.
        plain: False for a static, class or async method, which cannot be a hook.
    """

    name: str
    path: Path
    line: int
    arguments: tuple[str, ...] = ()
    defaults: frozenset[str] = frozenset()
    unnamed: tuple[str, ...] = ()
    passthrough: bool = False
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Parameter:
    """One option: a parameter of the constructor.

    Attributes:
        name: As the job spells it.
        annotation: Its type as a syntax tree, with the plugin's own aliases put in; None if there is none.
        annotation_text: The type as written, ``""`` if there is none.
        default_text: The default as written, or None.
        required: True if there is no default.
        line: Where it is written.
    """

    name: str
    annotation: ast.expr | None
    annotation_text: str
    default_text: str | None
    required: bool
    line: int


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Something the text does not settle.

    Attributes:
        about: What it concerns. Loading settles ``class``, ``arguments`` and ``options``;
            nothing but the author settles ``role``, ``names``, ``attributes`` and ``needs``.
        reason: Why it could not be told, as a clause.
        path: File, or None if there is none to read.
        line: Line, 0 if unknown.
        advice: What to do, if that is not to write it out.
    """

    about: About
    reason: str
    path: Path | None = None
    line: int = 0
    advice: str = ""


@dataclass(frozen=True, slots=True)
class PluginSource:
    """A plugin as its source text tells it.

    Attributes:
        path: File with the class, or None if it was not found.
        line: Line of the class.
        role: The value of its attribute ``role``, or None if missing or not a string written out.
        methods: Method name to method; one that is not written is absent.
        parameters: Options of the constructor, in order.
        takes_any_option: True if the constructor takes ``**kwargs``, or could not be read.
        docstring: Of the class, ``""`` if it has none.
        imports: Names of ringfence that its files use.
        uses: Attributes of ringfence's types that its files read.
        lost_state: Of ``state_dict`` and ``load_state_dict`` the one that it lacks, if it has the other.
        unresolved: What the text does not settle.
        files: The plugin's own files that were read.
        needs: What it says that it needs beyond its sandbox.
        need_faults: What is wrong with what it says there.
    """

    path: Path | None
    line: int = 0
    role: str | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    takes_any_option: bool = False
    docstring: str = ""
    imports: tuple[Import, ...] = ()
    uses: tuple[Use, ...] = ()
    lost_state: str = ""
    unresolved: tuple[Unresolved, ...] = ()
    files: tuple[Path, ...] = ()
    needs: tuple[Need, ...] = ()
    need_faults: tuple[NeedFault, ...] = ()


def read_plugin(
    module: str,
    qualname: str,
    folders: Sequence[str],
    roots: Mapping[str, str] | None = None,
    *,
    own: Iterable[str] = (),
    within: Path | None = None,
    effort: Effort | None = None,
) -> PluginSource:
    """Read the class ``qualname`` of ``module`` from its source text.

    Args:
        module: Module of the entry point.
        qualname: Class within it, for example ``"Clip"``.
        folders: Where to look, as on ``sys.path``.
        roots: Dotted package to folder, for installs that map one to another.
        own: Dotted modules and packages that the plugin brings beside the outermost one of its entry point.
        within: Folder that none of its files may lie outside of; None if any may.
        effort: What may be spent on it; as much as on a whole distribution by default.
    """
    outermost = BUILTIN if module.startswith(f"{BUILTIN}.") else module.partition(".")[0]
    modules = Modules({outermost, *own}, folders, roots, within, effort)
    try:
        with modules.effort.spent():
            return _read(modules, module, qualname)
    except (RecursionError, MemoryError):  # the second is what Python's parser says of a type in quotes
        return _not_found(f"{module} is nested too deeply to be read", advice="nest it less deeply")
    except TooMuchEffortError as error:
        return _not_found(str(error), advice="write it in a simpler way")
    except ValueError as error:  # of a number with more digits than Python writes out
        return _not_found(f"{module} cannot be read: {error}", advice="write it in another way")


def _read(modules: Modules, name: str, qualname: str) -> PluginSource:
    entry = modules.find(name)
    found = None if entry is None else _find_class(modules, entry, qualname)
    if entry is not None and found is not None:
        return _Reader(modules, entry, found).source()
    for broken in modules.broken.values():
        return _not_found(broken.reason, broken.path, broken.line, advice="mend that file")
    if modules.full:
        return _not_found(modules.full, advice="bring less code in one distribution")
    if entry is None:
        advice = f"correct the entry point, or ship {name} as Python source"
        return _not_found(f"no source file of module {name} was found", advice=advice)
    advice = f"correct the entry point, or write 'class {qualname}' out there"
    return _not_found(f"'{qualname}' is no class written out in {entry.path}", entry.path, advice=advice)


def _not_found(reason: str, path: Path | None = None, line: int = 0, *, advice: str) -> PluginSource:
    unresolved = Unresolved("class", reason, path, line, advice)
    return PluginSource(path=None, takes_any_option=True, unresolved=(unresolved,))


def _find_class(modules: Modules, entry: Module, qualname: str) -> Defined | None:
    first, *rest = qualname.split(".")
    found = modules.lookup(entry, first)
    for part in rest:
        if not (isinstance(found, Defined) and isinstance(found.node, ast.ClassDef)):
            return None
        inner = [n for n in statements(found.node.body) if isinstance(n, ast.ClassDef) and n.name == part]
        found = Defined(found.module, inner[-1]) if inner else None
    is_class = isinstance(found, Defined) and isinstance(found.node, ast.ClassDef)
    return found if is_class and isinstance(found, Defined) else None


@dataclass(frozen=True, slots=True)
class _Class:
    """One class of the plugin's line of bases; ``node`` is None for one that is not its own."""

    module: Module
    node: ast.ClassDef | None
    dotted: str
    line: int


class _Reader:
    """Reads one class; every member is looked up along the bases, as Python would."""

    def __init__(self, modules: Modules, entry: Module, found: Defined) -> None:
        self._modules = modules
        self._entry = entry
        self._module = found.module
        assert isinstance(found.node, ast.ClassDef)  # noqa: S101 - _find_class returned it
        self._node = found.node
        self._unresolved: list[Unresolved] = []
        self._functions: dict[str, Defined] = {}
        self._room = _Room(MAX_ALIASED)
        self._line = self._bases(found.module, found.node)
        self._members, self._beyond = _members(self._line)

    def source(self) -> PluginSource:
        """Read everything."""
        self._check_decorators()
        methods = {name: method for name in METHODS if (method := self._method(name)) is not None}
        role = self._role()
        parameters, takes_any = self._options()
        needs, need_faults = self._needs(None if takes_any else [each.name for each in parameters])
        files, imports, uses = self._surroundings(methods)
        return PluginSource(
            path=self._module.path,
            line=self._node.lineno,
            role=role,
            methods=methods,
            parameters=parameters,
            takes_any_option=takes_any,
            docstring=ast.get_docstring(self._node) or "",
            imports=imports,
            uses=uses,
            lost_state=self._lost_state(),
            unresolved=tuple(self._unresolved),
            files=files,
            needs=tuple(needs),
            need_faults=tuple(need_faults),
        )

    def member(self, name: str) -> Defined | None:
        """Return the function that ``self.<name>`` stands for, if the plugin's own files define it."""
        match self._find(name):
            case (cls, ast.FunctionDef() | ast.AsyncFunctionDef() as node):
                return Defined(cls.module, node)
        return None

    # the class and its bases

    def _bases(self, module: Module, node: ast.ClassDef) -> tuple[_Class, ...]:
        """Return the class and its bases; of equal ones the last, as in Python's order of usual shapes."""
        line: dict[str, _Class] = {}
        self._collect(_Class(module, node, f"{module.name}.{node.name}", node.lineno), line, set(), 0)
        return tuple(reversed(line.values()))

    def _collect(self, cls: _Class, line: dict[str, _Class], entered: set[str], depth: int) -> None:
        """Put a class behind its bases, the last base first, each once: their order backwards.

        A class is entered once, however many lead to it, so the time grows with the text
        and not with the number of ways through it.
        """
        if cls.dotted in line:
            return
        if cls.dotted in entered:
            self._note("class", f"{cls.dotted} is a base of itself as written", cls.module.path, cls.line)
            return
        entered.add(cls.dotted)
        if cls.node is not None and depth > MAX_BASES:
            self._note("class", f"has more than {MAX_BASES} levels of bases", cls.module.path, cls.line)
        elif cls.node is not None:
            for base in reversed(cls.node.bases):
                self._collect(self._base(cls.module, base), line, entered, depth + 1)
        line[cls.dotted] = cls

    def _base(self, module: Module, base: ast.expr) -> _Class:
        # what stands in brackets brings no members
        expression = base.value if isinstance(base, ast.Subscript) else base
        match self._modules.resolve(module, expression):
            case Defined(inner, ast.ClassDef() as written):
                return _Class(inner, written, f"{inner.name}.{written.name}", written.lineno)
            case Foreign(dotted):
                return _Class(module, None, dotted, base.lineno)
        return _Class(module, None, ast.unparse(base), base.lineno)

    def _find(self, name: str) -> tuple[_Class, ast.AST | None] | None:
        """Return class and node that bind ``name``; node is None if a base that is not ours may bind it."""
        if name in self._members:
            return self._members[name]
        return None if self._beyond is None else (self._beyond, None)

    def _check_decorators(self) -> None:
        for decorator in self._node.decorator_list:
            if self._name_of(self._module, decorator) != _DATACLASS:
                text = ast.unparse(decorator)
                self._note("class", f"decorator @{text} may replace the class", line=decorator.lineno)
        for keyword in self._node.keywords:
            if keyword.arg == "metaclass" and self._name_of(self._module, keyword.value) != "abc.ABCMeta":
                text = ast.unparse(keyword.value)
                self._note("class", f"metaclass {text} may change the class", line=self._node.lineno)

    def _name_of(self, module: Module, expression: ast.expr) -> str:
        """Return the dotted name of a decorator or the like, without its call; ``""`` if unknown."""
        if isinstance(expression, ast.Call):
            expression = expression.func
        if isinstance(expression, ast.Name) and expression.id not in module.bindings:
            return expression.id  # a builtin: staticmethod, classmethod
        match self._modules.resolve(module, expression):
            case Foreign(dotted):
                return dotted
        return ""

    def _note(self, about: About, reason: str, path: Path | None = None, line: int = 0) -> None:
        self._unresolved.append(Unresolved(about, reason, path or self._module.path, line))

    def _lost_state(self) -> str:
        lacking = [name for name in STATE_METHODS if self._find(name) is None]
        return lacking[0] if len(lacking) == 1 else ""

    # role

    def _role(self) -> str | None:
        match self._find("role"):
            case None:
                return None
            case (cls, None):
                self._note("role", f"the role may come from base {cls.dotted}", cls.module.path, cls.line)
            case (_, ast.Assign() | ast.AnnAssign() as statement):
                if isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str):
                    return statement.value.value
                self._note("role", "the role is not a string written out", line=statement.lineno)
            case (_, node):
                self._note("role", "the role is not a string written out", line=getattr(node, "lineno", 0))
        return None

    # needs

    def _needs(self, options: Collection[str] | None) -> tuple[list[Need], list[NeedFault]]:
        match self._find("needs"):
            case None | (_, None):
                return [], []  # a base from elsewhere states no needs: nothing is granted unasked
            case (cls, ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value)):
                try:
                    return read_needs(value, options)
                except NotLiteralError as error:
                    self._note("needs", str(error), cls.module.path, value.lineno)
            case (cls, node):
                self._note("needs", "needs is no literal", cls.module.path, getattr(node, "lineno", 0))
        return [], []

    # methods

    def _method(self, name: str) -> Method | None:
        match self._find(name):
            case None:
                return None
            case (cls, None):
                reason = f"{name}() may come from base {cls.dotted}"
                self._note("arguments", reason, cls.module.path, cls.line)
            case (cls, ast.FunctionDef() | ast.AsyncFunctionDef() as node):
                return self._written_method(name, cls.module, node)
            case (cls, ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value)):
                return self._assigned_method(name, cls, value)
            case (cls, node):
                line = getattr(node, "lineno", 0)
                self._note("arguments", f"{name} is not a method written out", cls.module.path, line)
        return None

    def _assigned_method(self, name: str, cls: _Class, value: ast.expr) -> Method | None:
        if isinstance(value, ast.Lambda):
            return self._remember(name, cls.module, value, plain=True)
        if isinstance(value, ast.Name) and cls.node is not None and value.id != name:
            sibling = _class_bindings(cls.node).get(value.id)
            if isinstance(sibling, ast.FunctionDef | ast.AsyncFunctionDef):
                return self._written_method(name, cls.module, sibling)
        match self._modules.resolve(cls.module, value):
            case Foreign(dotted) if dotted in _PASSTHROUGH:
                return Method(name, cls.module.path, value.lineno, passthrough=True)
            case Defined(inner, ast.FunctionDef() | ast.AsyncFunctionDef() as node):
                return self._written_method(name, inner, node)
        text = ast.unparse(value)
        self._note(
            "arguments", f"{name} = {text:.80} is no method written out", cls.module.path, value.lineno
        )
        return None

    def _written_method(
        self, name: str, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef
    ) -> Method:
        decorators = {self._name_of(module, decorator): decorator for decorator in node.decorator_list}
        for dotted, decorator in decorators.items():
            if dotted not in _HARMLESS and dotted not in _UNBOUND:
                reason = f"decorator @{ast.unparse(decorator)} may change what {name}() takes"
                self._note("arguments", reason, module.path, decorator.lineno)
        plain = isinstance(node, ast.FunctionDef) and not _UNBOUND & decorators.keys()
        method = self._remember(name, module, node, plain=plain)
        # What another decorator makes of *args, its own signature tells.
        return method if decorators.keys() <= _HARMLESS | _UNBOUND else replace(method, unnamed=())

    def _remember(
        self,
        name: str,
        module: Module,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        *,
        plain: bool,
    ) -> Method:
        self._functions[name] = Defined(module, node)
        written = list(_parameters(node.args))
        return Method(
            name=name,
            path=module.path,
            line=node.lineno,
            arguments=tuple(item[0] for item in written),
            defaults=frozenset(item[0] for item in written if item[2] is not None),
            unnamed=_unreachable_arguments(node.args),
            plain=plain,
        )

    # options

    def _options(self) -> tuple[tuple[Parameter, ...], bool]:
        fields = self._dataclass_fields()
        if fields is not None:
            return self._few(fields, takes_any=False)
        match self._find("__init__"):
            case None:
                return (), False
            case (cls, ast.FunctionDef() as node):
                written = [(cls.module, *item) for item in _parameters(node.args)]
                options = tuple(self._parameter(*item) for item in written)
                return self._few(options, takes_any=node.args.kwarg is not None)
            case (cls, node):
                line = cls.line if node is None else getattr(node, "lineno", 0)
                reason = f"the constructor may come from base {cls.dotted}"
                self._note("options", reason, cls.module.path, line)
        return (), True

    def _few(self, options: tuple[Parameter, ...], *, takes_any: bool) -> tuple[tuple[Parameter, ...], bool]:
        if len(options) <= MAX_OPTIONS:
            return options, takes_any
        self._note(
            "options", f"it has {len(options)} options; {MAX_OPTIONS} are read", line=self._node.lineno
        )
        return options[:MAX_OPTIONS], True

    def _dataclass_fields(self) -> tuple[Parameter, ...] | None:
        """Return the options of a dataclass without a constructor of its own, or None."""
        is_dataclass = any(self._name_of(self._module, d) == _DATACLASS for d in self._node.decorator_list)
        if not is_dataclass or "__init__" in _class_bindings(self._node):
            return None
        fields: dict[str, Parameter] = {}
        for cls in reversed(self._line):
            for statement in () if cls.node is None else statements(cls.node.body):
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    parameter = self._field(cls.module, statement, statement.target.id)
                    if parameter is not None:
                        fields[parameter.name] = parameter
        return tuple(fields.values())

    def _field(self, module: Module, statement: ast.AnnAssign, name: str) -> Parameter | None:
        if "ClassVar" in ast.unparse(statement.annotation):
            return None
        default = statement.value
        if isinstance(default, ast.Call) and self._name_of(module, default) == "dataclasses.field":
            keywords = {keyword.arg: keyword.value for keyword in default.keywords}
            if isinstance(init := keywords.get("init"), ast.Constant) and init.value is False:
                return None
            default = keywords.get("default") or keywords.get("default_factory")
        return self._parameter(module, name, statement.annotation, default, statement.lineno)

    def _parameter(
        self, module: Module, name: str, annotation: ast.expr | None, default: ast.expr | None, line: int
    ) -> Parameter:
        return Parameter(
            name=name,
            annotation=None if annotation is None else self._spelt_out(module, annotation),
            annotation_text="" if annotation is None else ast.unparse(annotation),
            default_text=None if default is None else ast.unparse(default),
            required=default is None,
            line=line,
        )

    def _spelt_out(self, module: Module, annotation: ast.expr) -> ast.expr:
        spelt_out: ast.expr = _Aliases(self._modules, module, self._room).visit(annotation)
        return spelt_out

    # what it uses

    def _surroundings(
        self, methods: Mapping[str, Method]
    ) -> tuple[tuple[Path, ...], tuple[Import, ...], tuple[Use, ...]]:
        roots = {self._entry.name: self._entry}
        roots |= {cls.module.name: cls.module for cls in self._line if cls.node is not None}
        own = own_modules(self._modules, list(roots.values()))
        for broken in self._modules.broken.values():
            self._note("names", broken.reason, broken.path, broken.line)
        if self._modules.full or len(own) >= MAX_FILES:
            reason = self._modules.full or f"it imports {MAX_FILES} or more files of its own"
            self._note("names", f"{reason}; those beyond were not read")
        guards = AllGuards(self._modules.effort)
        imports = [found for module in own for found in imports_of(self._modules, module, guards.of(module))]
        for found in imports:
            if found.name == ALL:
                reason = f"from {found.module} import * hides which names are used; name them"
                self._note("names", reason, found.path, found.line)
            elif found.name == WHOLE:
                reason = f"{found.module} is used as a whole, or by a computed name, which hides what is used"
                self._note("names", reason, found.path, found.line)
        hooks = [(function, name, methods[name].arguments) for name, function in self._functions.items()]
        try:
            uses = uses_of(self._modules, own, hooks, self.member, guards)
        except TooManyCallsError as error:
            uses = ()
            self._note("attributes", str(error), line=self._node.lineno)
        for use in uses:
            if use.attribute is None:
                reason = f"{use.subject} is read by a computed name; write the attribute out"
                self._note("attributes", reason, use.path, use.line)
        files = tuple(module.path for module in own)
        return files, tuple(imports), tuple(use for use in uses if use.attribute is not None)


class _Room:
    """The room left for syntax nodes put in for aliases."""

    def __init__(self, nodes: int) -> None:
        self._left = nodes

    def takes(self, written: ast.expr) -> bool:
        """Take up the room of ``written``; what does not fit leaves none for anything else."""
        self._left -= sum(1 for _ in itertools.islice(ast.walk(written), self._left + 1))
        if self._left < 0:
            self._left = 0
            return False
        return True


class _Aliases(ast.NodeTransformer):
    """Puts the plugin's own type aliases, and types written as strings, into an annotation.

    A name for which there is no room stays as it is written: a type that cannot be told, which
    the constructor checks in its sandbox.
    """

    def __init__(self, modules: Modules, module: Module, room: _Room, depth: int = 0) -> None:
        self._modules = modules
        self._module = module
        self._room = room
        self._depth = depth

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Leave the strings of ``Literal["a"]`` as they are."""
        self._modules.effort.look()
        if ast.unparse(node.value).endswith("Literal"):
            return node
        visited = self.generic_visit(node)
        assert isinstance(visited, ast.expr)  # noqa: S101 - generic_visit returns its node
        return visited

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """Read a type that is written as a string."""
        if not isinstance(node.value, str):
            return node
        try:
            written = ast.parse(node.value, mode="eval").body
        except (SyntaxError, ValueError):
            return node
        return self._deeper(self._module, written) or node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace an alias by what it stands for."""
        match self._modules.resolve(self._module, node):
            case Defined(module, ast.Subscript() | ast.BinOp() as written):
                return self._deeper(module, written) or node
        return node

    def _deeper(self, module: Module, written: ast.expr) -> ast.expr | None:
        if self._depth > MAX_ALIASES or not self._room.takes(written):
            return None
        # a copy, since one alias may be used by several options
        copy = ast.parse(ast.unparse(written), mode="eval").body
        result: ast.expr = _Aliases(self._modules, module, self._room, self._depth + 1).visit(copy)
        return result


def _members(line: Sequence[_Class]) -> tuple[dict[str, tuple[_Class, ast.AST]], _Class | None]:
    """Return what the plugin's own classes bind, and the first base after them that may bind the rest."""
    found: dict[str, tuple[_Class, ast.AST]] = {}
    for cls in line:
        if cls.node is not None:
            for name, node in _class_bindings(cls.node).items():
                found.setdefault(name, (cls, node))
        elif cls.dotted not in _EMPTY_BASES:
            return found, cls
    return found, None


def _class_bindings(node: ast.ClassDef) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for statement in statements(node.body):
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = statement
            case ast.Assign(targets=targets):
                found |= {target.id: statement for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found[name] = statement
    return found


def _unreachable_arguments(arguments: ast.arguments) -> tuple[str, ...]:
    """Return what of a method's signature no keyword reaches, as it is written."""
    positional = [f"{argument.arg}, /" for argument in arguments.posonlyargs[1:]]
    starred = (("*", arguments.vararg), ("**", arguments.kwarg))
    return (*positional[-1:], *(f"{stars}{a.arg}" for stars, a in starred if a is not None))


def _parameters(
    arguments: ast.arguments,
) -> Iterator[tuple[str, ast.expr | None, ast.expr | None, int]]:
    """Yield name, annotation, default and line of each parameter after ``self``."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    defaults = [*[None] * missing, *arguments.defaults]
    pairs = [*zip(positional, defaults, strict=True)][1:]
    pairs += [*zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for argument, default in pairs:
        yield argument.arg, argument.annotation, default, argument.lineno
