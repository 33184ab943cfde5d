"""Whatever is in a checkpoint's folder: it is read, or refused by name and the one before is taken."""

import copy
import functools
import json
import math
import os
import random
import shutil
import socket
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ringfence.engine.checkpoints import checkpoint, manifest
from ringfence.engine.checkpoints.checkpoint import (
    MAX_DAMAGED,
    Limits,
    _read_files,
    read_newest,
    write_checkpoint,
)
from ringfence.engine.checkpoints.manifest import DamagedError, decode, encode
from ringfence.engine.checkpoints.manifest import load as manifest_load
from ringfence.engine.progress import Progress
from ringfence.engine.state import TrainState
from ringfence.engine.weights import Weights
from ringfence.hooks.errors import CheckpointError
from ringfence.plugins.manager import Hooks
from ringfence.plugins.observer import Observer
from ringfence.tensors import pytree

NEW, OLD = "step-00000002", "step-00000001"
FILES = ("state.json", "model.safetensors", "engine.safetensors", "plugin-000.safetensors")
LIMITS = Limits(1 << 20, {"optim": 1 << 20}, 1 << 20)


def new_state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return TrainState(model, Weights(model, torch.device("cpu")), torch.device("cpu"), Progress())


one_state = functools.cache(new_state)


def plugin_state(step):
    return {"step": step, "moments": {0: torch.full((2, 3), float(step))}, "special": [math.inf, -0.0]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of one run, and the files of the later one."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    state = new_state()
    for step in (1, 2):
        state.progress.step = step
        contents = state.snapshot(Hooks(), Observer()).contents(0.5, higher_is_better=True)
        write_checkpoint(folder, with_plugin(contents, step), {"seed": 1}, keep=3)
    return folder, {name: (folder / NEW / name).read_bytes() for name in FILES}


def with_plugin(contents, step):
    return type(contents)(
        contents.step, contents.tensors, contents.engine, {"optim": pytree.encode(plugin_state(step))}, 0.5
    )


@pytest.fixture
def folder(written):
    """As written, whatever the test before has done to it."""
    folder, files = written
    remove(folder / NEW)
    (folder / NEW).mkdir()
    for name, data in files.items():
        (folder / NEW / name).write_bytes(data)
    return folder


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def resume(folder):
    """Return step and what was told, as a run that resumes would."""
    told = []
    path, snapshot = read_newest(folder, lambda *_: None, new_state().read, note=told.append, limits=LIMITS)
    assert path.name == f"step-{snapshot.progress.step:08d}"
    return snapshot.progress.step, told


def refused(folder, *words):
    """Check that the newer one is passed over with a message that holds ``words``, in little time."""
    started = time.process_time()
    step, (message,) = resume(folder)
    assert time.process_time() - started < 2
    assert step == 1
    assert message.isprintable()
    assert len(message) < 700
    for word in ("checkpoint", NEW, "damaged", f"going back to {OLD}", *words):
        assert word in message


def sign(folder):
    """Make ``state.json`` vouch for the files as they are."""
    import hashlib

    path = folder / NEW / "state.json"
    told = json.loads(path.read_bytes())
    for name in told["digests"]:
        data = (folder / NEW / name).read_bytes()
        told["digests"][name], told["lengths"][name] = hashlib.sha256(data).hexdigest(), len(data)
    say(folder, told)


def say(folder, told):
    body = {key: value for key, value in told.items() if key != "digest"}
    (folder / NEW / "state.json").write_bytes(encode(body))


def test_both_are_read_as_written(folder):
    assert resume(folder) == (2, [])


def crowd(folder, damaged):
    """Put as many damaged ones behind a whole one, each a link to the same files, as is cheap to make."""
    (folder / NEW / "model.safetensors").write_bytes(b"")
    sign(folder)
    for number in range(damaged - 1):
        shutil.copytree(folder / NEW, folder / f"step-{number + 3:08d}", copy_function=os.link)


@pytest.fixture
def crowded(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "checkpoints")


def test_one_that_is_whole_is_found_behind_as_many_damaged_ones_as_are_read(crowded):
    crowd(crowded, MAX_DAMAGED - 1)
    step, told = resume(crowded)
    assert (step, len(told)) == (1, MAX_DAMAGED - 1)


def test_no_more_damaged_ones_are_read_and_the_rest_is_told(crowded, monkeypatch):
    crowd(crowded, 10 * MAX_DAMAGED)
    read = []
    monkeypatch.setattr(checkpoint.manifest, "load", lambda path: read.append(path) or manifest_load(path))
    with pytest.raises(CheckpointError) as caught:
        resume(crowded)
    assert len(set(read)) == MAX_DAMAGED
    message = str(caught.value)
    assert message.startswith("no checkpoint can be used: ")
    assert message.count(" is damaged: ") == 5
    assert message.endswith(
        f"; and {MAX_DAMAGED - 5} more are damaged. The {9 * MAX_DAMAGED + 1} before them, the latest "
        f"step-{9 * MAX_DAMAGED + 1:08d}, were not looked at: remove the damaged ones to have them tried"
    )


# the bytes


def load(folder):
    """Read the newer one alone, which is cheap enough to be done for every byte."""
    path = folder / NEW
    return one_state().read(_read_files(path, manifest.load(path), LIMITS), path)


def damage(folder, name, variants):
    """Put each variant in the file's place; a sample goes the whole way."""
    for number, data in enumerate(variants):
        (folder / NEW / name).write_bytes(data)
        with pytest.raises(DamagedError, match=name):
            load(folder)
        if number % 199 == 0:
            refused(folder, name)


def flipped(data, at, bits):
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_length_is_refused(folder, written, name):
    data = written[1][name]
    lengths = [*range(min(len(data), 600)), *range(600, len(data), 397)]
    damage(folder, name, (data[:length] for length in lengths))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused(folder, written, name):
    data, source = written[1][name], random.Random(name)  # noqa: S311 - the same damage on every run
    places = range(len(data)) if len(data) < 2000 else [*range(100), *source.sample(range(len(data)), 150)]
    damage(folder, name, (flipped(data, at, source.choice((1, 2, 0x20, 0xFF))) for at in places))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_every_length_or_with_any_byte_flipped_is_refused(folder, written, name):
    data = written[1][name]
    damage(folder, name, (data[:length] for length in range(len(data))))
    damage(folder, name, (flipped(data, at, 1 << at % 8) for at in range(len(data))))


@pytest.mark.parametrize("name", FILES[1:])
def test_what_is_signed_is_read_or_refused_whatever_its_bytes(folder, written, name):
    """As by someone who can write digests: cut short, made longer, and bytes of the header changed."""
    data = written[1][name]
    head = 8 + int.from_bytes(data[:8], "little")
    source = random.Random(name)  # noqa: S311 - the same damage on every run
    places = {*range(24), *range(head - 24, head), *source.sample(range(head), 100)}
    damaged = [data[:at] for at in range(0, len(data), max(1, len(data) // 40))]
    damaged += [data + b"\0", *(flipped(data, at, source.choice((1, 2, 4, 0xFF))) for at in sorted(places))]
    outcomes = []
    for changed in damaged:
        (folder / NEW / name).write_bytes(changed)
        sign(folder)
        outcomes.append(outcome(folder))
    assert outcomes.count("refused") > 60
    assert set(outcomes) <= {"refused", "read", "of another model"}


def outcome(folder):
    """Return what becomes of it; anything else than these is an error of the test."""
    try:
        load(folder)
    except DamagedError:
        return "refused"
    except CheckpointError as error:
        return "of another model" if "is of another model" in str(error) else str(error)
    return "read"


# the files


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / NEW / name).unlink()
    refused(folder, name, "No such file")


def test_other_files_beside_are_left_alone(folder):
    (folder / NEW / "notes.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (folder / "step-1").mkdir(exist_ok=True)
    assert resume(folder) == (2, [])
    (folder / "step-1").rmdir()


def by_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def by_folder(path):
    path.unlink()
    path.mkdir()


def by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def by_socket(path):
    path.unlink()
    at = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as endpoint:  # a short name: the whole path may be too long
            endpoint.bind(f"/proc/self/fd/{at}/{path.name}")
    finally:
        os.close(at)


def by_device(path):
    path.unlink()
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        pytest.skip("may not make devices")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("replace", [by_link, by_folder, by_fifo, by_socket, by_device])
def test_what_is_no_file_is_refused_and_never_waited_for(folder, name, replace):
    replace(folder / NEW / name)
    refused(folder, name, "symbolic link" if replace is by_link else "not a regular file")


def test_a_link_in_place_of_the_folder_is_not_followed(folder):
    by_link(folder / NEW)
    refused(folder, "it is a symbolic link, and none is followed")
    remove(folder / "elsewhere")


def test_a_file_in_place_of_the_folder_is_refused(folder):
    remove(folder / NEW)
    (folder / NEW).write_text("")
    refused(folder, "it is not a folder")


def test_a_checkpoint_under_the_name_of_another_step_is_refused(folder):
    (folder / NEW).rename(folder / "step-00000007")
    with pytest.raises(AssertionError):
        refused(folder)  # it names the other folder
    step, (message,) = resume(folder)
    assert step == 1
    assert "step-00000007 is damaged: state.json: it says step 2" in message
    (folder / "step-00000007").rename(folder / NEW)


def test_a_name_in_other_digits_is_no_checkpoint(folder):
    stranger = folder / "step-٠٠٠٠٠٠٠٩"
    (folder / NEW).rename(stranger)
    assert resume(folder) == (1, [])
    remove(stranger)


def test_a_disk_that_cannot_be_read_is_told(folder):
    """A file of the kernel's that gives EIO, over one of ours."""
    import subprocess

    target = folder / NEW / "state.json"
    if subprocess.run(
        ["mount", "--bind", "/proc/self/mem", target], capture_output=True, check=False
    ).returncode:
        pytest.skip("may not mount")
    try:
        refused(folder, "state.json")
    finally:
        subprocess.run(["umount", target], check=True)


def test_nothing_intact_is_an_error_and_no_start_from_zero(folder, tmp_path):
    alone = tmp_path / "checkpoints"
    shutil.copytree(folder / NEW, alone / NEW)
    (alone / NEW / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"no checkpoint can be used: .*{NEW} is damaged: model"):
        resume(alone)


# what the manifest says

DEEP = "@"
for _ in range(70):
    DEEP = [DEEP]
FALSE = {
    "step": [-1, 2**70, "2", 2.5, True, None, [], 3, ...],
    "format": [0, -1, 2**40, "1", 1.5, None, True, ...],
    "version": ["", "1", "x.y", "9" * 100, "1.2\x1b[31m", 3, None],
    "metric": ["0.5", math.nan, [], {}, True, ...],
    "higher_is_better": [1, "yes", None, ...],
    "fingerprint": [[], None, "x", {"deep": DEEP}, ...],
    "environment": [[], None, 1],
    "plugins": [
        [], None, {"optim": None}, {"optim": 1}, {"optim": "../../step-00000001/model.safetensors"},
        {"optim": "/etc/passwd"}, {"optim": "model.safetensors"}, {"optim": "plugin-000.safetensors/../x"},
        {"optim": "plugin-000.safetensors\n"}, {"a": "plugin-000.safetensors", "b": "plugin-000.safetensors"},
        {"optim": "plugin-001.safetensors"}, {}, ...,
    ],
    "digests": [[], {}, {"model.safetensors": "0" * 64}, {"../x": "0" * 64}, None, ...],
    "lengths": [[], {}, {"model.safetensors": -1}, {"model.safetensors": 2**80}, 5],
    "unknown": [1],
}  # fmt: skip


@pytest.mark.parametrize("key", FALSE)
def test_a_manifest_that_is_signed_but_wrong_is_refused(folder, written, key):
    told = json.loads(written[1]["state.json"])
    for value in FALSE[key]:
        say(folder, {name: item for name, item in {**told, key: value}.items() if item is not ...})
        refused(folder, "state.json")
        assert key != "plugins" or not (folder / NEW / "..").is_symlink()


def test_digests_that_are_no_digests_are_refused(folder, written):
    told = json.loads(written[1]["state.json"])
    for wrong in ("", "x" * 64, "0" * 63, "A" * 64, 1, None, "0" * 64 + "\n"):
        digests = {**told["digests"], "model.safetensors": wrong}
        say(folder, {**told, "digests": digests})
        refused(folder, "state.json")
    say(folder, {**told, "digests": {**told["digests"], "model.safetensors": "0" * 64}})
    refused(folder, "model.safetensors does not match its digest")


RAW = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "not UTF-8": b'{"a": "\xff"}',
    "nested deep": b"[" * 200_000 + b"]" * 200_000,
    "dicts nested deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": b'{"step": ' + b"1" * 1_000_000 + b"}",
    "NaN": b'{"step": NaN}',
    "many": b"[" + b"{}," * 1_000_000 + b"{}]",
    "larger than any": b" " * (5 << 20),
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_json_of_any_kind_is_refused(folder, data):
    (folder / NEW / "state.json").write_bytes(data)
    refused(folder, "state.json")


def test_a_manifest_that_says_a_thing_twice_is_refused(folder, written):
    """Its digest is right for what a parser makes of it."""
    data = written[1]["state.json"]
    (folder / NEW / "state.json").write_bytes(data.replace(b'  "step": 2', b'  "step": 1,\n  "step": 2'))
    refused(folder, "state.json does not match its digest")
    (folder / NEW / "state.json").write_bytes(data.replace(b"\n", b"\n "))
    refused(folder, "state.json does not match its digest")


# what the engine's own file says


def engine_of(written):
    return pytree.loads(written[1]["engine.safetensors"])


def put(folder, name, value):
    (folder / NEW / name).write_bytes(pytree.dumps(value))
    sign(folder)


NUMBERS = [-2, 2**70, 1.5, "1", None, True, [], math.nan]
WRONG_PROGRESS = {
    "step": [*NUMBERS, 1],
    "metrics": [None, [], {"a": "b"}, {1: 2.0}, {"a": None}],
    "evaluated_step": [*NUMBERS, 3],
    "best_metric": ["x", [], 0.5],
    "best_step": ["x", -3, 1.5, 0],
    "baseline": ["x", []],
    "evaluations_without_gain": [-1, "x", None, 1.5],
    "stopped_early": [0, "no", None],
    "other": [1],
}


@pytest.mark.parametrize("key", WRONG_PROGRESS)
def test_progress_that_is_none_is_refused(folder, written, key):
    for value in WRONG_PROGRESS[key]:
        engine = engine_of(written)
        engine["progress"][key] = value
        put(folder, "engine.safetensors", engine)
        refused(folder, "engine.safetensors", "progress")
    if key != "other":
        engine = engine_of(written)
        del engine["progress"][key]
        put(folder, "engine.safetensors", engine)
        refused(folder, "engine.safetensors", "progress")


WORDS = list(range(624))
WRONG_RANDOM = {
    "rng_cpu": [
        None, 1, torch.zeros(5056), torch.zeros(0, dtype=torch.uint8), torch.zeros(5055, dtype=torch.uint8),
        torch.full((5056,), 255, dtype=torch.uint8), torch.zeros(2, 2528, dtype=torch.uint8),
    ],
    "rng_cuda": [1, "x", torch.zeros(15, dtype=torch.uint8), torch.zeros(16)],
    "rng_python": [
        None, [], [3], [3, [], None], [2, [*WORDS, 624], None], [3, [*WORDS, 625], None],
        [3, [*WORDS, -1], None],
        [3, [*WORDS[:-1], 2**32, 1], None], [3, [*WORDS[:-1], "x", 1], None], [3, [*WORDS, 1], "x"],
        [3, [*WORDS[:-1], 0.5, 1], None], [True, [*WORDS, 1], None], [3, [*WORDS, 1], None, 1],
    ],
    "rng_numpy": [
        [], 1, "MT19937", [WORDS, 1, 0], [WORDS, 625, 0, 0.0], [WORDS, -1, 0, 0.0], [WORDS, 1, 2, 0.0],
        [WORDS, 1, 0, "x"], [WORDS[:-1], 1, 0, 0.0], [[*WORDS[:-1], 2**32], 1, 0, 0.0],
        [[*WORDS[:-1], -1], 1, 0, 0.0], [[*WORDS[:-1], 0.5], 1, 0, 0.0], [WORDS, 1, 0, 0.0, 1], {},
    ],
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG_RANDOM)
def test_random_states_that_are_none_are_refused(folder, written, key):
    # Whoever resumes makes a model first, which draws: refused for another reason, it leaves just that.
    put(folder, "engine.safetensors", None)
    refused(folder, "engine.safetensors")
    before = torch.get_rng_state(), random.getstate()
    for value in WRONG_RANDOM[key]:
        put(folder, "engine.safetensors", {**engine_of(written), key: value})
        refused(folder, "engine.safetensors", key)
    assert torch.equal(before[0], torch.get_rng_state())
    assert random.getstate() == before[1]


def test_a_checkpoint_from_before_numpys_generator_was_kept_is_read(folder, written):
    engine = engine_of(written)
    del engine["rng_numpy"]
    put(folder, "engine.safetensors", engine)
    assert resume(folder) == (2, [])
    assert load(folder).rng.numpy is None


@pytest.mark.parametrize("value", [None, [], "x", 1, {}, {"progress": {}}, torch.ones(2)])
def test_an_engines_state_of_another_form_is_refused(folder, value):
    put(folder, "engine.safetensors", value)
    refused(folder, "engine.safetensors")


# what a plugin's file holds


def test_a_hostile_state_is_refused_with_the_plugins_name(folder, written):
    deep = "1"
    for _ in range(40):
        deep = f"[{deep}]"
    good = written[1]["plugin-000.safetensors"]
    for text in (
        deep,
        "[" * 50_000 + "]" * 50_000,
        json.dumps({"t": "7"}),
        json.dumps({"d": [[[], 1]]}),
        json.dumps([{"t": "0"}, {"t": "0"}]),
        "[" + "1" * 5000 + "]",
    ):
        header = json.dumps({"__metadata__": {"ringfence": text}}).encode()
        (folder / NEW / "plugin-000.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        sign(folder)
        refused(folder, "plugin-000.safetensors", "state of plugin 'optim'")
    claims = good.replace(b'"data_offsets":[0,24]', b'"data_offsets":[4,24]')
    assert claims != good
    (folder / NEW / "plugin-000.safetensors").write_bytes(claims)
    sign(folder)
    refused(folder, "plugin-000.safetensors", "state of plugin 'optim'", "overlap")


def test_a_state_of_gigabytes_is_refused_before_it_is_read(folder, written):
    told = json.loads(written[1]["state.json"])
    with (folder / NEW / "plugin-000.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    say(folder, {**told, "lengths": {**told["lengths"], "plugin-000.safetensors": 1 << 40}})
    refused(folder, "plugin 'optim'", f"takes {1 << 40} bytes; at most {1 << 18}", "memory_fraction")


@pytest.mark.parametrize("name", ["model.safetensors", "engine.safetensors"])
def test_a_file_of_gigabytes_is_refused_before_it_is_read(folder, written, name):
    told = json.loads(written[1]["state.json"])
    with (folder / NEW / name).open("r+b") as file:
        file.truncate(1 << 40)
    say(folder, {**told, "lengths": {**told["lengths"], name: 1 << 40}})
    refused(folder, name, "at most")


def test_tensors_of_another_model_are_told_and_nothing_is_passed_over(folder, written):
    import safetensors.torch

    for tensors in ({}, {"0.weight": torch.ones(2)}):
        (folder / NEW / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
        sign(folder)
        with pytest.raises(CheckpointError, match="is of another model"):
            resume(folder)
    good = safetensors.torch.load(written[1]["model.safetensors"])
    good["0.weight"] = good["0.weight"].double()
    (folder / NEW / "model.safetensors").write_bytes(safetensors.torch.save(good))
    sign(folder)
    with pytest.raises(CheckpointError, match=r"'0.weight' is \(2, 3\) torch.float64 there"):
        resume(folder)


def test_numbers_that_are_not_finite_survive_exactly(tmp_path):
    special = [math.inf, -math.inf, math.nan, -0.0, 5e-324, 2**200]
    tensors = torch.tensor([math.inf, -math.inf, math.nan, -0.0]).view(torch.int32)
    tensors[2] |= 0x1234  # a NaN with something to tell
    state, plugin = new_state(), {"list": special, "tensor": tensors.view(torch.float32), math.inf: 1}
    contents = state.snapshot(Hooks(), Observer()).contents(-math.inf, higher_is_better=True)
    contents = type(contents)(0, contents.tensors, contents.engine, {"p": pytree.encode(plugin)}, -math.inf)
    write_checkpoint(tmp_path, contents, {"option": math.inf}, keep=1)
    seen = []
    _, read = read_newest(tmp_path, lambda _, told: seen.append(told), lambda c, _: c, note=pytest.fail)
    assert (read.metric, seen[0]["fingerprint"]) == (-math.inf, {"option": math.inf})
    loaded = pytree.decode(read.plugins["p"])
    assert list(map(repr, loaded["list"])) == list(map(repr, special))
    assert torch.equal(loaded["tensor"].view(torch.int32), tensors)
    assert loaded[math.inf] == 1


# anything else

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def somewhere(value, source, new):
    """Put ``new`` in place of some part of ``value``, or take a part away."""
    value = copy.deepcopy(value)
    at, path = value, []
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = source.choice(keys)
        path.append(key)
        if isinstance(at[key], (dict, list)) and at[key] and source.random() < 0.7:
            at = at[key]
        elif isinstance(at, dict) and source.random() < 0.2:
            del at[key]
            return value
        else:
            at[key] = new
            return value


def try_anything(written, new, seed):
    folder, files = written
    source = random.Random(seed)  # noqa: S311 - hypothesis chooses it
    for name, data in files.items():
        (folder / NEW / name).write_bytes(data)
    if source.random() < 0.5:
        say(folder, somewhere(json.loads(files["state.json"]), source, new))
    else:
        put(folder, "engine.safetensors", somewhere(engine_of(written), source, new))
    found = outcome(folder)
    assert found in {"refused", "read"} or "pip install" in found  # of a later version


@pytest.fixture
def _as_before(written):
    remove(written[0] / NEW)
    (written[0] / NEW).mkdir()


@pytest.mark.usefixtures("_as_before")
def test_any_value_anywhere_is_read_or_refused(written):
    @given(VALUES, st.integers(0, 2**32))
    @settings(max_examples=50, deadline=None)
    def check(new, seed):
        try_anything(written, new, seed)

    check()


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_as_before")
def test_any_value_anywhere_is_read_or_refused_for_long(written):
    @given(VALUES, st.integers(0, 2**32))
    @settings(max_examples=4_000, deadline=None)
    def check(new, seed):
        try_anything(written, new, seed)

    check()


def test_reading_is_as_strict_as_writing(written):
    """The check on bytes is that they are what would be written: so whatever is written must pass it."""
    for value in (0.1 + 0.2, 1e300, -0.0, math.inf, "é\x00\ud800", 2**80, None):
        told = json.loads(written[1]["state.json"])
        body = {**told, "fingerprint": {"value": value, "é": [value]}}
        del body["digest"]
        found = decode(encode(body), written[0] / NEW)
        assert repr(found.fingerprint["value"]) == repr(value)
