"""Register plugins, keep their order, fold their results, and decide what a fault means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import pluggy
from torch import Tensor

from ..hooks import specs
from ..hooks.errors import PluginError, PluginLoadError, PluginProtocolError, traceback_of
from ..hooks.role import PROJECT
from ..hooks.roles.augment import augment_backward
from ..hooks.types import (
    AnotherPass,
    Batch,
    Gradients,
    LossScale,
    LossTerm,
    Parameters,
    Report,
    StepInfo,
    TensorMap,
)
from ..tensors.buffer_pool import BufferPool
from ..tensors.byte_batch import in_numbers
from ..tensors.tensor_file import TensorFile
from .failure_policy import Disable, FailurePolicy, RunPosition
from .interface import Plugin
from .notices import PluginNews
from .observer import Observer
from .pluggy_adapter import implementations


class Hooks:
    """The plugins of one run, as the engine calls them.

    pluggy validates each plugin against the specifications and keeps the order;
    since it would hand every implementation the original argument, the folds
    here pass on results instead. Who implements which hook is asked of pluggy once a
    plugin is registered, never in a step.

    Args:
        seed: Seed of the job; each plugin derives its own from it.
        observer: Told of reports and faults.

    Attributes:
        plugins: In the job's order.
        failures: What became of each fault.
    """

    def __init__(self, seed: int = 0, observer: Observer | None = None) -> None:
        self.seed = seed
        self.plugins: list[Plugin] = []
        self._observer = observer or Observer()
        self._news = PluginNews(self._observer.event)
        self.failures = FailurePolicy(self._observer.event)
        self._step = 0
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(type("HookSpecs", (), {hook.__name__: hook for hook in specs.HOOKS}))
        self._implementing: dict[str, list[Plugin]] = {hook.__name__: [] for hook in specs.HOOKS}

    # registration

    def register(self, plugin: Plugin) -> None:
        """Add ``plugin`` after those already there.

        Raises:
            PluginLoadError: A method takes an argument that its hook does not have.
        """
        name = plugin.spec.name
        try:
            self._manager.register(implementations(plugin), name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=name)
            raise PluginLoadError(str(error), plugin=name) from error
        self.plugins.append(plugin)
        for hook in self._implementing:
            found = getattr(self._manager.hook, hook).get_hookimpls()
            self._implementing[hook] = [implementation.plugin.plugin for implementation in found]
        self._news.tell(plugin)  # of what it did while it was imported

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

        Batches that are still in bytes come out in numbers.
        When the result is closed, or a plugin raises, all of them let go of the calls in flight.
        """
        streams = [iter(batches)]
        ahead, plugins = not self.wants(augment_backward), self._implementers("augment_forward")
        for plugin in plugins:
            if not plugin.reads_bytes:
                streams.append(_in_numbers(streams[-1]))
            source = streams[-1]
            streams.append(self._stream(plugin, source) if ahead else self._in_step(plugin, source))
        if plugins:
            streams.append(_in_numbers(streams[-1]))
        return _closing(streams)

    def optimizer_forward(self, parameters: Parameters, step: StepInfo) -> Mapping[str, Tensor] | None:
        """Return the parameters to use for this step, or None to keep them.

        What is returned is ``parameters``, changed: one copy less. A fault may leave them half changed; no
        run goes on without its optimizer, so that each ends in a snapshot being restored.
        """
        result = None
        for plugin in self._implementers("optimizer_forward"):
            result = self._call(plugin, "forward", {"parameters": parameters}, step, into=parameters)
            if isinstance(result, AnotherPass):
                error = PluginProtocolError(
                    "asked for another pass before the first; only backward may ask for one",
                    plugin=plugin.spec.name,
                    hook="optimizer.forward",
                    step=step.global_step,
                    by_its_code=True,
                )
                self._failed(plugin, error)
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
        """Return the updated parameters, a request for another pass, or None.

        The parameters are changed in place, as by ``optimizer_forward``.
        """
        self._step = step.global_step
        result = None
        for plugin in self._implementers("optimizer_backward"):
            arguments = {"parameters": parameters, "gradients": gradients, "loss": loss}
            result = self._call(plugin, "backward", arguments, step, into=parameters)
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
        """Collect what monitors have finished, without waiting, and tell what plugins tried and printed."""
        self._tell_news()
        for plugin in self._running():
            if plugin.spec.role_info.observes:
                self._collect(plugin, plugin.poll)

    def drain(self) -> None:
        """Wait for monitors to finish what they hold, each for at most its deadline."""
        for plugin in self._running():
            if plugin.spec.role_info.observes:
                self._collect(plugin, plugin.drain)

    # state and faults

    def state_dict(self) -> dict[str, TensorFile]:
        """Return plugin name to state, for the running plugins that have one which is that of this step.

        Waits for what monitors still hold, each for at most its deadline: a snapshot
        without it would lose reports when the run goes back to it. A plugin that may be
        disabled and cannot give its state is, and is left out.

        Raises:
            PluginError: Another plugin could not give its state.
        """
        self.drain()
        states = {}
        for plugin in self._running():
            if _keeps_step(plugin):
                with self._disabling(plugin):
                    state = plugin.state_dict()
                    if state is not None:
                        states[plugin.spec.name] = state
        return states

    def try_state(self, role: str) -> None:
        """Ask the plugins of a role for their state, which is not kept, to see that it can be saved.

        Raises:
            PluginError: A plugin could not give its state.
        """
        for plugin in self._running():
            if plugin.spec.role == role:
                with self._disabling(plugin):
                    plugin.state_dict()

    def load_state_dict(self, states: Mapping[str, TensorFile]) -> None:
        """Give each running plugin its state back; one without an entry keeps what it has.

        Raises:
            PluginError: A plugin that may not be disabled did not take it.
        """
        # What monitors still hold belongs to the steps before; it must not turn up after them.
        self.drain()
        for plugin in self._running():
            state = states.get(plugin.spec.name)
            if state is not None:
                with self._disabling(plugin):
                    plugin.load_state_dict(state)

    def failing(self, error: PluginError) -> Plugin:
        """Return the plugin that raised ``error``, once what it printed last is told."""
        plugin = next(p for p in self.plugins if p.spec.name == error.plugin)
        self._news.tell_last(plugin)
        plugin.usage.traceback = traceback_of(error)
        return plugin

    def disable(self, plugin: Plugin, error: PluginError, place: RunPosition) -> None:
        """Go on without ``plugin``, which raised ``error``."""
        plugin.usage.state = "disabled"
        plugin.close()
        self._news.tell(plugin)
        plugin.usage.traceback = traceback_of(error)
        self.failures.disable(error, place)

    def progressed(self) -> None:
        """Note that a new snapshot was taken: restarts before it no longer count as in a row.

        What plugins tried and printed is told now at the latest: without monitors nobody polls.
        """
        self.failures.progressed()
        self._tell_news()

    def close(self) -> None:
        """End all plugins, the last first; whatever one of them raises is raised once all were asked."""
        with contextlib.ExitStack() as stack:
            for plugin in self.plugins:
                if plugin.usage.state == "running":
                    plugin.usage.state = "closed"
                # Last: what it printed at its end, and what it leaves.
                stack.callback(self._news.tell, plugin)
                stack.callback(plugin.close)

    # inside

    def _tell_news(self) -> None:
        for plugin in self.plugins:
            self._news.tell(plugin)

    def _running(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.usage.state == "running"]

    def _implementers(self, hook: str) -> list[Plugin]:
        return [plugin for plugin in self._implementing[hook] if plugin.usage.state == "running"]

    def _call(
        self,
        plugin: Plugin,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
        into: TensorMap | None = None,
    ) -> Any:
        own = step.for_plugin(self.seed, plugin.spec.name)
        try:
            result = plugin.call(method, arguments, own, into)
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
            self._observer.reported(plugin.spec.name, step, step.scalars, report)

    @contextlib.contextmanager
    def _disabling(self, plugin: Plugin) -> Iterator[None]:
        """Do to ``plugin`` what may fail; go on without it if its policy says so."""
        try:
            yield
        except PluginError as error:
            self._failed(plugin, error)

    def _failed(self, plugin: Plugin, error: PluginError) -> None:
        """Disable the plugin and return if that is decided; raise ``error`` otherwise."""
        # Before the run goes back: it was printed at this step.
        self._news.tell_last(plugin)
        place = RunPosition(self._step)
        if not isinstance(self.failures.decide(error, place, plugin.spec), Disable):
            raise error
        self.disable(plugin, error, place)


def _in_numbers(batches: Iterable[tuple[Batch, StepInfo]]) -> Iterator[tuple[Batch, StepInfo]]:
    spares = BufferPool()
    for batch, step in batches:
        yield in_numbers(batch, spares), step


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
