"""An environment with ringfence from its wheel, other frameworks, and plugins of strangers."""

import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, call

HERE = Path(__file__).parent
#: None of them brings a torch of its own: the constraints name the one that there is.
FRAMEWORKS = (
    "accelerate>=1.5,<2",
    "datasets>=5,<6",
    "pytorch-ignite>=0.5.2,<0.6",
    "pytorch-lightning>=2.5,<3",
    "transformers>=5,<6",
)
PLUGINS = (HERE / "misbehaving", ROOT / "examples" / "plugins" / "label-noise")


@pytest.fixture(scope="session")
def framework_environment(new_environment, tmp_path_factory):
    """An environment in which other frameworks are installed, and a bad plugin beside a good one."""
    environment = new_environment()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment.python]
    flags = ["install", "--quiet", "-c", ROOT / "constraints.txt"]
    call(*pip, *flags, *FRAMEWORKS, cwd=environment.folder, timeout=600)
    # Copies, as building leaves folders behind.
    copies = tmp_path_factory.mktemp("projects")
    made = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    projects = [shutil.copytree(folder, copies / folder.name, ignore=made) for folder in PLUGINS]
    environment.install_projects(projects, tmp_path_factory.mktemp("wheels"))
    return environment
