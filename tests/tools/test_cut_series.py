"""The command that opens and closes a series or releases a patch, tried on copies of what it changes."""

import importlib.util
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from ringfence.hooks.series import Index, Series, SeriesSnapshot
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
MAJOR, MINOR, PATCH = Version(__version__).release
NOW, NEXT = f"{MAJOR}.{MINOR}", f"{MAJOR}.{MINOR + 1}"
#: What the present series is released as, or was.
FINAL = f"{NOW}.{PATCH}"
SNAPSHOTS = Path("core/hooks/snapshots")
HEAD = "0123456789" * 4


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = script("cut_series")


@pytest.fixture
def clone(tmp_path, live):
    """A copy of the tree, as far as it matters here, with the present series closed."""
    folder = tmp_path / "clone"
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
        else:
            shutil.copy(source, target)
    if Version(__version__).pre is not None:
        tool.cut(folder, FINAL, live, HEAD)
    return folder


@pytest.fixture
def opened(clone, live):
    """The same, with the next series open; what its core offers is ``{**live, "series": NEXT}``."""
    tool.cut(clone, NEXT, live, HEAD)
    return clone


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


def bounds(clone):
    """Return what the template and the example plugins ask of the core, themselves and for their tests."""
    template = json.loads((clone / "plugin_template/cookiecutter.json").read_text())
    asked = [(set(template["_oldest_series"].values()), template["_kit_series"])]
    for path in (clone / "examples/plugins").glob("*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        entries = [*project["dependencies"], *project["optional-dependencies"]["test"]]
        oldest, kit = (text.removeprefix("ringfence>=") for text in entries if text.startswith("ringfence"))
        asked.append(({oldest}, kit))
    return asked


def without_monitors(clone, but):
    """Make the record say that one series brought monitors."""
    for path in (clone / SNAPSHOTS).glob("*.*.json"):
        told = json.loads(path.read_text())
        if path.stem != but:
            told["roles"].remove("monitor")
            path.write_text(json.dumps(told))


def test_a_series_opens_with_a_record_a_candidate_and_bounds(clone, live):
    before, kits = contents(clone), {kit for _, kit in bounds(clone)}

    told = tool.cut(clone, NEXT, live, HEAD)

    after = contents(clone)
    record = str(SNAPSHOTS / f"{NEXT}.json")
    examples = {name for name in after if re.fullmatch(r"examples/plugins/[\w-]+/pyproject\.toml", name)}
    assert changed(before, after) == {record, "core/version.py", "tests/run/cores.toml"}
    assert tomllib.loads(after["tests/run/cores.toml"].decode())[NOW] == HEAD
    assert json.loads(after[record]) == {**live, "series": NEXT}
    assert f'__version__ = "{NEXT}.0rc1"' in after["core/version.py"].decode()
    index = Index.read(clone / SNAPSHOTS)
    assert index.series[-1].name == NOW, "only what is closed is listed"
    oldest = index.series[0].name
    assert bounds(clone) == [({oldest}, *kits)] * (1 + len(examples))
    assert told[0].startswith(f"{NEXT}.0rc1: wrote core/")
    assert f"cut_series.py {NEXT}.0" in told[-1]


def test_hooks_change_while_a_series_is_open_and_its_candidates_follow(opened, live):
    """A name may come with the open series and go again before it is closed: nobody was promised it."""
    record = opened / SNAPSHOTS / f"{NEXT}.json"
    first = {**live, "series": NEXT, "names": [*live["names"], "newer"]}
    second = {**live, "series": NEXT}
    record.write_text(json.dumps(first, indent=2, sort_keys=True) + "\n")

    assert "run tools/snapshot.py" in refusal(opened, f"{NEXT}.0rc2", second)
    tool.cut(opened, f"{NEXT}.0rc2", first, HEAD)
    record.write_text(json.dumps(second, indent=2, sort_keys=True) + "\n")
    before = contents(opened)
    tool.cut(opened, f"{NEXT}.0rc3", second, HEAD)

    assert changed(before, contents(opened)) == {"core/version.py"}
    tool.cut(opened, f"{NEXT}.0", second, HEAD)
    assert "newer" not in Index.read(opened / SNAPSHOTS).snapshots[NEXT].names


def test_a_series_closes_into_the_index_and_the_changelog(opened, live):
    before = contents(opened)

    told = tool.cut(opened, f"{NEXT}.0", {**live, "series": NEXT}, HEAD)

    after = contents(opened)
    assert changed(before, after) == {
        *("CHANGELOG.md", "core/version.py", "plugin_template/cookiecutter.json"),
        *(str(SNAPSHOTS / "index.json"), *(name for name in after if name.endswith("/pyproject.toml"))),
    } - {name for name in after if name.startswith("plugin_template/{")}
    assert f'__version__ = "{NEXT}.0"' in after["core/version.py"].decode()
    index = Index.read(opened / SNAPSHOTS)
    assert index.series[-1] == Series(NEXT, (f"{NEXT}.0",))
    oldest = index.series[0].name
    assert {kit for _, kit in bounds(opened)} == {NEXT}
    assert all(bound == {oldest} for bound, _ in bounds(opened))
    headings = [line for line in after["CHANGELOG.md"].decode().splitlines() if line.startswith("## ")]
    assert headings[0] == f"## {NEXT}.0"
    assert "## Unreleased" not in headings
    assert told[0].startswith(f"{NEXT}.0: wrote CHANGELOG.md, ")


@pytest.mark.parametrize(
    "wanted", [NEXT, f"{NEXT}.0rc1", f"{NEXT}.0rc3", f"{NEXT}.1", f"{MAJOR}.{MINOR + 2}"]
)
def test_an_open_series_is_followed_by_a_candidate_or_its_first_version(opened, live, wanted):
    said = refusal(opened, wanted, {**live, "series": NEXT})

    assert said == f"{NEXT}.0rc1 is followed by {NEXT}.0rc2 or {NEXT}.0, not by {wanted}"


def test_a_role_that_an_open_series_brings_is_bound_to_its_candidate_until_it_closes(opened, live):
    """``>=X.Y`` leaves out X.Y.0rc1, so that pip would not install the plugin beside that core."""
    without_monitors(opened, but=NEXT)
    now = {**live, "series": NEXT}
    again = tool._template(opened, Index.read(opened / SNAPSHOTS), Version(f"{NEXT}.0rc1"), now, NOW)
    oldest = json.loads(again["plugin_template/cookiecutter.json"])["_oldest_series"]
    assert oldest["monitor"] == f"{NEXT}.0rc1"

    tool.cut(opened, f"{NEXT}.0", now, HEAD)

    oldest = json.loads((opened / "plugin_template/cookiecutter.json").read_text())["_oldest_series"]
    assert oldest["monitor"] == NEXT


def test_what_was_unreleased_comes_under_the_heading(opened, live):
    changelog = opened / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- A thing.\n\n## 0.1.0\n\n- Old.\n")

    tool.cut(opened, f"{NEXT}.0", {**live, "series": NEXT}, HEAD)

    assert changelog.read_text() == f"# Changelog\n\n## {NEXT}.0\n\n- A thing.\n\n## 0.1.0\n\n- Old.\n"


def test_without_anything_unreleased_a_heading_stands_on_top(clone, live):
    changelog = clone / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\nWords.\n\n## 0.1.0\n\n- Old.\n")

    tool.cut(clone, f"{NOW}.{PATCH + 1}", live, HEAD)

    assert changelog.read_text() == (f"# Changelog\n\nWords.\n\n## {NOW}.{PATCH + 1}\n\n## 0.1.0\n\n- Old.\n")


def test_four_series_on_new_plugins_still_begin_with_the_first(clone, live):
    """A range that begins later is refused by the cores at its beginning."""
    first = Index.read().series[0].name
    for minor in range(MINOR + 1, MINOR + 4):
        before, name = f"{MAJOR}.{minor - 1}", f"{MAJOR}.{minor}"
        tool.cut(clone, name, {**live, "series": before}, HEAD)
        tool.cut(clone, f"{name}.0", {**live, "series": name}, HEAD)

    template = json.loads((clone / "plugin_template/cookiecutter.json").read_text())

    assert template["_oldest_series"] == dict.fromkeys(template["role"], first)


def test_the_oldest_of_a_role_is_the_series_that_brought_it(clone, live):
    without_monitors(clone, but=NOW)

    tool.cut(clone, NEXT, live, HEAD)

    oldest = json.loads((clone / "plugin_template/cookiecutter.json").read_text())["_oldest_series"]
    others = Index.read().series[0].name
    assert (oldest.pop("monitor"), set(oldest.values())) == (NOW, {others})
    asked = {
        path.parent.name: tomllib.loads(path.read_text())["project"]["dependencies"]
        for path in (clone / "examples/plugins").glob("*/pyproject.toml")
    }
    assert f"ringfence>={NOW}" in asked["label-noise"]  # a monitor
    assert f"ringfence>={others}" in asked["gradient-centralisation"]


def test_a_patch_changes_nothing_on_record_but_its_own_version(clone, live):
    before = contents(clone)

    tool.cut(clone, f"{NOW}.{PATCH + 1}", live, HEAD)

    after = contents(clone)
    assert changed(before, after) == {"CHANGELOG.md", "core/version.py", str(SNAPSHOTS / "index.json")}
    index = Index.read(clone / SNAPSHOTS)
    assert index.series[-1].finals[-2:] == (FINAL, f"{NOW}.{PATCH + 1}")
    assert index.snapshots == Index.read().snapshots


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (NEXT, "open the next, and change the hooks then"),
        (f"{NOW}.{PATCH + 1}", "a patch never changes the hooks"),
    ],
)
def test_hooks_that_are_not_on_record_are_refused(clone, live, wanted, says):
    changed_hooks = {**live, "names": [*live["names"], "newer"]}

    assert says in refusal(clone, wanted, changed_hooks)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (NOW, f"is followed by {NEXT} or {MAJOR + 1}.0 or {NOW}.{PATCH + 1}, not by {NOW}"),
        (f"{MAJOR}.{MINOR + 2}", "is followed by"),
        (FINAL, f"or {NOW}.{PATCH + 1}, not by {FINAL}"),
        (f"{NEXT}.1", "is followed by"),
        ("next", "is neither a series (X.Y) nor a patch (X.Y.Z)"),
        (f"{NEXT}.0rc1", "is followed by"),
        (f"{NEXT}.0b1", "is neither a series"),
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


