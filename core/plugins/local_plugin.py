"""A plugin in this process: what ``isolation: trusted`` means, and what runs inside a sandbox."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..hooks.errors import (
    REFUSED,
    JobError,
    Phase,
    PluginError,
    PluginLoadError,
    PluginProtocolError,
    PluginRaisedError,
    Raised,
    with_raised,
)
from ..hooks.trees import map_tensors
from ..hooks.types import (
    AnotherPass,
    Batch,
    LossTerm,
    Report,
    StepInfo,
    TensorMap,
    derive_seed,
    passthrough,
)
from ..tensors import pytree
from ..tensors.changeable import Changeable
from ..tensors.finite import is_finite
from ..tensors.tensor_file import TensorFile
from .call_context import CallContext, openblas_pools
from .interface import PluginSpec, PluginUsage, excess_state
from .plugin_class import accepted_arguments, load_class, load_error
from .plugin_frames import raised_at
from .result_checks import Canonical, Names, NotFiniteError, ResultError, check_scalars
from .result_kinds import ResultKind, kinds_of
from .transient_errors import as_transient, may_pass


def not_passed(plugin: object, accepts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return ``accepts`` without a method that the plugin made a pass-through of as it was constructed."""
    return {name: taken for name, taken in accepts.items() if getattr(plugin, name) is not passthrough}


def says(plugin: object, attribute: str) -> bool:
    """Tell whether a plugin says of itself ``attribute = True``."""
    # No name to import, so that one written for an earlier series, which leaves it out, says no.
    return getattr(plugin, attribute, False) is True


