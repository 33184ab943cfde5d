"""What is digested of a distribution, what is not and is named, and that nothing of it goes unnoticed."""

import hashlib
import json
import os

import pytest
from importlib_metadata import Distribution

from ringfence.discovery import distribution_digest
from ringfence.discovery.distribution_digest import Effort, digest_files, digest_list
from ringfence.discovery.installed_layout import Environment

from ..forged_bytecode import forge
from ..site_folder import SiteFolder

FILES = {
    "acme/__init__.py": "A = 1\n",
    "acme/inner/code.py": "B = 2\n",
    "acme/data.bin": "\0",
    "acme_single.py": "C = 3\n",
    "acme.libs/libx.so": "elf",
    "../../../bin/acme": "#!/somewhere/python\n",
}


@pytest.fixture
def site(tmp_path):
    return SiteFolder(tmp_path / "lib" / "python3" / "site-packages")


@pytest.fixture
def digested(site, monkeypatch):
    """Return what is digested of the distribution ``acme``."""
    monkeypatch.setattr("ringfence.discovery.installed_layout._site_folders", lambda: {site.folder})

    def digested(effort=None):
        (found,) = Distribution.discover(name="acme", path=[str(site.folder)])
        return digest_files("acme", "1.0", found, Environment(), effort or Effort())

    return digested


def test_all_that_can_run_or_be_read_is_digested_as_it_is(site, digested):
    site.install("acme", FILES)
    (site.folder / "acme" / "added.py").write_text("D = 4\n")

    found = digested()

    assert found.gap == ""
    assert set(found.files) == {
        *(name for name in FILES if not name.startswith("..")),
        *("acme/added.py", "acme-1.0.dist-info/METADATA"),
    }
    for name, file in found.files.items():
        assert file.sha256 == hashlib.sha256((site.folder / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "is_noticed"),
    [
        *((("acme/inner/code.py", "B = 3\n"), True), (("acme.libs/libx.so", "fle"), True)),
        # In place of the module or package: Python looks for these first.
        *(
            (("acme/inner/code.cpython-311-x86_64-linux-gnu.so", "elf"), True),
            (("acme_single.so", "elf"), True),
        ),
        *((("acme_single/__init__.py", ""), True), (("acme/inner/__pycache__/evil.py", ""), True)),
        *((("acme/inner/sourceless.pyc", ""), True), (("acme/inner/__pycache__/evil.pyc", ""), True)),
        # Not read by anybody, or different on each machine.
        *((("acme/__pycache__/__init__.cpython-311.pyc", ""), False), (("../../../bin/acme", ""), False)),
        *(
            (("acme/__pycache__/__init__.cpython-311.opt-1.pyc", ""), False),
            (("beta/__init__.py", ""), False),
        ),
        *((("acme-1.0.dist-info/INSTALLER", "uv"), False), (("acme-1.0.dist-info/METADATA", "x"), True)),
    ],
)
def test_a_change_is_noticed_unless_nothing_of_it_can_run(site, digested, change, is_noticed):
    site.install("acme", FILES)
    before = digested().sha256
    assert digested().sha256 == before
    name, text = change
    (site.folder / name).parent.mkdir(exist_ok=True)
    (site.folder / name).write_text(text)
    assert (digested().sha256 != before) == is_noticed


def test_a_file_that_was_removed_is_missing(site, digested):
    site.install("acme", FILES)
    before = digested()
    (site.folder / "acme" / "inner" / "code.py").unlink()
    assert set(before.files) - set(digested().files) == {"acme/inner/code.py"}
    assert digested().sha256 != before.sha256


def test_compiled_code_is_not_digested_since_it_is_not_run(site, digested):
    site.install("acme", FILES)
    before = digested().sha256
    forge(site.folder / "acme" / "__init__.py", "A = 2", kind="timestamp")
    assert digested().sha256 == before


