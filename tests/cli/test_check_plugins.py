"""``ringfence plugins check PATH``: projects and wheels that are not installed, and what it says of them."""

import contextlib
import json
import os
import re
import stat
import sys
import time
import zipfile
from pathlib import Path

import pytest

from ringfence.cli.check_plugins import judge_plugins
from ringfence.discovery.catalog import check_found, source_of
from ringfence.discovery.project import is_path, plugins_at
from ringfence.hooks.errors import JobError
from ringfence.isolation.sandbox import Sandbox
from ringfence.version import __version__

PLUGIN = """
from ringfence import passthrough


class {name}:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        {body}
"""
PYPROJECT = """
[project]
name = "acme-clip"
version = "0.3.0"
dependencies = ["ringfence>=0.1", "annotated-types>=0.6"]

[project.entry-points."ringfence.plugins"]
clip = "acme_clip:Clip"
"""
METADATA = """\
Metadata-Version: 2.1
Name: acme-clip
Version: 0.3.0
Requires-Dist: ringfence>=0.1
"""
POINTS = "[ringfence.plugins]\nclip = acme_clip:Clip\n"
INFO = "acme_clip-0.3.0.dist-info"

pytestmark = pytest.mark.usefixtures("one_sandbox")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def one_sandbox(request, monkeypatch):
    """Load in one sandbox whatever is loaded, as each takes seconds to start; it is started for the first."""

    def share(**_):
        return contextlib.nullcontext(request.getfixturevalue("sandbox"))

    # In this order: the second is where the first imports it from.
    for where in ("run.plugin_sandbox", "isolation.sandbox"):
        monkeypatch.setattr(f"ringfence.{where}.Sandbox", share)


def plugin(name="Clip", body="return None"):
    return PLUGIN.format(name=name, body=body)


@pytest.fixture
def project(tmp_path):
    """Return a function that writes a project: what differs from one with a package in ``src``."""

    def write(pyproject=PYPROJECT, files=None, package="src/acme_clip/__init__.py"):
        folder = tmp_path / "acme-clip"
        for name, text in {"pyproject.toml": pyproject, package: plugin(), **(files or {})}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return write


@pytest.fixture
def wheel(tmp_path):
    """Return a function that writes a wheel: what differs from one with a single module."""

    def write(files=None, *, metadata=METADATA, points=POINTS):
        path = tmp_path / "acme_clip-0.3.0-py3-none-any.whl"
        usual = {
            "acme_clip.py": plugin(),
            f"{INFO}/METADATA": metadata,
            f"{INFO}/entry_points.txt": points,
            f"{INFO}/RECORD": "",
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in {**usual, **(files or {})}.items():
                archive.writestr(name, text)
        return path

    return write


def judged(path):
    """Return name to verdict, without loading anything."""
    with plugins_at(path) as there:
        return {found.name: there.told(check_found(found, source_of(found))) for found in there.plugins}


def rules(verdict):
    return [finding.rule for finding in verdict.findings if not finding.rule.startswith("I-")]


def refused(path):
    with pytest.raises(JobError) as caught, plugins_at(path):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gradclip", False),
        ("acme.clip", False),
        ("./gradclip", True),
        (".", True),
        ("..", True),
        ("a/b", True),
        ("acme-1.0-py3-none-any.whl", True),
    ],
)
def test_what_has_a_slash_or_is_a_wheel_is_a_path(text, expected):
    assert is_path(text) is expected


# Projects.


@pytest.mark.parametrize(
    ("package", "tool"),
    [
        ("src/acme_clip/__init__.py", ""),
        ("src/acme_clip.py", ""),
        ("acme_clip/__init__.py", ""),
        ("acme_clip.py", ""),
        ("lib/acme_clip/__init__.py", '[tool.setuptools.packages.find]\nwhere = ["lib"]\n'),
        ("lib/acme_clip.py", '[tool.setuptools]\npackage-dir = {"" = "lib"}\n'),
    ],
)
def test_a_project_is_read_where_its_code_lies(project, package, tool):
    folder = project(PYPROJECT + tool, package=package)

    (verdict,) = judged(folder).values()

    assert verdict.decision == "accepted", verdict.message()
    assert (verdict.distribution, verdict.version) == ("acme-clip", "0.3.0")
    assert verdict.declared == "ringfence>=0.1"


