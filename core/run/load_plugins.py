"""Find the job's plugins, check them, start them in their sandboxes, register them.

Nothing is started until every plugin of the job has been found and checked. The
host imports no plugin: it reads metadata and source text, and takes from the
sandbox only the names of the arguments that the loaded class takes. A plugin that
the job calls ``trusted`` is the exception; it is imported here, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from ..compat.findings import Verdict
from ..compat.source.plugin_source import PluginSource
from ..compat.version_range import Declaration, admitted_series, claimed_snapshots
from ..discovery.catalog import Catalog, Found, catalog, judge, source_of
from ..hooks.errors import (
    REFUSED,
    IncompatiblePluginError,
    JobError,
    PluginLoadError,
    RingfenceError,
    load_exception,
    shorten,
    visible,
)
from ..hooks.permissions import MAX_MEMORY_FRACTION, Permissions
from ..hooks.role import DEADLINE_S
from ..hooks.roles.augment import AUGMENT
from ..hooks.series import Index, SeriesSnapshot, series_of
from ..hooks.specs import ROLES
from ..imports.import_guard import current
from ..isolation.host.limits.memory_budget import BudgetTooSmallError, total_bytes
from ..job.job_file import JobFile, PluginJob
from ..job.plugin_options import check_plugin_options
from ..job.problems import Problem
from ..plugins.interface import Plugin, PluginSpec
from ..plugins.local_plugin import LocalPlugin
from ..plugins.manager import Hooks
from ..version import __version__
from .class_fit import fits_series
from .grant_permissions import GrantRules, granted_permissions, resolve_paths
from .memory_shares import describe_shares, share_out, too_small

#: What a constructor raises for options that it does not take.
_WRONG_OPTIONS = ("ValueError", "TypeError")
#: An option, or a place in it, that such a message starts with.
_OPTION = re.compile(r"(?P<name>\w+)(\[(?P<index>\d+)\])?:? ")

#: Options of our own plugin `augment` that are facts of the data.
_INPUT_RANGE, _TARGET_KIND = "input_range", "target_kind"
#: Characters of what a constructor says that are quoted.
_QUOTED = 300

Start = Callable[[PluginSpec], Plugin]


@dataclass(frozen=True, slots=True)
class Planned:
    """A plugin that was found and checked, and may be started.

    Attributes:
        spec: What to start.
        source: What its source text says.
        verdict: What the check found; ``"could not tell"`` until it is loaded, in the worst case.
        claimed: Snapshots of the series that its range admits.
        job_file: The job that asks for it, if one does.
        position: Its place in the job.
        takes_input_range: It is ours, and wants to know what numbers the inputs lie between, and what the
            targets are.
        is_builtin: It is ours.
    """

    spec: PluginSpec
    source: PluginSource
    verdict: Verdict
    claimed: tuple[SeriesSnapshot, ...]
    job_file: JobFile | None = None
    position: int = 0
    takes_input_range: bool = False
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plugin that was found; whether it may be started is not known yet.

    Attributes:
        entry: What the job says of it.
        found: Where it is installed.
        source: What its source text says.
        verdict: What the check found.
        position: Its place in the job.
    """

    entry: PluginJob
    found: Found
    source: PluginSource
    verdict: Verdict
    position: int = 0

    @property
    def role(self) -> str:
        """Its role, as its source says; there need not be such a one."""
        return self.source.role or ""


