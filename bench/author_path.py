"""How long an author takes from nothing to a plugin that trains: every command of the tutorial, timed.

    python bench/author_path.py [--json FILE]

Makes an empty environment, installs ringfence into it from a wheel of this source, with pip and the
network, as anybody would, and then goes through these for each role, which must all succeed:

    new       ringfence plugins new
    install   pip install -e '.[test]'
    tests     python -m pytest: the project's own
    check     ringfence plugins check
    job       ringfence train job.yaml, as the project has it

The first install fetches pytest and the tool that builds; the others find them.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import venv
from pathlib import Path

from harness import Table, machine, say
from installed import wheel_of_source

from ringfence.hooks.specs import ROLES

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
STEPS = ("new", "install", "tests", "check", "job")
_COMMAND_S = 900.0


def timed(*command: str | Path, cwd: Path) -> float:
    """Run a command and return how many seconds it took; end with what it printed if it fails."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=settings, capture_output=True, text=True, check=False, timeout=_COMMAND_S
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"
        raise SystemExit(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{said}")
    return seconds


def install(*what: str | Path, binaries: Path, cwd: Path) -> float:
    """Install with pip under the constraints; return the seconds."""
    pip = (binaries / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    return timed(*pip, "-c", CONSTRAINTS, *what, cwd=cwd)


def path_of(role: str, binaries: Path, folder: Path) -> list[float]:
    """Go from nothing to a plugin of ``role`` that trains; return the seconds of each of ``STEPS``."""
    python, ringfence = binaries / "python", binaries / "ringfence"
    name = f"first-{role}"
    answers = ("--role", role, "--licence", "MIT", "--author", "Authors of the benchmark")
    project = folder / name
    return [
        timed(ringfence, "plugins", "new", name, *answers, "--out", project, cwd=folder),
        install("-e", ".[test]", binaries=binaries, cwd=project),
        timed(python, "-m", "pytest", cwd=project),
        timed(ringfence, "plugins", "check", name, cwd=project),
        timed(ringfence, "train", "job.yaml", cwd=project),
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    told = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory(prefix="author-path-") as temporary:
        folder = Path(temporary)
        environment = folder / "environment"
        venv.create(environment, with_pip=True)
        binaries = environment / "bin"
        seconds = install(wheel_of_source(folder), binaries=binaries, cwd=folder)
        say(f"ringfence and what it needs, into an empty environment: {seconds:.0f} s\n")
        parts: dict[str, list[float]] = {}
        table = Table("From nothing to a plugin that trains", ("role", *STEPS, "together"))
        for role in ROLES:
            parts[role] = path_of(role, binaries, folder)
            cells = (f"{part:.1f} s" for part in (*parts[role], sum(parts[role])))
            table.lines.append((role, *cells))
        say(table.text())
    if told.json is not None:
        roles = {role: dict(zip(STEPS, found, strict=True)) for role, found in parts.items()}
        record = {"machine": about, "environment_s": seconds, "roles": roles}
        told.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
