"""Every error of ringfence.

* RingfenceError               base of all; ``exit_status`` is what the command line returns
  - JobError                   the job file or a flag is wrong; nothing was started (2)
  - DataError                  data could not be read, or does not fit the model (2)
  - CheckpointError            a checkpoint is missing, damaged or from another job (2)
  - IncompatiblePluginError    the plugin does not fit the core's series; nothing of it ran (2)
  - SandboxUnavailableError    a required layer cannot be had on this machine (2)
  - RunAbortedError            a fault ended the run; a checkpoint was written (3)
  - CutOffError                the user wants the run to end, and the time for that is over (130)
  - PluginError                a plugin failed; carries ``plugin``, ``hook`` and ``step``
    + PluginLoadError          could not be found, imported, checked or constructed
    + PluginRaisedError        its code raised; the remote traceback is attached
    + PluginMemoryError        it went past its budget; ``used_bytes`` and ``limit_bytes`` attached
    + PluginTimeoutError       no reply in time; its worker was killed
    + PluginCrashedError       its worker died; exit code or signal attached
    + PluginProtocolError      its reply is malformed, or has a wrong shape, dtype or a NaN

All are built in the host. Nothing that a plugin sends is ever unpickled.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Required, TypedDict, TypeVar, Unpack

_Error = TypeVar("_Error", bound="PluginError")
#: What of a plugin ran as it raised.
Phase = Literal["import", "constructor", "call"]


def visible(text: str) -> str:
    """Return ``text`` with control characters, except line ends, written as escapes.

    A plugin's text may reach a terminal, and a terminal obeys such characters.
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def shorten(text: str, most: int) -> str:
    """Return ``text`` in at most ``most`` characters, with an ellipsis where some are missing."""
    return text if len(text) <= most else f"{text[: max(most - 1, 0)]}…"


class RingfenceError(Exception):
    """Base of every error that ringfence raises on purpose."""

    exit_status = 2


class JobError(RingfenceError):
    """The job file, a flag or an option is wrong; nothing was started."""


class DataError(RingfenceError):
    """Data could not be read, or does not fit the model or the loss."""


class CheckpointError(RingfenceError):
    """A checkpoint is missing, damaged, or belongs to another job."""


class IncompatiblePluginError(RingfenceError):
    """A plugin does not fit the series of the core that it must work with."""


class SandboxUnavailableError(RingfenceError):
    """A layer that untrusted plugins require cannot be had on this machine.

    Attributes:
        layers: How each layer stands, as far as that was found out.
    """

    def __init__(self, message: str, *, layers: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.layers = layers


class RunAbortedError(RingfenceError):
    """A fault ended the run, of a plugin, the model or the disk; its state was written to a checkpoint."""

    exit_status = 3


class CutOffError(RingfenceError):
    """Something had not ended when the user wanted the run to end; nobody is to blame for it.

    The engine ends a run that has begun at its last snapshot; before that it is raised to the caller.

    Attributes:
        what: What had not ended, as the subject of a sentence.
    """

    exit_status = 130

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} had not ended when the time for that was over, and was cut off")


#: How a fault begins of a plugin that raised ``JobError``: it says that it does not fit the model or the job.
REFUSED = "cannot be used in this job"


class _Where(TypedDict, total=False):
    """What every ``PluginError`` is told beside its cause."""

    plugin: Required[str]
    hook: str | None
    step: int | None


class PluginError(RingfenceError):
    """A plugin failed.

    Attributes:
        plugin: Name of the plugin as the job spells it.
        hook: ``"<role>.<method>"``, or None outside a hook (import, state).
        step: Global step of the call, or None outside a step.
        cause: What happened, without the names above.
    """

    exit_status = 3
    #: Where its code was when it was ended from outside; no public name, as those of a series stay.
    _ended_at = ""

    def __init__(self, cause: str, *, plugin: str, hook: str | None = None, step: int | None = None) -> None:
        self.plugin = plugin
        self.hook = hook
        self.step = step
        self.cause = cause
        super().__init__(cause)

    def __str__(self) -> str:
        where = f"plugin '{self.plugin}'"
        if self.hook is not None:
            where += f" in '{self.hook}'"
        if self.step is not None:
            where += f" at step {self.step}"
        # Indented, so that no line of the plugin's can pass for one of ours.
        return f"{where}: " + visible(self.cause).replace("\n", "\n    ")


