"""Every kind of bad input gets a message with file, line, key and what would be right, and exit status 2."""

import os
from pathlib import Path

import pytest

from ringfence.job.problems import nearest

HEAD = "model: {name: mlp, hidden: [8]}\ndata: {name: mnist10k, limit: 64}\nsteps: 2\n"
#: Models that do not fit.
MINE = """\
import torch

def wrong_inputs(): return torch.nn.Linear(3, 10)
def wrong_outputs(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, inputs):
        return super().forward(inputs.flatten(1))

class Pair(Net):
    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs if self.training else (None, outputs)

class Bug(Net):
    def forward(self, inputs):
        return super().forward(inptus)
"""
OPTIM = "plugins:\n  - optim: {algorithm: adamw, lr: 1e-3}\n"


def test_no_file(ringfence, job):
    job()
    done = ringfence("train", "jbo.yaml")
    assert done.status == 2
    assert done.err == "error: jbo.yaml: no such file; name a job file that exists\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: [mlp\ndata: x\n",
            "job.yaml:2:5: is not YAML: while parsing a flow sequence: expected ',' or ']'",
        ),
        (
            f"{HEAD}seed: 1\nseed: 2\n",
            "job.yaml:5:1: seed: is written twice (first at job.yaml:4:1); keep one",
        ),
        (
            f"{HEAD}bacth_size: 3\n{OPTIM}",
            "job.yaml:4:1: bacth_size: unknown key; did you mean 'batch_size'?",
        ),
        (
            f"{HEAD}batch_size: many\n{OPTIM}",
            "job.yaml:4:13: batch_size: expected a whole number, got the text 'many'",
        ),
        (f"{HEAD}memory_fraction: 0.2\n{OPTIM}", "job.yaml:4:18: memory_fraction: 0.2 is more than 0.15"),
        (
            f"{HEAD}metric: acuracy\n{OPTIM}",
            "job.yaml:4:9: metric: 'acuracy' is unknown; did you mean 'accuracy'?",
        ),
        (
            f"{HEAD}schedule: cosin\n{OPTIM}",
            "job.yaml:4:11: schedule: 'cosin' is unknown; did you mean 'cosine'?",
        ),
        (
            f"{HEAD}loss: {{name: cross_entropy, label_smoothing: 2}}\n{OPTIM}",
            "job.yaml:4:46: loss.label_smoothing: label_smoothing is 2; it must lie in [0, 1)",
        ),
        (f"{HEAD}device: cuda:99\n{OPTIM}", "job.yaml:4:9: device: device is 'cuda:99', but torch finds"),
        (
            f"{HEAD}plugins: [optm]\n",
            "job.yaml:4:11: plugins[0].optm: plugin 'optm' is not installed; did you mean 'optim'?",
        ),
        (HEAD, "job.yaml:1:1: plugins: a job needs exactly one optimizer; add '- optim: "),
        (
            f"{HEAD}{OPTIM.replace('1e-3', '-1')}",
            "job.yaml:5:35: plugins[0].optim.lr: -1 is out of range; it must be more than 0",
        ),
        (
            f"{HEAD}{OPTIM.replace('lr', 'lrr')}",
            "job.yaml:5:31: plugins[0].optim.lrr: unknown option; did you mean 'lr'?",
        ),
        (f"{HEAD}{OPTIM}    workers: 2\n", "job.yaml:6:14: plugins[0].workers: 'optim' is of role optimizer"),
        (f"{HEAD}{OPTIM}    every: 2\n", "job.yaml:6:12: plugins[0].every: 'optim' is of role optimizer"),
        (
            f"{HEAD}{OPTIM}    on_failure: disable\n",
            "job.yaml:6:17: plugins[0].on_failure: a run makes no sense without",
        ),
        (
            f"{HEAD}{OPTIM}    memory_fraction: 0.16\n",
            "job.yaml:6:22: plugins[0].memory_fraction: 0.16 is more than",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mlpp"),
            "job.yaml:1:8: model: 'mlpp' is unknown; did you mean 'mlp'?",
        ),
        (
            f"{HEAD}{OPTIM}".replace("hidden: [8]", "hiden: [8]"),
            "job.yaml:1:20: model.hiden: is unknown; did you mean",
        ),
        (
            f"{HEAD}{OPTIM}".replace("mnist10k", "mnist"),
            "job.yaml:2:14: data.name: 'mnist' is unknown; did you mean",
        ),
        (f"{HEAD}{OPTIM}".replace("limit: 64", "limit: 0"), "job.yaml:2:31: data.limit: 0 is out of range"),
        (
            f"{HEAD}{OPTIM}".replace("{name: mnist10k, limit: 64}", "{name: idx, path: nowhere}"),
            "job.yaml:2:7: data: nowhere: option 'path' is no folder",
        ),
    ],
)
def test_fault_of_the_job(refused, text, message):
    assert message in refused(text).replace(f"{Path.cwd()}/", "")


