"""Checkpoints survive crashes, and damage is noticed and named."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from packaging.version import Version

from ringfence.engine.checkpoints import manifest
from ringfence.engine.checkpoints.checkpoint import CheckpointContents, read_latest, write_checkpoint
from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.checkpoints.manifest import read_manifest
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.hooks.errors import CheckpointError
from ringfence.tensors import pytree, tensor_file
from ringfence.tensors.tensor_file import TensorFile, TensorFileError
from ringfence.version import __version__


def contents(step=1, metric=None, *, higher=True, size=4):
    return CheckpointContents(
        step=step,
        tensors={"weight": torch.arange(float(size)), "tied.count": torch.tensor(step)},
        engine=pytree.encode({"step": step}),
        plugins={"../odd name": pytree.encode([1, torch.ones(2)]), "b": pytree.encode({})},
        metric=metric,
        higher_is_better=higher,
    )


def read(folder, **fingerprint):
    return read_latest(folder, Fingerprint(values=fingerprint).compare, note=pytest.fail)


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def test_what_was_written_is_read(tmp_path):
    folder = tmp_path / "new" / "checkpoints"
    path = write_checkpoint(folder, contents(12, 0.5), {"seed": 1}, keep=3)
    assert path == folder / "step-00000012"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "engine.safetensors", "model.safetensors",
        "plugin-000.safetensors", "plugin-001.safetensors", "state.json",
    ]  # fmt: skip
    found, loaded = read(folder, seed=1)
    assert found == path
    assert (loaded.step, loaded.metric, loaded.higher_is_better) == (12, 0.5, True)
    assert torch.equal(loaded.tensors["weight"], torch.arange(4.0))
    saved, read_back = (
        {name: state.to_bytes() for name, state in each.plugins.items()} for each in (contents(12), loaded)
    )
    assert read_back == saved
    assert sorted(entry.name for entry in folder.iterdir()) == ["best", path.name]
    assert safetensors.torch.load_file(path / "model.safetensors").keys() == {"weight", "tied.count"}


def test_latest_and_best_are_kept(tmp_path):
    for step, metric in enumerate([0.1, 0.9, 0.3, None, 0.9, 0.2, 0.5]):
        write_checkpoint(tmp_path, contents(step, metric), {}, keep=2)
    assert steps(tmp_path) == [1, 5, 6]


def test_best_is_the_lowest_where_lower_is_better(tmp_path):
    for step, metric in enumerate([3.0, 1.0, 2.0, 5.0]):
        write_checkpoint(tmp_path, contents(step, metric, higher=False), {}, keep=1)
    assert steps(tmp_path) == [1, 3]


def test_same_step_is_replaced(tmp_path):
    write_checkpoint(tmp_path, contents(5, size=4), {}, keep=3)
    write_checkpoint(tmp_path, contents(5, size=9), {}, keep=3)
    assert read(tmp_path)[1].tensors["weight"].numel() == 9
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path):
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    leftover = tmp_path / ".writing-00000002"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert read(tmp_path)[1].step == 1
    write_checkpoint(tmp_path, contents(2), {}, keep=3)
    assert not leftover.exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "engine.safetensors", "plugin-001.safetensors", "state.json"]
)
def test_damage_is_named_and_the_one_before_is_taken(tmp_path, name, damage):
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    damage(write_checkpoint(tmp_path, contents(2), {}, keep=3) / name)
    told = []
    path, loaded = read_latest(tmp_path, Fingerprint().compare, note=told.append)
    assert (path.name, loaded.step) == ("step-00000001", 1)
    (message,) = told
    assert f"checkpoint {tmp_path}/step-00000002 is damaged: {name}" in message
    assert "going back to step-00000001" in message


def test_nothing_intact_is_an_error_that_names_all(tmp_path):
    for step in (1, 2):
        flip(write_checkpoint(tmp_path, contents(step), {}, keep=3) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be used.*step-00000002.*step-00000001"):
        read(tmp_path)


def test_every_byte_of_the_manifest_counts(tmp_path):
    path = write_checkpoint(tmp_path, contents(3, 0.25), {"seed": 1}, keep=3)
    manifest = json.loads((path / "state.json").read_text())
    for key in manifest:
        changed = {**manifest, key: "other"}
        (path / "state.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="does not match its digest"):
            read_manifest(path)


def rewrite(path, **changes):
    """Change what ``state.json`` says and give it the digest that it then needs."""
    told = json.loads((path / "state.json").read_text())
    body = {key: value for key, value in {**told, **changes}.items() if key != "digest" and value is not ...}
    (path / "state.json").write_bytes(manifest.encode(body))


def test_format_of_a_later_version_is_told_with_what_to_install(tmp_path):
    write_checkpoint(tmp_path, contents(1), {}, keep=3)
    rewrite(write_checkpoint(tmp_path, contents(2), {}, keep=3), format=2, version="0.9.1", unknown=[])
    # What is newer is not damaged: the steps in it must not be lost in silence.
    with pytest.raises(CheckpointError, match=r"by ringfence 0.9.1, in format 2.*'ringfence==0.9.1'"):
        read(tmp_path)


def test_later_series_with_the_same_format_is_refused_and_an_earlier_one_is_read(tmp_path):
    path = write_checkpoint(tmp_path, contents(1), {}, keep=3)
    series = Version(__version__)
    rewrite(path, version=f"{series.major}.{series.minor + 1}.0")
    with pytest.raises(CheckpointError, match=f"this is {__version__}.*pip install"):
        read(tmp_path)
    rewrite(path, version=f"{series.major}.{series.minor}.99")
    assert read(tmp_path)[1].step == 1
    # Series 0.1 wrote neither its version nor lengths.
    rewrite(path, version=..., lengths=..., environment=...)
    assert read(tmp_path)[1].step == 1


def test_metric_that_is_not_finite_survives(tmp_path):
    write_checkpoint(tmp_path, contents(1, float("inf")), {}, keep=1)
    assert read(tmp_path)[1].metric == float("inf")


def test_path_below_a_file_is_told_with_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "checkpoints"
    with pytest.raises(CheckpointError, match=f"{folder} cannot be used: .*a file, not a folder"):
        write_checkpoint(folder, contents(), {}, keep=1)


def test_the_page_lists_every_field_of_the_manifest():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    table = page.partition("| `state.json` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(manifest.Manifest.__struct_fields__)


def test_every_kind_of_tensor_is_as_the_safetensors_package_has_it(tmp_path):
    """Ours are written and read in place, without it; the two must agree on every byte."""
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for dtype, name in tensor_file._NAMES.items()}
    tensors |= {
        'a "name" é': torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }
    ours = TensorFile.of(tensors).to_bytes()
    theirs = safetensors.torch.load(ours)
    again = tensor_file.read(torch.frombuffer(bytearray(safetensors.torch.save(theirs)), dtype=torch.uint8))
    assert theirs.keys() == again.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        for other in (theirs[name], again.tensors[name]):
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert TensorFile.of({"x": other}).to_bytes() == TensorFile.of({"x": tensor}).to_bytes()
    with pytest.raises(TensorFileError, match=r"'s' is of a kind that cannot be saved \(float32, sparse_coo"):
        TensorFile.of({"s": torch.zeros(2).to_sparse()})
    with pytest.raises(TensorFileError, match="complex128"):
        TensorFile.of({"c": torch.zeros(2, dtype=torch.complex128)})


def test_a_checkpoint_is_written_from_where_the_tensors_lie():
    """No second copy of the state is held while it is written: the file's bytes are the tensors' own."""
    weight = torch.arange(1_000_000.0)
    file = TensorFile.of({"weight": weight})
    chunk = list(file.chunks())[1]
    weight[0] = 5
    assert torch.frombuffer(chunk[:4], dtype=torch.float32).item() == 5