def test_a_pyproject_may_be_named_instead_of_its_folder(project):
    assert judged(project() / "pyproject.toml")["clip"].decision == "accepted"


def test_only_the_package_is_opened_to_the_sandbox(project):
    folder = project(files={"secret.txt": "a key"})

    with plugins_at(folder) as there:
        (found,) = there.plugins

    assert found.place.readable == (str(folder.resolve() / "src" / "acme_clip"),)


def test_all_plugins_of_a_project_are_judged(project):
    files = {"src/acme_clip/more.py": plugin("Late", "return step.nothing")}

    verdicts = judged(project(f'{PYPROJECT}late = "acme_clip.more:Late"\n', files))

    assert {name: verdict.decision for name, verdict in verdicts.items()} == {
        "clip": "accepted",
        "late": "refused",
    }
    (finding,) = [finding for finding in verdicts["late"].findings if finding.rule == "E-ATTR"]
    assert finding.where == "src/acme_clip/more.py:10"
    assert finding.series
    assert "getattr" in finding.advice


def test_an_entry_point_to_nowhere_is_told(project):
    verdicts = judged(project(PYPROJECT.replace("acme_clip:Clip", "acme_clap:Clip")))

    assert rules(verdicts["clip"]) == ["U-SOURCE"]
    assert "no source file of module acme_clap was found" in verdicts["clip"].message()


def test_a_version_that_the_build_works_out_does_not_matter(project):
    told = PYPROJECT.replace('version = "0.3.0"', 'dynamic = ["version"]')

    assert judged(project(told))["clip"].version == "unbuilt"


@pytest.mark.parametrize(
    ("pyproject", "says"),
    [
        (
            PYPROJECT.replace("[project]", '[project]\ndynamic = ["dependencies"]'),
            "leaves dependencies to its build",
        ),
        (PYPROJECT.replace("[project]", "[tool.poetry]"), "cannot be read|has no table"),
        ("[build-system]\nrequires = []\n", "has no table [project]; build a wheel"),
        ("[project]\nname = 'acme'\nversion = '1'\n", "it declares no plugin; write one into"),
        ("[project\n", "cannot be read"),
        ("[project]\nversion = '1'\n", "cannot be read"),
        (
            PYPROJECT.replace('name = "acme-clip"', "name = 3"),
            "Expected `str`, got `int` - at `$.project.name`",
        ),
        (PYPROJECT.replace("acme-clip", "acme clip"), "mend its [project] table"),
        (PYPROJECT.replace('"acme-clip"', '"acme\\nRequires-Dist: x"'), "holds a line end"),
        (PYPROJECT.replace("clip =", '"clip\\n[torch.backends]" ='), "is no name"),
        (PYPROJECT.replace("acme_clip:Clip", "acme_clip"), "not as 'module:Class'"),
        (PYPROJECT.replace('"acme-clip"', '"ringfence"'), "it is ringfence itself"),
    ],
)
def test_a_project_that_cannot_be_read_says_why(project, pyproject, says):
    message = refused(project(pyproject))

    assert "acme-clip" in message
    assert any(part in message for part in says.split("|")), message
    assert "Traceback" not in message


_LONG = ".".join(["a"] * 50_000)
_SETUPTOOLS = f"{PYPROJECT}[tool.setuptools.package-dir]\n"


@pytest.mark.parametrize(
    ("pyproject", "says"),
    [
        (f"{_LONG} = 1\n{PYPROJECT}", "the key a.a.a."),
        (f"[{_LONG}]\n{PYPROJECT}", "has more than 32 parts"),
        (f"x = {{{_LONG} = 1}}\n{PYPROJECT}", "has more than 32 parts"),
        (f"{_LONG.replace('.', ' . ')} = 1\n{PYPROJECT}", "has more than 32 parts"),
        (".".join(['"\\""', "'b'"] * 5000) + f" = 1\n{PYPROJECT}", "has more than 32 parts"),
        (f'x = {{y = """\n""", {_LONG} = "v"}}\n', "has more than 32 parts"),
        (f'x = """a""""\n{_LONG} = 1\n', "has more than 32 parts"),
        (f"# it's\n{_LONG} = 1\n", "has more than 32 parts"),
        (f"x = 'it\n{_LONG} = 1\n", "cannot be read: Expected"),
        (f"{PYPROJECT}# {'x' * 2**18}\n", "pyproject.toml is longer than 262144 bytes"),
        (
            f"{PYPROJECT}[tool.setuptools.packages.find]\nwhere = {['d'] * 20_000}\n",
            "at most 32 are looked at",
        ),
        (f'{_SETUPTOOLS}"" = "a\\u0000b"\n', "is no folder"),
        (f'{_SETUPTOOLS}"" = "{"a/" * 5000}"\n', "is no folder"),
    ],
    ids=range(13),
)
def test_a_project_that_would_take_long_to_read_is_refused_at_once(project, pyproject, says):
    began = time.thread_time()

    message = refused(project(pyproject))

    assert says in message
    assert len(message) < 500
    assert time.thread_time() - began < 5