def test_two_optimizers(refused, monkeypatch, tmp_path):
    """A second distribution brings another optimizer; both are listed."""
    monkeypatch.syspath_prepend(install(tmp_path / "site"))
    message = refused(f"{HEAD}{OPTIM}  - other\n")
    assert (
        "job.yaml:6:5: plugins[1]: a job needs exactly one optimizer, this one has optim, other; keep one"
        in message
    )


def test_a_second_optimizer_that_a_flag_adds_is_told_with_the_flag(refused, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(install(tmp_path / "site"))
    message = refused(f"{HEAD}{OPTIM}", "--plugin", "other")
    assert "error: --plugin other: plugins[1]: a job needs exactly one optimizer" in message


def test_augmentation_that_learns_runs_in_one_process(refused, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(install(tmp_path / "site", _LEARNING))
    message = refused(f"{HEAD}{OPTIM}  - other\n".replace("- other", "- other:\n    workers: 2"))
    assert "job.yaml:7:14: plugins[1].workers: 'other' learns from the losses of each step" in message


def test_all_faults_are_told_at_once(refused):
    text = f"{HEAD}metric: nothing\nschedule: {{name: step}}\nplugins:\n  - optim: {{lr: fast}}\n  - augmnt\n"
    lines = refused(text.replace("hidden", "hiden")).splitlines()
    assert [line.partition(" ")[0].removeprefix("error:") for line in lines[1:]] == [
        "job.yaml:4:9:",
        "job.yaml:5:11:",
        "job.yaml:7:12:",
        "job.yaml:7:17:",
        "job.yaml:8:5:",
    ]
    assert lines[0].startswith("error: job.yaml:1:20: model.hiden")


def test_fault_of_a_flag_names_the_flag(refused):
    message = refused(HEAD, "--plugin", "optim:algorithm=adamw,lr=fast", "--set", "modle=x")
    assert "--plugin optim:algorithm=adamw,lr=fast: plugins" not in message  # the unknown key is told first
    assert "--set modle=x: modle: unknown key; did you mean 'model'?" in message
    message = refused(HEAD, "--plugin", "optim:algorithm=adamw,lr=fast")
    assert "--plugin optim:algorithm=adamw,lr=fast: plugins[0].optim.lr: expected" in message


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--set", "epochs=", "--set epochs=: gives 'epochs' no value; write a whole number"),
        ("--set", "epochs=null", "--set epochs=null: gives 'epochs' no value"),
        (
            "--set",
            "data.name=arrays",
            "job.yaml:2:7, changed by --set data.name=arrays: data.path: is missing",
        ),
        (
            "--set",
            "schedule=step",
            "--set schedule=step: schedule.every_steps: is missing; schedule 'step' needs it (int)",
        ),
        (
            "--set",
            "schedule.warmup_steps=-5",
            "--set schedule.warmup_steps=-5: schedule.warmup_steps: warmup_steps is -5; it must be at ",
        ),
        (
            "--set",
            "loss.label_smoothing=2",
            "--set loss.label_smoothing=2: loss.label_smoothing: label_smoothing is 2; it must lie in [0, 1)",
        ),
        (
            "--set",
            "data.normalize=no",
            "data.normalize: expected 'auto' or 'none' or a mapping (key: value), got the text 'no'\n",
        ),
        (
            "--set",
            "data.normalize=autom",
            "'auto' or 'none' or a mapping (key: value), got the text 'autom'; did you mean 'auto'?\n",
        ),
        (
            "--set",
            "lr=3",
            "--set lr=3: lr: unknown key; did you mean that of the plugin 'optim', plugins.optim.lr?",
        ),
        (
            "--plugin",
            "gradclip:max_norm",
            "'max_norm' is not KEY=VALUE; write for example --plugin gradclip:max_norm=VALUE\n",
        ),
        (
            "--plugin",
            "gradclip:=3",
            "'=3' is not KEY=VALUE; write for example --plugin gradclip:OPTION=VALUE\n",
        ),
        (
            "--plugin",
            "optim:betas=[0.9, 0.95]",
            "weight_decay. An argument of what it calls goes into 'options': {betas: …}\n",
        ),
    ],
)
def test_fault_of_a_flag_says_what_would_be_right(refused, flag, text, message):
    assert message in refused(f"{HEAD}{OPTIM}", flag, text)


