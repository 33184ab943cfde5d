"""Public names: none is a room's, each is there at once and stays what it is."""

import importlib
import pkgutil

import pytest

import ringfence

#: Names that stand for what they hold, and not for something to call.
VALUES = {"__version__"}


def submodules():
    """Yield the names of all modules of the core and of the builtin plugins."""
    for found in pkgutil.walk_packages(ringfence.__path__, "ringfence."):
        if not found.name.endswith(".__main__") and "._template" not in found.name:
            yield found.name


def import_all():
    """Import every submodule; return those that need an extra which is not installed."""
    missing = []
    for name in submodules():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("ringfence"):
                raise
            missing.append(name)
    return missing


def test_every_public_name_is_what_it_was_once_every_submodule_is_imported():
    before = {name: getattr(ringfence, name) for name in ringfence.__all__}

    missing = import_all()

    assert sum(1 for _ in submodules()) - len(missing) > 250
    assert {name: getattr(ringfence, name) for name in ringfence.__all__} == before
    assert [name for name, value in before.items() if not callable(value) and name not in VALUES] == []


def test_a_function_with_the_name_of_a_room_would_be_hidden(monkeypatch):
    """The control: importing a room puts the module in the function's place."""
    monkeypatch.setattr(ringfence, "report", print, raising=False)
    monkeypatch.delitem(__import__("sys").modules, "ringfence.report", raising=False)

    importlib.import_module("ringfence.report")

    assert ringfence.report is not print


def test_the_names_are_sorted_and_each_can_be_had_and_is_listed():
    assert ringfence.__all__ == sorted(ringfence.__all__)
    assert set(ringfence.__all__) <= set(dir(ringfence))
    with pytest.raises(AttributeError, match="has no attribute 'run_everything'"):
        _ = ringfence.run_everything
