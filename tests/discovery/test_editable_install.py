"""A .pth file passes for one of an editable install only if it is, word for word, what a backend writes."""

import importlib.util
from pathlib import Path

import pytest
from setuptools.command import editable_wheel

from ringfence.discovery.editable_install import is_of_an_editable_install
from ringfence.discovery.installed_layout import read_small

NAME = "__editable___acme_1_0_finder"
HOOK = f"import {NAME}; {NAME}.install()"
IMPL = "_editable_impl_acme"
REDIRECTOR = (
    "from editables.redirector import RedirectingFinder as F\nF.install()\nF.map_module('acme', '{}')"
)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project" / "src").mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def judge(tmp_path, project):
    def judge(text, **files):
        pth = tmp_path / "_acme.pth"
        pth.write_bytes(text.encode())
        for name, code in files.items():
            (tmp_path / f"{name}.py").write_bytes(code.encode())
        return is_of_an_editable_install(pth, project, read_small)

    return judge


def finder(mapping="{{'acme': '{}'}}"):
    """Return the hook that the setuptools writes which is installed here."""
    return editable_wheel._finder_template("__editable__.acme-1.0.finder", {"a": "b"}, {}).replace(
        "{'a': 'b'}", mapping
    )


def test_what_setuptools_writes_passes(judge, project):
    assert "MAPPING" in finder()
    assert judge(HOOK, **{NAME: finder(repr({"acme": str(project)}))})


def test_what_editables_writes_passes(judge, project):
    assert judge(f"import {IMPL}\n", **{IMPL: REDIRECTOR.format(project)})


@pytest.mark.parametrize("text", ["{}\n", "{}/src", "# why\n\n{}/src\n"])
def test_folders_of_the_project_pass(judge, project, text):
    assert judge(text.format(project))


FORGED = {
    "code": "import os; os.system('x')",
    "code after a folder": "{}\nimport acme",
    "code after a carriage return": "{}\rimport acme",
    "code with a tab": "import\tacme",
    "a folder of another": "/usr/lib",
    "a folder beside it": "acme_more",
    "out of the project": "{}/../more",
    "a hook and more": f"{HOOK}; import acme",
    "a hook that is not there": HOOK,
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_only_looks_like_it_does_not_pass(judge, project, forged):
    assert not judge(FORGED[forged].format(project))


HOOKS = {
    "code at its end": lambda: f"{finder()}\nimport acme\n",
    "code in a value": lambda: finder("run()"),
    "code after a value": lambda: finder("{}; run()"),
    "code in an annotation": lambda: finder().replace("MAPPING: dict[str, str]", "MAPPING: run()"),
    "another body": lambda: finder().replace("return None", "return run()", 1),
    "a value that nests too deep": lambda: finder(f"{'-' * 9000}1"),
    "anything": lambda: "import acme\n",
}


@pytest.mark.parametrize("forged", HOOKS)
def test_a_hook_with_code_of_its_own_does_not_pass(judge, forged):
    assert not judge(HOOK, **{NAME: HOOKS[forged]()})


@pytest.mark.parametrize("more", ["import acme\n", "F.map_module('a', run())\n"])
def test_a_redirector_with_code_of_its_own_does_not_pass(judge, project, more):
    assert not judge(f"import {IMPL}", **{IMPL: f"{REDIRECTOR.format(project)}\n{more}"})


def test_the_hook_is_the_one_that_this_project_is_installed_by():
    """Should setuptools change its hook, this is where it shows first."""
    spec = importlib.util.find_spec("ringfence")
    if spec is None or Path(spec.origin).parent.name == "ringfence":
        pytest.skip("it is not installed as an editable project")
    (pth,) = Path(pytest.__file__).parents[1].glob("__editable__.ringfence*.pth")

    assert is_of_an_editable_install(pth, Path(spec.origin).parents[1], read_small)


@pytest.mark.parametrize(("name", "text"), [(NAME, HOOK), (IMPL, f"import {IMPL}")])
def test_a_hook_beside_which_python_takes_other_code_does_not_pass(judge, project, tmp_path, name, text):
    genuine = finder(repr({"acme": str(project)})) if name == NAME else REDIRECTOR.format(project)
    assert judge(text, **{name: genuine})

    (tmp_path / "__pycache__").mkdir()
    compiled = Path(importlib.util.cache_from_source(str(tmp_path / f"{name}.py")))
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + bytes(12))
    assert judge(text, **{name: genuine})  # as pip compiles it: Python looks at the source
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + bytes(8))
    assert not judge(text, **{name: genuine})
    compiled.unlink()

    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("import os")
    assert not judge(text, **{name: genuine})
