"""The page on security says of each layer what the code says, and names all that is not covered."""

import re
from pathlib import Path

from ringfence.isolation.coverage import NOT_COVERED
from ringfence.isolation.policy.layer_status import CONSEQUENCES, LAYERS, REQUIRED
from ringfence.isolation.worker.probes.run_probes import PROBES

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
WORDS = " ".join(PAGE.split())


def test_each_layer_is_there_with_what_its_absence_means_and_whether_it_is_needed():
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([^|]+) \| (yes|no) \|$", PAGE, re.MULTILINE)

    assert [name for name, _, _ in rows] == list(LAYERS)
    assert {name: text for name, text, _ in rows} == CONSEQUENCES
    assert tuple(name for name, _, needed in rows if needed == "yes") == REQUIRED


def test_all_that_nothing_covers_is_named_in_the_doctors_words():
    assert [what for what, text in NOT_COVERED.items() if f"**{what}**: {text}" not in WORDS] == []


def test_it_counts_the_attempts_that_each_process_makes_on_itself():
    assert f"of the {len(PROBES)} attempts" in WORDS
