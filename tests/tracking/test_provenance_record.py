"""A resumed run tells what has changed of its plugins since it began, whatever its record says."""

import json

import pytest

from ringfence.discovery.distribution_digest import DistributionDigest
from ringfence.discovery.provenance import Provenance
from ringfence.tracking.provenance_record import (
    change_words,
    changes,
    distribution_records,
    held,
    read_beginning,
)


def provenance(**versions):
    """Return a provenance of distributions: version, and digest or None for a gap."""
    found = {
        name: DistributionDigest(name, version, record=sha256 or "", gap="" if sha256 else "too large")
        for name, (version, sha256) in versions.items()
    }
    return Provenance({"plugin": tuple(found)}, found)


def record(folder, now, began=None):
    """Write what a run's record says of provenance."""
    kept = {
        "distributions": distribution_records(now),
        "distributions_changed": changes(began or held(now), held(now)),
    }
    (folder / "run.json").write_text(json.dumps(kept))


THEN = provenance(a=("1.0", "x"), b=("1.0", "x"), c=("1.0", "x"), d=("1.0", None), e=("1.0", "x"))
NOW = provenance(a=("1.0", "x"), b=("1.0", "y"), c=("2.0", "y"), d=("1.0", "x"), f=("3.0", "x"))
WORDS = "b 1.0 has other files; c 1.0 is now 2.0; e 1.0 is no longer there; f 3.0 is new"


def test_what_differs_is_told_by_distribution_and_version(tmp_path):
    record(tmp_path, THEN)
    told = change_words(read_beginning(tmp_path), held(NOW))
    assert told == f"what plugins run has changed since this run began: {WORDS}"
    assert change_words(held(THEN), held(THEN)) == ""


def test_it_is_what_the_run_began_with_however_often_it_was_resumed(tmp_path):
    record(tmp_path, NOW, began=held(THEN))
    began = read_beginning(tmp_path)
    assert {**began, "d": None} == {**held(THEN), "d": None}
    assert WORDS in change_words(began, held(NOW))
    assert change_words(began, held(THEN)) == ""


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"distributions": 3}', '{"distributions": [{"name": 1}]}', "{}", "[" * 100_000],
)
def test_a_record_that_cannot_tell_tells_nothing(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert read_beginning(tmp_path) == {}
    assert change_words({}, held(NOW)) == ""


def test_what_a_strangers_record_says_is_short_and_harmless(tmp_path):
    names = [f"\x1b[2J{number}" + "n" * 1000 for number in range(50)]
    entries = [{"name": name, "version": "\x1b]0;x\x07\n", "sha256": "0"} for name in names]
    (tmp_path / "run.json").write_text(json.dumps({"distributions": entries}))
    told = change_words(read_beginning(tmp_path), held(NOW))
    assert "and 45 more, see distributions_changed in run.json" in told
    assert len(told) < 3000
    assert told.isprintable()
