"""Adapt plugins to pluggy: functions that take a plugin's arguments, and do nothing."""

from __future__ import annotations

import types
from collections.abc import Callable

from ..hooks.role import hookimpl
from .interface import Plugin


class Registered:
    """The stand-in for one plugin in pluggy: an attribute for each hook that it implements."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin


def implementations(plugin: Plugin) -> Registered:
    """Return what pluggy registers for ``plugin``."""
    registered = Registered(plugin)
    for method, arguments in plugin.accepts.items():
        hook = f"{plugin.spec.role}_{method}"
        setattr(registered, hook, hookimpl(declaration(hook, arguments)))
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
