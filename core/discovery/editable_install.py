"""The ``.pth`` files of editable installs, told from what only looks like one.

Any wheel can call itself editable. What runs at every start of Python passes only if it
is, word for word, what a build backend writes, and leads into the project.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from ..compat.source.module_files import file_of

#: Of the import hook that setuptools writes, without the three values that differ from one to the next:
#: from 64.0 on, 65.5, 68.2, 70.3, and 72.2 up to at least 84.2.
_SETUPTOOLS = frozenset(
    (
        "1a95fa28d25656d4ad4b41405d4a5a4be5e697e37146bdfa1d2998804f29a41d",
        "4a95e26097df28cf17ca22cd9df25c3e85f024e23c3b91eb0c9c369f2de0e2be",
        "567e9653639bc9567be9a95d33db89bac27d1621d9d42c70a644bf5c0a724873",
        "73c2612efdd3b493e3fde9247592f68b80bf26d21f160a8a86ba710c4f5b44ce",
        "a2201fce545214c54c9414e399964a09a18203223a6c8b6c5ceb2b1a16fcba83",
    )
)
_VALUE = re.compile(
    r"^(MAPPING|NAMESPACES|PATH_PLACEHOLDER)(?:: dict\[str, (?:str|list\[str\])\])? = (.*)$", re.MULTILINE
)
_PLACEHOLDER = re.compile(r"""(['"])__editable__[\w.+-]*\1 \+ "\.__path_hook__\"""")
_HOOK = re.compile(r"import (__editable___\w+_finder); \1\.install\(\)")
#: The library that hatchling and others use for the same.
_EDITABLES = re.compile(r"import (_editable_impl_\w+)")
_REDIRECTOR = re.compile(
    r"from editables\.redirector import RedirectingFinder as F\nF\.install\(\)\n"
    r"(?:F\.map_module\('[\w.]+', '[^'\\\r\n]+'\)\n?)*"
)
_MAX_BYTES = 2**16


def is_of_an_editable_install(pth: Path, project: Path, read: Callable[[Path, int], bytes]) -> bool:
    """Tell whether a ``.pth`` file adds folders of ``project`` alone, or is an import hook that is known.

    Args:
        pth: The file.
        project: The folder that the distribution says it is installed from.
        read: Reads a file of at most so many bytes; what it raises is passed on.
    """
    text = _text(pth, read)
    if text is None:
        return False
    if hook := _HOOK.fullmatch(text.strip()):
        code = _source(pth.with_name(hook[1]), read)
        return code is not None and _is_setuptools(code)
    if hook := _EDITABLES.fullmatch(text.strip()):
        code = _source(pth.with_name(hook[1]), read)
        return code is not None and _REDIRECTOR.fullmatch(code) is not None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return all(_leads_into(line, project) for line in lines)


def _text(path: Path, read: Callable[[Path, int], bytes]) -> str | None:
    try:
        return read(path, _MAX_BYTES).decode("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _source(module: Path, read: Callable[[Path, int], bytes]) -> str | None:
    """Return the text that runs when ``module``, a path without ending, is imported; None if others' may."""
    source = module.with_name(f"{module.name}.py")
    if file_of(module) != source:
        return None  # Python takes a package or compiled code of that name first
    compiled = source.parent.glob(f"__pycache__/{module.name}.*.pyc")
    if any(_is_unchecked(read(path, _MAX_BYTES)) for path in compiled):
        return None
    return _text(source, read)


def _is_unchecked(compiled: bytes) -> bool:
    """Tell whether Python runs compiled code without a look at its source (PEP 552)."""
    return compiled[4:8] == b"\1\0\0\0"


def _leads_into(line: str, project: Path) -> bool:
    folder = Path(line)
    return folder.is_absolute() and "\0" not in line and folder.resolve().is_relative_to(project)


def _is_setuptools(code: str) -> bool:
    # A tenth of what listing plugins takes is spent on imports: this one is for few.
    import hashlib  # noqa: PLC0415

    values = dict(_VALUE.findall(code))
    rest = hashlib.sha256(_VALUE.sub(r"\1", code).encode()).hexdigest()
    return (
        rest in _SETUPTOOLS
        and _PLACEHOLDER.fullmatch(values.pop("PATH_PLACEHOLDER")) is not None
        and all(isinstance(_literal(value), dict) for value in values.values())
    )


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
