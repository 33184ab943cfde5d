"""A role is a file: its name, its two hooks and its policy lie in it, and nothing else names it."""

import inspect
from pathlib import Path

import pytest

from ringfence.hooks import roles, specs

FOLDER = Path(roles.__file__).parent


def test_the_files_are_the_roles():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == set(specs.ROLES)


@pytest.mark.parametrize("role", specs.ROLES.values(), ids=lambda role: role.name)
def test_a_role_has_two_hooks_in_its_file_and_changes_what_they_are_given(role):
    for name, method in role.methods.items():
        assert method.hook.__name__ == f"{role.name}_{name}"
        assert method.hook.__module__ == f"{roles.__name__}.{role.name}"
        assert method.changes is None or method.changes in inspect.signature(method.hook).parameters
