"""The command that begins a series or releases a patch, tried on copies of what it changes."""

import importlib.util
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from ringfence.compat.version_range import window
from ringfence.hooks.series import Index
from ringfence.version import __version__

from ..conftest import call

ROOT = Path(__file__).parents[2]
#: What it reads and writes, and what has to be imported for it.
COPIED = (
    "core",
    "plugins_builtin",
    "plugin_template",
    "docs/rules",
    "examples/plugins",
    "tools",
    "CHANGELOG.md",
    "tests/run/cores.toml",
)
MAJOR, MINOR, PATCH = (int(part) for part in __version__.split("."))
NOW, NEXT = f"{MAJOR}.{MINOR}", f"{MAJOR}.{MINOR + 1}"
SNAPSHOTS = Path("core/hooks/snapshots")
HEAD = "0123456789" * 4


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = script("cut_series")


@pytest.fixture
def clone(tmp_path):
    """A copy of the tree, as far as it matters here."""
    folder = tmp_path / "clone"
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
        else:
            shutil.copy(source, target)
    return folder


@pytest.fixture
def live():
    """What the core offers, which is what is on record; a test of the snapshot holds that."""
    return json.loads((ROOT / SNAPSHOTS / f"{NOW}.json").read_text())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def changed(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def refusal(clone, wanted, live):
    """Return why it is refused; nothing may have changed."""
    before = contents(clone)
    with pytest.raises(tool.RefusedError) as caught:
        tool.cut(clone, wanted, live, HEAD)
    assert contents(clone) == before
    return str(caught.value)


def test_a_series_gets_a_record_a_version_and_a_place_everywhere(clone, live):
    before = contents(clone)

    told = tool.cut(clone, NEXT, live, HEAD)

    after = contents(clone)
    record = str(SNAPSHOTS / f"{NEXT}.json")
    examples = {name for name in after if re.fullmatch(r"examples/plugins/[\w-]+/pyproject\.toml", name)}
    assert changed(before, after) == {
        *("CHANGELOG.md", "core/version.py", "plugin_template/cookiecutter.json"),
        *(record, str(SNAPSHOTS / "index.json"), "tests/run/cores.toml", *examples),
    }
    assert tomllib.loads(after["tests/run/cores.toml"].decode())[NOW] == HEAD
    assert json.loads(after[record]) == {**live, "series": NEXT}
    assert f'__version__ = "{NEXT}.0"' in after["core/version.py"].decode()
    index = Index.read(clone / SNAPSHOTS)
    assert (index.series[-1].name, index.series[-1].finals) == (NEXT, (f"{NEXT}.0",))
    template = json.loads(after["plugin_template/cookiecutter.json"])
    oldest = window(index, tool.Version(f"{NEXT}.0"))[0].name
    assert template["_kit_series"] == NEXT
    assert template["_oldest_series"] == dict.fromkeys(template["role"], oldest)
    for name in examples:
        project = tomllib.loads(after[name].decode())["project"]
        assert f"ringfence>={oldest}" in project["dependencies"]
        assert f"ringfence>={NEXT}" in project["optional-dependencies"]["test"]
    headings = [line for line in after["CHANGELOG.md"].decode().splitlines() if line.startswith("## ")]
    assert headings[0] == f"## {NEXT}.0"
    assert "## Unreleased" not in headings
    assert told[0].startswith(f"{NEXT}.0: wrote CHANGELOG.md, ")


def test_what_was_unreleased_comes_under_the_heading(clone, live):
    changelog = clone / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- A thing.\n\n## 0.1.0\n\n- Old.\n")

    tool.cut(clone, NEXT, live, HEAD)

    assert changelog.read_text() == f"# Changelog\n\n## {NEXT}.0\n\n- A thing.\n\n## 0.1.0\n\n- Old.\n"


def test_without_anything_unreleased_a_heading_stands_on_top(clone, live):
    changelog = clone / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\nWords.\n\n## 0.1.0\n\n- Old.\n")

    tool.cut(clone, NEXT, live, HEAD)

    assert changelog.read_text() == f"# Changelog\n\nWords.\n\n## {NEXT}.0\n\n## 0.1.0\n\n- Old.\n"


def test_four_series_on_the_oldest_moves(clone, live):
    for minor in range(MINOR + 1, MINOR + 4):
        record = {**live, "series": f"{MAJOR}.{minor - 1}"}
        tool.cut(clone, f"{MAJOR}.{minor}", record, HEAD)

    template = json.loads((clone / "plugin_template/cookiecutter.json").read_text())

    assert template["_oldest_series"] == dict.fromkeys(template["role"], f"{MAJOR}.{MINOR + 1}")


def test_the_oldest_of_a_role_is_the_series_that_brought_it(clone, live):
    path = clone / SNAPSHOTS / f"{NOW}.json"
    for name in ("0.1", "0.2"):
        old = json.loads((clone / SNAPSHOTS / f"{name}.json").read_text())
        old["roles"].remove("monitor")
        (clone / SNAPSHOTS / f"{name}.json").write_text(json.dumps(old))
    assert json.loads(path.read_text())["roles"] == live["roles"], "it is there in the present series"

    tool.cut(clone, NEXT, live, HEAD)

    oldest = json.loads((clone / "plugin_template/cookiecutter.json").read_text())["_oldest_series"]
    assert (oldest.pop("monitor"), set(oldest.values())) == (NOW, {"0.2"})
    bounds = {
        path.parent.name: tomllib.loads(path.read_text())["project"]["dependencies"]
        for path in (clone / "examples/plugins").glob("*/pyproject.toml")
    }
    assert f"ringfence>={NOW}" in bounds["label-noise"]  # a monitor
    assert "ringfence>=0.2" in bounds["gradient-centralisation"]


def test_a_patch_changes_nothing_on_record_but_its_own_version(clone, live):
    before = contents(clone)

    tool.cut(clone, f"{NOW}.{PATCH + 1}", live, HEAD)

    after = contents(clone)
    assert changed(before, after) == {"CHANGELOG.md", "core/version.py", str(SNAPSHOTS / "index.json")}
    index = Index.read(clone / SNAPSHOTS)
    assert index.series[-1].finals[-2:] == (__version__, f"{NOW}.{PATCH + 1}")
    assert index.snapshots == Index.read().snapshots


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (NEXT, "cut first and change the hooks then"),
        (f"{NOW}.{PATCH + 1}", "a patch never changes the hooks"),
    ],
)
def test_hooks_that_are_not_on_record_are_refused(clone, live, wanted, says):
    changed_hooks = {**live, "names": [*live["names"], "newer"]}

    assert says in refusal(clone, wanted, changed_hooks)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (NOW, f"is followed by {NEXT} or {MAJOR + 1}.0, not by {NOW}"),
        (f"{MAJOR}.{MINOR + 2}", "is followed by"),
        (__version__, f"is followed by {NOW}.{PATCH + 1}, not by"),
        (f"{NEXT}.1", "is followed by"),
        ("next", "is neither a series (X.Y) nor a patch (X.Y.Z)"),
        (f"{NEXT}.0rc1", "is neither a series"),
    ],
)
def test_only_what_comes_next_can_be_cut(clone, live, wanted, says):
    assert says in refusal(clone, wanted, live)