def plan(
    file: JobFile,
    installed: Catalog | None = None,
    index: Index | None = None,
    running: str = __version__,
    *,
    base: Path | None = None,
    command: str | None = "train",
    optional: Collection[str] = (),
) -> list[Planned]:
    """Find and check every plugin of a job; no process is started.

    Args:
        file: The job.
        installed: Where to look; what is installed by default.
        index: The series that the core knows; those that it ships by default.
        running: Version of the core.
        base: Folder that relative paths of the job start from; by default the one that holds it.
        command: What the job is for: a plugin whose role does not fire in it is refused. None calls the
            plugins itself.
        optional: Roles of which there may be none, though a job needs one.

    Raises:
        JobError: A plugin is unknown, an option is wrong, a plugin needs what the job does not grant,
            a grant cannot be given, or there is not exactly one optimizer.
        IncompatiblePluginError: A plugin does not fit the series that it must work with.
    """
    installed = catalog() if installed is None else installed
    index = Index.read() if index is None else index
    problems: list[Problem] = []
    candidates = []
    for position, entry in enumerate(file.job.plugins):
        try:
            found = installed.find(entry.name)
        except JobError as error:
            problems.append(Problem(("plugins", position, entry.name), str(error), at_key=True))
            continue
        source = source_of(found)
        candidate = _Candidate(entry, found, source, judge(found, source, index, running), position)
        problems += _problems(file, candidate, command)
        candidates.append(candidate)
    granted, faults = _granted(file, candidates, base)
    sandboxed = [item.position for item in candidates if item.entry.isolation == "sandbox"]
    shares, too_much = share_out(file, sandboxed)
    problems += [*faults, *too_much]
    refused = [item.verdict.message() for item in candidates if item.verdict.decision == "refused"]
    if refused:
        raise IncompatiblePluginError("\n".join(refused))
    problems += [] if problems else _missing_roles(candidates, command, optional)
    if problems:
        raise file.error(problems)
    share = dict(zip(sandboxed, shares, strict=True))
    return [
        _planned(
            item,
            index,
            file,
            options=options,
            permissions=permissions,
            share=share.get(item.position),
        )
        for item, (options, permissions) in zip(candidates, granted, strict=True)
    ]


def with_input_range(
    planned: Sequence[Planned], input_range: Callable[[], tuple[float, float] | None]
) -> list[Planned]:
    """Tell the first augmentation of ours what numbers the training inputs lie between.

    Those that come after another are given what that one makes of the inputs.

    Args:
        planned: What ``plan`` returned.
        input_range: Returns the least number and the largest; asked for if there is one to tell, as it may
            have to read all of them. None: they are not one tensor.
    """
    first = next((item for item in planned if item.spec.role == AUGMENT.name), None)
    if first is None or not first.takes_input_range or _INPUT_RANGE in first.spec.options:
        return list(planned)
    found = input_range()
    if found is None:
        return list(planned)
    told = _with_option(first, _INPUT_RANGE, list(found))
    return [told if item is first else item for item in planned]


def with_target_kind(planned: Sequence[Planned], kind: str | None) -> list[Planned]:
    """Tell our own augmentations that targets are ``masks`` or ``boxes``, which not all can move.

    Args:
        planned: What ``plan`` returned.
        kind: What the targets are; None: neither.
    """
    return [
        _with_option(item, _TARGET_KIND, kind)
        if kind and item.takes_input_range and _TARGET_KIND not in item.spec.options
        else item
        for item in planned
    ]


def _with_option(item: Planned, name: str, value: object) -> Planned:
    return replace(item, spec=replace(item.spec, options={**item.spec.options, name: value}))


def load(planned: Sequence[Planned], hooks: Hooks, start: Start, event: Callable[[str], None]) -> None:
    """Start the plugins, check the loaded classes, and register them in the job's order.

    Args:
        planned: What ``plan`` returned.
        hooks: Where they are registered; on an error the caller closes it, and so those started before.
        start: Starts a plugin in a sandbox.
        event: Told what the user must know, as sentences.

    Raises:
        JobError: A plugin says that its options are wrong.
        PluginError: A plugin could not be started.
        IncompatiblePluginError: A loaded class does not fit a series that it claims.
    """
    _tell_shares(planned, event)
    for item in planned:
        try:
            plugin = _start(item.spec, start, event)
        except BudgetTooSmallError as error:
            raise _as_share_error(item, error) or error from error
        except PluginLoadError as error:
            raise _as_option_error(item, error) or error from error
        try:
            verdict = confirm(item, plugin.accepts)
            if verdict.decision != "accepted":
                raise IncompatiblePluginError(verdict.message())
            hooks.register(plugin)
        except RingfenceError:
            plugin.close()
            raise


def plan_alone(
    found: Found,
    source: PluginSource,
    verdict: Verdict,
    options: Mapping[str, Any] | None = None,
    index: Index | None = None,
) -> Planned:
    """Return what starting a plugin by itself takes, as a check does.

    Args:
        found: The plugin.
        source: What ``source_of`` returned.
        verdict: What ``check_found`` returned; not a refusal.
        options: Its options.
        index: The series that the core knows; those that it ships by default.
    """
    index = Index.read() if index is None else index
    entry = PluginJob(name=found.name, options=dict(options or {}))
    return _planned(_Candidate(entry, found, source, verdict), index, options=entry.options)


