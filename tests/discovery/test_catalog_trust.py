"""What a stranger's metadata may claim: it opens no folder, runs no code, and takes down nobody else."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ringfence.compat.source import effort
from ringfence.discovery import installed_layout
from ringfence.discovery.catalog import catalog, check_found, source_of
from ringfence.hooks.errors import PluginRaisedError, visible
from ringfence.imports.import_guard import Guard
from ringfence.imports.module_finder import RootFinder

PLUGIN = """
from ringfence import passthrough

class Plugin:
    role = "gradient"
    forward = passthrough

    def backward(self, step): ...
"""


class Wheel:
    """One installed distribution, of which the test may write anything."""

    def __init__(self, folder, name="acme", module="acme"):
        self.folder = folder
        self.info = f"{name}-1.0.dist-info"
        self.record = []
        self.write(f"{self.info}/METADATA", f"Name: {name}\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n")
        self.write(f"{self.info}/entry_points.txt", f"[ringfence.plugins]\n{name} = {module}:Plugin\n")

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.record.append(name)
        (self.folder / self.info / "RECORD").write_text("".join(f"{line},,\n" for line in self.record))
        return path

    def claim_editable(self, project):
        told = {"url": project.as_uri(), "dir_info": {"editable": True}}
        self.write(f"{self.info}/direct_url.json", json.dumps(told))

    def map(self, mapping):
        self.write("__editable___acme_finder.py", f"MAPPING: dict[str, str] = {mapping!r}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that pip would install to."""
    folder = tmp_path / "environment" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.setattr(installed_layout, "_site_folders", lambda: {folder})
    return folder


@pytest.fixture
def project(tmp_path):
    """The folder of a user's own project, with code and with what is nobody's business."""
    folder = tmp_path / "project"
    (folder / "acme").mkdir(parents=True)
    (folder / "acme" / "__init__.py").write_text(PLUGIN)
    (folder / "secret.txt").write_text("a secret")
    (folder / "pyproject.toml").touch()
    return folder


def found(site, name="acme"):
    return catalog([str(site)]).find(name)


# folders


def test_a_mapping_in_a_wheel_opens_no_folder(site, project):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    wheel.claim_editable(project)
    wheel.map({"a": str(Path.home() / "x"), "b": "/home/x", "acme": str(project / "acme"), "acme.x": "/etc"})

    assert found(site).place.readable == (str(site),)


def test_a_mapped_folder_is_opened_only_if_it_holds_the_entry_points_module(site, project):
    wheel = Wheel(site, module="acme.absent")
    wheel.claim_editable(project)
    wheel.map({"acme": str(project / "acme"), "b": str(project)})

    assert found(site).place.readable == (str(site),)


def test_a_folder_outside_the_project_is_not_opened(site, project, tmp_path):
    wheel = Wheel(site)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").touch()
    wheel.claim_editable(other)
    wheel.map({"acme": str(project / "acme")})

    assert found(site).place.readable == (str(site),)


def test_an_editable_package_is_opened_without_the_folder_around_it(site, project, monkeypatch):
    monkeypatch.chdir(project)
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.write("__editable__.acme.pth", f"{project}\n")

    plugin = found(site)

    assert plugin.place.readable == (str(site), str(project / "acme"))
    assert plugin.place.roots == {"acme": str(project / "acme" / "__init__.py")}
    assert check_found(plugin).decision == "accepted"


def test_an_editable_install_opens_each_module_that_it_maps_and_reads_it(site, project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "more.py").write_text("from ringfence import nothing\n")
    (project / "acme" / "__init__.py").write_text(f"import more\n{PLUGIN}")
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.map({"acme": str(project / "acme"), "more": str(project / "more"), "b": "/etc"})

    plugin = found(site)

    assert plugin.place.readable == (str(site), str(project / "acme"), str(project / "more.py"))
    assert set(plugin.place.roots) == {"acme", "more"}
    assert "E-NAME" in [finding.rule for finding in check_found(plugin).findings]


def test_an_editable_folder_of_code_is_opened_package_by_package(site, project):
    (project / "src" / "more").mkdir(parents=True)
    (project / "src" / "more" / "__init__.py").touch()
    (project / "src" / "secret.txt").touch()
    (project / "acme").rename(project / "src" / "acme")
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.write("__editable__.acme.pth", f"{project / 'src'}\n")

    readable = found(site).place.readable

    assert readable == (str(site), str(project / "src" / "acme"), str(project / "src" / "more"))