def test_what_is_no_key_may_have_any_number_of_dots(project):
    words = f"one.two.{_LONG[:2000]}"
    told = f'{PYPROJECT}# {words}\n[tool.x]\na = "{words}"\nb = \'{words}\'\nc = """\n{words}"""\n'

    assert judged(project(told))["clip"].decision == "accepted"


def test_what_is_no_project_says_so(tmp_path):
    assert "has no pyproject.toml: build a wheel" in refused(tmp_path)
    assert "is not there; name a folder" in refused(tmp_path / "nowhere")
    (tmp_path / "setup.py").touch()
    assert "setup.py and setup.cfg are not read: build a wheel" in refused(tmp_path)
    assert "is neither a folder with pyproject.toml nor a wheel" in refused(tmp_path / "setup.py")


def test_code_that_a_link_leads_out_to_is_not_opened(project, tmp_path):
    folder = project(package="src/other.py")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "__init__.py").write_text(plugin())
    (folder / "src" / "acme_clip").symlink_to(outside)

    with plugins_at(folder) as there:
        (found,) = there.plugins
        verdict = check_found(found, source_of(found))

    assert found.place.readable == ()
    assert rules(verdict) == ["E-PLACE", "U-SOURCE"]
    assert "is a link out of the project" in verdict.message()
    assert source_of(found).files == ()


def test_a_file_that_a_link_leads_out_to_is_not_read(project, tmp_path):
    """Of what lies outside, not even whether it is Python is told."""
    (tmp_path / "secret").write_text("not Python:")
    folder = project(files={"src/acme_clip/__init__.py": f"from . import inner\n{plugin()}"})
    (folder / "src" / "acme_clip" / "inner.py").symlink_to(tmp_path / "secret")

    verdict = judged(folder)["clip"]

    assert rules(verdict) == ["U-NAMES"]
    assert "inner.py  it is a link out of the project" in verdict.message()
    assert "invalid syntax" not in verdict.message()


def test_a_pyproject_that_is_a_link_out_of_the_project_is_not_read(project, tmp_path):
    folder = project()
    (folder / "pyproject.toml").rename(tmp_path / "elsewhere.toml")
    (folder / "pyproject.toml").symlink_to(tmp_path / "elsewhere.toml")

    assert "is a link out of the project" in refused(folder)


_BESIDE = {"acme_more.py": "def reads(step):\n    return step.nothing\n"}
_USES = "import acme_more\n" + plugin(body="return acme_more.reads(step)")
_MODULES = '[tool.setuptools]\npy-modules = ["acme_clip", "acme_more"]\n'
_PACKAGES = '[tool.setuptools]\npackages = ["acme_clip", "acme_more"]\n'
_FIND = '[tool.setuptools.packages.find]\ninclude = ["acme*"]\nexclude = ["acme_not"]\n'


@pytest.mark.room
@pytest.mark.parametrize(
    ("entry", "beside", "tool"),
    [
        ("acme_clip.py", "acme_more.py", _MODULES),
        ("acme_clip/__init__.py", "acme_more/__init__.py", _PACKAGES),
        ("acme_clip/__init__.py", "acme_more/__init__.py", _FIND),
        ("src/acme_clip/__init__.py", "src/acme_more/__init__.py", ""),
        ("src/acme_clip/__init__.py", "src/acme_more.py", ""),
        ("lib/acme_clip.py", "lib/acme_more.py", '[tool.setuptools]\npackage-dir = {"" = "lib"}\n'),
    ],
)
def test_what_a_project_installs_beside_its_plugin_is_read_and_loaded(project, entry, beside, tool):
    files = {entry: _USES, beside: "def reads(step):\n    return None\n", "acme_not/__init__.py": ""}
    folder = project(PYPROJECT + tool, files, package=entry)

    (verdict,) = judge_plugins(str(folder))
    assert verdict.decision == "accepted", verdict.message()

    (folder / beside).write_text("def reads(step):\n    return step.nothing\n")
    (finding,) = [f for f in judged(folder)["clip"].findings if f.rule == "E-ATTR"]
    assert finding.where.endswith(f"{Path(beside).name}:2")


