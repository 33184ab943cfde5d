"""What the kit finds: plugins that break one rule each, and those that break none."""

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ..conftest import call

#: Each class of plugins has sandboxes of its own, some twenty in all.
pytestmark = pytest.mark.soak

HERE = Path(__file__).parent
#: Tests that a sound plugin has to pass here too; the projects of ``installed/test_template.py`` pass all.
DIRECT = (
    *("test_its_results_fit", "test_the_same_steps_give_the_same_bits", "test_its_state_is_whole"),
    *("test_the_number_of_workers_changes_nothing", "test_it_takes_trees"),
)
#: Class to the test that finds what is wrong with it, and what that test says.
FAULTY = {
    "DrawsAnywhere": ("test_the_same_steps_give_the_same_bits", "two fresh processes came to other results"),
    "CountsBatches": (
        "test_the_number_of_workers_changes_nothing",
        "3 workers came to other results than one",
    ),
    "Forgets": ("test_its_state_is_whole", "state_dict() and load_state_dict() are missing"),
    "SavesTooLittle": (
        "test_its_state_is_whole",
        "state_dict() and load_state_dict() leave some of that out",
    ),
    "LosesOnTheWay": ("test_its_state_is_whole", "gives back another state than was loaded"),
    "ReturnsDoubles": ("test_its_results_fit", "float64"),
    "NeedsALargeBatch": ("test_its_results_fit", "finite"),
    "DropsAParameter": ("test_its_results_fit", "conv.weight"),
    "EditsInPlace": ("test_its_results_fit", "PluginCrashedError"),
    "DoesNothing": ("test_its_class_is_what_its_source_says", "it does nothing"),
    "SaysTrees": ("test_it_takes_trees", "unsupported operand type"),
    "SeesItsSandbox": ("test_it_takes_trees", "it came to other results without its sandbox"),
    "TooNew": ("test_it_fits_each_series", "'weather' is not an argument"),
}
SOUND = ("Sound", "Learns", "LooksTwice", "KnowsTrees")
#: Run without a sandbox too, which is what finds what is wrong.
TRUSTED = {"SeesItsSandbox", "KnowsTrees"}
RUNS = """
class TestHangs(Conformance):
    plugin = "hangs"
    deadline_s = 1.0
    job = {"snapshot_every": 100}

class TestGrows(Conformance):
    plugin = "grows"

class TestListens(Conformance):
    plugin = "listens"
    options = {"path": "said.json"}
    settings = {"read": ["said.json"]}
    trusted = True
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the plugins of ``faulty.py`` as an installed distribution."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(HERE / "faulty.py", site)
    names = re.findall(r"^class (\w+)", (site / "faulty.py").read_text(), re.MULTILINE)
    info = site / "faulty-1.0.dist-info"
    info.mkdir()
    about = "Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
    (info / "METADATA").write_text(about)
    points = "".join(f"{name.lower()} = faulty:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[ringfence.plugins]\n{points}")
    (info / "RECORD").write_text("faulty.py,,\n")
    return site


def session(folder, site, text, *flags, status):
    """Run the tests of ``text`` as an author does; return ``Class::test`` to (outcome, what it said)."""
    folder.mkdir(exist_ok=True)
    (folder / "test_plugins.py").write_text(f"from ringfence.testing import Conformance\n{text}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "said.json").write_text(json.dumps({"said": 0.5}))
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "junit_family=xunit1",
    ]
    where = ["--basetemp", folder / "tmp", "--junit-xml", report]
    call(*command, *where, *flags, cwd=folder, env={"PYTHONPATH": str(site)}, status=status)
    return outcomes(report)


def outcomes(report):
    found = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own report
        name = f"{case.get('classname').rpartition('.')[2]}::{case.get('name').partition('[')[0]}"
        faults = [part for part in case if part.tag in {"failure", "error", "skipped"}]
        told = " ".join(f"{part.get('message')} {part.text}" for part in faults)
        outcome = faults[0].tag if faults else "passed"
        if name not in found or outcome != "passed":
            found[name] = (outcome, told)
    return found


@pytest.fixture(scope="module")
def direct(site, tmp_path_factory):
    """The outcomes of the tests that need no run, of all plugins but those that only a run finds."""
    text, wanted = "", []
    for name in (*FAULTY, *SOUND):
        text += f"class Test{name}(Conformance):\n    plugin = '{name.lower()}'\n    dtypes = ('float32',)\n"
        text += "    trusted = True\n" if name in TRUSTED else ""
        tests = [FAULTY[name][0]] if name in FAULTY else DIRECT
        wanted += [f"(Test{name} and {test})" for test in tests]
    text += (
        "import pytest\n"
        "class TestOwn(Conformance):\n"
        "    @pytest.mark.parametrize('series', [1, 2])\n"
        "    def test_own(self, series): assert series\n"
    )
    wanted.append("test_own")
    return session(tmp_path_factory.mktemp("direct"), site, text, "-k", " or ".join(wanted), status=1)


@pytest.mark.parametrize("name", FAULTY)
def test_a_broken_rule_is_found(direct, name):
    test, says = FAULTY[name]

    outcome, told = direct[f"Test{name}::{test}"]

    assert outcome in {"failure", "error"}
    assert says in told


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_plugin_passes(direct, name):
    found = {test: direct[f"Test{name}::{test}"] for test in DIRECT}

    expected = dict.fromkeys(DIRECT, "passed") | {"test_the_number_of_workers_changes_nothing": "skipped"}
    if name != "KnowsTrees":
        expected["test_it_takes_trees"] = "skipped"
    assert {test: outcome for test, (outcome, _) in found.items()} == expected, found


def test_a_class_may_have_tests_of_its_own(direct):
    assert direct["TestOwn::test_own"][0] == "passed"


@pytest.mark.soak
def test_what_only_a_run_finds(site, tmp_path):
    found = session(tmp_path / "runs", site, RUNS, "-k", "not fit and not bits and not whole", status=1)

    assert found["TestHangs::test_it_answers_in_time"][0] == "failure"
    said = found["TestHangs::test_it_answers_in_time"][1]
    assert "'hangs' in 'gradient.backward' at step 3: no reply within 1 s" in said
    assert found["TestHangs::test_it_keeps_within_its_budget"][0] == "passed"
    assert found["TestGrows::test_it_keeps_within_its_budget"][0] == "failure"
    assert found["TestGrows::test_it_answers_in_time"][0] == "passed"
    for plugin in ("Hangs", "Grows"):
        assert found[f"Test{plugin}::test_it_trains_in_its_sandbox"][0] == "failure"
        assert found[f"Test{plugin}::test_the_sandbox_changes_no_bit"][0] == "skipped"
        assert "trusted = True" in found[f"Test{plugin}::test_the_sandbox_changes_no_bit"][1]
    listens = {test: outcome for test, (outcome, _) in found.items() if test.startswith("TestListens")}
    assert set(listens.values()) == {"passed", "skipped"}
    assert listens["TestListens::test_the_sandbox_changes_no_bit"] == "passed"


def test_pytest_imports_nothing_for_who_does_not_use_it(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import os, sys\n"
        "def test_other(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('ringfence')\n"
        "    heavy = {'torch', 'numpy', 'pydantic', 'jinja2'}\n"
        "    heavy |= {'ringfence.run.execute', 'ringfence.discovery.catalog'}\n"
        "    assert not heavy & set(sys.modules)\n"
        "    assert os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'] == 'untouched'\n"
    )
    flags = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--rootdir", ".", "--basetemp", "tmp"]
    environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "untouched"}

    call(sys.executable, "-P", "-m", "pytest", *flags, cwd=tmp_path, env=environment)