def test_a_list_of_modules_leads_nowhere_else(site, tmp_path):
    """A distribution without a list of its files says in a file of its own what it brings."""
    elsewhere = tmp_path / "elsewhere"
    wheel = Wheel(elsewhere)
    wheel.write("acme.py", PLUGIN)
    (elsewhere / wheel.info / "RECORD").unlink()
    (elsewhere / wheel.info / "top_level.txt").write_text("acme\n../x\n/etc/passwd\n..x\nringfence\n")

    place = catalog([str(elsewhere)]).find("acme").place

    assert place.own == ("acme",)
    assert place.readable == (str(elsewhere / "acme.py"),)


def test_an_editable_module_in_the_current_folder_is_opened_alone(site, project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "single.py").write_text(PLUGIN)
    wheel = Wheel(site, module="single")
    wheel.claim_editable(project)
    wheel.map({"single": str(project / "single")})

    plugin = found(site)

    assert plugin.place.readable == (str(site), str(project / "single.py"))
    assert source_of(plugin).role == "gradient"


@pytest.mark.parametrize("kept", ["home", "cwd"])
def test_a_package_around_a_folder_of_the_user_is_refused_with_its_path(site, project, monkeypatch, kept):
    inside = project / "acme" / "user"
    inside.mkdir()
    monkeypatch.setenv("HOME", str(inside)) if kept == "home" else monkeypatch.chdir(inside)
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.map({"acme": str(project / "acme")})

    plugin = found(site)
    verdict = check_found(plugin)

    assert plugin.place.readable == (str(site),)
    assert verdict.decision == "refused"
    assert f"its code is {project / 'acme'}, which no sandbox may open" in verdict.message()
    assert "install it without -e" in verdict.message()


def test_metadata_in_a_folder_on_the_path_does_not_open_that_folder(project):
    Wheel(project)

    assert found(project).place.readable == (str(project / "acme"),)


def test_a_root_is_imported_though_the_folder_around_it_cannot_be_listed(project):
    finder = RootFinder({"outer.acme": str(project / "acme" / "__init__.py")})

    spec = finder.find_spec("outer.acme")

    assert spec.submodule_search_locations == [str(project / "acme")]
    assert finder.find_spec("outer").submodule_search_locations == []
    assert finder.find_spec("other") is None


# code that runs by itself


@pytest.mark.parametrize("group", ["torch.backends", "pydantic", "triton.backends"])
def test_an_entry_point_that_a_library_loads_by_itself_is_refused(site, group):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    points = f"[ringfence.plugins]\nacme = acme:Plugin\n[{group}]\nx = acme:run\n"
    wheel.write(f"{wheel.info}/entry_points.txt", points)

    verdict = check_found(found(site))

    assert verdict.decision == "refused"
    assert f"E-STARTUP        declares an entry point of '{group}'" in verdict.message()


@pytest.mark.parametrize(
    "name", ["acme.pth", "_acme.pth", "sitecustomize.py", "usercustomize/__init__.py", "acme/../x.pth"]
)
def test_a_file_that_python_runs_at_its_start_is_refused(site, name):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    (site / "acme").mkdir()
    wheel.write(name, "import acme\n")

    verdict = check_found(found(site))

    assert verdict.decision == "refused"
    assert "outside any sandbox whenever Python starts" in verdict.message()
    assert "uninstall it" in verdict.message()


@pytest.mark.parametrize("name", ["_acme.pth", "__editable__.acme-1.0.pth", "acme.pth"])
def test_code_at_the_start_is_refused_though_the_distribution_calls_itself_editable(site, project, name):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    wheel.claim_editable(project)
    wheel.write("__editable___acme_finder.py", "MAPPING: dict[str, str] = {}\nprint('ran')\n")
    wheel.write(name, "import __editable___acme_finder; __editable___acme_finder.install()")

    verdict = check_found(found(site))

    assert verdict.decision == "refused"
    assert f"installs {name}, which can run code outside any sandbox" in verdict.message()


def test_what_is_declared_for_torch_and_pydantic_does_not_run_in_the_command(tmp_path):
    wheel = Wheel(tmp_path / "site")
    wheel.write("evil.py", "import os\nos.write(2, b'EVIL RAN')\ndef run(): ...\n")
    wheel.write(
        f"{wheel.info}/entry_points.txt", "[torch.backends]\nx = evil:run\n[pydantic]\ny = evil:run\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
        "PYDANTIC_DISABLE_PLUGINS": "none",
    }
    command = [sys.executable, "-m", "ringfence", "train", "absent.yaml"]
    code = (
        "import sys\nfrom ringfence.cli import app\nsys.argv = ['ringfence', 'plugins', 'list']\n"
        "try: app.main()\nexcept SystemExit: pass\nimport torch, pydantic\n"
        "class Model(pydantic.BaseModel): x: int\n"
    )

    for run in (command, [sys.executable, "-c", code]):
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120, env=environment)
        assert "EVIL" not in done.stderr
        assert done.returncode in (0, 2), done.stderr


