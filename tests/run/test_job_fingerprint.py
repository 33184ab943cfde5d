"""What a resumed job is told of the checkpoint that it does not agree with, and what the user's word is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ringfence.engine.checkpoints.fingerprint import MAX_LINES, Fingerprint
from ringfence.engine.checkpoints.fingerprint_diff import ABSENT, CONTENTS, HELD_OUT, Difference, differences
from ringfence.hooks.errors import CheckpointError, JobError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.plugins.interface import PluginSpec
from ringfence.run.job_fingerprint import NEVER, environment, fingerprint

AUGMENT = "  - augment: {ops: [{affine: {degrees: 10, p: 0.5}}, {flip: {}}]}\n"
CLIP = "  - gradclip: {max_norm: 1.0}\n"
JOB = f"""\
model: {{name: mlp, hidden: [8], width: 4}}
data: mnist10k
steps: 6
batch_size: 32
loss: {{name: cross_entropy, label_smoothing: 0.1}}
plugins:
{AUGMENT}{CLIP}  - optim: {{algorithm: adamw, lr: 0.1}}
"""
WHERE = Path("run/checkpoints/step-00000006")


def of(text):
    return fingerprint(check_job(parse_yaml(text, "job")).job)


def changed(*edits):
    text = JOB
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return [str(difference) for difference in differences(of(JOB), of(text))]


def manifest(text=JOB, plugins=("optim",), **more):
    return {"fingerprint": of(text), "plugins": dict.fromkeys(plugins, ""), "version": "0.2.0"} | more


def compare(text, *accept, then=None, **more):
    mine = Fingerprint(values=of(text), never=NEVER, accept=frozenset(accept), **more)
    return mine.compare(WHERE, then or manifest())


# key by key


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], []),
        ([("steps: 6", "epochs: 9")], []),
        ([("steps: 6", "steps: 6\nfreeze: []")], []),
        ([("steps: 6", "steps: 6\nfreeze: [a]")], ['freeze: not set in the checkpoint, ["a"] in this job']),
        ([("batch_size: 32", "batch_size: 64")], ["batch_size: 32 in the checkpoint, 64 in this job"]),
        ([("lr: 0.1", "lr: 0.2")], ["plugins.optim.lr: 0.1 in the checkpoint, 0.2 in this job"]),
        ([("width: 4", "width: 8")], ["model.width: 4 in the checkpoint, 8 in this job"]),
        ([("[8]", "[8, 8]")], ["model.hidden: [8] in the checkpoint, [8, 8] in this job"]),
        ([("p: 0.5", "p: 1")], ["plugins.augment.ops.0.affine.p: 0.5 in the checkpoint, 1 in this job"]),
        (
            [("lr: 0.1", "weight_decay: 0.1")],
            [
                "plugins.optim.lr: 0.1 in the checkpoint, not set in this job",
                "plugins.optim.weight_decay: not set in the checkpoint, 0.1 in this job",
            ],
        ),
        (
            [(CLIP, ""), ("lr: 0.1}", "lr: 0.1}\n  - monitor:")],
            [
                "plugins.gradclip: in the checkpoint, not in this job; its state is left behind",
                "plugins.monitor: not in the checkpoint; it starts without state",
            ],
        ),
        (
            [(AUGMENT, ""), (CLIP, ""), ("lr: 0.1}\n", f"lr: 0.1}}\n{CLIP}")],
            [
                "plugins.augment: in the checkpoint, not in this job; its state is left behind",
                "plugins: in the order gradclip, optim in the checkpoint, optim, gradclip in this job",
            ],
        ),
        (
            [("{flip: {}}", "{blur: {}}")],
            [
                "plugins.augment.ops.1.flip: {} in the checkpoint, not set in this job",
                "plugins.augment.ops.1.blur: not set in the checkpoint, {} in this job",
            ],
        ),
        (
            [("loss: {name: cross_entropy, label_smoothing: 0.1}", "loss: cross_entropy")],
            ["loss.label_smoothing: 0.1 in the checkpoint, not set in this job"],
        ),
    ],
)  # fmt: skip
def test_differences_are_told_as_the_user_writes_the_keys(edits, expected):
    assert changed(*edits) == expected


def test_an_added_plugin_does_not_change_the_order_of_the_others():
    found = changed(("plugins:\n", "plugins:\n  - monitor:\n"))
    assert found == ["plugins.monitor: not in the checkpoint; it starts without state"]


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        ([1, [2]], [1.0, [2]], True),
        (float("nan"), float("nan"), True),
        (None, 0, False),
        ({"a": None}, {}, False),
        ("1", 1, False),
        ({"a": [1]}, {"a": {"0": 1}}, False),
    ],
)
def test_equal_values_are_no_difference_and_unlike_ones_are(then, now, same):
    assert (differences({"key": then}, {"key": now}) == []) is same


@pytest.mark.parametrize("damaged", [{"plugins": 3}, {"plugins": [1]}, {"plugins": None}, {}])
def test_a_fingerprint_of_another_form_is_a_difference_and_no_crash(damaged):
    found = differences(damaged, of(JOB))
    assert "plugins" in {difference.key for difference in found}
    assert all(str(difference) for difference in found)


def test_a_fingerprint_nested_beyond_reason_is_compared_as_far_as_it_matters():
    deep: object = 0
    for _ in range(200):
        deep = {"a": deep}
    assert differences({"key": deep}, {"key": {"a": 0}})[0].key == "key.a"


# all of them in one message, bounded


def test_all_differences_are_told_at_once_with_what_to_do():
    text = JOB.replace("32", "64").replace("lr: 0.1", "lr: 0.2").replace(CLIP, "")
    with pytest.raises(CheckpointError) as caught:
        compare(text)
    *told, advice = str(caught.value).splitlines()
    assert told == [
        f"checkpoint {WHERE} is from another job; it differs from this one in:",
        f"  batch_size: 32 in the checkpoint, 64 in this job (cannot change: {NEVER['batch_size']})",
        "  plugins.gradclip: in the checkpoint, not in this job; its state is left behind",
        "  plugins.optim.lr: 0.1 in the checkpoint, 0.2 in this job",
    ]
    assert advice == (
        "What cannot change must be as it was, or this is a new run: start it with --out. "
        "The rest is accepted with: --accept plugins.gradclip --accept plugins.optim.lr"
    )


def test_a_message_stays_readable_however_much_differs():
    options = ", ".join(f"o{i}: {'x' * 500}" for i in range(300))
    with pytest.raises(CheckpointError) as caught:
        compare(JOB.replace("lr: 0.1", options))
    lines = str(caught.value).splitlines()
    assert len(lines) <= MAX_LINES + 3
    assert max(map(len, lines[:-1])) < 250
    assert f"and {301 - MAX_LINES} more" in lines[-2]


def test_a_key_that_a_shell_would_change_is_quoted():
    text = JOB.replace("lr: 0.1", 'lr: 0.1, groups: [{"head.*": {lr: 0.2}}]')
    then = manifest(text.replace("lr: 0.2", "lr: 0.3"))
    with pytest.raises(CheckpointError, match=r"--accept 'plugins\.optim\.groups\.0\.head\.\*\.lr'"):
        compare(text, then=then)


def test_the_page_says_what_may_be_accepted_and_what_never():
    page = (Path(__file__).parents[2] / "docs" / "resume.md").read_text()
    may, never = page.partition("| key | when")[2].split("| never | why |")
    never = never.partition("\n\n")[0]
    assert {key for key in {*of(JOB), *NEVER} if f"`{key}" in never} == set(NEVER)
    assert {key for key in of(JOB) if f"`{key}" in may} >= set(of(JOB)) - set(NEVER)
    assert f"`{CONTENTS}" in may


# what the data hold


def with_data(**parts):
    return of(JOB) | {CONTENTS: parts}


@pytest.mark.parametrize("part", ["train", "test"])
def test_data_that_have_changed_are_refused_unless_that_is_accepted(part):
    then = with_data(train="60 samples, aa", test="9 samples, bb")
    now = with_data(**then[CONTENTS] | {part: "7 samples, cc"})
    mine = Fingerprint(values=now, never=NEVER)
    with pytest.raises(CheckpointError) as caught:
        mine.compare(WHERE, manifest(fingerprint=then))
    told = f"data_contents.{part}: the data have changed: {then[CONTENTS][part]} then, 7 samples, cc now"
    assert f"  {told}\n" in str(caught.value)
    assert str(caught.value).endswith(f"accepted with: --accept data_contents.{part}")

    accepting = replace(mine, accept=frozenset({f"data_contents.{part}"}))
    assert accepting.compare(WHERE, manifest(fingerprint=then)).told == (f"accepted: {told}",)


def test_a_checkpoint_that_does_not_tell_what_the_data_held_is_gone_on_from():
    mine = Fingerprint(values=with_data(train="60 samples, aa"), never=NEVER)
    assert mine.compare(WHERE, manifest()).accepted == ()


# what is held out for validation


def held_out(fraction, **parts):
    values = {key: value for key, value in of(JOB).items() if key != HELD_OUT}
    return values | {HELD_OUT: fraction} | ({CONTENTS: parts} if parts else {})


def before_0_4(**parts):
    """What a checkpoint of 0.3.1 says."""
    then = held_out(0.0, **parts)
    del then[HELD_OUT]
    return then


@pytest.mark.parametrize(
    "now",
    [
        {"train": "9, aa", "test": "3, bb"},
        {"train": "9, aa", "validation": "3, bb"},
        {"train": "9, aa", "validation": "3, bb", "test": "4, cc"},
    ],
    ids=["judged by test", "by validation", "with a test part beside"],
)
def test_what_judged_a_run_before_0_4_was_called_test(now):
    then = before_0_4(train="9, aa", test="3, bb")
    mine = Fingerprint(values=held_out(0.0, **now), never=NEVER)
    assert mine.compare(WHERE, manifest(fingerprint=then)).accepted == ()
    changed_now = {name: told.replace("bb", "dd") for name, told in now.items()}
    with pytest.raises(
        CheckpointError, match=r"data_contents\.test: the data have changed: 3, bb then, 3, dd"
    ):
        Fingerprint(values=held_out(0.0, **changed_now)).compare(WHERE, manifest(fingerprint=then))


def test_a_run_cannot_begin_to_hold_out_samples():
    mine = Fingerprint(values=held_out(0.1), never=NEVER, accept=frozenset({HELD_OUT}))
    for then in (before_0_4(), held_out(0.0)):
        with pytest.raises(CheckpointError, match=f"0.0 in the checkpoint, 0.1 in .*{NEVER[HELD_OUT]}"):
            mine.compare(WHERE, manifest(fingerprint=then))


# the user's word


def test_what_is_accepted_is_told_and_handed_on():
    text = JOB.replace("lr: 0.1", "lr: 0.2").replace(CLIP, "")
    found = compare(text, "plugins.optim.lr", "plugins.gradclip")
    assert [difference.key for difference in found.accepted] == ["plugins.gradclip", "plugins.optim.lr"]
    assert found.told == (
        "accepted: plugins.gradclip: in the checkpoint, not in this job; its state is left behind",
        "accepted: plugins.optim.lr: 0.1 in the checkpoint, 0.2 in this job",
    )


def test_another_order_of_the_plugins_is_accepted_by_the_key_of_their_list():
    text = JOB.replace(CLIP, "") + CLIP
    with pytest.raises(CheckpointError, match=r"All are accepted with: --accept plugins$"):
        compare(text)
    (found,) = compare(text, "plugins").accepted
    assert (found.then, found.now) == (["augment", "gradclip", "optim"], ["augment", "optim", "gradclip"])


def test_accepting_one_of_two_leaves_the_other():
    text = JOB.replace("lr: 0.1", "lr: 0.2").replace("max_norm: 1.0", "max_norm: 2.0")
    with pytest.raises(CheckpointError) as caught:
        compare(text, "plugins.optim.lr")
    assert "plugins.gradclip.max_norm: 1.0" in str(caught.value)
    assert "plugins.optim.lr" not in str(caught.value)


@pytest.mark.parametrize("key", NEVER)
def test_what_makes_the_samples_and_the_steps_can_never_be_accepted(key):
    now = dict(of(JOB)) | {key: "another"}
    mine = Fingerprint(values=now, never=NEVER, accept=frozenset({key}))
    with pytest.raises(CheckpointError, match=f"cannot change: {NEVER[key]}"):
        mine.compare(WHERE, manifest())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("plugins.optim.lrr", "do not differ in that; did you mean 'plugins.optim.lr'?"),
        ("plugins.optim", "do not differ in that; did you mean 'plugins.optim.lr'?"),
        ("batch_size", "do not differ in that, and it can never be accepted; what differs: plugins.optim.lr"),
        ("plugins", "do not differ in that; "),
        ("", "do not differ in that; what differs: plugins.optim.lr"),
        ("state.gradclip", "has no state of it, so it starts without in any case; leave the flag out"),
        ("state.monitor", "the job has no plugin 'monitor'; it has: augment, gradclip, optim"),
    ],
)
def test_accepting_what_does_not_differ_is_an_error(key, message):
    with pytest.raises(JobError) as caught:
        compare(JOB.replace("lr: 0.1", "lr: 0.2"), "plugins.optim.lr", key)
    assert str(caught.value).startswith(f"--accept {key}: ")
    assert message in str(caught.value)


def test_a_plugin_may_be_started_without_its_state():
    found = compare(JOB, "state.optim")
    assert found.fresh == {"optim"}
    assert found.told == (
        "accepted: state.optim: the plugin starts without its state; that stays in the checkpoint",
    )


def test_the_state_that_a_plugin_has_gathered_since_is_not_left_behind_by_the_same_command_line():
    """A scheduler that starts a preempted run again gives the same flags each time."""
    again = compare(JOB, "state.optim", then=manifest(step=6), started_fresh={"optim": 6})
    assert again.fresh == {"optim"}
    later = compare(JOB, "state.optim", then=manifest(step=7), started_fresh={"optim": 6})
    assert later.fresh == set()
    assert later.told == ("plugin 'optim' started without its state after step 6: it keeps it now",)


def test_what_an_earlier_resume_accepted_needs_no_second_word_and_may_have_one():
    """The run may have been killed before the first checkpoint of the new job."""
    text = JOB.replace("lr: 0.1", "lr: 0.2")
    remembered = (Difference("plugins.optim.lr", 0.1, 0.2), Difference("plugins.gradclip", ABSENT, {}))
    for accept in ((), ("plugins.optim.lr",)):
        assert [d.key for d in compare(text, *accept, remembered=remembered).accepted] == ["plugins.optim.lr"]
    # After that checkpoint nothing differs; the same command line still works.
    assert compare(text, "plugins.optim.lr", then=manifest(text), remembered=remembered).accepted == ()
    # Another value is another matter.
    with pytest.raises(CheckpointError, match=r"0\.1 in the checkpoint, 0\.3 in this job"):
        compare(JOB.replace("lr: 0.1", "lr: 0.3"), remembered=remembered)


def test_a_difference_goes_through_the_record_without_loss():
    for difference in (
        Difference("a", None, [1, {"b": "c"}]),
        Difference("a", ABSENT, 1.5),
        Difference("a", 1, ABSENT),
    ):
        assert Difference.from_dict(difference.to_dict()) == difference


def test_options_are_not_changed_over_a_checkpoint_that_does_not_tell_the_old_ones():
    early = manifest(version="0.1.0")
    with pytest.raises(
        CheckpointError, match="resume with the job as it was until there is a new checkpoint"
    ):
        compare(JOB.replace("lr: 0.1", "lr: 0.2"), "plugins.optim.lr", then=early)
    assert compare(JOB, then=early).told == ()
    without = JOB.replace(CLIP, "")
    assert len(compare(without, "plugins.gradclip", then=early).accepted) == 1


# where the run goes on


def spec(**changes):
    fields = {
        "name": "optim",
        "distribution": "ringfence",
        "version": "0.2.0",
        "module": "m",
        "qualname": "C",
    }
    return PluginSpec(**(fields | {"role": "optimizer"} | changes))


def test_what_the_last_bits_depend_on_is_told_where_it_differs():
    job = check_job(parse_yaml(JOB, "job")).job
    here = environment(job, [spec()], 6, torch.device("cpu"))
    assert compare(JOB, then=manifest(environment=here), environment=here).told == ()
    there = dict(here) | {"threads": 64, "torch": "1.0"}
    there["plugins"] = {
        "optim": {"version": "other 1.0", "threads": 3},
        "gone": {"version": "x", "threads": 1},
    }
    (told,) = compare(JOB, then=manifest(environment=there), environment=here).told
    assert told.startswith(
        "the run goes on, but its weights may differ in the last bits from an unstopped run's: "
    )
    assert f"torch 1.0 then, {here['torch']} now" in told
    assert f"threads 64 then, {here['threads']} now" in told
    assert "plugins.optim.version other 1.0 then, ringfence 0.2.0 now" in told
    assert "plugins.optim.threads 3 then, 1 now" in told
    assert "gone" not in told
    # How long a constant schedule is makes no difference.
    assert (
        compare(
            JOB,
            then=manifest(environment=here),
            environment=environment(job, [spec()], 9, torch.device("cpu")),
        ).told
        == ()
    )
    # One of an early version does not tell.
    assert compare(JOB, then=manifest(environment={}), environment=here).told == ()


def test_a_schedule_that_follows_a_new_length_is_told():
    text = JOB + "schedule: cosine\n"
    job = check_job(parse_yaml(text, "job")).job
    then, now = (environment(job, [spec()], steps, torch.device("cpu")) for steps in (6, 12))
    (told,) = compare(text, then=manifest(text, environment=then), environment=now).told
    assert told == (
        "the schedule was laid over 6 steps, and is over 12 now: the learning rate follows the new length"
    )
