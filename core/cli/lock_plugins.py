"""What ``ringfence plugins lock`` writes and says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..discovery.provenance import provenance_of
from ..hooks.errors import JobError
from ..job.job_file import read_job
from ..plugins.number_words import counted
from ..run.load_plugins import plan
from ..run.plugin_lock import differences, find_lock, lock_of, lock_path
from ..tracking.run_folder import explain_disk, write_text


def lock_lines(job: Path, out: Path | None, sets: Sequence[str], plugins: Sequence[str]) -> list[str]:
    """Write the lock of a job; return what it holds, and what has changed since the one before.

    Args:
        job: The job.
        out: Where to write; beside the job if None.
        sets: Keys of the job to change, as ``--set`` takes them.
        plugins: Plugins to add, as ``--plugin`` takes them.

    Raises:
        JobError: The job is wrong, what a plugin is made of cannot be digested, or the file not be written.
        IncompatiblePluginError: A plugin does not fit this core.
    """
    job_file = read_job(job, sets, plugins)
    provenance = provenance_of([item.spec for item in plan(job_file, base=job_file.job.base(job))])
    lock = lock_of(provenance)
    path = out or lock_path(job)
    before = find_lock(job_file) if out is None else None
    try:
        write_text(path, lock.encode())
    except OSError as error:
        raise JobError(f"{path}: cannot be written: {explain_disk(error)}") from error
    files = sum(len(each.files) for each in lock.distributions.values())
    changed = [] if before is None else [f"  {told}" for told in differences(before.lock, provenance)]
    gaps = [
        f"not digested, and so compared by version alone: {name} {each.version}: {each.not_digested}"
        for name, each in lock.distributions.items()
        if each.not_digested
    ]
    plugins = f"{counted(len(lock.plugins), 'plugin')} of {counted(len(lock.distributions), 'distribution')}"
    return [
        f"{path}: {plugins}, {counted(files, 'file')} of strangers",
        *(["since the lock before:", *changed] if changed else []),
        *gaps,
    ]