def test_a_fault_of_data_that_a_flag_has_changed_is_told_with_the_flag(refused, tmp_path):
    text = f"{HEAD}{OPTIM}".replace("{name: mnist10k, limit: 64}", "{name: idx, path: .}")
    message = refused(text, "--set", "data.path=nowhere")
    assert "job.yaml:2:7, changed by --set data.path=nowhere: data: " in message


@pytest.mark.parametrize(
    ("flag", "rest"),
    [
        (
            "schedule.warmup_steps=10",
            "schedule: schedule.warmup_steps is 10, but the run has 2 steps; it must be smaller",
        ),
        ("loss.label_smoothing=2", "loss.label_smoothing: label_smoothing is 2; it must lie in [0, 1)"),
        ("early_stopping.patience=0", "early_stopping.patience: 0 is out of range; it must be at least 1"),
        ("metric=r2", "metric: 'r2' does not fit data of classes; choose "),
    ],
)
def test_a_fault_of_what_the_file_does_not_have_is_told_with_the_flag(refused, flag, rest):
    assert refused(f"{HEAD}{OPTIM}", "--set", flag).startswith(f"error: --set {flag}: {rest}")


def test_plugins_as_a_mapping_are_told_how_to_be_written(refused):
    message = refused(f"{HEAD}plugins:\n  optim: {{algorithm: adamw}}\n")
    assert (
        "plugins: expected a list, got a mapping; write each plugin after a dash: '- optim: {…}'" in message
    )


def test_a_choice_without_a_name_is_told_which_there_are(refused):
    message = refused(f"{HEAD}{OPTIM}loss: {{label_smoothing: 0.1}}\n")
    assert "job.yaml:6:7: loss.name: is missing; add 'name: …' (`cross_entropy`, `focal`" in message


