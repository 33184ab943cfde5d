"""The job file: what is read, how flags change it, and what each fault says."""

import math
import re
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from ringfence import JobError
from ringfence.engine.losses import LOSSES
from ringfence.engine.metrics import METRICS
from ringfence.job.flags import split_outside
from ringfence.job.job_file import Job, JobFile, PluginJob, check_job, read_job
from ringfence.job.yaml_document import dump_yaml, parse_yaml

SMALL = "model: cnn\ndata: mnist10k\nepochs: 2\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def faults(path: Path, sets=(), plugins=()) -> list[str]:
    """Return the lines of the error, with the folder cut off."""
    with pytest.raises(JobError) as error:
        read_job(path, sets, plugins)
    return str(error.value).replace(f"{path.parent}/", "").splitlines()


def job_of(text: str) -> JobFile:
    return check_job(parse_yaml(text, "job.yaml"))


def test_small_job_gets_defaults(write):
    job = read_job(write(SMALL)).job
    assert (job.model.name, job.epochs, job.steps, job.batch_size) == ("cnn", 2, None, 64)
    assert job.memory_fraction is None
    assert job.loss.name == "cross_entropy"


def test_name_and_mapping_mean_the_same():
    assert job_of(SMALL).job == job_of(SMALL.replace("cnn", "{name: cnn}")).job


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_job_that_names_no_metric_gets_one_that_goes_with_its_loss(write, loss):
    named = read_job(write(f"{SMALL}loss: {loss}\n")).job
    assert METRICS[named.metric.name].classes in {None, LOSSES[loss].classes}
    assert read_job(write(f"{SMALL}loss: {{name: {loss}}}\n")).job.metric == named.metric
    assert read_job(write(SMALL), [f"loss={loss}"]).job.metric == named.metric


def test_a_metric_that_a_job_names_stays():
    assert job_of(f"{SMALL}loss: mse\nmetric: r2\n").job.metric.name == "r2"


def test_options_stand_beside_the_name():
    model = job_of(SMALL.replace("cnn", "{name: cnn, width: 32}")).job.model
    assert (model.name, model.options) == ("cnn", {"width": 32})


def test_exponent_without_point_is_a_number():
    job = job_of(SMALL + "plugins: [{optim: {lr: 1e-3}}]").job
    assert job.plugins[0].options == {"lr": 0.001}


def test_no_is_text_and_not_false():
    job = job_of(SMALL + "plugins: [{optim: {mode: no}}]").job
    assert job.plugins[0].options == {"mode": "no"}


def test_bare_name_is_a_plugin_without_options():
    plugin = job_of(SMALL + "plugins: [monitor]").job.plugins[0]
    assert (plugin.name, plugin.options, plugin.isolation) == ("monitor", {}, "sandbox")


