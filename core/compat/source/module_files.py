"""Find a plugin's modules as files and follow names through them, without importing anything."""

from __future__ import annotations

import ast
import functools
import io
import os
import string
import sys
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path, PurePath

from .effort import Effort

MAX_SOURCE_BYTES = 200_000
#: Of one plugin's own files, and of all their text.
MAX_FILES = 500
MAX_TOTAL_BYTES = 8_000_000
#: Words, signs and lines of all its files: parsed, each takes up to 0.9 kB. Usual text of 1.1 MB has so many.
MAX_PIECES = 400_000
#: Names that are looked for among its files.
MAX_NAMES = 20_000
_IN_WORDS = f"{string.ascii_letters}{string.digits}_{string.whitespace}".encode() + bytes(range(128, 256))
#: Others can stand for more signs than they have bytes, or take long to decode.
_ENCODINGS = frozenset(("utf-8", "utf-8-sig", "ascii", "iso-8859-1"))
#: Folders without ``__init__`` that packages are looked for in, one inside the other.
MAX_NAMESPACES = 4
#: Endings of modules, in the order in which Python looks for them.
_ENDINGS = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
MAX_HOPS = 20  # a name re-exported more often than this is a circle

#: What other readers of a module look for; see ``Module.parts``.
_PARTS = frozenset(
    (
        *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef),
        *(ast.Attribute, ast.Call, ast.Try, ast.TryStar, ast.With, ast.If, ast.IfExp),
    )
)
#: Nodes that hold nothing to look for, or nothing at all: most of a text.
LEAVES = frozenset(
    (
        *(ast.Name, ast.Constant, ast.alias, ast.Pass),
        *(
            kind
            for family in (ast.expr_context, ast.operator, ast.unaryop)
            for kind in family.__subclasses__()
        ),
        *(kind for family in (ast.cmpop, ast.boolop) for kind in family.__subclasses__()),
    )
)

FileOf = Callable[[Path], Path | None]
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, parsed.

    Attributes:
        name: Dotted name it would be imported under.
        path: The file.
        tree: Its syntax tree.
        bindings: Top-level name to the statement that binds it last.
        aliases: Those that are imported, to what the statement says of them.
        parts: Every import, attribute, call, function, ``try``, ``with`` and ``if`` in it, at any depth.
        text: What was parsed: whether a word stands in it at all costs no walk.
    """

    name: str
    path: Path
    tree: ast.Module
    bindings: Mapping[str, ast.stmt]
    aliases: Mapping[str, ast.alias]
    parts: tuple[ast.AST, ...]
    text: str

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Defined:
    """The end of a name that leads to a definition in one of the plugin's own files."""

    module: Module
    node: Definition


@dataclass(frozen=True, slots=True)
class Foreign:
    """The end of a name that leads to code that is not the plugin's own."""

    dotted: str