def test_a_word_that_is_like_no_other_is_not_taken_for_one():
    assert nearest("nope", ["noise"]) is None
    assert nearest("nose", ["noise"]) == "noise"
    assert nearest("cnm", ["cnn", "mlp"]) == "cnn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{HEAD}loss: mse\nmetric: mse\n{OPTIM}",
            "job.yaml:4:7: loss: 'mse' does not fit data of classes; choose one of cross_entropy",
        ),
        (f"{HEAD}metric: r2\n{OPTIM}", "job.yaml:4:9: metric: 'r2' does not fit data of classes"),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "{name: vit, patch: 5}"),
            "job.yaml:1:8: model: 'vit': ",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:wrong_inputs"),
            "job.yaml:1:8: model: the model failed on a batch of",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:wrong_outputs"),
            "model: the model returned shape (58, 3) for a batch of 58; loss 'cross_entropy' needs (58, 10)",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:missing"),
            "job.yaml:1:8: model: 'mine:missing': module 'mine' has no 'missing'",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:Pair"),
            "job.yaml:1:8: model: in evaluation mode the model returned a tuple: ",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:Bug"),
            "NameError: name 'inptus' is not defined; at ",
        ),
        (
            f"{HEAD}{OPTIM}".replace("{name: mlp, hidden: [8]}", "mine:Bug"),
            "mine.py:20, in Bug.forward: return super().forward(inptus)\n",
        ),
        (f"{HEAD}schedule: {{name: cosine, warmup_steps: 9}}\n{OPTIM}", "job.yaml:4:11: schedule"),
    ],
)
def test_data_that_does_not_fit(refused, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(MINE)
    assert message in refused(text)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("job.yaml/inside", "part of the path is a file, not a folder"),
        ("/proc/inside", "cannot be written: it cannot be made there"),
        ("full", "the folder is not empty; choose another, for example full/run-1\n"),
        ("run", "the folder is not empty; choose another, or continue the run in it with --resume run\n"),
        ("dead", "the folder is not empty; choose another; its run ended before the first checkpoint, so "),
    ],
)
def test_unusable_folder(refused, tmp_path, folder, message):
    lay_out_folders(tmp_path)
    error = refused(f"{HEAD}{OPTIM}", "--out", folder)
    assert error.startswith(f"error: --out {folder}: ")
    assert message in error


def lay_out_folders(tmp_path):
    """Make folders with a run, with one without checkpoint, with runs below, with a file, with nothing."""
    for name in ("run/checkpoints/step-00000002", "dead", "parent/a/checkpoints", "full", "void"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("run/run.json", "dead/run.json", "full/file", "void/.lock"):
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("none", "there is no such folder; name the folder of a run, or start one with --out none\n"),
        ("void", "holds no run; name the folder of a run, or start one with --out void\n"),
        ("full", "holds no run; name the folder of a run\n"),
        ("full/file", "is no folder; name the folder of a run\n"),
        ("parent", "holds no run; name the folder of a run; in it are parent/a\n"),
        ("dead", "its run ended before the first checkpoint"),
    ],
)
def test_a_folder_without_a_run_is_not_sent_round_in_circles(refused, tmp_path, folder, message):
    lay_out_folders(tmp_path)
    assert f"--resume {folder}: {message}" in refused(f"{HEAD}{OPTIM}", "--resume", folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(refused, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "you may not write there" in refused(f"{HEAD}{OPTIM}", "--out", "closed/run")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "none"], "--resume none: there is no such folder"),
        (["--resume", "."], "--resume .: holds no run"),
        (["--resume", ".", "--out", "x"], "--out and --resume are both given"),
    ],
)
def test_unusable_resume(refused, flags, message):
    assert message in refused(f"{HEAD}{OPTIM}", *flags)


def test_no_job_at_all(ringfence):
    done = ringfence("train")
    assert done.status == 2
    assert "name a job file" in done.err


def test_unknown_flag_and_command_exit_with_2(ringfence):
    assert ringfence("train", "--nothing").status == 2
    assert ringfence("trian").status == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs: x\n", "epochs: expected a whole number"), (f"{HEAD}plugins: [nothing]\n", "is not installed")],
)
def test_a_process_of_its_own_exits_with_2(job, process, tmp_path, text, message):
    done = process("train", job(text), cwd=tmp_path)
    assert done.status == 2
    assert message in done.err
    assert "Traceback" not in done.err


_OPTIMIZER = """
from ringfence import passthrough

class Other:
    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients, step):
        return parameters
"""
_LEARNING = """
class Other:
    role = "augment"

    def forward(self, batch, step):
        return batch

    def backward(self, losses, step):
        return None
"""


def install(site, source=_OPTIMIZER):
    """Lay out an installed distribution with a plugin called ``other``."""
    metadata = site / "other_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-plugin\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
    )
    (metadata / "entry_points.txt").write_text("[ringfence.plugins]\nother = other_plugin:Other\n")
    (site / "other_plugin.py").write_text(source)
    return site
