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
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..hooks.errors import JobError, shorten, visible
from ..job.job_file import Job, JobFile, judges_of, losses_of, read_job, weights_of
from ..job.object_names import is_object_name
from ..job.user_code import is_import_path
from .model_record import ModelChoice, ModelRecord
from .run_folder import JOB, MADE_HERE, job_of
from .untrusted_folder import Tree

TRUST_FLAG = "--trust-code"
_MAX_BYTES = 4096
_KEY_BYTES = 32
_KEY_NAME = "own-runs.key"
_SHOWN = 200

#: Keys of a job that say how much, how often or how fast, and nothing that would need a permission. Any
#: other key that is new needs one.
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
JUDGED = frozenset(
    {
        "base_folder",
        "data",
        "loss",
        "metric",
        "metrics",
        "model",
        "plugins",
        "sample_weights",
        "schedule",
    }
)
#: Options of builtin readers of data that are words. Any other text, and so that of any new one, is a path.
DATA_WORDS = frozenset({"inputs", "layout", "normalize", "targets", "task", "test_inputs", "test_targets"})
_UNSHOWN = "nothing shows that the run was made by you"
_CHANGED = "it is not as a run of yours has written it"
_GRANTS = ("read", "write", "connect")


@dataclass(frozen=True, slots=True)
class Want:
    """Something that a folder names and that needs a permission.

    Attributes:
        path: Its key in the job.
        what: What following it would do, as ``model 'net:Net': imports it and runs it``.
        repeat: How the caller says the same.
        value: All that decides what following it does, as JSON data.
    """

    path: tuple[str | int, ...]
    what: str
    repeat: str
    value: Any


class _Tags(msgspec.Struct, frozen=True):
    """The contents of ``made-here.json``: keyed digests, in hexadecimal; where modules are looked for."""

    job: str
    model: str
    base_folder: str | None = None


class _Proof(NamedTuple):
    """What a folder brings to show whose it is, and the key to test it with; or why it shows nothing."""

    tags: _Tags | None = None
    key: bytes = b""
    why_not: str = _CHANGED


