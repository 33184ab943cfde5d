"""Which distributions a plugin brings, and what is told of each."""

import os
import sys

import numpy as np
import pytest
import torch

import ringfence
import ringfence.builtin
from ringfence.discovery import provenance
from ringfence.discovery.provenance import provenance_of
from ringfence.plugins.interface import PluginSpec

from ..site_folder import SiteFolder


def spec(name="acme", distribution="acme", search_path=(), **options):
    return PluginSpec(name, distribution, "1.0", "acme", "P", "gradient", options, search_path=search_path)


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = SiteFolder(tmp_path / "site")
    monkeypatch.setattr(provenance, "import_paths", lambda: (*sys.path, str(folder.folder)))
    return folder


def test_a_plugin_brings_its_distribution_and_all_that_this_requires_but_not_ringfences_own(site):
    site.install("acme", {"acme.py": ""}, requires=["ringfence", "torch", "beta", "absent"])
    site.install("beta", {"beta.py": ""}, requires=["gamma"])
    site.install("gamma", {"gamma.py": ""})

    found = provenance_of([spec()])

    assert found.plugins == {"acme": ("acme", "absent", "beta", "gamma")}
    assert list(found.distributions) == sorted(found.distributions)
    told = {name: (bool(each.files), bool(each.record)) for name, each in found.distributions.items()}
    assert [told[name] for name in ("acme", "beta", "gamma")] == [(True, False)] * 3
    assert told["torch"] == told["numpy"] == (False, True)
    absent = found.distributions["absent"]
    assert (absent.gap, absent.version, absent.sha256) == ("it is not installed", "", "")


def test_a_plugin_may_import_what_it_brings_and_what_ringfence_does(site):
    site.install("acme", {"acme.py": ""}, requires=["beta"])
    site.install("beta", {"beta/__init__.py": ""})
    site.install("gamma", {"gamma.py": ""})
    found = provenance_of([spec(), spec("other", "gamma"), spec("optim", "ringfence")])

    held = found.files_of("acme", is_whole=False)

    folder = os.path.realpath(site.folder)
    assert {f"{folder}/acme.py", f"{folder}/beta/__init__.py"} <= set(held.files)
    assert f"{folder}/gamma.py" not in held.files
    for package in (torch, np, ringfence, ringfence.builtin):
        assert os.path.realpath(package.__path__[0]) in held.free
    assert not any(path.startswith(folder) for path in held.free)
    assert list(held.changed()) == []
    # One of ours that brings nothing needs not be held, unless nothing else may be imported.
    assert found.files_of("optim", is_whole=False) is None
    assert found.files_of("optim", is_whole=True).files == {}


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "named.Lamb"},
        {"algorithm": "named.inner:Lamb"},
        {"ops": [{"named.Flip": {"p": 0.5}}]},
        {"ops": ({"name": "named.Flip"},)},
    ],
)
def test_what_an_option_names_by_import_path_comes_along(site, options):
    site.install("its-own-name", {"named/__init__.py": ""}, requires=["beta"])
    site.install("beta", {"beta.py": ""})

    found = provenance_of([spec("optim", "ringfence", **options)])

    assert found.plugins == {"optim": ("ringfence", "beta", "its-own-name")}
    assert provenance_of([spec("optim", "ringfence", algorithm="adamw")]).plugins == {"optim": ("ringfence",)}


def test_what_cannot_be_told_is_a_gap_and_never_silence(site):
    site.install("acme", {"acme.py": ""}, requires=["no requirement at all"])
    found = provenance_of([spec()]).distributions["acme"]
    assert "what it requires cannot be told: acme requires" in found.gap
    assert found.sha256 == ""


def test_a_job_without_plugins_of_others_reads_lists_alone():
    found = provenance_of([spec("optim", "ringfence", algorithm="adamw")])
    assert not any(each.files for each in found.distributions.values())
    assert provenance_of([]).distributions == {}