def test_what_went_without_notice_is_refused_by_name(clone, live):
    """As if the series before had had a name that the present one lacks."""
    path = clone / SNAPSHOTS / "0.1.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "names": [*told["names"], "gone"]}))

    message = refusal(clone, NEXT, live)

    assert "0.2 drops gone" in message
    assert "announced in the two series before" in message


def test_an_example_that_the_template_did_not_make_is_refused(clone, live):
    path = clone / "examples/plugins/label-noise/pyproject.toml"
    path.write_text(path.read_text().replace('"ringfence>=', '"ringfence >='))

    message = refusal(clone, NEXT, live)

    assert message.startswith("examples/plugins/label-noise/pyproject.toml has not one ")


def test_what_was_announced_to_go_now_is_told(clone, live):
    name = live["names"][0]
    announcing = {**live, "deprecated": {name: NEXT}}
    (clone / SNAPSHOTS / f"{NOW}.json").write_text(json.dumps(announcing, indent=2, sort_keys=True) + "\n")

    told = tool.cut(clone, NEXT, announcing, HEAD)

    assert any(line.startswith(f"{name} was announced to go now") for line in told)


def test_a_record_that_is_lost_is_refused(clone, live):
    (clone / SNAPSHOTS / "0.1.json").unlink()

    assert "has no 0.1.json" in refusal(clone, NEXT, live)


def test_a_heading_that_is_there_already_is_refused(clone, live):
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(f"# Changelog\n\n## {NEXT}.0\n")

    assert f"has '## {NEXT}.0' already" in refusal(clone, NEXT, live)


def test_the_command_cuts_a_series_and_the_core_then_is_of_it(clone, tmp_path):
    """As it is called, with the core of the clone: its snapshot is what is compared and written."""
    git = ["git", "-C", clone, "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    call("git", "init", "--quiet", clone, cwd=tmp_path)
    call(*git, "add", "core/version.py", cwd=tmp_path)
    call(*git, "commit", "--quiet", "--no-gpg-sign", "-m", "All.", cwd=tmp_path)
    links = script("link_types").link(clone).parent
    env = {"PYTHONPATH": os.pathsep.join([str(links)])}

    done = call(sys.executable, clone / "tools" / "cut_series.py", NEXT, cwd=tmp_path, env=env)
    stale = call(sys.executable, clone / "tools" / "snapshot.py", "--check", cwd=tmp_path, env=env)

    assert f"{NEXT}.0: wrote" in done.stdout
    assert stale.stderr == ""


def test_another_clone_than_the_one_that_is_imported_is_refused(clone, tmp_path):
    done = call(sys.executable, clone / "tools" / "cut_series.py", NEXT, cwd=tmp_path, status=2)

    assert "use the Python of that clone" in done.stderr
