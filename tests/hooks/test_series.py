"""The record of the current series is fresh, complete and reviewable."""

import importlib.util
import json
from pathlib import Path

import pytest
from packaging.version import Version

from ringfence import __all__, __version__
from ringfence.hooks import specs
from ringfence.hooks.series import FOLDER, Index, Series, series_of

TOOL = Path(__file__).parents[2] / "tools" / "snapshot.py"
CURRENT = series_of(Version(__version__))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("snapshot_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_snapshot_of_the_current_series_is_not_stale(tool):
    assert tool.path().read_text() == tool.text(), "stale; run: python tools/snapshot.py"


def test_check_fails_on_a_stale_snapshot_and_writing_mends_it(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["snapshot.py", "--check"])
    assert tool.main() == 1
    assert "python tools/snapshot.py" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["snapshot.py"])
    assert tool.main() == 0
    monkeypatch.setattr("sys.argv", ["snapshot.py", "--check"])
    assert tool.main() == 0


def test_snapshot_is_sorted_with_one_item_a_line(tool):
    data = json.loads(tool.text())

    assert tool.text() == json.dumps(data, indent=2, sort_keys=True) + "\n"
    assert data["names"] == sorted(data["names"])
    assert all(attributes == sorted(attributes) for attributes in data["types"].values())


def test_snapshot_holds_every_hook_role_name_and_attribute():
    snapshot = Index.read().snapshots[CURRENT]

    assert set(snapshot.hooks) == {hook.__name__ for hook in specs.HOOKS}
    assert tuple(snapshot.hooks["gradient_forward"]) == ("batch", "outputs", "loss", "step")
    assert snapshot.roles == set(specs.ROLES)
    assert snapshot.names == set(__all__)
    assert {"global_step", "lr_factor", "log", "generator", "sample_seeds"} <= snapshot.types["StepInfo"]
    assert {"inputs", "targets", "indices", "with_", "soft_targets"} <= snapshot.types["Batch"]
    assert {"clone", "flat", "select", "specs", "buffer", "items"} <= snapshot.types["TensorMap"]
    assert {"value", "gradient"} <= snapshot.types["LossTerm"]
    assert {"plugin", "hook", "step", "cause"} <= snapshot.types["PluginError"]
    assert snapshot.types["Gradients"] == snapshot.types["TensorMap"]


def test_the_series_end_with_the_current_one_and_each_has_a_snapshot():
    index = Index.read()
    names = [series.name for series in index.up_to(Version(__version__))]

    assert names[-1] == CURRENT
    assert names == list(index.snapshots)
    files = {path.name for path in FOLDER.glob("*.json")}
    assert files == {"index.json", *(f"{name}.json" for name in names)}


def test_series_not_yet_released_stands_last():
    index = Index((Series("1.9", ("1.9.0",)), Series("2.0", ("2.0.0",))))

    assert [series.name for series in index.up_to(Version("2.1.0.dev1"))] == ["1.9", "2.0", "2.1"]
    assert [series.name for series in index.up_to(Version("1.9.3"))] == ["1.9"]
