"""Which runs this user has made: what the folder of any other names is text, and no permission.

A folder's ``job.yaml`` and ``model.json`` may name code to import, plugins to trust, files to open and hosts
to connect to. Whoever was sent the folder has agreed to none of that. So a run leaves ``made-here.json``: a
keyed digest of all in both that would need a permission, with a key that only this user can read. It moves
with the folder, and nobody else can make one.

Builtin names need no permission. For the rest ``permitted`` says what may be followed; every command that
starts from a run's folder asks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..hooks.errors import CheckpointError, JobError, shorten, visible
from ..job.job_file import Job, JobFile
from ..job.object_names import is_object_name
from ..job.user_code import is_import_path
from ..job.yaml_document import read_yaml
from .model_record import ModelChoice, ModelRecord, read_model_record
from .run_folder import CHECKPOINTS, JOB, MAX_JOB_BYTES, RECORD
from .untrusted_folder import Tree

NAME = "made-here.json"
TRUST_FLAG = "--trust-code"
_MAX_BYTES = 4096
_KEY_BYTES = 32
_KEY_NAME = "own-runs.key"
_SHOWN = 200

#: Keys of a job that say how much, how often or how fast, and nothing that would need a permission. Any
#: other, and so any that is new, is part of the digest.
HARMLESS = frozenset(
    {
        "averaging",
        "batch_size",
        "checkpoint_every",
        "device",
        "early_stopping",
        "epochs",
        "eval_batch_size",
        "eval_every",
        "freeze",
        "grad_accum_steps",
        "keep_checkpoints",
        "memory_fraction",
        "restore_best",
        "seed",
        "snapshot_every",
        "steps",
        "stop_within_s",
        "threads",
        "validation_fraction",
    }
)
#: The other keys, each of which ``_wants`` judges by what it holds.
JUDGED = frozenset({"base_folder", "data", "loss", "metric", "model", "plugins", "schedule"})
#: Options of builtin readers of data that are words. Any other text, and so that of any new one, is a path.
DATA_WORDS = frozenset({"inputs", "layout", "normalize", "targets", "task", "test_inputs", "test_targets"})
_GRANTS = ("read", "write", "connect")


@dataclass(frozen=True, slots=True)
class Want:
    """Something that a folder names and that needs a permission.

    Attributes:
        path: Its key in the job.
        what: What following it would do, as ``model 'net:Net' (imports and runs it)``.
        repeat: How the caller says the same.
    """

    path: tuple[str | int, ...]
    what: str
    repeat: str


class _Tags(msgspec.Struct, frozen=True):
    """The contents of ``made-here.json``: keyed digests, in hexadecimal."""

    job: str
    model: str


@dataclass(frozen=True, slots=True)
class Permission:
    """What of a run's folder may be followed.

    Attributes:
        folder: The run's.
        own_job: Its ``job.yaml`` is as a run of this user's wrote it.
        own_model: Likewise what builds the network in its ``model.json``.
        trust_code: The caller trusts all that it names.
        code: What the caller says builds the network: ``module:function``.
        why_not: Why it is not this user's.
    """

    folder: Path
    own_job: bool = False
    own_model: bool = False
    trust_code: bool = False
    code: str | None = None
    why_not: str = ""

    def model_code(self, record: ModelRecord) -> tuple[ModelChoice, Path]:
        """Return what may be called to build the network, and where its modules are looked for.

        Args:
            record: What ``model.json`` of the folder, or of a checkpoint in it, says.

        Raises:
            JobError: It names code that nobody has permitted.
        """
        choice = record.model
        is_object = is_object_name(choice.name)
        if is_object and self.code is None:
            raise JobError(
                f"{self.folder}: its model was an object of a Python program ({visible(choice.name)}), which "
                "no file can build; hand over one that is made like it, load(…, model=…), or say with "
                "code='module:function' what makes it"
            )
        if not is_import_path(choice.name) and not is_object:
            if self.code is not None:
                raise JobError(
                    f"code={self.code!r}: the model of {self.folder} is the builtin '{choice.name}'; leave "
                    "it out"
                )
            return choice, self.folder
        if self.code is not None:
            if not is_import_path(self.code):
                raise JobError(f"code={self.code!r} is not of the form module:function")
            return msgspec.structs.replace(choice, name=self.code), Path.cwd()
        if self.own_model or self.trust_code:
            return choice, _base_folder(self.folder)
        name = shorten(visible(choice.name), _SHOWN)
        raise JobError(
            f"{self.folder}: its model is '{name}', code to be imported and run, and {self.why_not}. If you "
            f"know it, say so: code={name!r} takes that from your own working folder and packages; "
            f"trust_code=True ({TRUST_FLAG} on the command line) follows whatever the folder names"
        )

    def base_of(self, job_file: JobFile, path: Path, *, keys: Collection[str] | None = None) -> Path:
        """Return the folder that relative paths of the folder's job start from, if all it wants is permitted.

        What a flag has set is the caller's own word. Where nothing shows whose the job is, paths start
        from the working folder.

        Args:
            job_file: Read from the folder, with the caller's flags laid over it.
            path: Its file.
            keys: Those that are followed; all of them by default.

        Raises:
            JobError: The job wants what nobody has permitted; the message names all of it.
        """
        if self.own_job or self.trust_code:
            return job_file.job.base(path)
        document = job_file.document
        wanted = [
            want
            for want in wants_of(job_file.job)
            if (keys is None or want.path[0] in keys) and not document.is_flag_at(want.path)
        ]
        if wanted:
            raise JobError(self._refusal(wanted, path))
        if document.is_flag_at(("base_folder",)):
            return job_file.job.base(Path.cwd() / "job.yaml")
        return Path.cwd()

    def _refusal(self, wanted: Collection[Want], path: Path) -> str:
        named = "".join(f"\n    {shorten(visible(want.what), 2 * _SHOWN)}" for want in wanted)
        flags = " ".join(dict.fromkeys(want.repeat for want in wanted))
        return (
            f"{path}: {self.why_not}, and it names what needs your permission:{named}\nNothing was done."
            f" Name a job file of your own, or say what you mean yourself ({flags}), or follow all that the "
            f"folder names with {TRUST_FLAG}"
        )


def permitted(folder: Path, *, code: str | None = None, trust_code: bool = False) -> Permission:
    """Return what of a run's folder may be followed; the one question of all that starts from a folder.

    Args:
        folder: The run's; it may be anybody's.
        code: What the caller says builds the network.
        trust_code: Whether the caller trusts all that the folder names.
    """
    if trust_code:
        return Permission(folder, trust_code=True, code=code)
    try:
        tags = msgspec.json.decode(Tree(folder).read(NAME, _MAX_BYTES), type=_Tags)
        key = _read_key()
    except FileNotFoundError:
        return Permission(folder, code=code, why_not="nothing shows that the run was made by you")
    except (OSError, msgspec.MsgspecError) as error:
        said = visible(str(error.strerror if isinstance(error, OSError) else error))
        return Permission(
            folder, code=code, why_not=f"nothing shows that the run was made by you ({shorten(said, _SHOWN)})"
        )
    job = _job_in(folder)
    return Permission(
        folder,
        own_job=job is not None and hmac.compare_digest(tags.job, _job_tag(key, job)),
        own_model=hmac.compare_digest(tags.model, _model_tag(key, _record_in(folder), job)),
        code=code,
        why_not="it is not as a run of yours has written it",
    )


def note_own_run(folder: Path, job: str, model: ModelRecord | None) -> None:
    """Note that this user makes the run in ``folder``: what its job names is the user's word.

    Args:
        folder: The run's; written to.
        job: The text of its ``job.yaml``.
        model: What its ``model.json`` says.

    Raises:
        OSError: The run's folder cannot be written. Where it is the key that cannot be, nothing is noted, and
            the run will count as anybody's.
    """
    try:
        key = _make_key()
    except OSError:
        return
    mapping = read_yaml(JOB, job.encode()).value
    tags = _Tags(_job_tag(key, mapping), _model_tag(key, model, mapping))
    Tree(folder).write(NAME, [msgspec.json.encode(tags)], sync=True)


def is_in_run(job: Path) -> bool:
    """Tell whether a job file lies in a run's folder, and so may be anybody's."""
    beside = job.parent
    return any(os.path.lexists(beside / name) for name in (RECORD, CHECKPOINTS, NAME, "model.json"))


def wants_of(job: Job) -> Iterator[Want]:
    """Yield all that a job wants a permission for, if it is not the caller's own."""
    for key in ("model", "data", "loss", "schedule"):
        choice = getattr(job, key)
        if is_import_path(choice.name):
            yield Want((key,), f"{key} '{choice.name}': imports it and runs it", f"--set {key}=…")
        elif key == "data":
            yield from _files(choice.name, choice.options)
    if is_import_path(job.metric):
        yield Want(("metric",), f"metric '{job.metric}': imports it and runs it", "--set metric=…")
    yield from _of_plugins(job)
    for key in job.model_fields_set - HARMLESS - JUDGED:
        if (value := getattr(job, key)) != Job.model_fields[key].get_default(call_default_factory=True):
            yield Want((key,), f"{key}: {value}", f"--set {key}=…")


