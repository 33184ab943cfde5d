"""What a job names as module:function: the file beside the job is taken, and nobody else is given it."""

import importlib
import sys
import sysconfig
from pathlib import Path

import pytest

from ringfence import DataError, JobError
from ringfence.datasets.dataset_registry import check_data
from ringfence.job.user_code import load_function
from ringfence.models.model_registry import check_model

SOURCE = "def build():\n    return __file__\n"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder of a job; what is imported from it is forgotten."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = dict(sys.modules)
    yield tmp_path
    for name in sys.modules.keys() - before.keys():
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


#: Of the standard library, in memory or not; installed.
TAKEN = ("test", "code", "types", "random", "sys", "numpy", "pluggy")


@pytest.mark.parametrize("name", [*TAKEN, "a_name_of_its_own"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_the_module_beside_the_job_is_the_one_taken(base, name, file):
    path = base / file.format(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(SOURCE)

    assert load_function(f"{name}:build", base)() == str(path)


@pytest.mark.parametrize("name", TAKEN)
def test_whoever_else_imports_that_name_gets_the_other(base, name):
    (base / f"{name}.py").write_text(SOURCE)

    load_function(f"{name}:build", base)

    assert not hasattr(importlib.import_module(name), "build")


def test_a_module_inside_such_a_package_is_found_and_imports_its_neighbours(base):
    (base / "test").mkdir()
    (base / "test" / "__init__.py").touch()
    (base / "test" / "parts.py").write_text(SOURCE)
    (base / "test" / "net.py").write_text("from .parts import build\n")

    assert load_function("test.net:build", base)() == str(base / "test" / "parts.py")


def test_two_names_of_one_module_are_of_one_module(base):
    (base / "test.py").write_text("class Net: ...\nclass Data:\n    net = Net\n")

    assert load_function("test:Data", base).net is load_function("test:Net", base)


def test_two_jobs_have_a_module_of_one_name_each(base):
    for folder in ("one", "two"):
        (base / folder).mkdir()
        (base / folder / "mine_of_each.py").write_text(SOURCE)

    found = [load_function("mine_of_each:build", base / folder)() for folder in ("one", "two")]

    assert found == [str(base / folder / "mine_of_each.py") for folder in ("one", "two")]


def test_what_is_not_beside_the_job_is_what_is_installed(base):
    assert load_function("json:dumps", base) is importlib.import_module("json").dumps
    assert Path(load_function("pluggy:HookspecMarker", base).__init__.__code__.co_filename).is_relative_to(
        sysconfig.get_path("purelib")
    )


_LINE = "in <module>: 1 / 0"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "module 'test' has no 'build'; it is {}"),
        (
            "1 / 0",
            "module 'test' could not be imported: ZeroDivisionError: division by zero; at {}:1, " + _LINE,
        ),
    ],
)
def test_errors_name_the_file(base, source, told):
    (base / "test.py").write_text(source)

    with pytest.raises(ValueError, match="module 'test'") as caught:
        load_function("test:build", base)

    assert str(caught.value) == told.format(base / "test.py")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mymod:Nett", "module 'mymod' has no 'Nett'; it is {}; did you mean 'Net'?"),
        ("mymod:Net.forwrad", "module 'mymod' has no 'Net.forwrad'; it is {}; did you mean 'forward'?"),
        ("mymod:other", "module 'mymod' has no 'other'; it is {}"),
    ],
)
def test_a_slip_in_a_name_of_the_users_module_is_told_with_what_was_meant(base, name, told):
    (base / "mymod.py").write_text("constant = 1\nclass Net:\n    def forward(self): ...\n")
    with pytest.raises(ValueError, match="module 'mymod'") as caught:
        load_function(name, base)
    assert str(caught.value) == told.format(base / "mymod.py")


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("mymdo:Net", "packages; did you mean 'mymod'?"),
        ("mymod.py:Net", "mymod.py; did you mean 'mymod'?"),
        ("packge.net:Net", "packages; did you mean 'package.net'?"),
        ("another:Net", "packages"),
        ("package.other:Net", "__init__.py"),
        ("broken:Net", "import mymdo"),
    ],
)
def test_a_slip_in_the_name_of_a_module_is_told_with_the_one_beside_the_job(base, name, ends):
    (base / "mymod.py").write_text("")
    (base / "broken.py").write_text("import mymdo\n")
    (base / "package").mkdir()
    (base / "package" / "__init__.py").write_text("")
    (base / "package" / "net.py").write_text("")
    with pytest.raises(ValueError, match="could not be imported") as caught:
        load_function(name, base)
    assert str(caught.value).endswith(ends)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mymod.Net", "did you mean 'mymod:Net'? A colon stands before a name of your own module"),
        ("a.b.Net", "did you mean 'a.b:Net'? A colon stands before a name of your own module"),
        ("mymod.py", "of a file of your own name what builds it: 'mymod:function'"),
        ("cnm", "did you mean 'cnn'? (your own: module:function)"),
    ],
)
def test_a_dot_where_a_colon_is_asked_is_told_with_the_name_as_it_is_written(name, advice):
    with pytest.raises(JobError) as caught:
        check_model(name, {})
    assert str(caught.value) == f"model '{name}' is unknown; {advice}"
    with pytest.raises(DataError, match=r"is unknown; .*:"):
        check_data(name, {})


def test_a_module_that_is_nowhere_is_told_with_where_it_was_looked_for(base):
    with pytest.raises(ValueError, match=f"looked in {base} and the installed packages"):
        load_function("nowhere_at_all:build", base)