def _link(folder):
    (folder / "acme" / "linked.py").symlink_to("/etc/passwd")


def _folder_link(folder):
    (folder / "acme" / "more").symlink_to("/etc")


def _pipe(folder):
    os.mkfifo(folder / "acme" / "pipe.py")


def _listed_pipe(folder):
    (folder / "acme.libs" / "libx.so").unlink()
    os.mkfifo(folder / "acme.libs" / "libx.so")


def _listed_link(folder):
    (folder / "acme.libs").rename(folder / "elsewhere")
    (folder / "acme.libs").symlink_to("elsewhere")


def _no_list(folder):
    (folder / "acme-1.0.dist-info" / "RECORD").unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_link, "acme/linked.py is a symbolic link, and none is followed"),
        (_folder_link, "acme/more is a symbolic link, and none is followed"),
        (_pipe, "acme/pipe.py is no regular file"),
        (_listed_pipe, "acme.libs/libx.so is no regular file"),
        (_listed_link, "acme.libs/libx.so is reached by a symbolic link, and none is followed"),
        (_no_list, "it has no list of files"),
    ],
)
def test_what_is_no_plain_file_is_named_and_not_read(site, digested, change, reason):
    site.install("acme", FILES)
    change(site.folder)
    assert (digested().gap, digested().sha256) == (reason, "")


def test_what_is_too_much_is_named(site, digested, monkeypatch):
    site.install("acme", FILES)
    assert digested(Effort(0.0)).gap == "to read all that the job's plugins bring takes more than 0 s"
    monkeypatch.setattr(distribution_digest, "MAX_BYTES", 20)
    assert digested().gap == "its files have more than 20 bytes together"
    monkeypatch.setattr(distribution_digest, "MAX_FILES", 3)
    assert digested().gap == "it has more than 3 files"


def test_of_an_editable_install_the_code_in_its_project_counts(site, digested, tmp_path):
    project = tmp_path / "project"
    (project / "src" / "acme").mkdir(parents=True)
    (project / "pyproject.toml").touch()
    (project / "src" / "acme" / "__init__.py").write_text("A = 1\n")
    told = json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})
    site.install(
        "acme", {"__editable__.acme.pth": f"{project}/src\n", "acme-1.0.dist-info/direct_url.json": told}
    )
    before = digested()
    assert set(before.files) == {"acme/__init__.py", "acme-1.0.dist-info/METADATA"}
    (project / "src" / "acme" / "__init__.py").write_text("A = 2\n")
    assert digested().sha256 != before.sha256


def test_of_what_ringfence_requires_the_list_counts_and_not_how_it_was_installed(site):
    def listed():
        return digest_list("acme", "1.0", Distribution.at(info))

    info = site.install("acme", FILES)
    before, record = listed(), (info / "RECORD").read_text()
    assert (before.gap, len(before.record)) == ("", 64)
    tops = {os.path.relpath(path, os.path.realpath(site.folder)) for path in before.provides}
    assert {"acme", "acme_single.py", "acme.libs"} <= tops
    rows = sorted(row for row in record.splitlines() if "bin/acme" not in row)
    rows += ["../../../bin/acme,sha256=other,1", "acme/__pycache__/__init__.cpython-311.pyc,,", ""]
    (info / "RECORD").write_text("\r\n".join(rows))
    assert listed().record == before.record
    (info / "RECORD").write_text(record.replace("sha256=", "sha256=x", 1))
    assert listed().record != before.record


def test_a_list_that_says_nothing_of_the_files_is_named(site):
    info = site.install("acme", FILES)
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    assert "installed with -e" in digest_list("acme", "1.0", Distribution.at(info)).gap
    (info / "direct_url.json").unlink()
    (info / "RECORD").unlink()
    os.mkfifo(info / "RECORD")
    assert digest_list("acme", "1.0", Distribution.at(info)).gap == (
        "its list of files cannot be read: RECORD is no regular file"
    )