def test_nothing_was_removed_without_two_series_of_notice():
    assert tool.removed_without_notice(list(Index.read().snapshots.values())) == []


@pytest.mark.parametrize(
    ("deprecated", "faults"),
    [
        (["1.1", "1.2"], []),
        (["1.2"], ["1.3 drops gradient_backward.loss"]),
        (["1.1"], ["1.3 drops gradient_backward.loss"]),
        ([], ["1.3 drops gradient_backward.loss"]),
    ],
)
def test_an_argument_may_go_only_after_two_series_of_notice(deprecated, faults):
    def series(name, *arguments):
        marks = {"gradient_backward.loss": "1.3"} if name in deprecated else {}
        hooks = {"gradient_backward": dict.fromkeys(arguments, "")}
        return SeriesSnapshot(name, hooks=hooks, deprecated=marks)

    snapshots = [
        series("1.0", "gradients", "loss"),
        series("1.1", "gradients", "loss"),
        series("1.2", "gradients", "loss"),
        series("1.3", "gradients"),
    ]

    assert tool.removed_without_notice(snapshots) == faults


def test_a_whole_hook_counts_as_announced_with_its_arguments():
    old = [
        SeriesSnapshot(name, hooks={"old_forward": {"batch": ""}}, deprecated={"old_forward": "1.2"})
        for name in ("1.0", "1.1")
    ]

    assert tool.removed_without_notice([*old, SeriesSnapshot("1.2")]) == []


