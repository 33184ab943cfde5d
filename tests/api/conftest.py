"""Small runs from Python, in this process."""

import pytest

import ringfence

SMALL = {
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "mnist10k", "limit": 256},
    "steps": 6,
    "batch_size": 32,
    "threads": 1,
}
OPTIM = {"optim": {"algorithm": "adamw", "lr": 1e-3}}
#: Without a sandbox, which takes seconds to start.
TRUSTED = {**SMALL, "plugins": [{**OPTIM, "isolation": "trusted"}]}


@pytest.fixture(autouse=True)
def _without_a_page(monkeypatch):
    """Have runs make no report, which takes most of the time of a small one; that of all tests has one."""
    monkeypatch.setattr("ringfence.run.execute.write_report", lambda _: None)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that went on once, with all that a plugin can leave."""
    folder = tmp_path_factory.mktemp("run") / "run"
    plugins = [*TRUSTED["plugins"], {"monitor": {"bins": 4}, "isolation": "trusted"}]
    ringfence.train({**TRUSTED, "plugins": plugins}, out=folder, progress=False, steps=4)
    return ringfence.train(out=folder, resume=True, steps=6, progress=False)
