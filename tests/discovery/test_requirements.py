"""What a distribution brings along: by its metadata, for this environment and the extras asked for."""

import os
import sys

import pytest
from importlib_metadata import Distribution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ringfence.discovery import requirements
from ringfence.discovery.requirements import Requirements, RequirementsError

from ..site_folder import SiteFolder


@pytest.fixture
def site(tmp_path):
    return SiteFolder(tmp_path / "site")


def test_all_that_is_required_at_any_remove_and_no_more(site):
    site.install(
        "acme",
        requires=[
            *("Beta_Pkg>=1", "gamma[fast]; python_version >= '3.8'", "never; python_version < '3'"),
            *("docs ; extra == 'docs'", "odd; sys_platform == 'win32' or extra == 'odd'"),
        ],
    )
    site.install("beta.pkg", requires=["acme"])
    site.install(
        "gamma", requires=['quick ; (python_version > "3") and extra == "fast"', 'slow; extra == "slow"']
    )
    site.install("quick", requires=["absent"])

    names = Requirements([str(site.folder)]).names("ACME")

    assert names == {"acme", "beta-pkg", "gamma", "quick", "absent"}


@pytest.mark.parametrize("name", ["ringfence", "torch", "albumentations"])
def test_what_is_installed_here_is_told_as_slower_readers_tell_it(name):
    told, waiting = set(), [(name, "")]
    while waiting:
        if (asked := waiting.pop()) in told:
            continue
        told.add(asked)
        distribution = next(iter(Distribution.discover(name=asked[0])), None)
        for wanted in map(Requirement, () if distribution is None else distribution.requires or ()):
            if wanted.marker is None or wanted.marker.evaluate({"extra": asked[1]}):
                key = canonicalize_name(wanted.name)
                waiting += [(key, ""), *((key, extra) for extra in wanted.extras)]

    assert Requirements(sys.path).names(name) == {each for each, _ in told}


def test_the_first_on_the_path_counts_as_it_does_for_python(site, tmp_path):
    site.install("acme", version="1.0")
    other = SiteFolder(tmp_path / "other")
    other.install("acme", version="2.0", requires=["beta"])

    found = Requirements([str(other.folder), str(site.folder)])

    assert (found.version("acme"), found.names("acme")) == ("2.0", {"acme", "beta"})
    assert found.version("beta") == ""


@pytest.mark.parametrize("text", ["===", "a b c", "acme @", "x; python_version <"])
def test_a_requirement_that_is_none_is_told(site, text):
    site.install("acme", requires=[text])
    with pytest.raises(RequirementsError, match=r"acme requires .* which is no requirement"):
        Requirements([str(site.folder)]).names("acme")


def test_too_much_is_told_and_not_followed(site, monkeypatch):
    monkeypatch.setattr(requirements, "MAX_DISTRIBUTIONS", 10)
    for number in range(20):
        site.install(f"d{number}", requires=[f"d{number + 1}"])
    with pytest.raises(RequirementsError, match="requires more than 10 distributions"):
        Requirements([str(site.folder)]).names("d0")


def test_metadata_that_are_a_pipe_or_endless_are_told(site):
    info = site.install("acme")
    (info / "METADATA").unlink()
    os.mkfifo(info / "METADATA")
    with pytest.raises(RequirementsError, match="no regular file"):
        Requirements([str(site.folder)]).names("acme")
    site.install("beta", {}, requires=["x" * 2**20])
    with pytest.raises(RequirementsError, match="longer than"):
        Requirements([str(site.folder)]).names("beta")


def test_whose_a_module_is_that_an_option_names(site):
    site.install("acme-tools", {"acme/__init__.py": "", "single.py": ""})
    site.install("other", {"acme_other/__init__.py": "", "x/acme/__init__.py": ""})

    found = Requirements([str(site.folder)])

    assert found.owners({"acme"}) == {"acme-tools"} == found.owners({"single"})
    assert found.owners({"nobody"}) == set() == found.owners(set())
