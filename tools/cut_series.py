"""Open a series of the core, close it, or release a patch of it: all that has to change together.

    python tools/cut_series.py 1.7         opens series 1.7; the version is the candidate 1.7.0rc1
    python tools/cut_series.py 1.7.0rc2    the next candidate of the open series
    python tools/cut_series.py 1.7.0       closes it: its hooks are a promise from now on
    python tools/cut_series.py 1.7.1       the next patch of a closed series

All move ``core/version.py``. A series that opens gets a snapshot, the same as that of the one before, and the
tests learn from which commit the core of the one before is built. Hooks are changed while it is open, with
``python tools/snapshot.py``. What closes it, or is a patch, comes into
``core/hooks/snapshots/index.json`` and gets a heading in the changelog; once a series is closed, new
plugins are tested with its kit. Everything is checked before the first file is written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version

import ringfence
from ringfence.compat.version_range import first_series
from ringfence.hooks.series import Index, Series, SeriesSnapshot, lower_bound, series_of

ROOT = Path(__file__).resolve().parents[1]

VERSION = "core/version.py"
SNAPSHOTS = "core/hooks/snapshots"
INDEX = f"{SNAPSHOTS}/index.json"
TEMPLATE = "plugin_template/cookiecutter.json"
EXAMPLES = "examples/plugins"
CHANGELOG = "CHANGELOG.md"
CORES = "tests/run/cores.toml"
UNRELEASED = "## Unreleased"

_GIT_S = 30.0
#: What will go must have been announced for this many series before.
NOTICE_SERIES = 2


Step = Literal["open", "candidate", "close", "patch"]
_REGENERATE = "run tools/snapshot.py, which writes them anew as long as the series is open"
#: What to do about hooks that are not those on record.
_REMEDIES: dict[Step, str] = {
    "open": "a closed series does not change: take the change back, open the next, and change the hooks then",
    "candidate": _REGENERATE,
    "close": _REGENERATE,
    "patch": "a patch never changes the hooks: take the change back, or make it a series",
}


class RefusedError(Exception):
    """Nothing was written; the message says why and what to do."""


def cut(root: Path, wanted: str, live: Mapping[str, Any], head: str) -> list[str]:
    """Open or close a series, or release a patch; return what to do next.

    Args:
        root: The clone.
        wanted: ``X.Y`` to open, ``X.Y.0`` to close, ``X.Y.0rcN`` or ``X.Y.Z``.
        live: What ``tools/snapshot.py`` makes of the core in ``root``.
        head: The present commit, which is the last of its series when another opens.

    Raises:
        RefusedError: Something is not as it has to be.
    """
    current = _current(root)
    step, version = _step(current, wanted)
    index = Index.read(root / SNAPSHOTS)
    _check_record(root, index, current, live, step)
    files = {VERSION: _replaced(root, VERSION, r'(?<=__version__ = ")[^"]+', str(version))}
    match step:
        case "open":
            commits = (root / CORES).read_text(encoding="utf-8")
            files[CORES] = f'{commits}"{series_of(current)}" = "{head}"\n'
            files[f"{SNAPSHOTS}/{series_of(version)}.json"] = _written({**live, "series": series_of(version)})
            files |= _template(root, index, version, live, kit=_settings(root)["_kit_series"])
        case "close":
            files |= _released(root, index, version)
            files |= _template(root, index, version, live, kit=series_of(version))
        case "patch":
            files |= _released(root, index, version)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    return [f"{version}: wrote {', '.join(sorted(files))}", *_next(live, version, step)]


def _current(root: Path) -> Version:
    found = re.search(r'__version__ = "([^"]+)"', (root / VERSION).read_text(encoding="utf-8"))
    if found is None:
        raise RefusedError(f"{VERSION} states no version")
    return Version(found[1])


def _step(current: Version, wanted: str) -> tuple[Step, Version]:
    """Return what is asked for and the version that the core has afterwards.

    Raises:
        RefusedError: It is not what comes next.
    """
    if not re.fullmatch(r"\d+\.\d+(\.\d+(rc\d+)?)?", wanted):
        raise RefusedError(
            f"'{wanted}' is neither a series (X.Y) nor a patch (X.Y.Z), nor the candidate (X.Y.0rcN) or the "
            "first version (X.Y.0) of an open one"
        )
    major, minor, patch = current.release
    steps: dict[str, Step]
    if current.pre is not None:
        final = current.base_version
        steps = {f"{final}rc{current.pre[1] + 1}": "candidate", final: "close"}
    else:
        steps = {
            f"{major}.{minor + 1}": "open",
            f"{major + 1}.0": "open",
            f"{major}.{minor}.{patch + 1}": "patch",
        }
    if wanted not in steps:
        raise RefusedError(f"{current} is followed by {' or '.join(steps)}, not by {wanted}")
    step = steps[wanted]
    return step, Version(f"{wanted}.0rc1" if step == "open" else wanted)


def _check_record(root: Path, index: Index, current: Version, live: Mapping[str, Any], step: Step) -> None:
    """Check that what the series so far had is on record, and that nothing went unannounced."""
    name = series_of(current)
    names = [series.name for series in index.up_to(current)]
    released = [series.name for series in index.series]
    if released != (names if current.pre is None else names[:-1]):
        raise RefusedError(
            f"{INDEX} ends with {released[-1]}, and the core is {current}; it lists what is closed, in order"
        )
    lost = [known for known in names if known not in index.snapshots]
    if lost:
        raise RefusedError(f"{SNAPSHOTS} has no {lost[0]}.json; take it from the history")
    if (root / SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8") != _written(live):
        raise RefusedError(
            f"the hooks or names of the core are not those on record for {name}; {_REMEDIES[step]}"
        )
    faults = removed_without_notice([index.snapshots[known] for known in names])
    if faults:
        listed = "\n  ".join(faults)
        raise RefusedError(
            f"what goes has to be announced in the two series before (DEPRECATED in core/hooks/specs.py); "
            f"bring it back:\n  {listed}"
        )


def removed_without_notice(snapshots: Sequence[SeriesSnapshot]) -> list[str]:
    """Return what each series dropped that the two before it did not both announce.

    Args:
        snapshots: In the order of release.
    """
    faults = []
    for position, snapshot in enumerate(snapshots[1:], start=1):
        gone = set(snapshots[position - 1].items()) - set(snapshot.items())
        before = snapshots[max(0, position - NOTICE_SERIES) : position]
        for item in sorted(gone):
            announced = len(before) == NOTICE_SERIES and all(_announces(old, item) for old in before)
            if not announced:
                faults.append(f"{snapshot.series} drops {item}")
    return faults


def _announces(snapshot: SeriesSnapshot, item: str) -> bool:
    return item in snapshot.deprecated or item.partition(".")[0] in snapshot.deprecated


def _template(
    root: Path, index: Index, version: Version, live: Mapping[str, Any], kit: str
) -> dict[str, str]:
    """Return the template and the example plugins with their bounds.

    Args:
        root: The clone.
        index: The series so far.
        version: What the core is now.
        live: What it offers.
        kit: The series whose ``ringfence.testing`` their tests use.
    """
    name = series_of(version)
    snapshots = index.snapshots | {name: SeriesSnapshot.of({**live, "series": name})}
    known = Index((*index.series, Series(name)), snapshots)
    before = _settings(root)
    oldest = {role: lower_bound(first_series(known, version, role).name, version) for role in before["role"]}
    template = _replaced(root, TEMPLATE, r'(?<="_kit_series": ")[^"]+', kit)
    template = re.sub(r'(?<="_oldest_series": )\{[^}]*\}', _spaced(oldest), template)
    projects = sorted((root / EXAMPLES).glob("*/pyproject.toml"))
    return {
        TEMPLATE: template,
        **{str(path.relative_to(root)): _bounds(root, path, kit, oldest, before) for path in projects},
    }


def _settings(root: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((root / TEMPLATE).read_text(encoding="utf-8"))
    return told


def _bounds(root: Path, path: Path, kit: str, oldest: Mapping[str, str], before: Mapping[str, Any]) -> str:
    """Return an example plugin's project with the bounds that the template will give new ones.

    Args:
        root: The clone.
        path: The project.
        kit: The series whose ``ringfence.testing`` its tests use.
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