def test_what_a_project_does_not_install_is_not_opened(project):
    files = {"acme_not/__init__.py": "", "tests/__init__.py": "", "acme_clip/__init__.py": plugin()}
    folder = project(PYPROJECT + _FIND, files, package="acme_clip/__init__.py")

    with plugins_at(folder) as there:
        (found,) = there.plugins

    assert found.place.readable == (str(folder.resolve() / "acme_clip"),)


def test_parts_of_one_namespace_are_opened_each_for_itself(project):
    points = PYPROJECT.replace("acme_clip:Clip", "acme.clip:Clip")
    files = {"src/acme/more.py": "", "src/acme/notes.txt": "", "src/acme/deep/part/__init__.py": ""}
    files["src/acme/clip/__init__.py"] = f"import acme.more, acme.deep.part\n{plugin()}"
    folder = project(points, files, package="src/acme/clip/__init__.py")

    (verdict,) = judge_plugins(str(folder))

    assert verdict.decision == "accepted", verdict.message()


# Wheels.


def test_a_wheel_is_read_from_its_archive_and_leaves_nothing(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    verdict = judged(wheel({"acme_clip.py": plugin(body="return step.nothing")}))["clip"]

    (finding,) = [finding for finding in verdict.findings if finding.rule == "E-ATTR"]
    assert finding.where.endswith("acme_clip-0.3.0-py3-none-any.whl/acme_clip.py:10")
    assert finding.path == tmp_path / "acme_clip-0.3.0-py3-none-any.whl" / "acme_clip.py"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_wheel_installs_beside_its_plugin_is_read_and_loaded(wheel):
    (verdict,) = judge_plugins(str(wheel({"acme_clip.py": _USES, "acme_more.py": "def reads(step): ...\n"})))
    assert verdict.decision == "accepted", verdict.message()

    assert "E-ATTR" in rules(judged(wheel({"acme_clip.py": _USES, **_BESIDE}))["clip"])


def test_what_a_wheel_calls_its_own_does_not_hide_what_it_uses_of_ringfence(wheel):
    files = {"acme_clip.py": f"from ringfence import nothing\n{plugin()}", "ringfence/__init__.py": ""}

    assert "E-NAME" in rules(judged(wheel(files))["clip"])


def test_a_wheel_may_keep_its_packages_in_its_data(wheel):
    path = wheel(
        {"acme_clip.py": "", "acme_clip-0.3.0.data/purelib/acme_more.py": plugin()},
        points=POINTS.replace("acme_clip:", "acme_more:"),
    )

    assert judged(path)["clip"].decision == "accepted"


@pytest.mark.parametrize(
    "name",
    [
        "acme.pth",
        "sitecustomize.py",
        "acme_clip-0.3.0.data/purelib/acme.pth",
        "acme_clip-0.3.0.data/data/lib/python3.11/site-packages/acme.pth",
    ],
)
def test_a_wheel_with_code_for_every_start_of_python_is_refused(wheel, name):
    """Its own list of files does not tell of it."""
    verdict = judged(wheel({name: "import acme_start\n"}))["clip"]

    assert rules(verdict) == ["E-STARTUP"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("acme_clip-0.3.0.data/scripts/opt_einsum.py", "bin/opt_einsum.py"),
        ("acme_clip-0.3.0.data/scripts/uuid/__init__.py", "bin/uuid/__init__.py"),
        ("acme_clip-0.3.0.data/data/lib/python3.11/opt_einsum.py", "opt_einsum.py"),
        ("acme_clip-0.3.0.data/data/lib/python3.11/lib-dynload/gmpy2.abi3.so", "lib-dynload/gmpy2.abi3.so"),
        ("acme_clip-0.3.0.data/data/lib/libstdc++.so.6", "libstdc++.so.6"),
        ("acme_clip-0.3.0.data/data/lib/python3.11/site-packages/gmpy2.py", "site-packages/gmpy2.py"),
    ],
)
def test_a_wheel_with_code_outside_the_packages_is_refused(wheel, name, told):
    verdict = judged(wheel({name: ""}))["clip"]

    assert rules(verdict) == ["E-STARTUP"]
    assert f"{told}, outside the packages" in verdict.message()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("data/lib/python311.zip", "python311.zip, outside the packages"),
        ("data/lib/python3.11/lib2to3/Grammar.pickle", "Grammar.pickle, outside the packages"),
        ("data/pyvenv.cfg", "pyvenv.cfg, outside the packages"),
        ("scripts/acme", "bin/acme, outside the packages"),
        ("data/bin/uname", "bin/uname, outside the packages"),
        ("purelib/ringfence/autoload/__init__.py", "'ringfence', a package of others"),
        ("data/lib/python/site-packages/ringfence/notes.txt", "'ringfence', a package of others"),
        ("purelib/ringfence.py", "'ringfence', a package of others"),
        ("platlib/torch/_rocm_init.py", "'torch', a package of others"),
        ("purelib/cv2/config.py", "'cv2', a package of others"),
        ("purelib/torch/__init__.py", "torch/__init__.py, which is a file of 'torch'"),
    ],
)
def test_a_wheel_with_what_python_or_a_shell_or_others_find_is_refused(wheel, name, told):
    verdict = judged(wheel({"acme_clip.py": plugin(), f"acme_clip-0.3.0.data/{name}": ""}))["clip"]

    assert set(rules(verdict)) == {"E-STARTUP"}
    assert told in verdict.message()