def _of_plugins(job: Job) -> Iterator[Want]:
    for index, plugin in enumerate(job.plugins):
        who, at, flag = f"plugin '{plugin.name}'", ("plugins", index), f"--plugin {plugin.name}:…"
        if plugin.isolation != "sandbox":
            what = f"{who}, isolation: {plugin.isolation}: runs it without a sandbox"
            yield Want((*at, "isolation"), what, flag)
        for kind in _GRANTS:
            if places := getattr(plugin, kind):
                yield Want((*at, kind), f"{who}, {kind}: {', '.join(places)}: opens that to it", flag)


def _files(name: str, options: Mapping[str, Any]) -> Iterator[Want]:
    for option, value in options.items():
        if isinstance(value, str) and option not in DATA_WORDS:
            yield Want(
                ("data", option), f"data '{name}', {option}: {value}: reads that", f"--set data.{option}=…"
            )


def _base_folder(folder: Path) -> Path:
    """Return where relative paths of a run's job start from; the folder itself where nothing says so."""
    named = (_job_in(folder) or {}).get("base_folder")
    return Path(named) if isinstance(named, str) and os.path.isabs(named) else folder  # noqa: PTH117 - as the job has it


def _job_in(folder: Path) -> dict[str, Any] | None:
    try:
        value = read_yaml(JOB, Tree(folder).read(JOB, MAX_JOB_BYTES)).value
    except (OSError, JobError):
        return None
    return value if isinstance(value, dict) else None


