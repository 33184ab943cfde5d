"""What a plugin brings is not found in place of another's program; programs of its own it may have."""

import os
import subprocess
import sys

import pytest

from ringfence.hooks.errors import RingfenceError
from ringfence.imports.module_owners import owned_modules
from ringfence.imports.programs import is_tried, misleads

POINTS = "[ringfence.plugins]\nacme = acme:Plugin\n[console_scripts]\nacme = acme:main\n"


class Prefix:
    """A virtual environment with a plugin that has programs, before the folders of the system on PATH."""

    def __init__(self, root):
        self.root = root
        self.site = root / "lib" / "python3.11" / "site-packages"
        self.bin, self.system = root / "bin", root / "system"
        for folder in (self.site, self.bin, self.system):
            folder.mkdir(parents=True)
        self.path = os.pathsep.join(map(str, (self.bin, self.system)))

    def install(self, name, *programs, points=None, folder="../../../bin"):
        info = self.site / f"{name}-1.0.dist-info"
        info.mkdir()
        if points is not None:
            (info / "entry_points.txt").write_text(points)
        rows = [f"{name}.py,,", *(f"{folder}/{program},,34" for program in programs)]
        (info / "RECORD").write_text("".join(f"{row}\n" for row in rows))
        (self.site / f"{name}.py").touch()
        for program in programs:
            self.program(self.bin / program, f"from {name} import main\n")

    def program(self, path, text):
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def owned(self):
        return owned_modules([str(self.site)])


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    made = Prefix(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    return made


@pytest.mark.parametrize("name", ["sysinfo", "gcc", "x86_64-linux-gnu-gcc-12", "python3.11", "ringfence"])
def test_a_program_in_place_of_another_or_of_one_that_is_tried_starts_nothing(prefix, name):
    prefix.program(prefix.system / "sysinfo", "echo the true one\n")
    prefix.install("acme", "acme-show", name, points=POINTS)
    prefix.program(prefix.bin / name, "echo not the true one\n")
    # The control: user code that looks for the name gets the plugin's.
    done = subprocess.run([name], capture_output=True, text=True, check=True, env={"PATH": prefix.path})
    assert done.stdout == "not the true one\n"

    with pytest.raises(RingfenceError, match="pip uninstall acme") as caught:
        prefix.owned()

    assert f"'acme', which brings plugins, has installed {prefix.bin / name}" in str(caught.value)
    assert f"whatever starts '{name}' would run it outside any sandbox" in str(caught.value)
    assert (f"before {prefix.system / name}" in str(caught.value)) == (name == "sysinfo")


def test_a_program_over_one_of_another_distribution_starts_nothing(prefix):
    prefix.install("honest", "honest-tool")
    prefix.install("acme", "honest-tool", points=POINTS)

    with pytest.raises(RingfenceError, match="whatever starts 'honest-tool'"):
        prefix.owned()


def test_programs_of_its_own_break_nothing(prefix):
    """Beside Python itself, as in every virtual environment."""
    (prefix.bin / "python").symlink_to(sys.executable)
    prefix.install("honest", "honest-tool")
    prefix.install("acme", "acme", "acme-git", "file-acme", points=POINTS)

    assert prefix.owned().owners["acme"] == {"acme"}


@pytest.mark.parametrize(
    ("name", "points", "row", "is_same"),
    [
        ("acme", POINTS, "../../../bin/acme", True),
        ("acme", POINTS.replace("ringfence.plugins", "others"), "../../../bin/acme", False),
        ("acme", POINTS, "../../../bin/acme2", False),
        ("honest", POINTS, "../../../bin/acme", False),
    ],
)
def test_the_same_plugin_installed_for_the_user_as_well_breaks_nothing(prefix, name, points, row, is_same):
    """Who calls itself as another does is not the same."""
    info = prefix.root / "user" / "lib" / "python3.11" / "site-packages" / f"{name}-0.9.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(points)
    (info / "RECORD").write_text(f"acme.py,,\n{row},,\n")
    (prefix.root / "user" / "bin").mkdir()
    prefix.program(prefix.root / "user" / "bin" / "acme", "from acme import main\n")
    (prefix.system / "acme").symlink_to(prefix.root / "user" / "bin" / "acme")
    prefix.install("acme", "acme", points=POINTS)

    if is_same:
        assert prefix.owned().owners["acme"] == {"acme"}
    else:
        with pytest.raises(RingfenceError, match="whatever starts 'acme'"):
            prefix.owned()


def test_one_beside_the_packages_of_a_target_folder_is_found_too(prefix, monkeypatch):
    target = prefix.site / "bin"
    target.mkdir()
    prefix.install("acme", "gcc", points=POINTS, folder="../../bin")
    (prefix.bin / "gcc").rename(target / "gcc")
    monkeypatch.setenv("PATH", f"{target}:{prefix.path}")

    with pytest.raises(RingfenceError, match=f"has installed {target}/gcc"):
        prefix.owned()


def test_programs_without_end_take_no_time_and_start_nothing(prefix):
    prefix.install("acme", points=POINTS)
    record = prefix.site / "acme-1.0.dist-info" / "RECORD"
    record.write_text("".join(f"../../../bin/p{number},,\n" for number in range(101)))
    with pytest.raises(RingfenceError, match="it has 101 programs, more than 100"):
        prefix.owned()

    record.write_text(f"../../../bin/{'1' * 130_000}x,,\n")
    assert prefix.owned().owners


def test_what_is_not_on_path_is_found_by_nobody(prefix, monkeypatch):
    monkeypatch.setenv("PATH", str(prefix.system))
    prefix.install("acme", "gcc", points=POINTS)

    assert prefix.owned().owners["acme"] == {"acme"}


def test_a_program_that_another_hides_is_found_by_nobody(prefix):
    prefix.program(prefix.system / "show", "echo not the true one\n")
    prefix.program(prefix.bin / "show", "echo the true one\n")

    assert misleads("show", str(prefix.system), lambda _: False) is None
    told = misleads("show", str(prefix.bin), lambda _: False)
    assert told == f"which is found before {prefix.system / 'show'}"


def test_a_name_is_tried_with_machine_and_version_and_not_as_a_part_of_another():
    assert all(map(is_tried, ["g++", "clang-15", "aarch64-linux-gnu-ld", "python3", "ninja"]))
    assert not any(map(is_tried, ["acme-git", "gitacme", "ringfence-acme", "acme", "files", "my-ninja"]))