def test_settings_stand_beside_the_plugin():
    text = SMALL + "plugins:\n  - augment: {ops: [1]}\n    workers: 3\n    isolation: trusted\n"
    plugin = job_of(text).job.plugins[0]
    assert (plugin.options, plugin.workers, plugin.isolation) == ({"ops": [1]}, 3, "trusted")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs: fast", "job.yaml:3:9: epochs: expected a whole number, got the text 'fast'"),
        ("epochs: '2'", "job.yaml:3:9: epochs: expected a whole number, got the text '2'"),
        ("epochs: 2.5", "job.yaml:3:9: epochs: expected a whole number, got 2.5"),
        ("epochs: true", "job.yaml:3:9: epochs: expected a whole number, got true"),
        ("epochs: 0", "job.yaml:3:9: epochs: 0 is out of range; it must be at least 1"),
        ("epochs: 1\nbatch_sise: 3", "job.yaml:4:1: batch_sise: unknown key; did you mean 'batch_size'?"),
        ("epochs: 1\nseed: -1", "job.yaml:4:7: seed: -1 is out of range; it must be at least 0"),
        ("epochs: 1\ndevice: gpu", "job.yaml:4:9: device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("epochs: 1\nplugins: optim", "job.yaml:4:10: plugins: expected a list, got the text 'optim'"),
        (
            "epochs: 1\nloss: 3",
            "job.yaml:4:7: loss: expected a mapping (key: value), got 3; write a name, or",
        ),
        ("epochs: 1\nearly_stopping: {}", "job.yaml:4:17: early_stopping.patience: is missing; add"),
        (
            "epochs: 1\nearly_stopping: {patience: 3, delta: 1}",
            "job.yaml:4:31: early_stopping.delta: unknown key",
        ),
        ("epochs: 1\nsteps: 3", "job.yaml:4:1: steps: epochs and steps are both given; keep one"),
        (
            "steps: 2000000000",
            "job.yaml:3:8: steps: 2000000000 is out of range; it must be at most 1000000000",
        ),
        ("steps: 100000000000000000000000", "job.yaml:3:8: steps: 100000000000000000000000 is too large a"),
        (
            "steps: 0xffffffffffffffffffff",
            "job.yaml:3:8: steps: 0xffffffffffffffffffff is too large a number",
        ),
        (
            "steps: " + "9" * 5000,
            f"job.yaml:3:8: steps: {'9' * 39}… is too large a number; whole numbers lie",
        ),
        ("epochs: 1\nseed: 9223372036854775808", "job.yaml:4:7: seed: 9223372036854775808 is too large"),
        ("epochs: 1\nstop_within_s: .inf", "job.yaml:4:16: stop_within_s: expected a finite number, got inf"),
        (
            "epochs: 1\nstop_within_s: 1e400",
            "job.yaml:4:16: stop_within_s: 1e400 is too large a number; the largest is about 1.8e308",
        ),
        (
            "epochs: 1\nstop_within_s: .NaN",
            "job.yaml:4:16: stop_within_s: .NaN is no number that anything can be set to; write a finite one",
        ),
        ("seed: 1", "job.yaml:1:1: says neither epochs nor steps; add 'epochs: 10' or 'steps: 1000'"),
    ],
)
def test_fault_names_line_column_key_and_what_is_right(write, text, expected):
    (fault,) = faults(write(f"model: cnn\ndata: mnist10k\n{text}\n"))
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "- augment: {}\n  worker: 2",
            "6:3: plugins[0].worker: is no setting of a plugin; did you mean 'workers'?",
        ),
        ("- every: 2", "5:3: plugins[0]: names no plugin, only settings (every); add 'NAME: {…}'"),
        ("- optim: 3", "5:10: plugins[0].optim: expected the plugin's options as a mapping"),
        ("- 3", "5:3: plugins[0]: expected a plugin: its name, or 'NAME: {option: value}'"),
        ("- optim: {1: 2}", "5:10: plugins[0].optim: has an option named 1; names are text"),
        ("- optim\n- optim", "6:3: plugins[1]: 'optim' is listed twice (first as plugins[0])"),
        ("- optim:\n  workers: 0", "6:12: plugins[0].workers: 0 is out of range; it must be at least 1"),
        (
            "- optim:\n  deadline_s: 0",
            "6:15: plugins[0].deadline_s: 0 is out of range; it must be more than 0",
        ),
        (
            "- optim:\n  on_failure: restrt",
            "6:15: plugins[0].on_failure: expected 'restart', 'disable' or 'abort', got the text 'restrt'",
        ),
        ("- optim:\n  memory_fraction: 0.2", "6:20: plugins[0].memory_fraction: 0.2 is more than 0.15"),
    ],
)
def test_fault_in_a_plugin_entry_names_its_place(write, entry, expected):
    assert faults(write(f"{SMALL}plugins:\n{entry}\n"))[0].startswith(f"job.yaml:{expected}")


def _numbers(fields):
    """Return the keys that hold a number."""
    return [key for key, field in fields.items() if re.search(r"\b(int|float)\b", str(field.annotation))]


@pytest.mark.parametrize("key", _numbers(Job.model_fields))
@pytest.mark.parametrize("number", ["9223372036854775807", "1e300", ".inf"])
def test_every_number_of_a_job_has_a_bound(write, key, number):
    """Of whole numbers that the job can hold the seed may be any."""
    text = SMALL.replace("epochs: 2\n", "") if key in {"steps", "epochs"} else SMALL
    if key == "seed" and number == "9223372036854775807":
        assert read_job(write(f"{text}{key}: {number}\n")).job.seed == 2**63 - 1
    else:
        value = f"{{cat: {number}}}" if key == "sample_weights" else number
        (fault,) = faults(write(f"{text}{key}: {value}\n"))
        assert re.match(
            rf"job\.yaml:\d+:\d+: {key}(\.cat)?: .*(at most|less than|more than|whole|finite)", fault
        )


@pytest.mark.parametrize("key", _numbers(PluginJob.model_fields))
@pytest.mark.parametrize("number", ["9223372036854775807", "1e300", ".inf"])
def test_every_number_beside_a_plugin_has_a_bound(write, key, number):
    (fault,) = faults(write(f"{SMALL}plugins:\n  - optim:\n    {key}: {number}\n"))
    assert re.match(
        rf"job\.yaml:6:\d+: plugins\[0\]\.{key}: .*(at most|less than|more than|whole|finite)", fault
    )


@pytest.mark.parametrize("flags", [(["plugins.optim.lr=1e400"], []), ([], ["optim:lr=1e400"])])
def test_number_that_nothing_can_hold_is_told_with_its_flag(write, flags):
    (fault,) = faults(write(SMALL + "plugins: [optim]"), *flags)
    assert re.match(r"--(set|plugin) .*: the value of '.*lr' 1e400 is too large a number; the largest", fault)


