"""An environment with ringfence from its wheel, other frameworks, and a plugin that misbehaves."""

import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, call

HERE = Path(__file__).parent
#: None of them brings a torch of its own: the constraints name the one that there is.
FRAMEWORKS = ("pytorch-lightning>=2.5,<3", "transformers>=5,<6", "accelerate>=1.5,<2")


@pytest.fixture(scope="session")
def framework_environment(new_environment, tmp_path_factory):
    """An environment in which Lightning and transformers are installed, and ``misbehaves``."""
    environment = new_environment()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment.python]
    call(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", *FRAMEWORKS, cwd=environment.folder)
    environment.install_projects([HERE / "misbehaving"], tmp_path_factory.mktemp("wheels"))
    return environment
