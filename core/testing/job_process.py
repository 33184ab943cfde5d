"""The process that ``job_runs.py`` starts: it trains as the command does, and tells what it has imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..hooks.errors import RingfenceError
from ..imports.entry_point_autoload import forbid_autoload
from ..imports.import_guard import Guard, guard
from ..run.plugin_traceback import traceback_lines


def main(folder: Path) -> None:
    """Run the jobs in ``folder`` and write how each ended; what that takes is imported behind the guard."""
    forbid_autoload()
    held = guard()
    from ..run.process_setup import share_processors  # noqa: PLC0415 - see above

    share_processors()
    told = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    ends = [
        _train(folder / f"{name}.yaml", folder / name, Path(told["base"]), held) for name in told["names"]
    ]
    (folder / "ends.json").write_text(json.dumps(ends), encoding="utf-8")


def _train(job: Path, out: Path, base: Path, held: Guard) -> dict[str, Any]:
    from ..job.job_file import read_job  # noqa: PLC0415 - behind the guard
    from ..run.execute import execute  # noqa: PLC0415 - behind the guard
    from ..run.prepare import prepare  # noqa: PLC0415 - behind the guard

    told = []
    try:
        execute(prepare(read_job(job), base), out)
    except RingfenceError as error:
        told = [str(error), *traceback_lines(error)]
    return {"error": "\n".join(told), "imported": held.imported()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