def test_memory_fraction_may_be_lowered_never_raised(write):
    assert read_job(write(SMALL + "memory_fraction: 0.05")).job.memory_fraction == 0.05
    (fault,) = faults(write(SMALL + "memory_fraction: 0.16"))
    assert fault == (
        "job.yaml:4:18: memory_fraction: 0.16 is more than 0.15, the most that a plugin may have of the "
        "machine's memory; it may be lowered, never raised"
    )


def test_plugin_may_not_take_more_memory_than_the_job_says(write):
    text = SMALL + "memory_fraction: 0.05\nplugins:\n  - optim:\n    memory_fraction: 0.1\n"
    (fault,) = faults(write(text))
    assert fault.startswith("job.yaml:7:22: plugins[0].memory_fraction: 0.1 is more than the job's")


def test_all_faults_are_shown_in_the_order_of_the_file(write):
    text = "epochs: 0\nmodle: cnn\ndata: [1]\nplugins:\n  - optim: {}\n    workers: x\n  - every: 1\n"
    lines = faults(write(text), ["nothing", "seed=x"])
    places = [line.split(": ")[0] for line in lines]
    assert places[:6] == [
        "job.yaml:1:1",  # model is missing
        "job.yaml:1:9",
        "job.yaml:2:1",
        "job.yaml:3:7",
        "job.yaml:6:14",
        "job.yaml:7:5",
    ]
    assert places[6:] == ["--set nothing", "--set seed=x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2\nb: 3", "job.yaml:2:2: is not YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("\ta: 1", "job.yaml:1:1: is not YAML: while scanning for the next token: found character '\\t'"),
        ("a: 1\na: 2", "job.yaml:2:1: a: is written twice (first at job.yaml:1:1); keep one"),
        ("a: {b: 1, b: 2}", "job.yaml:1:11: a.b: is written twice (first at job.yaml:1:5); keep one"),
        ("a: 1\n---\nb: 1", "job.yaml:2:1: is not YAML: expected a single document"),
        ("a: *b", "job.yaml:1:4: is not YAML: found undefined alias 'b'"),
        ("a: &x [*x]", "job.yaml:1:4: a[0][0]"),
        (
            "a: !!python/name:os.system x",
            "job.yaml:1:4: a: has the tag tag:yaml.org,2002:python/name:os.system",
        ),
        ("a: \x01", "job.yaml: is not YAML: "),
        ("a: " + "[" * 100_000, "job.yaml: is nested too deep"),
        ("", "job.yaml: a job is a mapping"),
        ("- 1", "job.yaml:1:1: a job is a mapping"),
    ],
)
def test_bad_yaml_names_its_place(write, text, expected):
    assert faults(write(text))[0].startswith(expected)


