"""A process in which code of plugins runs, or would, is refused by name."""

import pytest

from ringfence.compat.findings import Finding
from ringfence.discovery import used_process
from ringfence.discovery.catalog import Catalog
from ringfence.discovery.used_process import UsedProcessError, refuse_used_process
from ringfence.imports.import_guard import Guard

AT_START = Finding(
    "E-STARTUP", "installs acme.pth, which can run code outside any sandbox whenever Python starts"
)
ELSEWHERE = Finding("E-PLACE", "lies where no sandbox can read")


@pytest.fixture
def early(monkeypatch):
    """Modules that were imported before there was a guard."""
    owners = {}
    monkeypatch.setattr(used_process, "guard", lambda: Guard(owners))
    return owners


def test_an_unused_process_is_taken(early):
    refuse_used_process(Catalog({}, hazards={"acme": (ELSEWHERE,)}))


def test_what_runs_at_every_start_is_told_whether_it_is_used_or_not(early):
    installed = Catalog({}, hazards={"acme": (ELSEWHERE, AT_START)})
    with pytest.raises(UsedProcessError, match=r"'acme'.* acme\.pth, .*pip uninstall acme"):
        refuse_used_process(installed)
    refuse_used_process(installed, trusted=["Acme"])


def test_what_was_imported_before_is_told(early):
    early["pytest"] = {"acme-tools"}
    with pytest.raises(UsedProcessError, match=r"'acme-tools' \(pytest\)"):
        refuse_used_process(Catalog({}))
    refuse_used_process(Catalog({}), trusted=["acme_tools"])