def _record_in(folder: Path) -> ModelRecord | None:
    with contextlib.suppress(CheckpointError):
        return read_model_record(folder)
    return None


def _job_tag(key: bytes, job: Mapping[str, Any]) -> str:
    return _tag(key, "job", {name: value for name, value in job.items() if name not in HARMLESS})


def _model_tag(key: bytes, model: ModelRecord | None, job: Mapping[str, Any] | None) -> str:
    built = None if model is None else [model.model.name, model.model.options, list(model.edits)]
    return _tag(key, "model", [built, (job or {}).get("base_folder")])


def _tag(key: bytes, what: str, value: object) -> str:
    text = json.dumps([what, value], sort_keys=True, default=repr).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _key_place() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    state = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.local/state"))  # noqa: PTH111, PTH117 - raise nothing
    return state / "ringfence"


def _make_key() -> bytes:
    """Return this user's key, made if there is none.

    Raises:
        OSError: It cannot be made or read, or others can read it.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read_key()
    place = _key_place()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = place / f".{_KEY_NAME}-{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
        os.fsync(descriptor)
        # Another run may have been quicker: the first key is everybody's.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, place / _KEY_NAME)
    finally:
        os.close(descriptor)
        temporary.unlink()
    return _read_key()


def _read_key() -> bytes:
    descriptor = os.open(_key_place() / _KEY_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise OSError(None, f"{_key_place() / _KEY_NAME} is not yours alone; remove it, or chmod 600")
        key = os.read(descriptor, _KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != _KEY_BYTES:
        raise OSError(None, f"{_key_place() / _KEY_NAME} is damaged; remove it")
    return key