@pytest.mark.parametrize(
    "name", ["data/share/acme/example.py", "data/etc/acme.conf", "data/LICENSE", "purelib/acme_more/x.txt"]
)
def test_a_wheel_may_bring_data(wheel, name):
    path = wheel({"acme_clip.py": plugin(), f"acme_clip-0.3.0.data/{name}": ""})

    assert judged(path)["clip"].decision == "accepted"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("acme-show", ""),
        ("clang-0", "installs the program 'clang-0', whose name is that of another program"),
        ("sysinfo", "installs the program 'sysinfo', which is found before"),
        ("torchrun", "bin/torchrun, which is a file of 'torch'"),
    ],
)
def test_a_program_is_refused_where_it_takes_the_place_of_another(
    wheel, project, tmp_path, monkeypatch, program, told
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sysinfo").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "sysinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    paths = (
        wheel(points=f"{POINTS}[console_scripts]\n{program} = acme_clip:main\n"),
        project(f'{PYPROJECT}[project.scripts]\n{program} = "acme_clip:main"\n'),
    )
    for path in paths:
        verdict = judged(path)["clip"]

        assert rules(verdict) == (["E-STARTUP"] * len(rules(verdict)) if told else [])
        assert told in verdict.message()


def test_a_project_with_a_package_of_ringfences_is_refused(project):
    verdict = judged(project(files={"src/ringfence/autoload/__init__.py": ""}))["clip"]

    assert rules(verdict) == ["E-STARTUP"]
    assert "'ringfence', a package of others" in verdict.message()


def test_what_an_earlier_version_has_installed_is_not_of_others(wheel, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "acme_more").mkdir(parents=True)
    (site / "acme_more" / "__init__.py").touch()
    (site / "acme_clip-0.2.0.dist-info").mkdir()
    (site / "acme_clip-0.2.0.dist-info" / "RECORD").write_text("acme_clip.py,,\nacme_more/__init__.py,,\n")
    monkeypatch.setattr("ringfence.discovery.installed_layout._site_folders", lambda: {site})

    path = wheel({"acme_clip.py": plugin(), "acme_more/__init__.py": ""})

    assert judged(path)["clip"].decision == "accepted"


@pytest.mark.parametrize(
    "name", ["other-1.0.DIST-INFO", "other.egg-info", "acme_clip-0.3.0.data/purelib/o-1.dist-info"]
)
def test_a_wheel_with_metadata_of_another_distribution_is_refused(wheel, name):
    assert "has 2 folders of metadata; a wheel has one" in refused(wheel({f"{name}/entry_points.txt": ""}))


def test_a_wheel_with_entry_points_that_others_load_is_refused(wheel):
    points = f"{POINTS}[torch.backends]\nacme = acme_clip:start\n"

    assert rules(judged(wheel(points=points))["clip"]) == ["E-STARTUP"]


@pytest.mark.parametrize(
    "name",
    ["../outside.py", "/outside.py", "a/../../outside.py", "a\\..\\outside.py"],
)
def test_a_wheel_whose_names_leave_it_is_refused_before_anything_is_written(wheel, tmp_path, name):
    message = refused(wheel({name: ""}))

    assert "which is no plain file in it; build it anew" in message
    assert not list(tmp_path.rglob("outside.py"))


def test_a_link_in_a_wheel_is_refused(wheel):
    info = zipfile.ZipInfo("acme_link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16

    assert "which is no plain file" in refused(wheel({info: "/etc/passwd"}))


def test_a_wheel_that_is_too_large_is_refused(wheel, monkeypatch):
    monkeypatch.setattr("ringfence.discovery.wheel.MAX_BYTES", 1000)

    message = refused(wheel({"weights.bin": "0" * 2000}))

    assert "check the plugin by its name" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(b"no archive"), "cannot be read as a wheel"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be read as a wheel"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"METADATA", b"METADATB")),
            "damaged metadata",
        ),
    ],
    ids=["no-archive", "cut", "no-metadata"],
)
def test_a_damaged_wheel_is_told(wheel, change, says):
    path = wheel()
    change(path)

    assert says in refused(path)