# damage


def _fifo(wheel):
    os.mkfifo(wheel.folder / wheel.info / "direct_url.json")


DAMAGE = {
    "a finder that is no Python": lambda wheel: wheel.write("__editable___x_finder.py", "MAPPING = ("),
    "a finder nested too deeply": lambda wheel: wheel.write(
        "__editable___x_finder.py", "MAPPING = {'a': " + "-" * 50_000 + "1}"
    ),
    "a direct_url nested too deeply": lambda wheel: wheel.write(
        f"{wheel.info}/direct_url.json", "[" * 100_000
    ),
    "a finder of a megabyte": lambda wheel: wheel.write(
        "__editable___x_finder.py", f"MAPPING: dict[str, str] = {{'acme': '/'}}\n{'a;' * 500_000}"
    ),
    "two finders": lambda wheel: [wheel.map({}), wheel.write("__editable___x_finder.py", "MAPPING = {}\n")],
    "a finder and folders without end": lambda wheel: [
        (wheel.folder / f"d{n}").mkdir() or wheel.write(f"p{n}.pth", f"d{n}\n") for n in range(33)
    ],
    "entry points without end": lambda wheel: wheel.write(
        f"{wheel.info}/entry_points.txt",
        "[ringfence.plugins]\n" + "".join(f"p{n} = acme:Plugin\n" for n in range(101)),
    ),
    "many entry points elsewhere": lambda wheel: wheel.write(
        f"{wheel.info}/entry_points.txt",
        "[ringfence.plugins]\nacme = acme:Plugin\n[x]\n" + "p = acme:Plugin\n" * 5000,
    ),
    "a list of files with a quote that does not end": lambda wheel: [
        (wheel.folder / wheel.info / "RECORD").write_text('"' + "x" * 200_000)
    ],
    "a pipe for a file": _fifo,
    "a huge file": lambda wheel: wheel.write(f"{wheel.info}/direct_url.json", " " * (2**20 + 1)),
    "a name for the terminal": lambda wheel: wheel.write(
        f"{wheel.info}/METADATA", "Name: ac\x1b[2Jme\nVersion: 1.0\n"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_damaged_distribution_is_told_of_and_passed_over(site, project, damage):
    Wheel(site, "sound").write("sound.py", PLUGIN)
    wheel = Wheel(site)
    if "finder" in damage:
        wheel.claim_editable(project)
    DAMAGE[damage](wheel)
    read = []

    reader = threading.Thread(target=lambda: read.append(catalog([str(site)])), daemon=True)
    reader.start()
    reader.join(20)

    (installed,) = read
    assert list(installed.plugins) == ["sound"]
    (told,) = installed.damaged
    assert "acme-1.0.dist-info has damaged metadata" in told
    assert told.isprintable()


def test_an_entry_point_of_many_parts_is_not_followed(site):
    wheel = Wheel(site)
    point = f"acme{'.a' * 20_000}:Plugin"
    wheel.write(f"{wheel.info}/entry_points.txt", f"[ringfence.plugins]\nacme = {point}\n")

    installed = catalog([str(site)])

    assert installed.plugins == {}
    (told,) = installed.damaged
    assert told.startswith("acme declares plugin 'acme' as 'acme.a.a.a.a")
    assert told.endswith("…', not as 'module:Class', of at most 300 characters")


def test_a_finder_is_read_by_its_line_alone(site, project):
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.write(
        "__editable___acme_finder.py", f"no Python\nMAPPING: dict[str, str] = {{'acme': '{project}/acme'}}\n("
    )
    assert found(site).place.packages == {"acme": str(project / "acme")}


def test_only_the_finder_that_setuptools_writes_is_read(site, project):
    wheel = Wheel(site)
    wheel.claim_editable(project)
    wheel.map({"acme": f"{project}/acme"})
    for number in range(3):
        wheel.write(f"x{number}_finder.py", "a;" * 500_000)
    assert found(site).place.packages == {"acme": str(project / "acme")}


def test_the_plugins_of_a_distribution_share_the_time_for_their_text(site, monkeypatch):
    wheel = Wheel(site)
    wheel.write(
        f"{wheel.info}/entry_points.txt", "[ringfence.plugins]\none = acme:Plugin\ntwo = acme:Plugin\n"
    )
    wheel.write("acme.py", PLUGIN + "    def helper(self): " + "self.helper(); " * 10_000)
    Wheel(site, "other", "other").write("other.py", PLUGIN)
    monkeypatch.setattr(effort, "MAX_SECONDS_TOGETHER", 0.05)
    plugins = catalog([str(site)]).plugins

    sources = {name: source_of(plugins[name]) for name in ("one", "two", "other")}

    assert [question.reason for question in sources["two"].unresolved] == [
        "to follow the names in all plugins of its distribution takes more than 0.05 s of processor time"
    ]
    assert sources["other"].unresolved == ()


@pytest.mark.parametrize("name", ["a\x1b[31m", "a/b", "a b", "a" * 65])
def test_a_name_that_is_no_plain_word_is_refused(site, name):
    wheel = Wheel(site)
    wheel.write(f"{wheel.info}/entry_points.txt", f"[ringfence.plugins]\n{name} = acme:Plugin\n")

    installed = catalog([str(site)])

    assert not installed.plugins
    assert "acme declares a plugin as" in installed.damaged[0]
    assert installed.damaged[0].isprintable()


def test_an_error_shows_no_control_characters_and_forges_no_line():
    error = PluginRaisedError("raised X: \x1b[2J\rerror: y\ncompleted after 9 steps", plugin="acme")

    assert str(error) == "plugin 'acme': raised X: \\x1b[2J\\rerror: y\n    completed after 9 steps"
    assert visible("a\tb\nc") == "a\\tb\nc"


# code that is somebody else's


def test_a_file_of_another_distribution_is_refused(site):
    other = Wheel(site, "other")
    other.write("other/__init__.py", "")
    (site / other.info / "entry_points.txt").unlink()
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    wheel.write("other/__init__.py", "# replaced")

    verdict = check_found(found(site))

    assert verdict.decision == "refused"
    assert "installs other/__init__.py, which is a file of 'other'" in verdict.message()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("ringfence/acme.txt", "installs files in 'ringfence', a package of others"),
        ("../python311.zip", "installs python311.zip, outside the packages"),
        ("../bin/acme.py", "installs bin/acme.py, outside the packages"),
        ("../bin/acme", ""),
        ("..", ""),
        ("../share/acme/notes.txt", ""),
    ],
)
def test_what_is_installed_where_others_find_it_is_refused(site, row, told):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    if row == "..":
        wheel.record.append(row)
        wheel.write("acme.py", PLUGIN)
    else:
        wheel.write(row, "")

    verdict = check_found(found(site))

    assert (verdict.decision == "refused") == bool(told)
    assert told in verdict.message()


