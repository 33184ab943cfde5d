"""States of plugins as they were before their last calls, so that a call that failed can be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..plugins.interface import Plugin
from ..plugins.manager import Hooks
from ..plugins.moments import Firing
from ..tensors.tensor_file import TensorFile


class SavedStates:
    """The states of plugins whose results depend on what they were called with before.

    Args:
        hooks: The plugins.

    Attributes:
        states: Plugin to its last state; one that had none is absent.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self.states: dict[str, TensorFile] = {}
        #: How often each had been called then.
        self._calls: dict[str, int] = {}

    def stateful(self, moments: Iterable[Firing[Any, Any]]) -> list[Plugin]:
        """Return the plugins that fire at some moments and whose next results depend on their calls."""
        found = {id(m.plugin): m.plugin for at in moments for m in at.methods if not m.observes}
        return [
            plugin
            for plugin in found.values()
            if plugin.usage.state == "running" and plugin.keeps_state and _is_bound_to_step(plugin)
        ]

    def save(self, plugins: Collection[Plugin]) -> None:
        """Save the states of those that were called since.

        Raises:
            PluginError: A plugin could not give its state, and may not be disabled.
        """
        called = [plugin for plugin in plugins if plugin.usage.calls != self._called(plugin)]
        if called:
            self.states |= self._hooks.states_of(called)
            self._calls |= {plugin.spec.name: plugin.usage.calls for plugin in called}

    def lacking(self, calls: Mapping[str, int]) -> list[str]:
        """Return the plugins, of those in ``calls``, that had been called since they were saved.

        Args:
            calls: Plugin to how often it had been called.
        """
        return [name for name, count in calls.items() if count != self._calls.get(name, 0)]

    def restore(self, names: Collection[str], *, but: str) -> None:
        """Bring plugins back to what was saved; those that had no state then start anew.

        Args:
            names: Which.
            but: Has just been started anew.

        Raises:
            PluginError: A plugin did not start, or did not take its state.
        """
        running = [plugin for plugin in self._hooks.plugins if plugin.usage.state == "running"]
        for plugin in running:
            name = plugin.spec.name
            if name in names and name != but and name not in self.states:
                plugin.restart()
        self._hooks.load_state_dict({name: state for name, state in self.states.items() if name in names})
        self._calls |= {
            plugin.spec.name: plugin.usage.calls for plugin in running if plugin.spec.name in names
        }

    def adopt(self, states: Mapping[str, TensorFile]) -> None:
        """Give plugins states that come from elsewhere; those without one that were called start anew."""
        every = [plugin for plugin in self._hooks.plugins if plugin.usage.state == "running"]
        self.states = dict(states)
        called = {plugin.spec.name for plugin in every if plugin.keeps_state and plugin.usage.calls}
        self.restore(called | states.keys(), but="")

    def _called(self, plugin: Plugin) -> int:
        return self._calls.get(plugin.spec.name, 0)


def _is_bound_to_step(plugin: Plugin) -> bool:
    """Tell whether a plugin runs in step with the loop: one that runs ahead depends on its batch alone."""
    return not plugin.spec.role_info.runs_ahead or "backward" in plugin.accepts