def test_a_wheel_without_a_plugin_is_told(wheel):
    assert "it declares no plugin" in refused(wheel(points="[console_scripts]\na = b:c\n"))


def test_two_folders_of_metadata_are_told(wheel):
    assert "has 2 folders of metadata" in refused(wheel({"other-1.dist-info/METADATA": METADATA}))


# Loading.


def test_nothing_of_it_runs_outside_the_sandbox(project, tmp_path):
    """Its import would leave a file, and its constructor another; the sandbox can write neither."""
    marks = f"open({str(tmp_path / 'imported')!r}, 'w')"
    text = f"try:\n    {marks}\nexcept OSError:\n    pass\n{plugin()}"
    folder = project(files={"src/acme_clip/__init__.py": text})

    (verdict,) = judge_plugins(str(folder))

    assert verdict.decision == "accepted", verdict.message()
    assert not (tmp_path / "imported").exists()
    assert "acme_clip" not in sys.modules
    assert not list(folder.rglob("__pycache__"))


def test_each_plugin_of_a_path_is_loaded_and_one_that_fails_hides_none(project, wheel, ringfence):
    """What raises, what its decorator hides, what needs an option, what fits."""
    files = {
        "src/acme_clip/raises.py": "import no_such_library\n" + plugin("Raises"),
        "src/acme_clip/hides.py": "def odd(f):\n    return lambda self, gradients, surprise: None\n"
        + plugin("Hides").replace("    def backward", "    @odd\n    def backward"),
        "src/acme_clip/asks.py": plugin("Asks") + "\n    def __init__(self, factor):\n        pass\n",
    }
    points = "".join(f'{name} = "acme_clip.{name}:{name.title()}"\n' for name in ("raises", "hides", "asks"))
    folder = project(PYPROJECT + points, files)

    done = ringfence("plugins", "check", folder, "--json")

    assert done.status == 2, done.err
    assert done.err == ("starting 'clip', 1 of 3\nstarting 'hides', 2 of 3\nstarting 'raises', 3 of 3\n"), (
        "one after the other, as they come"
    )
    told = {verdict["plugin"]: verdict for verdict in json.loads(done.out)}
    found = {name: [finding["rule"] for finding in verdict["findings"]] for name, verdict in told.items()}
    assert told["clip"]["decision"] == "accepted"
    assert "E-LOAD" in found["raises"]
    assert "E-LOADED" in found["hides"]
    assert "I-NOT-LOADED" in found["asks"]
    (failed,) = [finding for finding in told["raises"]["findings"] if finding["rule"] == "E-LOAD"]
    assert "No module named 'no_such_library'" in failed["text"]
    assert failed["path"].endswith("acme_clip/raises.py")
    assert failed["line"] == 1