class LocalPlugin:
    """A plugin that runs in this process; see ``Plugin`` for the methods.

    Args:
        spec: What to load.
        instance: The plugin itself, if it exists already.
    """

    def __init__(self, spec: PluginSpec, instance: object | None = None) -> None:
        self.spec = spec
        self.usage = PluginUsage()
        self._instance: Any = instance
        self._kinds = kinds_of(spec.role_info)
        self._canonical = Canonical()
        self._changeable: tuple[TensorMap, TensorMap, Changeable] | None = None
        #: All numbers of the place of the last result, if they are of one dtype.
        self._place: Tensor | None = None
        self._names = Names()
        self._start_seed = derive_seed(spec.job_seed, spec.name, "start")
        self._autograd = spec.role_info.autograd
        self._as_in_sandbox = CallContext(spec.threads, autograd=self._autograd)
        if instance is None:
            self._construct()
        # An attribute, and no name to import: one that leaves it out draws as it likes.
        self._as_in_sandbox.draws = getattr(self._instance, "draws", True) is not False
        try:
            accepts = accepted_arguments(type(self._instance))
        except TypeError as error:
            raise PluginLoadError(str(error), plugin=spec.name) from error
        self.accepts: Mapping[str, tuple[str, ...]] = not_passed(self._instance, accepts)
        self._finished: list[tuple[StepInfo, Any]] = []

    def call(
        self, method: str, arguments: Mapping[str, Any], step: StepInfo, into: TensorMap | None = None
    ) -> Any:
        """Run one method and check its result."""
        spec, kind = self.spec, self._kinds[method]
        given = {name: step if name == "step" else arguments[name] for name in self.accepts[method]}
        changeable = None
        if into is not None and kind.is_map:
            changeable = self._with_place(arguments[kind.measured_by], into)
            if kind.measured_by in given:
                given[kind.measured_by] = changeable
        started = time.perf_counter()
        try:
            with self._as_in_sandbox.for_call(step):
                result = getattr(self._instance, method)(**given)
            if changeable is not None:
                result = changeable.result(result)
            checked = self._checked(kind, result, arguments, into)
            if step.scalars:
                check_scalars(step.scalars)
            if kind.is_logged and checked is not None:
                step.scalars[method] = checked
            if step.scalars or isinstance(checked, Report):
                self._names.add(step.scalars, checked)
        except ResultError as error:
            raise PluginProtocolError(
                str(error),
                plugin=spec.name,
                hook=f"{spec.role}.{method}",
                step=step.global_step,
                by_its_code=not isinstance(error, NotFiniteError),
            ) from error
        except JobError as error:
            raise PluginLoadError(
                f"{REFUSED}: {error}", plugin=spec.name, hook=f"{spec.role}.{method}", step=step.global_step
            ) from error
        except Exception as error:
            raise self._raised(error, f"{spec.role}.{method}", step.global_step) from error
        finally:
            self.usage.calls += 1
            self.usage.seconds += time.perf_counter() - started
        return checked

    def stream(
        self,
        batches: Iterable[tuple[Batch, StepInfo]],
        *,
        done: Callable[[StepInfo], None],
        failed: Callable[[PluginError], None],
    ) -> Iterator[tuple[Batch, StepInfo]]:
        """Run ``forward`` over ``batches``, one at a time."""
        for batch, step in batches:
            changed = None
            if "forward" in self.accepts and self.usage.state == "running":
                own = step.for_plugin(self.spec.job_seed, self.spec.name)
                try:
                    changed = self.call("forward", {"batch": batch}, own)
                except PluginError as error:
                    failed(error)
                else:
                    done(own)
            yield (batch if changed is None else changed), step

    def post(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> bool:
        """Run at once; a trusted monitor makes the loop wait."""
        self._finished.append((step, self.call(method, arguments, step)))
        return True

    def poll(self) -> list[tuple[StepInfo, Any]]:
        """Return what ``post`` has run."""
        finished, self._finished = self._finished, []
        return finished

    def drain(self) -> list[tuple[StepInfo, Any]]:
        """Return what ``post`` has run."""
        return self.poll()

    @property
    def keeps_state(self) -> bool:
        """Whether its class has both methods for that."""
        return hasattr(self._instance, "state_dict") and hasattr(self._instance, "load_state_dict")

    @property
    def reads_bytes(self) -> bool:
        """Whether it says so."""
        return says(self._instance, "reads_bytes")

    @property
    def takes_trees(self) -> bool:
        """Whether it says that it knows batches and outputs that are no tensor each."""
        return says(self._instance, "takes_trees")

    @property
    def one_pass(self) -> bool:
        """Whether it says so by an attribute of this name."""
        return getattr(self._instance, "one_pass", False) is True

    def state_dict(self) -> TensorFile | None:
        """Return a copy of the plugin's state; None if it lacks one of the two methods, as in a sandbox."""
        if not self.keeps_state:
            return None
        state = self._guard("state_dict", self._instance.state_dict)
        if state is None:
            return None
        try:
            return pytree.encode(state, refuse=lambda n: excess_state(n, self.usage.state_of_bytes))
        except pytree.PlainDataError as error:
            raise PluginProtocolError(
                f"state_dict() returned what cannot be saved: {error}",
                plugin=self.spec.name,
                hook=f"{self.spec.role}.state_dict",
                by_its_code=True,
            ) from error

    def load_state_dict(self, state: TensorFile) -> None:
        """Give the plugin its state back, in tensors of its own."""
        value = pytree.decode(state)
        self._guard("load_state_dict", lambda: self._instance.load_state_dict(value))

    def restart(self) -> None:
        """Construct the plugin again."""
        self._construct()
        self._finished.clear()

    def close(self) -> None:
        """Nothing to free."""

    def _with_place(self, argument: TensorMap, into: TensorMap) -> Changeable:
        known = self._changeable
        if known is None or known[0] is not argument or known[1] is not into:
            known = self._changeable = (argument, into, Changeable(argument, into))
            self._place = into.flat()
        return known[2].begin()

    def _checked(
        self, kind: ResultKind, result: Any, arguments: Mapping[str, Any], into: TensorMap | None
    ) -> Any:
        if result is None or (result is into and self._place is not None and is_finite(self._place)):
            return result
        checked = kind.check(result, arguments, finite=True)
        if self._autograd:
            checked = _without_graph(checked)
        return self._canonical(checked, arguments[kind.measured_by], into) if kind.is_map else checked

    def _guard(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            with self._as_in_sandbox(self._start_seed):
                return function()
        except Exception as error:
            raise self._raised(error, f"{self.spec.role}.{name}") from error

    def _raised(self, error: Exception, hook: str, step: int | None = None) -> PluginRaisedError:
        told = traceback.format_exc()
        raised = PluginRaisedError(
            f"raised {type(error).__name__}: {error}{raised_at(told)}",
            plugin=self.spec.name,
            hook=hook,
            step=step,
            remote_traceback=told,
        )
        return as_transient(raised) if may_pass(error) else raised

    def _construct(self) -> None:
        spec = self.spec
        for folder in reversed(spec.search_path):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        phase: Phase = "import"
        try:
            with self._as_in_sandbox(self._start_seed):
                cls = load_class(spec.module, spec.qualname)
                phase = "constructor"
                self._instance = cls(**spec.options)
        except Exception as error:
            raised = Raised(type(error).__name__, str(error), load_error(error, phase))
            failed = PluginLoadError(
                f"{spec.module}:{spec.qualname} could not be loaded: {raised.error_type}: {raised.message}",
                plugin=spec.name,
                remote_traceback=traceback.format_exc(),
            )
            raise with_raised(failed, raised) from error
        # What the plugin imported may have brought pools of its own.
        self._as_in_sandbox.pools = openblas_pools()


def _without_graph(result: Any) -> Any:
    """Return a checked result as it comes out of a sandbox: no graph of the plugin's leads on from it."""
    match result:
        case Batch():
            inputs, targets = (map_tensors(Tensor.detach, tree) for tree in (result.inputs, result.targets))
            return result.with_(inputs=inputs, targets=targets)
        case LossTerm():
            return LossTerm(result.value, map_tensors(Tensor.detach, result.gradient))
        case AnotherPass():
            return AnotherPass(_without_graph(result.parameters))
        case TensorMap():
            return TensorMap(result.specs, result.buffer.detach())
        case Mapping():
            return {name: tensor.detach() for name, tensor in result.items()}
    return result
