"""Which paths no job may open to a plugin."""

import os
import site
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

import ringfence
from ringfence.isolation.host.grants.protected_paths import why_reserved
from ringfence.isolation.host.limits.owner import owner_prefix

NEVER = [
    *("/", "/proc", "/proc/self", "/proc/1/mem", "/sys", "/sys/kernel", "/dev", "/dev/null", "/dev/shm"),  # noqa: S108
    *("/run", "/run/user/0", "/boot", "/etc", "/home", "/home/somebody", "/root", "/var", "/usr", "/tmp"),  # noqa: S108
    *("/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssl/private/x.key", "/var/lib/docker/volumes"),
]
READABLE = ["/data", "/data/set", "/etc/ssl/certs", "/etc/hosts", "/usr/share/dict", "/var/lib/x", "/srv/x"]
ONLY_READABLE = [
    *("/etc/ssl/certs", "/etc/cron.d", "/usr/share/dict", "/usr/local/bin", "/opt/tool", "/lib/x"),
    *(sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), site.getusersitepackages()),
    *ringfence.__path__,
    f"{sysconfig.get_path('purelib')}/torch",
]
WRITABLE = ["/data", "/data/out", "/var/lib/x", "/srv/x/y"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of our own."""
    folder = tmp_path / "home" / "me"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("path", NEVER)
def test_never(path, write):
    assert why_reserved(Path(path), write=write)


@pytest.mark.parametrize("path", READABLE)
def test_may_be_read(path):
    assert why_reserved(Path(path), write=False) == ""


@pytest.mark.parametrize("path", ONLY_READABLE)
def test_may_not_be_written(path):
    assert why_reserved(Path(path), write=True)


@pytest.mark.parametrize("path", WRITABLE)
def test_may_be_written(path):
    assert why_reserved(Path(path), write=True) == ""


@pytest.mark.parametrize("write", [False, True])
def test_a_home_folder_and_whatever_holds_it_are_refused(home, write):
    assert why_reserved(home, write=write) == "it is your home folder; name a folder in it"
    assert "holds your home folder" in why_reserved(home.parent, write=write)
    assert why_reserved(home / "data", write=write) == ""


@pytest.mark.parametrize(
    "name",
    [
        *(".ssh", ".ssh/config", ".gnupg", ".aws/credentials", ".netrc", ".config/gcloud", ".kube/config"),
        *(
            ".docker",
            ".cache/huggingface/token",
            ".git-credentials",
            ".pypirc",
            ".config",
            ".cache",
            ".local",
        ),
        *(".cache/huggingface", ".mozilla/firefox", ".bash_history"),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_keys_in_a_home_folder_and_whatever_holds_them_are_refused(home, name, write):
    """Whether or not they exist by now."""
    assert "keys and passwords" in why_reserved(home / name, write=write)


def test_hidden_folders_of_a_home_may_be_read_but_not_written(home):
    assert why_reserved(home / ".cache/torch", write=False) == ""
    assert "settings and code" in why_reserved(home / ".cache/torch", write=True)
    assert "settings and code" in why_reserved(home / ".bashrc", write=True)
    assert "programs are kept" in why_reserved(home / "bin", write=True)


@pytest.mark.parametrize("name", [".ssh", ".netrc", ".config/gcloud", ".env"])
def test_a_copy_of_a_home_folder_is_told_by_what_lies_in_it(tmp_path, name):
    assert why_reserved(tmp_path, write=False) == ""
    (tmp_path / name).mkdir(parents=True)
    assert f"it holds {name}" in why_reserved(tmp_path, write=False)
    assert why_reserved(tmp_path / ".ssh" / "x", write=False)


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("AWS_SHARED_CREDENTIALS_FILE", ""),
        ("HF_HOME", "/token"),
        ("KUBECONFIG", ""),
        ("XDG_STATE_HOME", "/ringfence"),
    ],
)
def test_keys_are_looked_for_where_the_environment_says(tmp_path, monkeypatch, variable, file):
    place = tmp_path / "odd" / "place"
    monkeypatch.setenv(variable, str(place))
    for path in (Path(f"{place}{file}"), tmp_path / "odd"):
        assert why_reserved(path, write=False)


def test_folders_of_sandboxes_are_closed():
    mine = Path(tempfile.gettempdir(), f"{owner_prefix()}abc")
    assert "sandboxes of ringfence" in why_reserved(mine / "scratch-12", write=False)


@pytest.mark.parametrize("mark", [".git", "pyproject.toml", "Makefile", ".envrc", "pyvenv.cfg"])
def test_a_project_may_be_read_but_not_written(tmp_path, mark):
    assert why_reserved(tmp_path, write=True) == ""
    (tmp_path / mark).touch()
    assert why_reserved(tmp_path, write=False) == ""
    assert f"it holds {mark}" in why_reserved(tmp_path, write=True)
    assert why_reserved(tmp_path / "data", write=True) == ""


def test_runs_are_not_written(tmp_path):
    run = tmp_path / "runs" / "job-1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").touch()
    for path in (run, run / "checkpoints", tmp_path / "runs"):
        assert "runs of ringfence are there" in why_reserved(path, write=True)
        assert why_reserved(path, write=False) == ""
    assert why_reserved(tmp_path / "runs" / "predictions", write=True) == ""


def test_what_lies_in_a_git_folder_is_not_written(tmp_path):
    assert ".git folder" in why_reserved(tmp_path / ".git" / "hooks", write=True)


@pytest.mark.parametrize(
    ("name", "mode"), [("run.py", 0o644), ("lib.so", 0o644), ("tool", 0o755), ("x.pth", 0o644)]
)
def test_a_program_is_not_written(tmp_path, name, mode):
    (tmp_path / name).touch()
    (tmp_path / name).chmod(mode)
    assert why_reserved(tmp_path / name, write=True) == "it is a program"
    assert why_reserved(tmp_path / name, write=False) == ""


def test_folders_of_programs_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}/tools:/usr/bin")
    for path in (tmp_path, tmp_path / "tools", tmp_path / "tools" / "x"):
        assert "PATH" in why_reserved(path, write=True)
    assert why_reserved(tmp_path / "data", write=True) == ""


@pytest.mark.parametrize("how", ["sys.path", "current folder", "argument"])
def test_code_beside_data_is_not_written_and_data_may_be(tmp_path, monkeypatch, how):
    package = tmp_path / "models"
    package.mkdir()
    (package / "net.py").touch()
    (tmp_path / "out").mkdir()
    modules = ()
    if how == "sys.path":
        monkeypatch.syspath_prepend(str(tmp_path))
    elif how == "current folder":
        monkeypatch.chdir(tmp_path)
    else:
        modules = (tmp_path,)
    assert "looks for modules" in why_reserved(tmp_path, write=True, modules=modules)
    assert "Python can import" in why_reserved(package, write=True, modules=modules)
    assert "Python can import" in why_reserved(package / "deeper", write=True, modules=modules)
    assert "name of a module" in why_reserved(tmp_path / "json", write=True, modules=modules)
    assert "name of a module" in why_reserved(tmp_path / "torch", write=True, modules=modules)
    assert why_reserved(tmp_path / "out", write=True, modules=modules) == ""


def test_code_of_plugins_is_not_written(tmp_path):
    assert "a plugin's code" in why_reserved(tmp_path / "acme" / "x", write=True, code=(tmp_path / "acme",))
    assert "a plugin's code" in why_reserved(tmp_path, write=True, code=(tmp_path / "acme",))


def test_an_environment_of_python_is_not_granted_as_a_whole():
    assert why_reserved(Path(sys.prefix), write=False)
    assert why_reserved(Path(sys.prefix).parent, write=False)


def test_a_file_system_of_the_kernel_is_told_wherever_it_is_mounted():
    """Of those mounted here besides the usual ones, if any; /proc itself is listed by name."""
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _, place, kind, *_ in mounted:
        if kind in {"proc", "sysfs", "cgroup2", "devpts"}:
            assert why_reserved(Path(place) / "x", write=False), place
            assert why_reserved(Path(place).parent, write=False), place


def test_nothing_is_refused_for_looking_up_what_this_user_may_not_see(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root sees everything; run by an ordinary user this shows something")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    assert why_reserved(closed / "data", write=True, modules=(tmp_path,)) == ""
