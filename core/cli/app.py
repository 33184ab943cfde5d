"""The command line. It imports what a command needs when it runs: ``--help`` must answer at once."""

from __future__ import annotations

import functools
import gc
import json
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..hooks.errors import CutOffError, JobError, RingfenceError, RunAbortedError, visible
from ..imports.entry_point_autoload import forbid_autoload
from ..imports.import_guard import guard
from ..run.plugin_traceback import traceback_lines
from ..run.process_setup import share_processors
from ..version import __version__

_ABOUT_COMPLETION = ("install_completion", "show_completion")


class _Group(TyperGroup):
    """Commands whose ``--help`` is False when it is not given.

    By default it is None, and typer imports pydantic to make a bool of that, for a tenth of a second. So do
    the options about the completion of the shell.
    """

    def get_params(self, ctx: Any) -> Any:
        """Return all options, those that typer has added with their defaults."""
        options = super().get_params(ctx)
        for option in options:
            if option.name in _ABOUT_COMPLETION:
                _false_by_default(option)
        return options

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option, with its default."""
        return _false_by_default(super().get_help_option(ctx))


class _Command(TyperCommand):
    """A command of a ``_Group``, with ``--debug``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(_debug_option())

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option, with its default."""
        return _false_by_default(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse, once no value of ``--set`` stands apart from its key."""
        for flag, *apart in zip(args, args[1:], args[2:], [*args[3:], ""], strict=False):
            if flag == "--set":
                _check_in_one(*apart)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with ``--debug`` an error that is told in a line comes with its traceback."""
        try:
            return super().invoke(ctx)
        except RingfenceError as error:
            if ctx.meta.get(_DEBUG) or _is_unforeseen(error):
                sys.stderr.write(visible("".join(traceback.format_exception(error))))
            raise


#: Made by ``tools/reference`` from the schema that jobs are checked with; a test holds it fresh.
_SCHEMA = Path(__file__).parents[1] / "job" / "job.schema.json"
#: By their files, as to import them takes time.
_ROLES = sorted(path.stem for path in (Path(__file__).parents[1] / "hooks" / "roles").glob("[a-z]*.py"))
#: Where a command keeps whether ``--debug`` was given.
_DEBUG = "ringfence.debug"


@functools.cache
def _debug_option() -> Any:
    """Return the option of all commands; made from a function, as its class differs among typers."""
    described = typer.Typer(add_completion=False)

    @described.command()
    def _(
        *,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show in full where an error came from.")
        ] = False,
    ) -> None: ...

    option: Any = typer.main.get_command(described).params[0]
    option.expose_value, option.callback = False, _note_debug
    return option


def _check_in_one(key: str, value: str, after: str) -> None:
    """Refuse ``--set KEY VALUE``, ``KEY = VALUE`` and the like, of which the value would be another argument.

    Raises:
        JobError: It is one of them.
    """
    name = key.rstrip("=:")
    if "=" in name or name.startswith("-") or value.endswith((".yaml", ".yml")) or Path(value).is_file():
        return
    parts = [key, value, after] if value == "=" else [key, value]
    value = parts[-1].removeprefix("=")
    if name and value and not value.startswith("--"):
        right = shlex.quote(f"{name}={value}")
        raise JobError(f"--set {' '.join(parts)}: key and value are one word; write --set {right}")


def _note_debug(ctx: Any, option: Any, value: bool) -> None:  # noqa: ARG001, FBT001 - a callback's signature
    ctx.meta[_DEBUG] = value


def _is_unforeseen(error: RingfenceError) -> bool:
    """Tell whether a run was ended by what neither a plugin nor the user's code nor the machine has done."""
    cause = error.__cause__
    if not isinstance(error, RunAbortedError) or not isinstance(cause, Exception):
        return False
    from ..imports.user_frames import is_in_users_code  # noqa: PLC0415 - for the rare case

    return not (isinstance(cause, (RingfenceError, OSError, MemoryError)) or is_in_users_code(cause))


def _false_by_default(option: Any) -> Any:
    if option is not None:
        option.default = False
    return option


# Our own bugs keep Python's plain traceback: it can be pasted into a report.
app = typer.Typer(
    cls=_Group,
    help="Train PyTorch models with plugins you do not have to trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
plugins_app = typer.Typer(
    cls=_Group,
    help="Look at the plugins that are installed, or make one.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(plugins_app, name="plugins")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin, as a job spells it.")]


_RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
_Checkpoint = Annotated[
    str, typer.Option(metavar="WHICH", help="State of the run: best, last, or a number of steps.")
]
_Weights = Annotated[
    str, typer.Option(metavar="WHOSE", help="model; ema or swa, where the run kept such an average.")
]
_BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Samples that go through at once.")]
_Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
_Code = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="What builds the model, of a run that was not made here."),
]
_SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Pass over images that cannot be read, and say so.")
]
_TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import and run whatever the run's folder names.")
]


def main() -> None:
    """Run the command line."""
    forbid_autoload()
    guard()
    share_processors()
    with exit_on_error():
        app(prog_name="ringfence")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error that was foreseen as a message without traceback, and exit with its status."""
    try:
        yield
    except RingfenceError as error:
        sys.stdout.flush()
        sys.stderr.write(visible(f"error: {error}\n"))
        sys.stderr.write("".join(f"    {line}\n" for line in traceback_lines(error)))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(CutOffError.exit_status)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"ringfence {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train PyTorch models with plugins you do not have to trust."""


@app.command(cls=_Command)
def train(
    context: typer.Context,
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="The job; with --resume, the one it ran.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. epochs=3, plugins.optim.lr=0.1."),
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="NAME[:KEY=VALUE,…]", help="Add a plugin, or change its options."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run.  [default: runs/JOB-N]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Continue the run in this folder.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept", metavar="KEY", help="With --resume: KEY differs from the checkpoint, and is meant to."
        ),
    ] = None,
    *,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Import, run and open whatever the run's folder names.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show the result only.")] = False,
    fast_dev_run: Annotated[
        bool,
        typer.Option(
            "--fast-dev-run",
            help="Try the job out with one step of everything; nothing is kept without --out.",
        ),
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Try the model out: train on N samples, and evaluate on the same."
        ),
    ] = None,
    macs: Annotated[
        bool, typer.Option("--macs", help="Count the multiplications of the model, and tell at the start.")
    ] = False,
) -> None:
    """Train the model that a job describes."""
    if job is None and resume is None:
        raise JobError("name a job file (ringfence train JOB.yaml), or a run to continue (--resume DIR)")
    if out is not None and resume is not None:
        raise JobError("--out and --resume are both given; a resumed run goes on in its own folder")
    if accept and resume is None:
        raise JobError(
            "--accept says what may differ from a run that is resumed; name its folder with --resume"
        )
    from .signals import StopFlag  # noqa: PLC0415 - the user may want to stop what follows

    with StopFlag() as stop:
        from ..api.train_request import TrainRequest  # noqa: PLC0415 - takes time
        from .train_job import train_job  # noqa: PLC0415 - as above

        request = TrainRequest(
            path=job,
            sets=sets or (),
            plugins=plugins or (),
            out=out,
            resume=resume,
            accept=accept or (),
            trust_code=trust_code,
            quiet=quiet,
            debug=context.meta.get(_DEBUG, False),
            macs=macs,
            fast_dev_run=fast_dev_run,
            overfit=overfit,
            is_kept=out is not None or not fast_dev_run,
        )
        status = train_job(request, stop)
    raise typer.Exit(status)


@plugins_app.command("list", cls=_Command)
def list_plugins(*, as_json: _Json = False) -> None:
    """List the installed plugins, and whether they fit this version."""
    from .columns import terminal_width  # noqa: PLC0415 - as below
    from .list_plugins import list_lines, list_records  # noqa: PLC0415 - takes time

    if as_json:
        typer.echo(json.dumps(list_records(), indent=2))
    else:
        typer.echo(visible("\n".join(list_lines(terminal_width()))))


@plugins_app.command("show", cls=_Command)
def show_plugin(name: _Name, *, as_json: _Json = False) -> None:
    """Show what a plugin is and which options it takes.

    Its code is read, not run.
    """
    from .list_plugins import show_lines, show_record  # noqa: PLC0415 - takes time

    typer.echo(json.dumps(show_record(name), indent=2) if as_json else visible("\n".join(show_lines(name))))


