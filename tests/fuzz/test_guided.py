"""A longer search, led by coverage, for bytes from a worker that the host does not end with a right answer.

Kept out of ``make test``; ``RINGFENCE_FUZZ_S`` sets the seconds for each target.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris has no build for this Python or this machine (x86-64, Python 3.11 to 3.13)",
    ),
]
SECONDS = int(os.environ.get("RINGFENCE_FUZZ_S", "90"))
GUIDED = Path(__file__).parent / "guided.py"


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("target", ["replies", "outbox", "state", "starts"])
def test_a_search_led_by_coverage_finds_nothing(target, tmp_path, capsys):
    done = subprocess.run(
        [sys.executable, str(GUIDED), target, str(SECONDS), str(tmp_path)],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(GUIDED.parent)},
        timeout=SECONDS + 90,
        check=False,
    )
    told = (done.stdout + done.stderr).decode(errors="replace")
    findings = sorted(file.name for file in tmp_path.glob("*-*") if file.is_file())
    edges = re.findall(r"cov: (\d+)", told)
    executions = re.findall(r"number_of_executed_units: (\d+)", told)
    memory = re.findall(r"peak_rss_mb: +(\d+)", told)
    with capsys.disabled():
        print(
            f"\n{target}: {executions} executions, {edges[-1:]} edges, {memory} MiB, {len(findings)} findings"
        )
    assert (done.returncode, findings) == (0, []), told[-4000:]
    # Led by coverage: an instrumentation that sees nothing would find nothing either.
    assert int(edges[-1]) > int(edges[0]) > 100
    assert int(executions[0]) > SECONDS * 10