def confirm(item: Planned, accepts: Mapping[str, tuple[str, ...]]) -> Verdict:
    """Judge a loaded class against every series that its plugin claims.

    Args:
        item: The plugin.
        accepts: Method to the arguments that the class takes, as its sandbox reports.

    Returns:
        The verdict; never ``"could not tell"``.
    """
    optional = {name for method in item.source.methods.values() for name in method.defaults}
    return item.verdict.with_findings(
        finding
        for snapshot in item.claimed
        for finding in fits_series(accepts, item.spec.role, snapshot, optional)
    )


def _as_share_error(item: Planned, error: BudgetTooSmallError) -> Exception | None:
    """Return the fault of the job that wrote the plugin's share of memory, or None if it wrote none."""
    if item.job_file is None:
        return None
    problem = too_small(item.job_file, item.position, error, total_bytes())
    return None if problem is None else item.job_file.error([problem])


def _as_option_error(item: Planned, error: PluginLoadError) -> Exception | None:
    """Return the fault of the job that a plugin's constructor told of, or None if it is none."""
    raised = load_exception(error)
    if raised is None or item.job_file is None or raised.during != "constructor":
        return None
    if raised.error_type not in _WRONG_OPTIONS:
        return None
    message = " ".join(visible(raised.message).split())
    place: tuple[str | int, ...] = ()
    named = _OPTION.match(message)
    if named is not None and named["name"] in item.spec.options:
        place = (named["name"], *([int(named["index"])] if named["index"] else []))
        message = message if message[named.end() :].startswith("is ") else message[named.end() :]
    path = item.job_file.option_path(item.position, *place)
    # Its own words, quoted as such: it could give them the sound of ours.
    return item.job_file.error(
        [Problem(path, f"plugin '{item.spec.name}' says: {shorten(message, _QUOTED)}")]
    )


def refusal(planned: Sequence[Planned], error: PluginLoadError) -> Exception | None:
    """Return the fault of the job that a plugin told of in its first call, or None if it told of none."""
    item = next((item for item in planned if item.spec.name == error.plugin), None)
    told = visible(error.cause).removeprefix(f"{REFUSED}: ")
    if item is None or item.job_file is None or error.hook is None or told == visible(error.cause):
        return None
    message = f"plugin '{item.spec.name}' says: {shorten(' '.join(told.split()), _QUOTED)}"
    return item.job_file.error([Problem(item.job_file.option_path(item.position), message)])


def _start(spec: PluginSpec, start: Start, event: Callable[[str], None]) -> Plugin:
    if spec.isolation == "sandbox":
        return start(spec)
    event(
        f"plugin '{spec.name}' ({spec.distribution} {spec.version}) is trusted: "
        "it runs in the trainer's process, with all that the trainer may do and without a memory budget"
    )
    if (guard := current()) is not None:
        guard.allow(spec.distribution)
    plugin = LocalPlugin(spec)
    plugin.usage.state_of_bytes = total_bytes()
    return plugin


def _planned(
    candidate: _Candidate,
    index: Index,
    file: JobFile | None = None,
    *,
    options: Mapping[str, Any],
    permissions: Permissions = Permissions(),  # noqa: B008 - frozen
    share: float | None = None,
) -> Planned:
    entry, found, source, verdict = candidate.entry, candidate.found, candidate.source, candidate.verdict
    running = Version(verdict.core)
    if found.is_builtin:
        claimed = [series for series in index.up_to(running) if series.name == series_of(running)]
    else:
        claimed = admitted_series(Declaration.of(found.requires), index, running)
    role = ROLES.get(candidate.role)
    spec = PluginSpec(
        name=entry.name,
        distribution=found.distribution,
        version=found.version,
        module=found.module,
        qualname=found.qualname,
        role=candidate.role,
        options=options,
        isolation=entry.isolation,
        workers=entry.workers,
        threads=entry.threads,
        every=entry.every,
        allow=tuple(entry.allow),
        deadline_s=entry.deadline_s or (DEADLINE_S if role is None else role.deadline_s),
        start_deadline_s=entry.start_deadline_s,
        on_failure=entry.on_failure or ("restart" if role is None else role.on_failure),
        memory_fraction=share or entry.memory_fraction or MAX_MEMORY_FRACTION,
        search_path=found.place.search_path,
        readable=found.place.readable,
        roots=found.place.roots,
        job_seed=0 if file is None else file.job.seed,
        permissions=permissions,
    )
    takes_range = found.is_builtin and any(each.name == _INPUT_RANGE for each in source.parameters)
    snapshots = tuple(claimed_snapshots(claimed, index))
    position, ours = candidate.position, found.is_builtin
    return Planned(spec, source, verdict, snapshots, file, position, takes_range, ours)


