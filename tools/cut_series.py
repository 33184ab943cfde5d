"""Begin a series of the core, or release a patch of the present one: all that has to change together.

    python tools/cut_series.py 0.3      begins series 0.3, whose first version is 0.3.0
    python tools/cut_series.py 0.2.1    the next patch of series 0.2

Both move ``core/version.py``, ``core/hooks/snapshots/index.json`` and the changelog. A series
also gets a snapshot, the same as that of the one before, and the template and the example plugins
their new bounds; and the tests learn from which commit the core of the one before is built.
Hooks are changed after that, with ``python tools/snapshot.py``, until the series is released.
Everything is checked before the first file is written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

import ringfence
from ringfence.compat.version_range import window
from ringfence.hooks.series import Index, Series, SeriesSnapshot, removed_without_notice, series_of

ROOT = Path(__file__).resolve().parents[1]

VERSION = "core/version.py"
SNAPSHOTS = "core/hooks/snapshots"
INDEX = f"{SNAPSHOTS}/index.json"
TEMPLATE = "plugin_template/cookiecutter.json"
EXAMPLES = "examples/plugins"
CHANGELOG = "CHANGELOG.md"
CORES = "tests/run/cores.toml"
UNRELEASED = "## Unreleased"

_SERIES_PARTS = 2
_GIT_S = 30.0


class RefusedError(Exception):
    """Nothing was written; the message says why and what to do."""


def cut(root: Path, wanted: str, live: Mapping[str, Any], head: str) -> list[str]:
    """Begin a series, or release a patch; return what to do next.

    Args:
        root: The clone.
        wanted: ``X.Y`` or ``X.Y.Z``.
        live: What ``tools/snapshot.py`` makes of the core in ``root``.
        head: The present commit, which is the last of its series when another begins.

    Raises:
        RefusedError: Something is not as it has to be.
    """
    current = _current(root)
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
        raise RefusedError(f"'{wanted}' is neither a series (X.Y) nor a patch (X.Y.Z)")
    is_series = wanted.count(".") + 1 == _SERIES_PARTS
    version = Version(f"{wanted}.0" if is_series else wanted)
    _check_next(current, version, is_series=is_series)
    index = Index.read(root / SNAPSHOTS)
    _check_record(root, index, current, live, is_series=is_series)
    if is_series:
        files = _series(root, index, version, live)
        files[CORES] = f'{(root / CORES).read_text(encoding="utf-8")}"{series_of(current)}" = "{head}"\n'
    else:
        files = _patch(root, index, version)
    files[VERSION] = _replaced(root, VERSION, r'(?<=__version__ = ")[^"]+', str(version))
    files[CHANGELOG] = _changelog(root, version)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    return [f"{version}: wrote {', '.join(sorted(files))}", *_next(live, version, is_series=is_series)]


def _current(root: Path) -> Version:
    found = re.search(r'__version__ = "([^"]+)"', (root / VERSION).read_text(encoding="utf-8"))
    if found is None:
        raise RefusedError(f"{VERSION} states no version")
    return Version(found[1])


def _check_next(current: Version, version: Version, *, is_series: bool) -> None:
    major, minor, patch = current.release
    allowed = [f"{major}.{minor + 1}", f"{major + 1}.0"] if is_series else [f"{major}.{minor}.{patch + 1}"]
    asked = series_of(version) if is_series else str(version)
    if asked not in allowed:
        raise RefusedError(f"{current} is followed by {' or '.join(allowed)}, not by {asked}")


def _check_record(
    root: Path, index: Index, current: Version, live: Mapping[str, Any], *, is_series: bool
) -> None:
    """Check that what the series so far had is on record, and that nothing went unannounced."""
    name = series_of(current)
    names = [series.name for series in index.series]
    if names[-1] != name:
        raise RefusedError(f"{INDEX} ends with {names[-1]}, and the core is {current}; add {name} to it")
    lost = [known for known in names if known not in index.snapshots]
    if lost:
        raise RefusedError(f"{SNAPSHOTS} has no {lost[0]}.json; take it from the history")
    if (root / SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8") != _written(live):
        remedy = (
            "run tools/snapshot.py if that is meant to be part of it; if it is to come with the next "
            "series, cut first and change the hooks then"
            if is_series
            else "a patch never changes the hooks: take the change back, or make it a series"
        )
        raise RefusedError(f"the hooks or names of the core are not those on record for {name}; {remedy}")
    faults = removed_without_notice([index.snapshots[known] for known in names])
    if faults:
        listed = "\n  ".join(faults)
        raise RefusedError(
            f"what goes has to be announced in the two series before (DEPRECATED in core/hooks/specs.py); "
            f"bring it back:\n  {listed}"
        )


def _series(root: Path, index: Index, version: Version, live: Mapping[str, Any]) -> dict[str, str]:
    name = series_of(version)
    snapshot = {**live, "series": name}
    begun = Index(
        (*index.series, Series(name, (str(version),))), index.snapshots | {name: SeriesSnapshot.of(snapshot)}
    )
    before = json.loads((root / TEMPLATE).read_text(encoding="utf-8"))
    oldest = {role: window(begun, version, role)[0].name for role in before["role"]}
    template = _replaced(root, TEMPLATE, r'(?<="_kit_series": ")[^"]+', name)
    template = re.sub(r'(?<="_oldest_series": )\{[^}]*\}', _spaced(oldest), template)
    projects = sorted((root / EXAMPLES).glob("*/pyproject.toml"))
    return {
        f"{SNAPSHOTS}/{name}.json": _written(snapshot),
        INDEX: _index(root, {"name": name, "finals": [str(version)], "yanked": []}),
        TEMPLATE: template,
        **{str(path.relative_to(root)): _bounds(root, path, name, oldest, before) for path in projects},
    }


def _bounds(root: Path, path: Path, kit: str, oldest: Mapping[str, str], before: Mapping[str, Any]) -> str:
    """Return an example plugin's project with the bounds that the template will give new ones.

    Args:
        root: The clone.
        path: The project.
        kit: The new series.
        oldest: Role to the oldest series that a plugin of it has to fit.
        before: The template's settings so far.
    """
    text = path.read_text(encoding="utf-8")
    role = tomllib.loads(text)["project"]["keywords"][-1]
    for old, new in (
        (f'  "ringfence>={before["_oldest_series"][role]}",\n', f'  "ringfence>={oldest[role]}",\n'),
        (f" since {before['_kit_series']}.\n", f" since {kit}.\n"),
        (f'"ringfence>={before["_kit_series"]}"]', f'"ringfence>={kit}"]'),
    ):
        if text.count(old) != 1:
            raise RefusedError(
                f"{path.relative_to(root)} has not one '{old.strip()}', as the template gives it"
            )
        text = text.replace(old, new)
    return text


def _spaced(oldest: Mapping[str, str]) -> str:
    """Return the series by role as the template has them, in one line."""
    return f"{{ {json.dumps(oldest)[1:-1]} }}"


def _patch(root: Path, index: Index, version: Version) -> dict[str, str]:
    last = index.series[-1]
    entry = {"name": last.name, "finals": [*last.finals, str(version)], "yanked": sorted(last.yanked)}
    return {INDEX: _index(root, entry)}


def _index(root: Path, entry: Mapping[str, Any]) -> str:
    """Return the index with ``entry`` at its end, in the place of one of that name."""
    told = json.loads((root / INDEX).read_text(encoding="utf-8"))
    kept = [series for series in told["series"] if series["name"] != entry["name"]]
    return json.dumps({**told, "series": [*kept, entry]}, indent=2) + "\n"


def _written(snapshot: Mapping[str, Any]) -> str:
    """Return a snapshot as ``tools/snapshot.py`` writes it."""
    return json.dumps(snapshot, indent=2, sort_keys=True) + "\n"


def _replaced(root: Path, name: str, pattern: str, value: str) -> str:
    text, count = re.subn(pattern, value, (root / name).read_text(encoding="utf-8"))
    if count != 1:
        raise RefusedError(f"{name} has {count} places where {value} would go; it needs one")
    return text


def _changelog(root: Path, version: Version) -> str:
    """Return the changelog with what was unreleased under the version's heading, or a new one on top."""
    text = (root / CHANGELOG).read_text(encoding="utf-8")
    heading = f"## {version}"
    if f"{heading}\n" in text:
        raise RefusedError(f"{CHANGELOG} has '{heading}' already; take it out, or name another version")
    if f"{UNRELEASED}\n" in text:
        return text.replace(f"{UNRELEASED}\n", f"{heading}\n", 1)
    before, mark, after = text.partition("\n## ")
    return f"{before}\n{heading}\n{mark}{after}"


def _next(live: Mapping[str, Any], version: Version, *, is_series: bool) -> list[str]:
    due = [item for item, series in live["deprecated"].items() if is_series and series == series_of(version)]
    told = [f"{item} was announced to go now: take it out, and run tools/snapshot.py" for item in due]
    return [*told, f"write what changed under '## {version}' in {CHANGELOG}, run the tests, and commit"]


def _head(root: Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise RefusedError(f"git does not tell which commit {root} is at: {error}") from error
    return done.stdout.strip()


def main() -> int:
    """Cut what the command line names; return the exit status."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the script and its argument
        sys.stderr.write(f"{__doc__}\n")
        return 2
    imported = Path(ringfence.__file__).resolve().parent
    if imported != ROOT / "core":
        sys.stderr.write(
            f"ringfence is imported from {imported}, not from {ROOT}: use the Python of that clone\n"
        )
        return 2
    from snapshot import snapshot  # noqa: PLC0415 - imports torch, and lies beside this script

    try:
        told = cut(ROOT, sys.argv[1], snapshot(), _head(ROOT))
    except RefusedError as error:
        sys.stderr.write(f"refused, and nothing was changed: {error}\n")
        return 1
    sys.stdout.write("\n".join(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