def add_traceback(error: _Error, traceback: str) -> _Error:
    """Return ``error`` with where the plugin's code was when it was ended, as the text of a traceback."""
    error._ended_at = traceback  # noqa: SLF001 - this module's own
    return error


class Raised(NamedTuple):
    """What a plugin raised as it was loaded.

    Attributes:
        error_type: The name of its class.
        message: What it said, and what the error tells after that.
        during: ``"import"`` of a module, or in the plugin's ``"constructor"``.
    """

    error_type: str
    message: str
    during: Phase


def with_raised(error: PluginLoadError, raised: Raised) -> PluginLoadError:
    """Return ``error`` with what the plugin raised."""
    error._raised = raised  # noqa: SLF001 - this module's own
    return error


def load_exception(error: PluginLoadError) -> Raised | None:
    """Return what a plugin raised as it was loaded, None if it was not loaded for another reason."""
    return error._raised  # noqa: SLF001 - this module's own


def traceback_of(error: PluginError) -> str:
    """Return the traceback of the plugin's own code as text, of a bounded length; ``""`` if none is known."""
    return getattr(error, "remote_traceback", "") or error._ended_at  # noqa: SLF001 - this module's own


class _PluginCodeError(PluginError):
    """Code of the plugin's ran and failed.

    Attributes:
        remote_traceback: Of its own code as text, cut to a bounded length; empty if none of it raised.
    """

    def __init__(self, cause: str, *, remote_traceback: str = "", **where: Unpack[_Where]) -> None:
        super().__init__(cause, **where)
        self.remote_traceback = remote_traceback


class PluginLoadError(_PluginCodeError):
    """A plugin could not be found, imported, checked or constructed, or refuses; the run did not start."""

    exit_status = 2
    #: What it raised as it was loaded, if that was the reason; no public name.
    _raised: Raised | None = None


class PluginRaisedError(_PluginCodeError):
    """A plugin's code raised; its traceback is attached."""

    #: Whether what it raised may be another's fault, and gone the next time; no public name.
    _is_transient = False


class PluginMemoryError(PluginError):
    """A plugin went past its memory budget.

    Attributes:
        used_bytes: Memory of its own when it was stopped, as far as the host could read it.
        limit_bytes: The budget of one of its workers.
        enforced_by: ``"RLIMIT_DATA"``, ``"cgroup"``, ``"watchdog"``, or ``"host"`` before it was given more.
    """

    def __init__(
        self,
        cause: str,
        *,
        used_bytes: int = 0,
        limit_bytes: int = 0,
        enforced_by: str = "",
        **where: Unpack[_Where],
    ) -> None:
        super().__init__(cause, **where)
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        self.enforced_by = enforced_by


class PluginTimeoutError(PluginError):
    """A plugin did not reply within its deadline; its worker was killed."""


class PluginCrashedError(PluginError):
    """A plugin's worker died.

    Attributes:
        exit_code: Exit status, or None when a signal ended it.
        signal_name: For example ``"SIGSEGV"``, or None when it exited.
        stderr_tail: The last lines it wrote to standard error.
    """

    def __init__(
        self,
        cause: str,
        *,
        exit_code: int | None = None,
        signal_name: str | None = None,
        stderr_tail: str = "",
        **where: Unpack[_Where],
    ) -> None:
        super().__init__(cause, **where)
        self.exit_code = exit_code
        self.signal_name = signal_name
        self.stderr_tail = stderr_tail


class PluginProtocolError(PluginError):
    """A plugin's reply is malformed, or its result has a wrong shape, dtype or a value that is not finite."""

    def __init__(self, cause: str, *, by_its_code: bool = False, **where: Unpack[_Where]) -> None:
        super().__init__(cause, **where)
        self._by_its_code = by_its_code


def is_by_its_code(error: PluginProtocolError) -> bool:
    """Tell whether the reply was understood and is of another form than the hook takes: it would be again."""
    return error._by_its_code  # noqa: SLF001 - no part of what authors of plugins are promised