Resolved = Defined | Foreign | Module | None


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that could not be read as Python source: why, as a clause, and where."""

    reason: str
    path: Path
    line: int = 0


class Modules:
    """The plugin's own source files, read when asked for.

    Args:
        own: Dotted modules and packages that belong to the plugin, with all inside; others are foreign.
        folders: Folders as on ``sys.path``, in order.
        roots: Dotted package to its folder, for installs that map one to another.
        within: Folder that no link may lead out of; None if any may.
        effort: What may be spent on them.

    Attributes:
        broken: Module to why it could not be read, as a clause.
        full: Why files beyond those that were read are not, as a clause, or ``""``.
        effort: What may be spent on them.
    """

    def __init__(
        self,
        own: Iterable[str],
        folders: Sequence[str],
        roots: Mapping[str, str] | None = None,
        within: Path | None = None,
        effort: Effort | None = None,
    ) -> None:
        self._own = frozenset(own)
        self._within = within
        self._files = 0
        self._bytes = 0
        self._pieces = 0
        self._folders = [Path(folder) for folder in folders]
        self._roots = sorted((roots or {}).items(), key=lambda item: -len(item[0]))
        self._read: dict[str, Module | None] = {}
        # Most names that are looked for lie in a few packages.
        self._file_of = functools.cache(file_of)
        self.broken: dict[str, Broken] = {}
        self.full = ""
        self.effort = effort or Effort()

    def find(self, name: str) -> Module | None:
        """Return the module ``name`` if it is the plugin's own and can be read as Python source.

        What could not be read is noted in ``broken`` or ``full`` with the reason.
        """
        if not self.owns(name):
            return None
        if name not in self._read:
            self.effort.step()
            if len(self._read) >= MAX_NAMES:
                self.full = f"it names more than {MAX_NAMES} modules of its own"
                return None
            path = self._locate(name)
            self._read[name] = None if path is None else self._parsed(name, path)
        return self._read[name]

    def owns(self, name: str) -> bool:
        """Tell whether the module ``name`` belongs to the plugin."""
        parts = name.split(".")
        return any(".".join(parts[:depth]) in self._own for depth in range(1, len(parts) + 1))

    def resolve(self, module: Module, expression: ast.expr, hops: int = 0) -> Resolved:
        """Follow ``expression``, a name or dotted name, to what it stands for; None if it cannot be told."""
        self.effort.step()
        if hops > MAX_HOPS:
            return None
        match expression:
            case ast.Name(id=name):
                return self.lookup(module, name, hops + 1)
            case ast.Attribute(value=value, attr=attribute):
                match self.resolve(module, value, hops + 1):
                    case Foreign(dotted):
                        return Foreign(f"{dotted}.{attribute}")
                    case Module() as inner:
                        return self.lookup(inner, attribute, hops + 1)
        return None

    def lookup(self, module: Module, name: str, hops: int = 0) -> Resolved:
        """Follow the top-level ``name`` of ``module``; None if nothing in it binds that name."""
        bound = module.bindings.get(name)
        if bound is None:
            return self.find(f"{module.name}.{name}") if module.path.name == "__init__.py" else None
        return None if hops > MAX_HOPS else self._follow(module, name, bound, hops)

    def _follow(self, module: Module, name: str, bound: ast.stmt, hops: int) -> Resolved:
        match bound:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() as node:
                return Defined(module, node)
            case ast.Import():
                alias = module.aliases[name]
                dotted = alias.name if alias.asname else name
                return self.find(dotted) or Foreign(dotted)
            case ast.ImportFrom() as node:
                return self._member(absolute_name(module, node), module.aliases[name].name, hops)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                if isinstance(value, ast.Name | ast.Attribute):
                    return self.resolve(module, value, hops + 1)
                return Defined(module, value)
        return None

    def _member(self, package: str, name: str, hops: int) -> Resolved:
        if not self.owns(package):
            return Foreign(f"{package}.{name}")
        found = self.find(package)
        if found is None:
            return None
        return self.lookup(found, name, hops + 1) or self.find(f"{package}.{name}")

    def _locate(self, name: str) -> Path | None:
        for package, folder in self._roots:
            if name == package or name.startswith(f"{package}."):
                root, rest = self._file_of(Path(folder)), name.split(".")[package.count(".") + 1 :]
                if root is not None:  # then Python looks for what is below there, and nowhere else
                    file = file_below(root, rest, self._file_of)
                    return None if file is None else _as_source(file)
        places = (file_in(base, name, self._file_of) for base in self._folders)
        found = next(filter(None, places), None)
        return None if found is None else _as_source(found[2])

    def _parsed(self, name: str, path: Path) -> Module | None:
        if self.full:
            return None
        if self._files >= MAX_FILES:
            self.full = f"it imports more than {MAX_FILES} files of its own"
        elif self._bytes > MAX_TOTAL_BYTES:
            self.full = f"the files of its own that it imports hold more than {MAX_TOTAL_BYTES} bytes"
        if self.full:
            return None
        self._files += 1
        if self._within is not None and not is_inside(path, self._within):
            self.broken[name] = Broken("it is a link out of the project, which is not followed", path)
            return None
        return self._parse(name, path)

    def _parse(self, name: str, path: Path) -> Module | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SOURCE_BYTES + 1)
            text = self._text(data)
            if self.full:
                return None
            with warnings.catch_warnings():
                # A plugin's doubtful escapes are its author's to see, not the user's.
                warnings.simplefilter("ignore")
                tree = ast.parse(text, filename=str(path))
        except SyntaxError as error:
            self.broken[name] = Broken(f"{type(error).__name__}: {error.msg}", path, error.lineno or 0)
            return None
        except _TooLongError as error:
            self.broken[name] = Broken(str(error), path)
            return None
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            self.broken[name] = Broken(f"it is no Python source: {error}", path)
            return None
        bindings, aliases = dict(_bindings(tree.body)), dict(_aliases(tree.body))
        return Module(name, path, tree, bindings, aliases, tuple(_parts(tree)), text)

    def _text(self, data: bytes) -> str:
        """Return the text of a file; say in ``full`` if there is no room left to parse it.

        Raises:
            _TooLongError, ValueError, SyntaxError: It is too long, or no text in a usual encoding.
        """
        if len(data) > MAX_SOURCE_BYTES:
            raise _TooLongError(f"it is longer than {MAX_SOURCE_BYTES} bytes")
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding not in _ENCODINGS:
            raise ValueError(f"its encoding is {encoding:.40}; write it in UTF-8")
        self._bytes += len(data)
        self._pieces += _pieces(data)
        if self._pieces > MAX_PIECES:
            self.full = f"the files of its own that it imports hold more than {MAX_PIECES} words and signs"
        return data.decode(encoding)


class _TooLongError(ValueError):
    """A file is longer than any that is read."""


def _pieces(data: bytes) -> int:
    """Return how many words, signs and lines a text has at most, which bound what parsing it takes."""
    signs = len(data.translate(None, _IN_WORDS))
    # Each sign may part a word from the next.
    return len(data.split()) + 2 * signs + data.count(b"\n")


def absolute_name(module: Module, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that ``node`` imports from."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def parameter_names(arguments: ast.arguments) -> set[str]:
    """Return all names that a function's parameters bind in it."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return {each.arg for each in (*every, arguments.vararg, arguments.kwarg) if each is not None}


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, those inside ``if``, ``try`` and ``with`` included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from statements(getattr(statement, part, []))
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from statements(handler.body)


