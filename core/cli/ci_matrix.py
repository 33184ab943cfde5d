"""``ringfence plugins matrix``: the cores that a project says it works with, and the Pythons."""

from __future__ import annotations

import re
from pathlib import Path

from importlib_metadata import metadata
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from ..compat.version_range import CORE, MAX_ENTRY, Declaration, admitted_series, window
from ..discovery.project import PYPROJECT, read_project
from ..hooks.errors import JobError
from ..hooks.series import Index, lower_bound
from ..version import __version__

_PYTHON = re.compile(r"Programming Language :: Python :: (3\.\d+)")
#: Beyond every patch of a Python: ``>=3.12.4`` admits some 3.12, and so does ``<=3.12``.
_PATCHES = (0, 999)


def matrix_record(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return what has to be tested, as the ``matrix`` of a job of GitHub Actions.

    Args:
        path: Folder of the project.

    Raises:
        JobError: The project is not there, cannot be read, or admits no series or Python that there is.
    """
    project = read_project(path)
    index, running = Index.read(), Version(__version__)
    declaration = Declaration.of(project.dependencies)
    series = [known.name for known in admitted_series(declaration, index, running)]
    where = path / PYPROJECT
    if not series:
        said = f"declares {declaration}" if str(declaration) else f"declares no range of {CORE}"
        raise JobError(
            f"{where} {said}, which admits no series of {CORE} up to {__version__}; "
            f"write {CORE}>={lower_bound(window(index, running)[0].name, running)} into its dependencies"
        )
    pythons = _pythons(project.requires_python, where)
    return {"include": [{"core": core, "python": python} for core in series for python in pythons]}


def matrix_lines(path: Path) -> list[str]:
    """Return ``matrix_record`` for people.

    Raises:
        JobError: As ``matrix_record``.
    """
    rows = matrix_record(path)["include"]
    cores = list(dict.fromkeys(row["core"] for row in rows))
    pythons = ", ".join(dict.fromkeys(row["python"] for row in rows))
    return [f"{CORE}=={core}.*   Python {pythons}" for core in cores]


def _pythons(requires: str, where: Path) -> list[str]:
    """Return the versions of Python that this core is tested on and that a project admits, oldest first."""
    if len(requires) > MAX_ENTRY:
        raise JobError(
            f"{where}: requires-python has {len(requires)} characters; at most {MAX_ENTRY} are read"
        )
    try:
        admitted_pythons = SpecifierSet(requires)
    except InvalidSpecifier as error:
        raise JobError(f"{where}: requires-python cannot be read: {error}") from error
    classifiers = metadata(CORE).get_all("Classifier") or []
    known = sorted((m[1] for text in classifiers if (m := _PYTHON.fullmatch(text))), key=Version)
    pythons = [
        python
        for python in known
        if any(admitted_pythons.contains(f"{python}.{patch}") for patch in _PATCHES)
    ]
    if not pythons:
        raise JobError(f"{where}: requires-python '{requires}' admits none of {', '.join(known)}")
    return pythons
