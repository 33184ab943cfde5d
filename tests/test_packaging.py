"""What is installed from the wheel is whole: an editable install would hide what is missing."""

import importlib.metadata
import itertools
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ringfence.version import __version__

from .conftest import call

ROOT = Path(__file__).parents[1]
MOUNTED = {
    "core": "ringfence",
    "docs/rules": "ringfence/_rules",
    "plugins_builtin": "ringfence/builtin",
    "plugin_template": "ringfence/_template",
}


@pytest.fixture(scope="module")
def environment(new_environment):
    return new_environment()


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def files(built):
    """The path in the wheel of each file that belongs to the package, as it was when built."""
    clone = built.parent
    return {
        f"{package}/{path.relative_to(clone / folder).as_posix()}"
        for folder, package in MOUNTED.items()
        for path in (clone / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel, files):
    installed = {name for name in wheel if ".dist-info/" not in name}

    assert installed == {*files, f"ringfence-{__version__}.data/scripts/ringfence"}


def test_the_wheel_tells_licence_typing_command_and_plugins(wheel):
    info = next(name.partition("/")[0] for name in wheel if ".dist-info/" in name)
    points = wheel[f"{info}/entry_points.txt"].decode()
    metadata = wheel[f"{info}/METADATA"].decode()

    assert "ringfence/py.typed" in wheel
    assert any(name.startswith(f"{info}/licenses/") and name.endswith("/LICENSE") for name in wheel)
    assert any(name.endswith("mnist10k/LICENSE.txt") for name in wheel if ".dist-info/" in name)
    assert "console_scripts" not in points, "what an installer makes of it looks for modules in bin/ first"
    assert re.findall(r"^(\w+) = ringfence\.builtin", points, re.MULTILINE) == [
        "augment",
        "gradclip",
        "monitor",
        "optim",
    ]
    assert "License-Expression: Apache-2.0" in metadata


def test_the_wheel_stays_small(built):
    (path,) = built.glob("*.whl")

    assert path.stat().st_size < 8 * 2**20


def test_the_sdist_can_be_built_again(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"pyproject.toml", "LICENSE", "README.md", "core/__init__.py", "core/py.typed"} <= names
    assert "core/hooks/snapshots/index.json" in names


def test_the_command_answers_outside_the_clone(environment, tmp_path):
    done = call(environment.command, "--help", cwd=tmp_path)

    assert "train" in done.stdout
    assert "doctor" in done.stdout


def test_plugins_are_listed_outside_the_clone(environment, tmp_path):
    done = call(environment.command, "plugins", "list", cwd=tmp_path)

    for name in ("augment", "gradclip", "monitor", "optim"):
        assert re.search(rf"^{name}\b.*\bok\b", done.stdout, re.MULTILINE), done.stdout


def test_every_module_can_be_imported_from_the_wheel(environment, files, tmp_path):
    code = (
        "import importlib, json, pkgutil, ringfence\n"
        "found = [m.name for m in pkgutil.walk_packages(ringfence.__path__, 'ringfence.')]\n"
        "for name in found:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        "print(json.dumps([ringfence.__file__, found]))\n"
    )

    done = call(environment.python, "-c", code, cwd=tmp_path, env={"NO_ALBUMENTATIONS_UPDATE": "1"})
    file, found = json.loads(done.stdout.splitlines()[-1])

    assert Path(file).is_relative_to(environment.folder)
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files
        if name.endswith(".py") and name not in {"ringfence/__init__.py", *templates(files)}
    }
    assert set(found) == modules


def templates(files):
    """Return what is Python only once it has been rendered."""
    return {name for name in files if name.startswith("ringfence/_template/") and name.count("/") > 2}


def test_data_in_the_wheel_is_readable_as_data(environment, tmp_path):
    code = (
        "from ringfence.hooks.series import Index\n"
        "from ringfence.version import __version__\n"
        "index = Index.read()\n"
        "print(index.series[-1].name in index.snapshots, __version__)\n"
    )

    assert call(environment.python, "-c", code, cwd=tmp_path).stdout.split() == ["True", __version__]


def test_constraints_name_one_version_of_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]

    def canonical(name):
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()

    # An extra may name others of this project.
    assert {canonical(name) for name in wanted} - {"ringfence"} <= {canonical(name) for name in pinned}
    assert len(set(pinned)) == len(pinned)
    # A marker may follow, for what is not built for every machine.
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line) for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def without_extras(new_environment):
    """An environment in which nothing is installed that only an extra needs."""
    environment = new_environment()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    only_extras = closure([*extras["albumentations"], *extras["tensorboard"]]) - closure(
        project["dependencies"]
    )
    assert {"albumentations", "opencv-python-headless", "scipy", "tensorboard"} <= only_extras
    places = {"base": str(environment.folder), "platbase": str(environment.folder)}
    folders = {Path(sysconfig.get_path(scheme, vars=places)) for scheme in ("purelib", "platlib")}
    for folder, file in itertools.product(
        folders, itertools.chain(*map(importlib.metadata.files, only_extras))
    ):
        if len(file.parts) == 1:
            (folder / file).unlink(missing_ok=True)
        elif file.parts[0] not in {"..", "__pycache__"}:
            # As a whole: a folder that is left would be a package of that name.
            shutil.rmtree(folder / file.parts[0], ignore_errors=True)
    return environment


def closure(requirements):
    """Return the names of what is installed to meet requirements, and what that needs."""
    found, left = set(), [Requirement(each) for each in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        left += map(Requirement, importlib.metadata.requires(name) or ())
    return found


@pytest.mark.soak
def test_the_main_job_runs_without_the_extras_and_says_what_it_leaves_out(without_extras, tmp_path):
    job = ROOT / "examples" / "mnist10k.yaml"
    flags = ("--set", "epochs=1", "--set", "data.limit=1000", "--set", "schedule.warmup_steps=5")

    done = call(without_extras.command, "train", job, *flags, "--out", "run", cwd=tmp_path)

    assert "completed after 16 steps" in done.stdout
    assert done.stdout.count("to have them: pip install 'ringfence[tensorboard]'") == 1
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.soak
def test_a_job_that_wants_an_extra_says_so_before_it_starts(without_extras, tmp_path):
    job = ROOT / "examples" / "mnist10k.yaml"
    flags = ("--set", "plugins.augment.ops=[GaussNoise]", "--out", "run")

    done = subprocess.run(
        [without_extras.command, "train", job, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 2
    assert "pip install 'ringfence[albumentations]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_make_says_what_it_would_do_on_a_fresh_machine(tmp_path):
    done = subprocess.run(
        ["make", "--dry-run", "run", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )

    assert f"{sys.executable} -m venv {tmp_path}/venv" in done.stdout
    assert "pip install" in done.stdout
    assert "-c constraints.txt" in done.stdout
    assert "ringfence train examples/mnist10k.yaml" in done.stdout


def test_make_refuses_a_machine_without_a_python(tmp_path):
    done = subprocess.run(
        ["make", "run", f"VENV={tmp_path}/venv", "PYTHON="],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )

    assert done.returncode != 0
    assert "no Python >= 3.11 found" in done.stderr
