"""How the machine's memory is shared out among plugins, and what is said where there is too little."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.hooks.errors import JobError
from ringfence.job.job_file import read_job
from ringfence.plugins.interface import MAX_FRACTION_TOGETHER, PluginSpec
from ringfence.run.memory_shares import describe_shares, share_out, shares, with_shares

HEAD = "model: cnn\ndata: mnist10k\nepochs: 1\n"
_FRACTION = st.none() | st.floats(0.0001, 0.15)


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ([None], [0.15]),
        ([None] * 6, [0.15] * 6),
        ([None] * 10, [0.09] * 10),
        ([None] * 7, [0.1285] * 7),
        ([0.15, 0.15, None, None], [0.15] * 4),
        ([0.15] * 5 + [None] * 3, [0.15] * 5 + [0.05] * 3),
        ([0.15] * 6, [0.15] * 6),
        ([0.05] * 18, [0.05] * 18),
        ([], []),
    ],
)
def test_what_is_written_is_given_and_the_rest_is_shared_equally(written, given):
    assert shares(written) == given


@given(st.lists(_FRACTION, max_size=40))
def test_all_together_never_get_more_than_plugins_may_have(written):
    try:
        given = shares(written)
    except ValueError:
        asked = sum(share for share in written if share is not None)
        silent = written.count(None)
        assert asked > MAX_FRACTION_TOGETHER or MAX_FRACTION_TOGETHER - asked < 0.0001 * silent
    else:
        assert math.fsum(given) <= MAX_FRACTION_TOGETHER + 1e-9
        assert all(0 < share <= 0.15 for share in given)
        # Written into the resolved job, they are what a resumed run gets.
        assert shares(given) == given


@pytest.fixture
def job(tmp_path):
    def job(*plugins, job_fraction=None):
        lines = [f"  - {name}:" + (f"\n    memory_fraction: {f}" if f else "") for name, f in plugins]
        head = HEAD + (f"memory_fraction: {job_fraction}\n" if job_fraction else "")
        path = tmp_path / "job.yaml"
        path.write_text(head + "plugins:\n" + "\n".join(lines) + "\n")
        return read_job(path)

    return job


def plugins(*fractions):
    return [(f"plugin{number}", fraction) for number, fraction in enumerate(fractions)]


def specs(count, fraction, isolation="sandbox"):
    return [
        PluginSpec(
            f"plugin{n}", "tests", "1", "m", "C", "gradient", isolation=isolation, memory_fraction=fraction
        )
        for n in range(count)
    ]


def fault(file):
    _, (problem,) = share_out(file, range(len(file.job.plugins)))
    error = file.error([problem])
    assert isinstance(error, JobError)
    return str(error)


def test_too_much_for_each_is_told_at_the_jobs_key(job):
    said = fault(job(*plugins(*[None] * 10), job_fraction=0.12))
    assert said.endswith(
        "job.yaml:4:18: memory_fraction: 10 plugins ask for 120.0% of this machine's memory together, and "
        "may have 90%; write 0.09 or less, or use fewer plugins"
    )


def test_too_much_of_one_is_told_at_its_key_with_what_would_fit(job):
    said = fault(job(*plugins(0.15, 0.15, 0.15, 0.15, 0.15, 0.1, 0.1)))
    assert "job.yaml:18:22: plugins[6].memory_fraction: 7 plugins ask for 95.0%" in said
    assert said.endswith("0.05 is left for this one: lower some, or use fewer plugins")


def test_nothing_left_for_those_that_write_nothing_is_told(job):
    said = fault(job(*plugins(*[0.15] * 6, None, None)))
    assert "plugins[6]" in said
    assert "is left for the 2 that write no memory_fraction; lower that of the others, to 0.1125" in said


def test_what_plugins_share_is_told_once_and_only_where_it_is_less_than_one_alone_would_have(job):
    gib = 1 << 30
    file = job(*plugins(*[None] * 10))
    assert describe_shares(file, specs(10, 0.09), 24 * gib) == (
        "10 plugins share 90% of this machine's memory: 0.09 (2.2 GiB) each"
    )
    assert describe_shares(job(*plugins(*[None] * 6)), specs(6, 0.15), 24 * gib) == ""
    some = job(*plugins(0.15, 0.15, 0.15, 0.15, 0.15, None, None, None))
    given = [*specs(5, 0.15), *specs(3, 0.05)]
    assert describe_shares(some, given, 24 * gib) == (
        "3 plugins share what the others leave of 90% of this machine's memory: 0.05 (1.2 GiB) each"
    )


def test_a_trusted_plugin_takes_no_share(job, tmp_path):
    file = job(*plugins(*[None] * 7))
    given, problems = share_out(file, range(6))
    assert (given, problems) == ([0.15] * 6, [])
    written = with_shares(file, [*specs(6, 0.15), *specs(1, 0.15, "trusted")])
    assert [plugin.memory_fraction for plugin in written.job.plugins] == [0.15] * 6 + [None]


def test_the_resolved_job_reads_back_to_the_same_shares(job, tmp_path):
    file = job(*plugins(*[None] * 13))
    given, _ = share_out(file, range(13))
    written = with_shares(file, specs(13, given[0]))
    path = tmp_path / "resolved.yaml"
    path.write_text(written.job.to_yaml())
    again = read_job(path)
    assert again.job == written.job
    assert share_out(again, range(13)) == (given, [])