@dataclass(frozen=True)
class Permission:
    """What of a run's folder may be followed; the folder is looked into once it matters.

    Attributes:
        folder: The run's.
        code: What the caller says builds the network: ``module:function``.
        trust_code: The caller trusts all that the folder names.
    """

    folder: Path
    code: str | None = None
    trust_code: bool = False

    @cached_property
    def own_job(self) -> bool:
        """Whether its ``job.yaml`` is as a run of this user's wrote it."""
        tags, key, _ = self._proof
        return tags is not None and self._job is not None and _same(tags.job, _job_tag(key, self._job))

    def owns_model(self, record: ModelRecord) -> bool:
        """Tell whether what builds a network is as a run of this user's wrote it.

        Args:
            record: What ``model.json`` of the folder, or of a checkpoint in it, says.
        """
        tags, key, _ = self._proof
        return tags is not None and _same(tags.model, _model_tag(key, record, tags.base_folder))

    @property
    def why_not(self) -> str:
        """Why something in it is not this user's, as the end of a sentence."""
        return self._proof.why_not

    @cached_property
    def job_data(self) -> bytes | None:
        """What its ``job.yaml`` holds, None if there is none; read once: what is judged is what is followed.

        Raises:
            JobError: It cannot be read.
        """
        return job_of(self.folder)

    @cached_property
    def _job(self) -> Job | None:
        try:
            return None if self.job_data is None else read_job(JOB, data=self.job_data).job
        except JobError:
            return None

    @cached_property
    def _proof(self) -> _Proof:
        try:
            tags = msgspec.json.decode(Tree(self.folder).read(MADE_HERE, _MAX_BYTES), type=_Tags)
            return _Proof(tags, _read_key())
        except FileNotFoundError:
            return _Proof(why_not=_UNSHOWN)
        except (OSError, msgspec.MsgspecError) as error:
            said = visible(str(error.strerror if isinstance(error, OSError) else error))
            return _Proof(why_not=f"{_UNSHOWN} ({shorten(said, _SHOWN)})")

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
        if self.owns_model(record):
            return choice, self._place(None if self._proof.tags is None else self._proof.tags.base_folder)
        if self.trust_code:
            return choice, self._place(None if self._job is None else self._job.base_folder)
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
            job_file: Read from ``job_data`` or another file of it, with the caller's flags laid over it.
            path: Its file.
            keys: Those that are followed; all of them by default.

        Raises:
            JobError: The job wants what nobody has permitted; the message names all of it.
        """
        if self.trust_code or (path.name == JOB and self.own_job):
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
        why_not = self.why_not if path.name == JOB else _UNSHOWN
        named = "".join(f"\n    {shorten(visible(want.what), 2 * _SHOWN)}" for want in wanted)
        flags = " ".join(dict.fromkeys(want.repeat for want in wanted))
        return (
            f"{path}: {why_not}, and it names what needs your permission:{named}\nNothing was done."
            f" Name a job file of your own, or say what you mean yourself ({flags}), or follow all that the "
            f"folder names with {TRUST_FLAG}"
        )

    def _place(self, named: str | None) -> Path:
        """Return where modules are looked for; the folder itself where nothing says so."""
        return Path(named) if named is not None and Path(named).is_absolute() else self.folder


def permitted(folder: Path, *, code: str | None = None, trust_code: bool = False) -> Permission:
    """Return what of a run's folder may be followed; the one question of all that starts from a folder.

    Args:
        folder: The run's; it may be anybody's.
        code: What the caller says builds the network.
        trust_code: Whether the caller trusts all that the folder names.
    """
    return Permission(folder, code, trust_code)


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
    read = read_job(JOB, data=job.encode()).job
    tags = _Tags(_job_tag(key, read), _model_tag(key, model, read.base_folder), read.base_folder)
    Tree(folder).write(MADE_HERE, [msgspec.json.encode(tags)], sync=True)


def wants_of(job: Job) -> Iterator[Want]:
    """Yield all that a job wants a permission for, if it is not the caller's own."""
    named = {
        "model": job.model,
        "data": job.data,
        "schedule": job.schedule,
        **losses_of(job),
        **judges_of(job),
        **weights_of(job),
    }
    for key, choice in named.items():
        if is_import_path(choice.name):
            path, what = _path_of(key), f"{key} '{choice.name}': imports it and runs it"
            yield Want(path, what, f"--set {path[0]}=…", [choice.name, choice.options])
        elif key == "data":
            yield from _files(choice.name, choice.options)
    yield from _of_plugins(job)
    for key in sorted(Job.model_fields.keys() - HARMLESS - JUDGED):
        if (value := getattr(job, key)) != Job.model_fields[key].get_default(call_default_factory=True):
            yield Want((key,), f"{key}: {value}", f"--set {key}=…", repr(value))


def _path_of(key: str) -> tuple[str | int, ...]:
    """Return the path of a key that may end with the place in a list, as in ``metrics[0]``."""
    name, _, place = key.partition("[")
    return (name, int(place.removesuffix("]"))) if place else (name,)


def _of_plugins(job: Job) -> Iterator[Want]:
    for index, plugin in enumerate(job.plugins):
        who, at, flag = f"plugin '{plugin.name}'", ("plugins", index), f"--plugin {plugin.name}:…"
        if plugin.isolation != "sandbox":
            what = f"{who}, isolation: {plugin.isolation}: runs it without a sandbox"
            yield Want((*at, "isolation"), what, flag, [plugin.name, plugin.isolation, plugin.options])
        for kind in _GRANTS:
            if places := getattr(plugin, kind):
                what = f"{who}, {kind}: {', '.join(places)}: opens that to it"
                yield Want((*at, kind), what, flag, [plugin.name, kind, places, plugin.options])


def _files(name: str, options: Mapping[str, Any]) -> Iterator[Want]:
    for option, value in options.items():
        if isinstance(value, str) and option not in DATA_WORDS:
            what, flag = f"data '{name}', {option}: {value}: reads that", f"--set data.{option}=…"
            yield Want(("data", option), what, flag, [name, value])


def _same(told: str, tag: str) -> bool:
    return hmac.compare_digest(told.encode(), tag.encode())


def _job_tag(key: bytes, job: Job) -> str:
    # With the folder even where nothing is wanted: what a flag then names is looked for there.
    wanted = [[want.path[0], want.path[-1], want.value] for want in wants_of(job)]
    return _tag(key, "job", [job.base_folder, wanted])


def _model_tag(key: bytes, model: ModelRecord | None, base_folder: str | None) -> str:
    built = None
    if model is not None:
        choice = model.model
        built = [choice.name, choice.options, list(model.edits), model.input.shape, model.output.shape]
    return _tag(key, "model", [built, base_folder])


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