def _released(root: Path, index: Index, version: Version) -> dict[str, str]:
    """Return the index and the changelog with a version that is a promise from now on."""
    name = series_of(version)
    last = index.series[-1] if index.series[-1].name == name else Series(name)
    entry = {"name": name, "finals": [*last.finals, str(version)], "yanked": sorted(last.yanked)}
    return {INDEX: _index(root, entry), CHANGELOG: _changelog(root, version)}


def _index(root: Path, entry: Mapping[str, Any]) -> str:
    """Return the index with ``entry`` at its end, in the place of one of that name."""
    told = json.loads((root / INDEX).read_text(encoding="utf-8"))
    others = [series for series in told["series"] if series["name"] != entry["name"]]
    return json.dumps({**told, "series": [*others, entry]}, indent=2) + "\n"


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


def _next(live: Mapping[str, Any], version: Version, step: Step) -> list[str]:
    anew = "install the core anew (pip install --no-deps -e .), run the tests, and commit"
    if step in {"close", "patch"}:
        return [f"write what changed under '## {version}' in {CHANGELOG}", anew]
    due = [item for item, series in live["deprecated"].items() if series == series_of(version)]
    told = [f"{item} was announced to go now: take it out, and run tools/snapshot.py" for item in due]
    return [*told, anew, f"when its hooks are settled: python tools/cut_series.py {version.base_version}"]


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