@plugins_app.command("check", cls=_Command)
def check_plugin(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="PATH|NAME", help="A project's folder, a wheel, or the name of an installed plugin."
        ),
    ],
    *,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option to load and run the plugin with."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check plugins against the series of the core they must fit.

    Exit status 2 if one does not fit. A folder in this one is written ./NAME; what has no slash is the name
    of an installed plugin.
    """
    gc.enable()
    from ..discovery.project import is_path  # noqa: PLC0415 - as above
    from ..job.flags import options_of  # noqa: PLC0415 - as above
    from .check_plugins import judge_plugins  # noqa: PLC0415 - takes time

    verdicts = judge_plugins(plugin, options_of(sets or ()), lambda told: typer.echo(visible(told), err=True))
    if as_json:
        told = [verdict.to_dict() for verdict in verdicts]
        typer.echo(json.dumps(told if is_path(plugin) else told[0], indent=2))
    else:
        to_user = not is_path(plugin)
        typer.echo(visible("\n".join(verdict.message(to_user=to_user) for verdict in verdicts)))
    fit = all(verdict.decision == "accepted" for verdict in verdicts)
    raise typer.Exit(0 if fit else JobError.exit_status)


@plugins_app.command("explain", cls=_Command)
def explain_rules(
    rules: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RULE]…", help="Rules of a check; without any, all of them."),
    ] = None,
) -> None:
    """Tell what a rule of a check means and what to do.

    Without a rule, list all of them.
    """
    from .explain_rules import pages  # noqa: PLC0415 - takes time

    typer.echo(pages(rules or []), nl=False)


@plugins_app.command("matrix", cls=_Command)
def show_matrix(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Folder of the project.")] = Path(),
    *,
    as_json: _Json = False,
) -> None:
    """Print which cores and Pythons to test a project with."""
    from .ci_matrix import matrix_lines, matrix_record  # noqa: PLC0415 - takes time

    if as_json:
        # In one line, as a step of a workflow hands it on.
        typer.echo(json.dumps(matrix_record(path)))
    else:
        typer.echo(visible("\n".join(matrix_lines(path))))


@plugins_app.command("lock", cls=_Command)
def lock_plugins(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key that the job will be run with."),
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin", metavar="NAME[:KEY=VALUE,…]", help="A plugin that the job will be run with as well."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The lock.  [default: JOB.lock.json, beside the job]")
    ] = None,
) -> None:
    """Lock what the plugins of a job are made of.

    Writes the digest of each of their files beside the job, which then refuses what differs.
    """
    from .lock_plugins import lock_lines  # noqa: PLC0415 - takes time

    typer.echo(visible("\n".join(lock_lines(job, out, sets or (), plugins or ()))))


@plugins_app.command("new", cls=_Command)
def new_plugin(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the plugin, as jobs will spell it.")
    ] = None,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help=f"One of {', '.join(_ROLES)}.")] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Apache-2.0, MIT or BSD-3-Clause.")
    ] = None,
    author: Annotated[str | None, typer.Option(metavar="NAME", help="Who holds the copyright.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the project.  [default: ringfence-NAME]")
    ] = None,
) -> None:
    """Make the project of a new plugin, which works and has tests.

    Asks for what is not given.
    """
    from .new_plugin import make_project  # noqa: PLC0415 - takes time

    given = {"name": name, "role": role, "licence": licence, "author": author}
    typer.echo("\n".join(make_project(given, out)))


@app.command("new", cls=_Command)
def new_job(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the job is called.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the job.  [default: NAME]")
    ] = None,
) -> None:
    """Make a folder with a job that trains as it is, and a test.

    With a model and a function that reads data: put your own in place of them.
    """
    from .new_job import make_job  # noqa: PLC0415 - takes time

    typer.echo("\n".join(make_job(name, out)))


@app.command(cls=_Command)
def doctor(*, as_json: _Json = False) -> None:
    """Tell what the sandbox holds on this machine, layer by layer.

    Exit status 2 if it cannot be used.
    """
    gc.enable()
    from .doctor_page import examine_machine  # noqa: PLC0415 - imports torch

    raise typer.Exit(examine_machine(as_json=as_json))


@app.command(cls=_Command)
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]) -> None:
    """Write the report of a run anew, from what is in its folder."""
    gc.enable()
    from .report_page import rewrite_report  # noqa: PLC0415 - imports matplotlib

    typer.echo(rewrite_report(folder))


@app.command(cls=_Command)
def evaluate(
    run: _RunFolder,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A folder of classes, a .npz or .safetensors file, or a reader: NAME[:KEY=VALUE,…].  "
            "[default: the run's own]",
        ),
    ] = None,
    checkpoint: _Checkpoint = "best",
    weights: _Weights = "model",
    batch_size: _BatchSize = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: the job's]")
    ] = None,
    code: _Code = None,
    *,
    as_json: _Json = False,
    skip_unreadable: _SkipUnreadable = False,
    trust_code: _TrustCode = False,
) -> None:
    """Measure the model of a run on its own data, or on others.

    With --checkpoint last these are the numbers that the run ended with.
    """
    gc.enable()
    from ..inference.evaluate_run import EvaluateRequest  # noqa: PLC0415 - imports torch
    from ..tracking.own_runs import permitted  # noqa: PLC0415 - as above
    from .evaluate_data import evaluate_data  # noqa: PLC0415 - as above
    from .predict_data import tell  # noqa: PLC0415 - as above
    from .run_choice import checkpoint_named, weights_named  # noqa: PLC0415 - as above

    request = EvaluateRequest(
        permission=permitted(run, code=code, trust_code=trust_code),
        data=data,
        checkpoint=checkpoint_named(checkpoint),
        weights=weights_named(weights),
        device=device,
        batch_size=batch_size,
        skip_unreadable=skip_unreadable,
        tell=lambda sentence: tell([sentence]),
    )
    typer.echo(evaluate_data(request, as_json=as_json))


@app.command(cls=_Command)
def predict(
    run: _RunFolder,
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Images, a folder of images, or a .npz, .npy, .safetensors, .csv, .tsv or IDX file.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Written anew: .csv, .jsonl or .npz.")],
    checkpoint: _Checkpoint = "best",
    weights: _Weights = "model",
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which array, of a file that holds several.")
    ] = None,
    batch_size: _BatchSize = None,
    device: _Device = "auto",
    code: _Code = None,
    *,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class.")
    ] = False,
    skip_unreadable: _SkipUnreadable = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
    trust_code: _TrustCode = False,
) -> None:
    """Predict data with the model of a run.

    Photos are read as those of training were. FILE has a row for each sample: its number, its file, class and
    probability, or the numbers that are predicted. It is there whole or not at all.
    """
    gc.enable()
    from ..inference.predict import PredictRequest  # noqa: PLC0415 - imports torch
    from ..tracking.own_runs import permitted  # noqa: PLC0415 - as above
    from .predict_data import predict_data, tell  # noqa: PLC0415 - as above
    from .run_choice import checkpoint_named, weights_named  # noqa: PLC0415 - as above

    request = PredictRequest(
        permission=permitted(run, code=code, trust_code=trust_code),
        data=data[0] if len(data) == 1 else data,
        checkpoint=checkpoint_named(checkpoint),
        weights=weights_named(weights),
        device=device,
        batch_size=batch_size,
        key=key,
        skip_unreadable=skip_unreadable,
        tell=lambda sentence: tell([sentence]),
    )
    typer.echo(predict_data(request, out, probabilities=probabilities, overwrite=overwrite))


@app.command(cls=_Command)
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR DIR…", help="Folders of runs, at most 8.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with their curves, too.")
    ] = None,
) -> None:
    """Compare runs: what differed in their jobs, and what came of it."""
    gc.enable()
    from .columns import terminal_width  # noqa: PLC0415 - as below
    from .compare_runs import compare as compare_folders  # noqa: PLC0415 - imports torch

    typer.echo(visible("\n".join(compare_folders(folders, out, terminal_width()))))


@app.command(cls=_Command)
def log(
    run: _RunFolder,
    to: Annotated[str, typer.Option(metavar="LOGGER", help="wandb or mlflow, each an extra.")],
    project: Annotated[str, typer.Option(metavar="NAME", help="Project there, or experiment.")] = "ringfence",
    place: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where it is to write.  [default: here]")
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for as long as the run does.")] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Let the logger reach its server; without it nothing is sent.")
    ] = False,
) -> None:
    """Hand the numbers of a run to wandb or MLflow.

    In a process of its own, which sends nothing unless told to.
    """
    gc.enable()
    from ..loggers.hand_on import hand_on  # noqa: PLC0415 - takes time

    typer.echo(hand_on(run, to, project, place, until_end=follow, online=online))


@app.command(cls=_Command)
def schema() -> None:
    """Print the JSON schema of job files, for editors.

    With it they check and complete what is written.
    """
    typer.echo(_SCHEMA.read_text(encoding="utf-8"), nl=False)