def test_a_record_that_is_lost_is_refused(clone, live):
    (clone / SNAPSHOTS / "0.1.json").unlink()

    assert "has no 0.1.json" in refusal(clone, NEXT, live)


def test_a_heading_that_is_there_already_is_refused(opened, live):
    changelog = opened / "CHANGELOG.md"
    changelog.write_text(f"# Changelog\n\n## {NEXT}.0\n")

    said = refusal(opened, f"{NEXT}.0", {**live, "series": NEXT})

    assert f"has '## {NEXT}.0' already" in said


@pytest.mark.room
def test_the_command_opens_a_series_and_the_core_then_is_of_it(clone, tmp_path):
    """As it is called, with the core of the clone: its snapshot is what is compared and written."""
    git = ["git", "-C", clone, "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    call("git", "init", "--quiet", clone, cwd=tmp_path)
    call(*git, "add", "core/version.py", cwd=tmp_path)
    call(*git, "commit", "--quiet", "--no-gpg-sign", "-m", "All.", cwd=tmp_path)
    links = script("link_types").link(clone).parent
    env = {"PYTHONPATH": os.pathsep.join([str(links)])}

    done = call(sys.executable, clone / "tools" / "cut_series.py", NEXT, cwd=tmp_path, env=env)
    stale = call(sys.executable, clone / "tools" / "snapshot.py", "--check", cwd=tmp_path, env=env)

    assert f"{NEXT}.0rc1: wrote" in done.stdout
    assert stale.stderr == ""


def test_another_clone_than_the_one_that_is_imported_is_refused(clone, tmp_path):
    done = call(sys.executable, clone / "tools" / "cut_series.py", NEXT, cwd=tmp_path, status=2)

    assert "use the Python of that clone" in done.stderr
