"""A plugin in this process: what ``isolation: trusted`` means, and what runs inside a sandbox."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from .check import Canonical, ResultError, check_result, check_scalars
from .errors import PluginError, PluginLoadError, PluginProtocolError, PluginRaisedError
from .plugin import PluginSpec, PluginUsage
from .specs import HOOKS, METHODS
from .types import Batch, StepInfo, derive_seed, passthrough

#: Hook to the names of its arguments.
_ARGUMENTS = {hook.__name__: tuple(inspect.signature(hook).parameters) for hook in HOOKS}


def load_class(module: str, qualname: str) -> type:
    """Import ``module`` and return the class ``qualname`` in it.

    Raises:
        ImportError, AttributeError, TypeError: There is no such class.
    """
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not inspect.isclass(found):
        raise TypeError(f"{module}:{qualname} is not a class")
    return found


def accepted_arguments(cls: type) -> dict[str, tuple[str, ...]]:
    """Return method to argument names of a plugin class; a pass-through is absent.

    An argument that has a default and that this core's hook lacks is left out: so a
    plugin can use an argument of a later series and still work with this one.

    Raises:
        TypeError: ``forward`` or ``backward`` is missing.
    """
    accepts = {}
    for method in METHODS:
        function = inspect.getattr_static(cls, method, None)
        if function is None:
            raise TypeError(
                f"{cls.__name__} has no {method}(); a plugin that has nothing to do there "
                f"says so with '{method} = passthrough'"
            )
        if function is not passthrough:
            parameters = list(inspect.signature(getattr(cls, method)).parameters.values())[1:]
            known = _ARGUMENTS.get(f"{getattr(cls, 'role', '')}_{method}", ())
            accepts[method] = tuple(p.name for p in parameters if p.default is p.empty or p.name in known)
    return accepts


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random, so that a plugin that uses them is repeatable too.

    Only torch's CPU generator: ``torch.manual_seed`` would take 0.4 ms, and in the trainer's
    process it would seed the GPU that the model draws its dropout from.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - plugins may use the old global generator
    random.seed(seed)


def openblas_pools() -> ThreadpoolController:
    """Return a handle on the thread pools of numpy and others; of the libraries loaded by now only."""
    return ThreadpoolController().select(internal_api="openblas")


@contextlib.contextmanager
def as_in_sandbox(seed: int, threads: int, pools: ThreadpoolController) -> Iterator[None]:
    """Give a call what it has in a sandbox, then restore the host's: random states, threads, no gradients.

    Args:
        seed: For the global generators.
        threads: Threads of torch.
        pools: Are set to one thread, as a sandbox's are.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    host_threads = torch.get_num_threads()
    seed_everything(seed)
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), pools.limit(limits=1):
            yield
    finally:
        torch.set_num_threads(host_threads)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


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
        self._canonical = Canonical()
        self._start_seed = derive_seed(spec.job_seed, spec.name, "start")
        self._pools = openblas_pools()
        if instance is None:
            self._construct()
        try:
            self.accepts: Mapping[str, tuple[str, ...]] = accepted_arguments(type(self._instance))
        except TypeError as error:
            raise PluginLoadError(str(error), plugin=spec.name) from error
        self._finished: list[tuple[StepInfo, Any]] = []

    def call(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        """Run one method and check its result."""
        spec = self.spec
        hook = f"{spec.role}.{method}"
        given = {name: step if name == "step" else arguments[name] for name in self.accepts[method]}
        started = time.perf_counter()
        try:
            with as_in_sandbox(step.call_seed, spec.threads, self._pools):
                result = getattr(self._instance, method)(**given)
            changes = spec.role_info.changes.get(method)
            checked = self._canonical(changes, check_result(changes, result, arguments), arguments)
            check_scalars(step.scalars)
        except ResultError as error:
            raise PluginProtocolError(
                str(error), plugin=spec.name, hook=hook, step=step.global_step
            ) from error
        except Exception as error:
            raise PluginRaisedError(
                f"raised {type(error).__name__}: {error}",
                plugin=spec.name,
                hook=hook,
                step=step.global_step,
                remote_traceback=traceback.format_exc(),
            ) from error
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

    def state_dict(self) -> Any:
        """Return the plugin's state, or None if it keeps none: that takes both methods, as in a sandbox."""
        instance = self._instance
        if not (hasattr(instance, "state_dict") and hasattr(instance, "load_state_dict")):
            return None
        return self._guard("state_dict", instance.state_dict)

    def load_state_dict(self, state: Any) -> None:
        """Give the plugin its state back."""
        self._guard("load_state_dict", lambda: self._instance.load_state_dict(state))

    def restart(self) -> None:
        """Construct the plugin again."""
        self._construct()
        self._finished.clear()

    def close(self) -> None:
        """Nothing to free."""

    def _guard(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            with as_in_sandbox(self._start_seed, self.spec.threads, self._pools):
                return function()
        except Exception as error:
            raise PluginRaisedError(
                f"raised {type(error).__name__}: {error}",
                plugin=self.spec.name,
                hook=f"{self.spec.role}.{name}",
                remote_traceback=traceback.format_exc(),
            ) from error

    def _construct(self) -> None:
        spec = self.spec
        for folder in reversed(spec.search_path):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        try:
            with as_in_sandbox(self._start_seed, spec.threads, self._pools):
                self._instance = load_class(spec.module, spec.qualname)(**spec.options)
        except Exception as error:
            raise PluginLoadError(
                f"{spec.module}:{spec.qualname} could not be loaded: {type(error).__name__}: {error}",
                plugin=spec.name,
            ) from error
        # What the plugin imported may have brought pools of its own.
        self._pools = openblas_pools()