def inner_nodes(node: ast.AST) -> list[ast.AST]:
    """Return the nodes in the fields of ``node``, in the order of the text, without those of ``LEAVES``."""
    found: list[ast.AST] = []
    for value in vars(node).values():
        kind = type(value)
        if kind is list:
            found += [n for n in value if type(n) not in LEAVES and isinstance(n, ast.AST)]
        elif kind not in LEAVES and isinstance(value, ast.AST):
            found.append(value)
    return found


def _parts(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what is told apart in ``Module.parts``, in the order of ``ast.walk``.

    Every reader of a module looks for a few kinds of nodes; what a walk costs is paid once for all of them.
    """
    level: list[ast.AST] = [tree]
    while level:
        below: list[ast.AST] = []
        for node in level:
            if type(node) in _PARTS:
                yield node
            below += inner_nodes(node)
        level = below


def _as_source(file: Path) -> Path | None:
    return file if file.suffix == ".py" else None


def file_of(path: Path) -> Path | None:
    """Return the file of the package or module whose path without ending is ``path``, as Python chooses."""
    # Plain strings: this is asked for every name that a plugin's source mentions.
    start = str(path)
    is_folder = os.path.isdir(start)  # noqa: PTH112
    packages = [f"{start}{os.sep}__init__{ending}" for ending in _ENDINGS] if is_folder else []
    modules = [f"{start}{ending}" for ending in _ENDINGS]
    return next((Path(file) for file in packages + modules if os.path.isfile(file)), None)  # noqa: PTH113


def file_in(folder: Path, module: str, look: FileOf = file_of) -> tuple[str, Path, Path] | None:
    """Return what ``module`` is imported from if ``folder`` is where it is looked for.

    Args:
        folder: As on ``sys.path``.
        module: Dotted name.
        look: ``file_of``, or one that remembers.

    Returns:
        Dotted name and file of the outermost package, or module, and the file of ``module``
        itself; None if ``folder`` lacks one of them.
    """
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        outermost = look(folder.joinpath(*parts[:depth]))
        if outermost is not None:
            file = file_below(outermost, parts[depth:], look)
            return None if file is None else (".".join(parts[:depth]), outermost, file)
    return None


def file_on_path(module: str) -> Path | None:
    """Return what ``module`` is where Python looks for modules, a plugin's too; the guard hides those."""
    found = (file_in(Path(folder), module) for folder in sys.path)
    return next((each[2] for each in found if each is not None), None)


def file_below(file: Path, rest: Sequence[str], look: FileOf = file_of) -> Path | None:
    """Return the file of the module ``rest`` inside the package whose file is ``file``."""
    if not rest:
        return file
    # What a module that is no package says of its path is known only once it runs.
    depths = range(1, len(rest) + 1) if is_package(file) else ()
    for depth in depths:
        inner = look(file.parent.joinpath(*rest[:depth]))
        if inner is not None:
            return file_below(inner, rest[depth:], look)
    return None


def outermost_modules(files: Iterable[PurePath]) -> list[str]:
    """Return the dotted names of the outermost packages among files, and of the modules in none.

    Args:
        files: Paths from a folder as on ``sys.path``.
    """
    modules = [file for file in files if _is_module(file)]
    packages = {file.parent for file in modules if is_package(file)}
    names: dict[tuple[str, ...], None] = {}
    for file in modules:
        around = [folder for folder in file.parents if folder in packages and folder.parts]
        names[around[-1].parts if around else (*file.parent.parts, _stem(file))] = None
    return [".".join(parts) for parts in names if parts != ("__init__",)]


def modules_below(folder: Path, within: Path, depth: int = 0) -> Iterator[PurePath]:
    """Yield the files of the outermost packages and modules of a folder, as paths from there.

    Args:
        folder: As on ``sys.path``.
        within: Folder that no link may lead out of: what lies beyond is passed over.
        depth: Folders without ``__init__`` around it.

    Raises:
        OSError: It cannot be listed.
    """
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__" or not is_inside(path, within):
            continue
        if not path.is_dir():
            yield PurePath(path.name)
            continue
        package = file_of(path) if path.name.isidentifier() else None
        if package is not None and package.parent == path:
            yield PurePath(path.name, package.name)
        elif path.name.isidentifier() and depth < MAX_NAMESPACES:
            for inner in modules_below(path, within, depth + 1):
                yield PurePath(path.name, inner)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether ``path`` lies in ``folder`` once links are followed; one in a circle stays where it is."""
    return Path(os.path.realpath(path)).is_relative_to(folder)


def _is_module(file: PurePath) -> bool:
    parts = (*file.parent.parts, _stem(file))
    return file.name.endswith(_ENDINGS) and all(p.isidentifier() and p != "__pycache__" for p in parts)


def _stem(file: PurePath) -> str:
    return file.name.partition(".")[0]


def is_package(file: PurePath) -> bool:
    """Tell whether a module's file is that of a package."""
    return _stem(file) == "__init__"


def _bindings(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for statement in statements(body):
        for name in _bound_names(statement):
            yield name, statement


def _aliases(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.alias]]:
    for statement in statements(body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from _names_imported_by(statement)


def _names_imported_by(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, ast.alias]]:
    for alias in statement.names:
        whole = isinstance(statement, ast.ImportFrom) or alias.asname
        yield alias.asname or (alias.name if whole else alias.name.partition(".")[0]), alias


def _bound_names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [name for name, _ in _names_imported_by(statement)]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