@pytest.mark.parametrize("early", [True, False])
def test_a_module_that_was_imported_before_the_guard_is_refused(site, monkeypatch, early):
    wheel = Wheel(site)
    wheel.write("acme.py", PLUGIN)
    wheel.write("acme_tried.py", "")
    monkeypatch.setitem(sys.modules, "acme_tried", sys) if early else None
    monkeypatch.setattr(sys, "meta_path", [Guard({"acme_tried": ["acme"]}), *sys.meta_path])

    verdict = check_found(found(site))

    assert verdict.decision == ("refused" if early else "accepted")
    assert ("its module 'acme_tried' was imported before" in verdict.message()) == early


FORGED = {
    "a file that is no module": {"acme.core": "secret.txt"},
    "a module of the user's": {"acme.core": "acme"},
    "a package of the user's": {"acme": "acme"},
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("shipped", ["acme.py", "acme/core.pyc", "acme/__init__.pyc"])
def test_a_mapping_opens_nothing_that_the_wheels_own_code_hides(site, project, forged, shipped):
    wheel = Wheel(site, module="acme.core")
    wheel.write(shipped, "__path__ = []\n")
    (project / "acme" / "core.py").write_text(PLUGIN)
    wheel.claim_editable(project)
    wheel.map({package: str(project / path) for package, path in FORGED[forged].items()})

    assert found(site).place.readable == (str(site),)


def test_a_mapping_to_a_file_that_is_no_module_opens_nothing(site, project):
    wheel = Wheel(site, module="acme.core")
    wheel.claim_editable(project)
    wheel.map({"acme.core": str(project / "secret.txt")})

    assert found(site).place.readable == (str(site),)


def test_source_is_read_only_from_where_python_would_import_it(site):
    """A module beside a folder of its name: the folder is what its ``__path__`` makes of it, if it runs."""
    wheel = Wheel(site, module="acme.core")
    wheel.write("acme.py", "__path__ = ['acme']\n")
    wheel.write("acme/core.py", PLUGIN)

    assert source_of(found(site)).role is None