def test_a_wheel_is_checked_by_the_command_in_sandboxes_of_its_own(wheel, ringfence, monkeypatch):
    monkeypatch.undo()

    done = ringfence("plugins", "check", wheel())

    assert done.status == 0, done.err + done.out
    assert "OK  plugin 'clip' (acme-clip 0.3.0)" in done.out
    assert "I-REPLAYED" in done.out


NEEDY = {
    "src/acme_clip/__init__.py": plugin().replace(
        "    def backward",
        "    def __init__(self, norm: float) -> None:\n        1 / norm\n\n    def backward",
    )
}


def test_options_are_given_to_a_plugin_that_needs_them(project, ringfence):
    folder = project(files=NEEDY)

    without = ringfence("plugins", "check", folder)
    given = ringfence("plugins", "check", folder, "--set", "norm=0.5")
    failing = ringfence("plugins", "check", folder, "--set", "norm=0")

    assert without.out.startswith("OK, not loaded  plugin 'clip'")
    assert "it needs a value for norm (--set KEY=VALUE)" in without.out
    assert given.out.startswith("OK  plugin 'clip'")
    assert "I-REPLAYED" in given.out
    assert "E-LOAD" in failing.out
    assert "division by zero" in failing.out


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["norm"], "--set norm: 'norm' is not KEY=VALUE"),
        (["norm=wide"], "--set norm: "),
        (["norms=1"], "--set norms: unknown option"),
        (["norm=1", "norm.inner=1"], "--set norm.inner=1: 'norm' is 1, which has no 'inner'"),
    ],
)
def test_options_that_are_wrong_are_told_with_the_flag(project, ringfence, sets, says):
    flags = [part for text in sets for part in ("--set", text)]

    done = ringfence("plugins", "check", project(files=NEEDY), *flags)

    assert done.status == 2
    assert says in done.err


def test_options_are_for_one_plugin(project, ringfence):
    two = f'{PYPROJECT}clop = "acme_clip:Clip"\n'

    done = ringfence("plugins", "check", project(two, NEEDY), "--set", "norm=1")

    assert done.status == 2
    assert "holds 2 (clip, clop): install it, and check each by its name" in done.err


def test_who_has_the_code_at_hand_is_told_as_its_author(project, ringfence):
    done = ringfence("plugins", "check", project(PYPROJECT.replace("ringfence>=0.1", "ringfence")))

    assert done.status == 2
    assert "plugin author:   declare ringfence>=" in done.out
    assert "you: " not in done.out


