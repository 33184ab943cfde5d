"""Register plugins, keep their order, fold their results, and decide what a fault means."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol

import pluggy
from torch import Tensor

from . import specs
from .errors import PluginError, PluginLoadError
from .plugin import Plugin
from .specs import PROJECT
from .types import AnotherPass, Batch, Gradients, LossScale, LossTerm, Parameters, Report, StepInfo

MAX_RESTARTS_IN_A_ROW = 3


class Listener(Protocol):
    """Where the manager tells what plugins report and what became of them."""

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Take what ``plugin`` logged or returned at ``step``."""

    def event(self, message: str) -> None:
        """Take one decision about a plugin, as a sentence."""


class Silent:
    """A listener that drops everything."""

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Drop it."""

    def event(self, message: str) -> None:
        """Drop it."""


class Hooks:
    """The plugins of one run, as the engine calls them.

    pluggy validates each plugin against the specifications and keeps the order;
    since it would hand every implementation the original argument, the folds
    here pass on results instead. A hook that no plugin implements costs one test.

    Args:
        seed: Seed of the job; each plugin derives its own from it.
        listener: Told of reports and faults.
    """

    def __init__(self, seed: int = 0, listener: Listener | None = None) -> None:
        self.seed = seed
        self.plugins: list[Plugin] = []
        self._listener = listener or Silent()
        self._restarts_in_a_row: dict[str, int] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(specs)

    # registration

    def register(self, plugin: Plugin) -> None:
        """Add ``plugin`` after those already there.

        Raises:
            PluginLoadError: A method takes an argument that its hook does not have.
        """
        name = plugin.spec.name
        try:
            self._manager.register(_implementations(plugin), name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=name)
            raise PluginLoadError(str(error), plugin=name) from error
        self.plugins.append(plugin)

    def order(self) -> dict[str, list[str]]:
        """Return hook name to plugin names, in firing order; hooks that nobody implements are absent."""
        found = {spec.__name__: self._implementers(spec.__name__) for spec in specs.HOOKS}
        return {hook: [plugin.spec.name for plugin in plugins] for hook, plugins in found.items() if plugins}

    def wants(self, hook: Callable[..., Any], argument: str | None = None) -> bool:
        """Tell whether a running plugin implements ``hook`` (and takes ``argument``)."""
        method = hook.__name__.rpartition("_")[2]
        return any(
            argument is None or argument in plugin.accepts[method]
            for plugin in self._implementers(hook.__name__)
        )

    def observes(self, hook: Callable[..., Any], step: StepInfo, argument: str | None = None) -> bool:
        """Tell whether a monitor is due for ``hook`` at ``step`` (and takes ``argument``)."""
        method = hook.__name__.rpartition("_")[2]
        return any(
            step.global_step % plugin.spec.every == 0
            and (argument is None or argument in plugin.accepts[method])
            for plugin in self._implementers(hook.__name__)
        )

    # the hooks of a step, in firing order

    def augment(self, batches: Iterable[tuple[Batch, StepInfo]]) -> Iterator[tuple[Batch, StepInfo]]:
        """Chain the augment plugins over ``batches``; each runs ahead unless one learns from losses.

        When the result is closed, or a plugin raises, all of them let go of the calls in flight.
        """
        streams = [iter(batches)]
        ahead = not self.wants(specs.augment_backward)
        for plugin in self._implementers("augment_forward"):
            source = streams[-1]
            streams.append(self._stream(plugin, source) if ahead else self._in_step(plugin, source))
        return _closing(streams)

    def optimizer_forward(self, parameters: Parameters, step: StepInfo) -> Mapping[str, Tensor] | None:
        """Return the parameters to use for this step, or None to keep them."""
        result = None
        for plugin in self._implementers("optimizer_forward"):
            result = self._call(plugin, "forward", {"parameters": parameters}, step)
        return result

    def gradient_forward(
        self, batch: Batch, outputs: Tensor, loss: float, step: StepInfo
    ) -> list[LossTerm | LossScale]:
        """Return what the plugins do to the loss, in order."""
        changes: list[LossTerm | LossScale] = []
        for plugin in self._implementers("gradient_forward"):
            arguments = {"batch": batch, "outputs": outputs, "loss": loss}
            change = self._call(plugin, "forward", arguments, step)
            if change is None:
                continue
            loss = loss * change.factor if isinstance(change, LossScale) else loss + change.value
            changes.append(change)
        return changes

    def monitor_forward(self, batch: Batch, outputs: Tensor, loss: float, step: StepInfo) -> None:
        """Hand a copy to the monitors that are due and idle."""
        self._post("forward", {"batch": batch, "outputs": outputs, "loss": loss}, step)

    def gradient_backward(self, gradients: Gradients, parameters: Parameters, step: StepInfo) -> Gradients:
        """Return the gradients after all plugins."""
        for plugin in self._implementers("gradient_backward"):
            arguments = {"gradients": gradients, "parameters": parameters}
            changed = self._call(plugin, "backward", arguments, step)
            if changed is not None:
                gradients = changed
        return gradients

    def optimizer_backward(
        self, parameters: Parameters, gradients: Gradients, loss: float, step: StepInfo
    ) -> Mapping[str, Tensor] | AnotherPass | None:
        """Return the updated parameters, a request for another pass, or None."""
        result = None
        for plugin in self._implementers("optimizer_backward"):
            arguments = {"parameters": parameters, "gradients": gradients, "loss": loss}
            result = self._call(plugin, "backward", arguments, step)
        return result

    def monitor_backward(
        self, parameters: Parameters, updates: Parameters | None, gradients: Gradients, step: StepInfo
    ) -> None:
        """Hand a copy to the monitors that are due and idle."""
        self._post("backward", {"parameters": parameters, "updates": updates, "gradients": gradients}, step)

    def augment_backward(self, losses: Tensor, step: StepInfo) -> None:
        """Tell the augment plugins that learn the loss of each sample."""
        for plugin in self._implementers("augment_backward"):
            self._call(plugin, "backward", {"losses": losses}, step)

    # monitors report when they are done

    def poll(self) -> None:
        """Collect what monitors have finished, without waiting."""
        for plugin in self._running():
            if plugin.spec.role_info.observes:
                self._collect(plugin, plugin.poll)

    def drain(self) -> None:
        """Wait for monitors to finish what they hold, each for at most its deadline."""
        for plugin in self._running():
            if plugin.spec.role_info.observes:
                self._collect(plugin, plugin.drain)

    # state and faults

    def state_dict(self) -> dict[str, Any]:
        """Return plugin name to state, for the running plugins whose state is that of this step.

        Waits for what monitors still hold, each for at most its deadline: a snapshot
        without it would lose reports when the run goes back to it.
        """
        self.drain()
        return {plugin.spec.name: plugin.state_dict() for plugin in self._running() if _keeps_step(plugin)}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Give each running plugin its state back; one without an entry keeps what it has."""
        # What monitors still hold belongs to the steps before; it must not turn up after them.
        self.drain()
        for plugin in self._running():
            state = states.get(plugin.spec.name)
            if state is not None:
                plugin.load_state_dict(state)

    def recover(self, error: PluginError) -> None:
        """Start the plugin that raised ``error`` anew; the caller then restores a snapshot.

        A plugin that may be disabled is: some faults, as in ``state_dict``, are known here only.

        Raises:
            PluginError: ``error`` itself, if the plugin's policy is to abort, or
                it has failed more than three times without progress between; it
                then says so.
        """
        plugin = next(p for p in self.plugins if p.spec.name == error.plugin)
        if plugin.spec.on_failure == "disable":
            self._failed(plugin, error)
            return
        in_a_row = self._restarts_in_a_row.get(error.plugin, 0) + 1
        if plugin.spec.on_failure != "restart" or in_a_row > MAX_RESTARTS_IN_A_ROW:
            plugin.usage.state = "failed"
            plugin.close()
            if plugin.spec.on_failure == "restart":
                error.cause += f"; it was restarted {in_a_row - 1} times in a row before"
            raise error
        self._restarts_in_a_row[error.plugin] = in_a_row
        plugin.usage.restarts += 1
        self._listener.event(f"{error}; restarted ({in_a_row} of {MAX_RESTARTS_IN_A_ROW} in a row)")
        plugin.restart()

    def progressed(self) -> None:
        """Note that a new snapshot was taken: restarts before it no longer count as in a row."""
        self._restarts_in_a_row.clear()

    def close(self) -> None:
        """End all plugins, the last first; whatever one of them raises is raised once all were asked."""
        with contextlib.ExitStack() as stack:
            for plugin in self.plugins:
                if plugin.usage.state == "running":
                    plugin.usage.state = "closed"
                stack.callback(plugin.close)

    # inside

    def _running(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.usage.state == "running"]

    def _implementers(self, hook: str) -> list[Plugin]:
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        plugins = [implementation.plugin.plugin for implementation in implementations]
        return [plugin for plugin in plugins if plugin.usage.state == "running"]

    def _call(self, plugin: Plugin, method: str, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        own = step.for_plugin(self.seed, plugin.spec.name)
        try:
            result = plugin.call(method, arguments, own)
        except PluginError as error:
            self._failed(plugin, error)
            return None
        self._reported(plugin, own, result)
        return result

    def _in_step(
        self, plugin: Plugin, batches: Iterable[tuple[Batch, StepInfo]]
    ) -> Iterator[tuple[Batch, StepInfo]]:
        for batch, step in batches:
            changed = None
            if plugin.usage.state == "running":
                changed = self._call(plugin, "forward", {"batch": batch}, step)
            yield (batch if changed is None else changed), step

    def _stream(
        self, plugin: Plugin, batches: Iterable[tuple[Batch, StepInfo]]
    ) -> Iterator[tuple[Batch, StepInfo]]:
        return plugin.stream(
            batches,
            done=lambda step: self._reported(plugin, step, None),
            failed=lambda error: self._failed(plugin, error),
        )

    def _post(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> None:
        for plugin in self._implementers(f"monitor_{method}"):
            if step.global_step % plugin.spec.every:
                continue
            own = step.for_plugin(self.seed, plugin.spec.name)
            try:
                if not plugin.post(method, arguments, own):
                    plugin.usage.skipped += 1
            except PluginError as error:
                self._failed(plugin, error)

    def _collect(self, plugin: Plugin, take: Callable[[], list[tuple[StepInfo, Any]]]) -> None:
        try:
            finished = take()
        except PluginError as error:
            self._failed(plugin, error)
            return
        for step, report in finished:
            self._reported(plugin, step, report)

    def _reported(self, plugin: Plugin, step: StepInfo, result: object) -> None:
        report = result if isinstance(result, Report) else None
        if step.scalars or report is not None:
            self._listener.reported(plugin.spec.name, step, step.scalars, report)

    def _failed(self, plugin: Plugin, error: PluginError) -> None:
        """Disable the plugin and return if its policy says so; raise ``error`` otherwise."""
        if plugin.spec.on_failure != "disable":
            raise error
        plugin.usage.state = "disabled"
        plugin.close()
        self._listener.event(f"{error}; disabled, the run goes on without it")


def _closing(
    streams: list[Iterator[tuple[Batch, StepInfo]]],
) -> Iterator[tuple[Batch, StepInfo]]:
    """Yield from the last of a chain, then close all: a traceback would keep the inner ones alive."""
    try:
        yield from streams[-1]
    finally:
        for stream in reversed(streams):
            if isinstance(stream, Generator):
                stream.close()


def _keeps_step(plugin: Plugin) -> bool:
    """Tell whether a plugin's state belongs to the loop's step; one that runs ahead has seen the future.

    Such a plugin is a function of its batch and step, so it needs no state to go on.
    """
    return not plugin.spec.role_info.runs_ahead or "backward" in plugin.accepts


class _Registered:
    """What pluggy holds for one plugin: an attribute for each hook that it implements."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin


def _implementations(plugin: Plugin) -> _Registered:
    registered = _Registered(plugin)
    for method, arguments in plugin.accepts.items():
        hook = f"{plugin.spec.role}_{method}"
        setattr(registered, hook, specs.hookimpl(declaration(hook, arguments)))
    return registered


def declaration(hook: str, arguments: tuple[str, ...]) -> Callable[..., None]:
    """Return an empty function that takes ``arguments``; pluggy only validates it.

    pluggy reads a function's code object, not its signature, so the names are put there.
    """

    def empty() -> None:
        return None

    count = len(arguments)
    code = empty.__code__.replace(
        co_argcount=count, co_nlocals=count, co_varnames=arguments, co_name=hook, co_qualname=hook
    )
    return types.FunctionType(code, {}, hook)