def _tell_shares(planned: Sequence[Planned], event: Callable[[str], None]) -> None:
    file = planned[0].job_file if planned else None
    if file is not None and (told := describe_shares(file, [item.spec for item in planned], total_bytes())):
        event(told)


def _problems(file: JobFile, item: _Candidate, command: str | None) -> Iterator[Problem]:
    """Yield what is wrong with a plugin, its options and settings; nothing if its role is not known."""
    if item.role not in ROLES:
        return
    entry, source, position, role = item.entry, item.source, item.position, ROLES[item.role]
    checked = check_plugin_options(entry.options, source.parameters, takes_any=source.takes_any_option)
    for problem in checked.problems:
        path = file.option_path(position, *problem.path)
        yield Problem(path, problem.message, at_key=problem.at_key, origin=problem.origin)
    place = ("plugins", position)
    if command is not None and command not in role.fires_in:
        other = " or ".join(f"'ringfence {name}'" for name in sorted(role.fires_in))
        message = (
            f"'{entry.name}' is of role {role.name}, which 'ringfence {command}' never calls; take it out of "
            f"the job, or use it in {other}"
        )
        yield Problem((*place, entry.name), message, at_key=True)
    if entry.workers > 1 and not role.runs_ahead:
        message = (
            f"'{entry.name}' is of role {role.name}, which runs in one process; only augment plugins share"
        )
        yield Problem((*place, "workers"), message)
    learns = source.methods.get("backward")
    if entry.workers > 1 and role.runs_ahead and learns is not None and not learns.passthrough:
        message = f"'{entry.name}' learns from the losses of each step, so it runs in one process; use 1"
        yield Problem((*place, "workers"), message)
    if entry.every > 1 and not role.observes:
        message = (
            f"'{entry.name}' is of role {role.name}, which is called each step; only monitors skip steps"
        )
        yield Problem((*place, "every"), message)
    if entry.allow and not role.observes:
        message = f"'{entry.name}' is of role {role.name}, which asks for nothing; only monitors do"
        yield Problem((*place, "allow"), message)
    elif entry.allow and command is None:
        message = (
            "a loop of your own is stopped by yourself: see what the plugin logs as ask/stop and ask/evaluate"
        )
        yield Problem((*place, "allow"), message)
    if entry.on_failure == "disable" and not role.may_disable:
        message = f"a run makes no sense without its {role.name}; use restart or abort"
        yield Problem((*place, "on_failure"), message)


def _granted(
    file: JobFile, candidates: Sequence[_Candidate], base: Path | None
) -> tuple[list[tuple[dict[str, Any], Permissions]], list[Problem]]:
    """Return each plugin's options and what the job grants it, and what is wrong with that."""
    job_file = Path(file.document.name).resolve()
    code = tuple(Path(path) for item in candidates for path in item.found.place.readable)
    around = GrantRules((base or job_file.parent).resolve(), job_file, code)
    granted, problems = [], []
    for item in candidates:
        entry, needs, parameters = item.entry, item.source.needs, item.source.parameters
        permissions, faults = granted_permissions(entry, needs, parameters, around)
        problems += [replace(fault, path=("plugins", item.position, *fault.path)) for fault in faults]
        granted.append((resolve_paths(entry, needs, parameters, around.base), permissions))
    return granted, problems


def _missing_roles(
    candidates: Sequence[_Candidate], command: str | None, optional: Collection[str]
) -> Iterator[Problem]:
    for role in ROLES.values():
        if command is not None and command not in role.fires_in:
            continue
        found = [item for item in candidates if item.role == role.name]
        if role.exactly_one and len(found) > 1:
            listed = ", ".join(item.entry.name for item in found)
            message = f"a job needs exactly one {role.name}, this one has {listed}; keep one"
            # The last may be a flag's, which is at fault then.
            yield Problem(("plugins", found[-1].position), message)
        elif role.exactly_one and not found and role.name not in optional:
            message = f"a job needs exactly one {role.name}; add '- optim: {{algorithm: adamw, lr: 0.001}}'"
            yield Problem(("plugins",), message)