@pytest.mark.parametrize("name", ["gradclip", "optim"])
def test_a_name_that_an_installed_plugin_has_is_refused(project, name):
    """Installed side by side, neither could be used."""
    (verdict,) = judge_plugins(str(project(PYPROJECT.replace("clip =", f"{name} ="))))

    assert rules(verdict) == ["E-TAKEN"]
    assert f"'{name}' is the name of a plugin of ringfence too" in verdict.message()
    assert "give the plugin another name" in verdict.message()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder of installed packages with an older version of the project's, but for its code."""
    site = tmp_path / "site"
    (site / INFO).mkdir(parents=True)
    (site / INFO / "METADATA").write_text(METADATA)
    (site / INFO / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.usefixtures("installed")
def test_a_newer_copy_of_what_is_installed_may_have_its_name(project):
    folder = project(PYPROJECT.replace("ringfence>=0.1", "ringfence"))

    (verdict,) = judge_plugins(str(folder))

    assert rules(verdict) == ["E-NO-LOWER-BOUND"]


def test_what_lies_at_the_path_is_loaded_and_not_what_is_installed(project, installed):
    (installed / "acme_clip.py").write_text(plugin())
    folder = project(files={"src/acme_clip/__init__.py": f'{plugin()}\nraise RuntimeError("the new one")\n'})

    (verdict,) = judge_plugins(str(folder))

    (finding,) = [finding for finding in verdict.findings if finding.refuses]
    assert finding.rule == "E-LOAD"
    assert "RuntimeError: the new one" in finding.text
    assert finding.where.endswith("src/acme_clip/__init__.py:12")


def test_a_folder_that_is_written_as_a_name_is_told_of(project, ringfence, monkeypatch):
    monkeypatch.chdir(project().parent)

    done = ringfence("plugins", "check", "acme-clip")

    assert done.status == 2
    assert done.err.endswith("To check what lies here under that name, write ./acme-clip\n")


def test_a_path_that_holds_nothing_is_an_error_of_one_line(ringfence, tmp_path):
    done = ringfence("plugins", "check", f"{tmp_path}{os.sep}")

    assert done.status == 2
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1


# Rules and matrix.


def test_explain_prints_the_page_of_a_rule(ringfence):
    done = ringfence("plugins", "explain", "e-span", "W-PARTIAL")

    assert done.status == 0
    assert done.out.startswith("# E-SPAN: ")
    assert "# W-PARTIAL: " in done.out


def test_explain_lists_the_rules(ringfence):
    out = ringfence("plugins", "explain").out
    assert "| E-SPAN | The declared range leaves out" in out


def test_explain_prints_no_links_that_a_terminal_cannot_follow(ringfence):
    rules = re.findall(r"^\| ([EUWI]-[A-Z-]+) \|", ringfence("plugins", "explain").out, re.MULTILINE)
    for arguments in ([], rules):
        assert "](" not in ringfence("plugins", "explain", *arguments).out


def test_no_page_of_a_rule_sends_its_reader_to_a_file_that_only_the_repository_has(ringfence):
    rules = re.findall(r"^\| ([EUWI]-[A-Z-]+) \|", ringfence("plugins", "explain").out, re.MULTILINE)
    assert not re.findall(r"\bcore/\S+\.py", ringfence("plugins", "explain", *rules).out)


def test_a_rule_that_there_is_not_names_the_nearest(ringfence):
    done = ringfence("plugins", "explain", "E-SPAM")

    assert (done.status, done.err) == (2, "error: there is no rule 'E-SPAM'; did you mean 'E-SPAN'?\n")


def test_matrix_has_each_admitted_series_with_each_python(project, ringfence):
    folder = project()

    rows = json.loads(ringfence("plugins", "matrix", folder, "--json").out)["include"]

    running = ".".join(__version__.split(".")[:2])
    assert {"core": "0.1", "python": "3.11"} in rows
    assert {"core": running, "python": "3.13"} in rows
    assert len(rows) == len({tuple(row.values()) for row in rows})
    told = ringfence("plugins", "matrix", folder).out
    assert "ringfence==0.1.*   Python 3.11, 3.12, 3.13\n" in told


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"ringfence>=0.1", ', "", "declares no range of ringfence"),
        ("ringfence>=0.1", "ringfence>=99", "declares ringfence>=99, which admits no series"),
        ("[project]", '[project]\nrequires-python = ">=4"', "admits none of 3.11"),
        ("[project]", '[project]\nrequires-python = "three"', "requires-python cannot be read"),
        (
            "[project]",
            f'[project]\nrequires-python = ">=3.{"1" * 5000}"',
            "requires-python has 5004 characters",
        ),
    ],
)
def test_a_matrix_that_would_be_empty_says_why(project, ringfence, old, new, says):
    done = ringfence("plugins", "matrix", project(PYPROJECT.replace(old, new)))

    assert done.status == 2
    assert says in done.err


@pytest.mark.parametrize("name", ["nofolder", "missing-0.1-py3-none-any.whl"])
def test_a_matrix_of_what_is_not_there_says_so(ringfence, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)

    done = ringfence("plugins", "matrix", name)

    assert (done.status, done.err) == (2, f"error: {name} is not there; name a folder with pyproject.toml\n")


def test_a_matrix_keeps_to_the_python_and_the_core_that_are_declared(project, ringfence):
    told = PYPROJECT.replace("ringfence>=0.1", "ringfence>=0.2,<0.3")
    told = told.replace("[project]", '[project]\nrequires-python = ">=3.12.4"')

    done = ringfence("plugins", "matrix", project(told))

    assert done.out == "ringfence==0.2.*   Python 3.12, 3.13\n"


def test_the_default_is_the_current_folder(project, ringfence, monkeypatch):
    monkeypatch.chdir(project())

    assert "ringfence==0.1.*" in ringfence("plugins", "matrix").out


def test_the_file_of_a_finding_can_be_opened(project):
    verdict = judged(project(files={"src/acme_clip/__init__.py": plugin(body="return step.nothing")}))["clip"]

    (finding,) = [finding for finding in verdict.findings if finding.path]
    assert Path(finding.path).is_file()
