"""Register plugins, keep their order, fold their results, and decide what a fault means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import pluggy

from ..hooks import specs
from ..hooks.errors import PluginError, PluginLoadError, shorten, traceback_of
from ..hooks.role import PROJECT
from ..hooks.types import AnotherPass, Batch, Metrics, Report, StepInfo
from ..tensors.buffer_pool import BufferPool
from ..tensors.byte_batch import in_numbers
from ..tensors.tensor_file import TensorFile
from .failure_policy import Disable, FailurePolicy, RunPosition
from .interface import ASKED, ASKS, Plugin, PluginSpec
from .moments import Change, Firing, Moments, PluginMethod, Values
from .notices import PluginNews
from .observer import Observer
from .pluggy_adapter import implementations


class Hooks:
    """The plugins of one run, as the engine calls them.

    pluggy validates each plugin against the specifications and keeps the order;
    since it would hand every implementation the original argument, the folds
    here pass on results instead. Who implements which hook is asked of pluggy as a
    plugin comes or goes, never in a step.

    Args:
        seed: Seed of the job; each plugin derives its own from it.
        observer: Told of reports and faults.

    Attributes:
        plugins: In the job's order.
        failures: What became of each fault.
        at: What running plugins do at each moment of a step.
        one_pass: No step is asked for ``AnotherPass``.
        asked_last: Who asked for one last.
        observers: The plugins that observe: their reports are to be collected.
        askers: Those of them that may ask for something.
        metrics: The last evaluation and the last epoch, for those that observe.
        shows_metrics: Whether one of them looks at it.
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
        self.at = Moments()
        self.observers: tuple[Plugin, ...] = ()
        self.askers: tuple[Plugin, ...] = ()
        self.metrics: Metrics = {}
        self.shows_metrics = False
        self._asked: dict[str, str] = {}
        self._refused: set[tuple[str, str]] = set()
        self.one_pass = True
        self.asked_last: PluginMethod | None = None

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
        self._find_who_fires()
        self._news.tell(plugin)  # of what it did while it was imported

    def order(self) -> dict[str, list[str]]:
        """Return hook name to plugin names, in firing order; hooks that nobody implements are absent."""
        found = self._implementers()
        return {hook: [plugin.spec.name for plugin in plugins] for hook, plugins in found.items() if plugins}

    # what a step does

    def stream(self, batches: Iterable[tuple[Batch, StepInfo]]) -> Iterator[tuple[Batch, StepInfo]]:
        """Chain what changes ``batches``; each runs ahead that may, unless one learns from what comes of it.

        Batches that are still in bytes come out in numbers.
        When the result is closed, or a plugin raises, all of them let go of the calls in flight.
        """
        streams = [iter(batches)]
        methods = self.at.batch.methods
        ahead = not any(
            plugin.spec.role_info.runs_ahead and "backward" in plugin.accepts for plugin in self._running()
        )
        for method in methods:
            plugin = method.plugin
            if not plugin.reads_bytes:
                streams.append(_in_numbers(streams[-1]))
            source = streams[-1]
            runs_ahead = ahead and plugin.spec.role_info.runs_ahead and not method.observes
            streams.append(self._stream(plugin, source) if runs_ahead else self._in_step(method, source))
        if methods:
            streams.append(_in_numbers(streams[-1]))
        return _closing(streams)

    def fire(self, at: Firing[Values, Change], values: Values, step: StepInfo) -> list[Change]:
        """Call what fires at a moment, each on the changes of those before; return the changes, in order.

        Those that observe are handed a copy if they are due and idle. What is changed in place is the
        argument itself: one copy less. A fault may leave it half changed; no run goes on from there.
        After one that asks for another pass nothing else changes anything: it is called in that pass.

        Args:
            at: One of ``self.at``.
            values: What there is, by the names of arguments; where one is changed, its last value is put.
            step: Counters.
        """
        self._step = step.global_step
        arguments: Any = values
        changes: list[Change] = []
        asked = False
        for method in at.methods:
            if method.plugin.usage.state != "running":
                continue
            if method.observes:
                if method.is_due(step):
                    self._post(method, arguments, step)
                continue
            if asked:
                continue
            result = self._call(method, arguments, step)
            if result is None or method.changes is None:
                continue
            changes.append(result)
            if type(result) is AnotherPass:
                asked, self.asked_last = True, method
            else:
                arguments[method.changes] = method.kind.replace(arguments[method.changes], result)
        return changes

    # those that observe report when they are done

    def poll(self) -> None:
        """Collect what observers have finished, without waiting, and tell what plugins tried and printed."""
        self._tell_news()
        for plugin in self.observers:
            self._collect(plugin, plugin.poll)

    def drain(self) -> None:
        """Wait for monitors to finish what they hold, each for at most its deadline."""
        for plugin in self.observers:
            self._collect(plugin, plugin.drain)

    def asked(self) -> dict[str, str]:
        """Wait for those that may ask for something; return what they want after this step, and who does.

        So what becomes of a run does not depend on how long they take.
        """
        for plugin in self.askers:
            self._collect(plugin, plugin.drain)
        asked, self._asked = self._asked, {}
        return asked

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
        return self.states_of(self._running())

    def states_of(self, plugins: Iterable[Plugin]) -> dict[str, TensorFile]:
        """Return the states of some of the running plugins, as ``state_dict`` does; waits for no monitor."""
        states = {}
        for plugin in plugins:
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
        self._asked = {}
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
        self._find_who_fires()
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

    def _implementers(self) -> dict[str, list[Plugin]]:
        """Return hook to the running plugins that implement it, as pluggy knows them."""
        found: dict[str, list[Plugin]] = {}
        for hook in specs.HOOKS:
            implementations = getattr(self._manager.hook, hook.__name__).get_hookimpls()
            plugins = [implementation.plugin.plugin for implementation in implementations]
            found[hook.__name__] = [plugin for plugin in plugins if plugin.usage.state == "running"]
        return found

    def _find_who_fires(self) -> None:
        """Find out who fires when, as a plugin has come or gone."""
        self.at.let_fire(self._implementers())
        self.one_pass = all(method.plugin.one_pass for method in self.at.update.methods)
        self.observers = tuple(
            plugin for plugin in self._running() if plugin.spec.role_info.observes and plugin.accepts
        )
        self.askers = tuple(plugin for plugin in self.observers if plugin.spec.allow)
        shown = (*self.at.after_loss.methods, *self.at.after_update.methods)
        self.shows_metrics = any("metrics" in method.needs for method in shown)

    def _call(self, method: PluginMethod, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        plugin = method.plugin
        own = step.for_plugin(self.seed, plugin.spec.name)
        into = arguments[method.kind.measured_by] if method.in_place else None
        try:
            result = plugin.call(method.name, arguments, own, into)
        except PluginError as error:
            self._failed(plugin, error)
            return None
        if own.scalars or isinstance(result, Report):  # else most calls would make one more, for nothing
            self._reported(plugin, own, result)
        return result

    def _in_step(
        self, method: PluginMethod, batches: Iterable[tuple[Batch, StepInfo]]
    ) -> Iterator[tuple[Batch, StepInfo]]:
        for batch, step in batches:
            changed = None
            if method.plugin.usage.state == "running":
                if not method.observes:
                    changed = self._call(method, {"batch": batch}, step)
                elif method.is_due(step):
                    self._post(method, {"batch": batch}, step)
            yield (batch if changed is None or method.changes is None else changed), step

    def _stream(
        self, plugin: Plugin, batches: Iterable[tuple[Batch, StepInfo]]
    ) -> Iterator[tuple[Batch, StepInfo]]:
        return plugin.stream(
            batches,
            done=lambda step: self._reported(plugin, step, None),
            failed=lambda error: self._failed(plugin, error),
        )

    def _post(self, method: PluginMethod, arguments: Mapping[str, Any], step: StepInfo) -> None:
        plugin = method.plugin
        if "metrics" in method.needs:
            arguments = {**arguments, "metrics": self.metrics}
        try:
            if not plugin.post(method.name, arguments, step.for_plugin(self.seed, plugin.spec.name)):
                plugin.usage.skipped += 1
        except PluginError as error:
            self._failed(plugin, error)

    def _collect(self, plugin: Plugin, take: Callable[[], list[tuple[StepInfo, Any]]]) -> None:
        if plugin.usage.state != "running":
            return
        try:
            finished = take()
        except PluginError as error:
            self._failed(plugin, error)
            return
        for step, report in finished:
            for name in step.scalars:
                if name.startswith(ASKED):
                    self._ask(plugin.spec, name.removeprefix(ASKED))
            self._reported(plugin, step, report)

    def _ask(self, spec: PluginSpec, what: str) -> None:
        if what in spec.allow:
            self._asked.setdefault(what, spec.name)
            return
        # Once, whatever it is that nobody has heard of: a plugin may make up any number of names.
        key = spec.name, what if what in ASKS else ""
        if key in self._refused:
            return
        self._refused.add(key)
        why = f"which the job does not allow: 'allow: [{what}]' beside the plugin would"
        if what not in ASKS:
            why = f"which is none of {', '.join(ASKS)}"
        self._observer.event(f"plugin '{spec.name}' asks the run to {shorten(what, 60)}, {why}")

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
