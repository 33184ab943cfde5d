"""A role is a file: its name, its two hooks and its policy lie in it, and nothing else names it."""

import inspect
import sys
from pathlib import Path

import pytest

from ringfence.hooks import roles, specs

FOLDER = Path(roles.__file__).parent
PROBE = """\
from ..role import Method, Moment, Role, hookspec


@hookspec
def probe_forward(outputs, step): ...


@hookspec
def probe_backward(losses, step): ...


PROBE = Role(
    "probe",
    forward=Method(probe_forward, Moment.AFTER_LOSS),
    backward=Method(probe_backward, Moment.AFTER_STEP),
)
"""


def test_the_files_are_the_roles():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == set(specs.ROLES)


@pytest.mark.parametrize("role", specs.ROLES.values(), ids=lambda role: role.name)
def test_a_role_has_two_hooks_in_its_file_and_changes_what_they_are_given(role):
    for name, method in role.methods.items():
        assert method.hook.__name__ == f"{role.name}_{name}"
        assert method.hook.__module__ == f"{roles.__name__}.{role.name}"
        assert method.changes is None or method.changes in inspect.signature(method.hook).parameters


def test_a_file_more_is_a_role_more(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setattr(roles, "__path__", [*roles.__path__, str(tmp_path)])
    monkeypatch.setattr(roles, "probe", None, raising=False)  # what its import leaves goes with the test

    try:
        found = roles.find_roles()
    finally:
        sys.modules.pop(f"{roles.__name__}.probe", None)

    assert [role.name for role in found] == sorted([*specs.ROLES, "probe"])
