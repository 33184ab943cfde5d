"""An environment that has ringfence as users have it: from a wheel, beside plugins from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[1]
_OF_THE_WHEEL = (
    "core",
    "docs",
    "plugins_builtin",
    "plugin_template",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
#: What the environment of a clone has and others have not.
_OF_THE_CLONE = ("ringfence", "__editable__")
_BUILTIN = 4
_PIP_S = 300.0
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
_ALONE = ("--no-deps", "--no-index", "--no-build-isolation")

_CODE = '''\
"""Clip gradients by their joint norm."""

from __future__ import annotations

from ringfence import Gradients, StepInfo, passthrough


class Clip:
    """Scale the gradients so that their joint norm is at most ``max_norm``.

    Args:
        max_norm: Upper bound; above 0.
    """

    role = "gradient"
    forward = passthrough

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = max_norm

    def backward(self, gradients: Gradients, step: StepInfo) -> Gradients:
        """Scale them, and log the norm before."""
        norm = sum(float((gradient * gradient).sum()) for gradient in gradients.values()) ** 0.5
        step.log("norm", norm)
        scale = min(1.0, self.max_norm / (norm + 1e-12))
        return {name: gradient * scale for name, gradient in gradients.items()}
'''
_METADATA = """\
Metadata-Version: 2.4
Name: acme-clip-{number}
Version: 1.0
Summary: Clip gradients
Requires-Dist: ringfence>=0.1
"""


def from_wheel(folder: Path, *, plugins: int) -> list[str]:
    """Install a wheel of this source, and return how its command is called.

    The environment shares all other packages with this one, so nothing is downloaded.

    Args:
        folder: Where to.
        plugins: How many there are to be, those that come with ringfence included.
    """
    wheel, target = wheel_of_source(folder), folder / "environment"
    venv.create(target, symlinks=True)
    packages = next(target.glob("lib/python*/site-packages"))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(_OF_THE_CLONE):
            (packages / path.name).symlink_to(path)
    python = target / "bin" / "python"
    _run([*_PIP, "--python", str(python), "install", *_ALONE, str(wheel)])
    for number in range(plugins - _BUILTIN):
        _add_plugin(packages, number)
    return [str(python), str(target / "bin" / "ringfence")]


def wheel_of_source(folder: Path) -> Path:
    """Build a wheel of this source in ``folder``, from a copy."""
    source = folder / "source"
    source.mkdir()
    for name in _OF_THE_WHEEL:
        copy = shutil.copytree if (_SOURCE / name).is_dir() else shutil.copy
        copy(_SOURCE / name, source / name)
    _run([*_PIP, "wheel", *_ALONE, "--wheel-dir", str(folder), str(source)])
    (wheel,) = folder.glob("ringfence-*.whl")
    return wheel


def _run(command: list[str]) -> None:
    """Run ``command`` without what the environment tells pip and Python."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    subprocess.run(command, check=True, timeout=_PIP_S, env=told)


def _add_plugin(packages: Path, number: int) -> None:
    """Install a plugin as pip would."""
    module, info = f"acme_clip_{number}", f"acme_clip_{number}-1.0.dist-info"
    files = {
        f"{module}/__init__.py": _CODE,
        f"{info}/METADATA": _METADATA.format(number=number),
        f"{info}/entry_points.txt": f"[ringfence.plugins]\nclip-{number} = {module}:Clip\n",
        f"{info}/INSTALLER": "pip\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    for name, text in files.items():
        path = packages / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