def test_aliases_cannot_grow_without_bound(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "100000 values" in faults(write("\n".join(lines)))[0]


def test_merge_keys_give_way_to_what_is_written():
    text = SMALL + "plugins:\n  - a: &base {lr: 1, x: 2}\n  - b: {x: 3, <<: *base}\n"
    assert job_of(text).job.plugins[1].options == {"lr": 1, "x": 3}


def test_missing_file_is_told(tmp_path):
    with pytest.raises(JobError, match="no such file"):
        read_job(tmp_path / "none.yaml")


def test_folder_is_no_job(tmp_path):
    with pytest.raises(JobError, match="is a folder; name the job file in it"):
        read_job(tmp_path)


def test_file_that_is_no_text_is_told_with_its_line(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(JobError, match=r"job\.yaml:2:1: is not UTF-8"):
        read_job(path)


# flags


def test_set_beats_the_file(write):
    assert read_job(write(SMALL + "seed: 3"), ["seed=4"]).job.seed == 4


def test_set_reaches_options_of_a_bare_name(write):
    model = read_job(write(SMALL), ["model.width=8"]).job.model
    assert (model.name, model.options) == ("cnn", {"width": 8})


def test_set_steps_replaces_the_files_epochs(write):
    job = read_job(write(SMALL), ["steps=10"]).job
    assert (job.epochs, job.steps) == (None, 10)


def test_set_finds_plugins_by_name_and_by_number(write):
    path = write(SMALL + "plugins: [optim: {lr: 1}, augment: {ops: [{cutout: {p: 0.1}}]}]")
    sets = ["plugins.optim.lr=1e-2", "plugins.1.workers=4", "plugins.augment.ops.0.cutout.p=0.5"]
    optim, augment = read_job(path, sets).job.plugins
    assert optim.options == {"lr": 0.01}
    assert augment.options == {"ops": [{"cutout": {"p": 0.5}}]}
    assert augment.workers == 4


def test_later_set_beats_the_earlier(write):
    assert read_job(write(SMALL), ["seed=1", "seed=2"]).job.seed == 2


def test_plugin_flag_adds_a_plugin(write):
    job = read_job(write(SMALL), plugins=["optim:lr=1e-3,betas=[0.9, 0.99],name='a,b',workers=2"]).job
    assert job.plugins[0].name == "optim"
    assert job.plugins[0].options == {"lr": 0.001, "betas": [0.9, 0.99], "name": "a,b"}
    assert job.plugins[0].workers == 2


def test_plugin_flag_overrides_options_of_one_present(write):
    path = write(SMALL + "plugins: [optim: {lr: 1, weight_decay: 2}, monitor]")
    job = read_job(path, plugins=["optim:lr=3", "monitor"]).job
    assert [plugin.options for plugin in job.plugins] == [{"lr": 3, "weight_decay": 2}, {}]


def test_set_reaches_a_plugin_that_a_flag_adds(write):
    assert read_job(write(SMALL), ["plugins.optim.lr=1"], ["optim"]).job.plugins[0].options == {"lr": 1}


@pytest.mark.parametrize(
    ("sets", "plugins", "expected"),
    [
        (["epochs"], [], "--set epochs: 'epochs' is not KEY=VALUE"),
        (["=1"], [], "--set =1: '=1' is not KEY=VALUE"),
        (["epochs=x"], [], "--set epochs=x: epochs: expected a whole number, got the text 'x'"),
        (["epoch=1"], [], "--set epoch=1: epoch: unknown key; did you mean 'epochs'?"),
        (["seed.x=1"], [], "--set seed.x=1: 'seed' is a single value and holds no 'x'"),
        (
            ["plugins.optm.lr=1"],
            [],
            "--set plugins.optm.lr=1: the job has no plugin 'optm'; did you mean 'optim'?",
        ),
        (
            ["plugins.optim.list.7=1"],
            [],
            "--set plugins.optim.list.7=1: 'optim.list' is a list of 2; '7' is none",
        ),
        (["model=[1"], [], "--set model=[1: the value of 'model' is not YAML"),
        ([], [":lr=1"], "--plugin :lr=1: names no plugin"),
        ([], ["optim:lr"], "--plugin optim:lr: 'lr' is not KEY=VALUE"),
        ([], ["optim:workers=0"], "--plugin optim:workers=0: plugins[0].workers: 0 is out of range"),
        (
            [],
            ["optim:lr=1,on_failure=x"],
            "--plugin optim:lr=1,on_failure=x: plugins[0].on_failure: expected",
        ),
    ],
)
def test_fault_of_a_flag_names_the_flag(write, sets, plugins, expected):
    (fault,) = faults(write(SMALL + "seed: 1\nplugins: [optim: {list: [1, 2]}]"), sets, plugins)
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("optm", "did you mean 'optim'?"),
        ("noise", "known: optim (--plugin noise adds it, if it is installed)"),
    ],
)
def test_what_a_slip_names_is_not_said_to_be_there_to_add(write, name, advice):
    (fault,) = faults(write(f"{SMALL}plugins: [optim]"), [f"plugins.{name}.lr=1"])
    assert fault == f"--set plugins.{name}.lr=1: the job has no plugin '{name}'; {advice}"


def test_split_keeps_brackets_and_quotes_together():
    assert list(split_outside("a=[1,{b: 2,c: 3}],d='x,]',e=\"y,\"", ",")) == [
        "a=[1,{b: 2,c: 3}]",
        "d='x,]'",
        'e="y,"',
    ]


# the resolved job

_TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@hypothesis.given(_PLAIN)
@hypothesis.settings(max_examples=150, deadline=None)
def test_what_is_dumped_reads_back_equal(value):
    assert parse_yaml(dump_yaml({"value": value}), "x").value == {"value": value}


def test_infinity_reads_back():
    value = [math.inf, -math.inf]
    assert parse_yaml(dump_yaml(value), "x").value == value


@pytest.mark.parametrize("length", ["epochs: 3", "steps: 5"])
def test_resolved_job_reads_back_equal(write, length):
    text = f"""model: {{name: cnn, width: 3}}
data: mnist10k
{length}
early_stopping: {{patience: 2}}
memory_fraction: 0.1
plugins:
  - augment: {{ops: [{{affine: {{degrees: 1e-3, p: 0.5}}}}, "1e-3", no]}}
    workers: 2
  - optim: {{algorithm: lamb, nothing: null}}
    on_failure: abort
  - monitor
"""
    job = read_job(write(text)).job
    assert read_job(write(job.to_yaml())).job == job
