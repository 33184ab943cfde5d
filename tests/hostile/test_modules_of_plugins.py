"""Every module that the trainer and the zygote import, or try to, brought by a wheel, on each road to it.

The wheels are written by hand and installed with pip. A module of theirs leaves a mark where
it runs, and then gives way to the true one, so that the same run shows both what is kept out
and, without the guard, what there is to keep out.
"""

import base64
import hashlib
import sys
import tempfile
import textwrap
import zipfile
from contextlib import contextmanager

import pytest
import typer

from ..conftest import call

#: Tried by torch, numpy, sympy, fsspec, the standard library and others, and not installed.
TRIED = (
    *("opt_einsum", "gmpy2", "gmpy", "flint", "msvcrt", "nt", "_winapi", "winreg", "org", "cuda", "tqdm"),
    *("torchcomms", "torchdistx", "torchvision", "triton", "pynvml", "tabulate", "monkeytype"),
    *("pandas", "xarray", "sklearn", "tensorflow", "onnx", "onnxruntime", "pydot", "sksparse", "scikits"),
    *("zstandard", "lz4", "lzmaffi", "snappy", "isal", "cython", "uarray", "tree", "regex", "botocore"),
    *("_ruamel_yaml", "_ruamel_yaml_clibz", "backports", "scienceplots", "pystoi", "pesq", "librosa"),
)
#: The same inside packages of others, which are not believed any longer once a plugin has put a file there.
TRIED_INSIDE = (
    *("torch._rocm_init", "numpy._distributor_init_local", "scipy._distributor_init_local"),
    *("scipy.linalg._clapack", "google.protobuf.internal._api_implementation"),
)
#: There, and imported.
IMPORTED = (
    *("re", "enum", "typing", "functools", "collections", "gc", "signal", "json", "uuid", "csv", "decimal"),
    *("ringfence", "torch", "numpy", "typer", "rich", "click", "msgspec", "sympy", "PIL"),
)
#: The standard library's, imported once there is a guard.
LATER = ("uuid", "decimal", "fractions", "statistics", "colorsys", "plistlib", "getpass", "calendar", "csv")

SPY = """
import posix, sys

try:
    fd = posix.open({evidence!r}, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o600)
    posix.write(fd, f"{{'zygote' if sys.argv[:1] == ['-c'] else 'trainer'}} {{__name__}}\\n".encode())
    posix.close(fd)
except PermissionError:
    pass  # in a sandbox
if "." in __name__:
    raise ModuleNotFoundError("not really here", name=__name__)
around = __file__.removesuffix("/__init__.py").rpartition("/")[0]
before = sys.path[:]
sys.path[:] = [folder for folder in before if folder != around]
del sys.modules[__name__]
try:
    __import__(__name__)
finally:
    sys.path[:] = before
"""
JOB = """
    model: {name: mlp, hidden: [8]}
    data: mnist10k
    steps: 2
    batch_size: 8
    plugins:
      - augment: {ops: [randaugment, {albumentations.HorizontalFlip: {p: 0.5}}]}
      - gradclip: {}
      - monitor: {}
      - optim: {algorithm: adamw, lr: 0.01}
"""
#: The command as installers write it, with nobody on guard.
UNGUARDED = """\
    #!{python}
    import re
    import sys
    from ringfence.imports import import_guard
    import_guard.take_off()
    import_guard.guard = lambda: None
    from ringfence.isolation.host.processes import zygote_process
    zygote_process._BOOT = zygote_process._BOOT.replace(
        "\\nguard()\\n", "\\nfrom ringfence.imports.import_guard import take_off\\ntake_off()\\n"
    )
    from ringfence.cli.main import main
    sys.exit(main())
"""
#: Writes down what is looked for, in order, and what nobody finds.
RECORDER = """
import posix, sys

def note(kind, name):
    try:
        posix.write(FD, f"{{posix.getpid()}} {{kind}} {{name}}\\n".encode())
    except OSError:
        pass  # in a sandbox

class Asked:
    find_spec = staticmethod(lambda name, path=None, target=None: note("asked", name))

class Missed:
    find_spec = staticmethod(lambda name, path=None, target=None: note("missed", name))

FD = posix.open({record!r}, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o600)
sys.meta_path.insert(0, Asked)
sys.meta_path.append(Missed)
"""
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
POINTS = "[ringfence.plugins]\n{name} = {name}:Plugin\n"


def path_of(module, ending=".py"):
    return module.replace(".", "/") + ending


#: Road to where a wheel has to hold a module so that an installer puts it there.
ROADS = {
    "module": lambda name, _: path_of(name),
    "inside": lambda name, _: path_of(name),
    "package": lambda name, _: path_of(name, "/__init__.py"),
    "data": lambda name, wheel: f"{wheel}-1.0.data/data/lib/{VERSION}/site-packages/{path_of(name)}",
    "platlib": lambda name, wheel: f"{wheel}-1.0.data/platlib/{path_of(name)}",
    "library": lambda name, wheel: f"{wheel}-1.0.data/data/lib/{VERSION}/{path_of(name)}",
    "beside": lambda name, wheel: f"{wheel}_more/{path_of(name)}",
    "commas": lambda name, _: path_of(name),
    "carried": lambda name, _: path_of(name),
    "scripts": lambda name, wheel: f"{wheel}-1.0.data/scripts/{path_of(name)}",
}


def write_wheel(folder, road, modules, evidence):
    """Write a wheel that brings ``modules`` on one road, with a plugin."""
    name = f"stray_{road}"
    info = f"{name}-1.0.dist-info"
    spy = SPY.format(evidence=str(evidence))
    files = {ROADS[road](module, name): spy for module in modules}
    points = info
    if road == "beside":
        files[f"{name}.pth"] = f"{name}_more\n"
    if road == "carried":
        # A second folder of metadata, which installers do not look at, declares the plugin.
        points = f"{name}-1.0.data/purelib/other-1.0.dist-info"
        files[f"{points}/METADATA"] = "Name: other\nVersion: 1.0\n"
        files[f"{points}/RECORD"] = "other.py,,\n"
    files |= {
        f"{info}/METADATA": f"Name: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{points}/entry_points.txt": POINTS.format(name=name),
    }
    size = '"1,2"' if road == "commas" else ""
    rows = "".join(f"{path},sha256={_digest(text)},{size}\n" for path, text in files.items())
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": f"{rows}{info}/RECORD,,\n"}.items():
            archive.writestr(member, text)
    return path


def _digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def dealt(tried, imported, later):
    """Return the modules that each road brings: each of those tried on one of them."""
    roads = [road for road in ROADS if road not in {"scripts", "inside"}]
    table = {road: list(tried[number :: len(roads)]) for number, road in enumerate(roads)}
    table["library"] += later
    table["scripts"] = [*tried, *imported]
    return table


class Place:
    """An environment with such wheels, and what ran of them."""

    def __init__(self, environment, folder, table):
        self.environment, self.folder = environment, folder
        self.evidence = folder / "ran.txt"
        environment.install(*(write_wheel(folder, *row, self.evidence) for row in table.items()))
        (folder / "job.yaml").write_text(textwrap.dedent(JOB))
        #: Searched before all others, as Python's own library is where there is no virtual environment.
        self.library = str(environment.folder / "lib" / VERSION)

    @contextmanager
    def inside(self, modules):
        """Have modules of a plugin's wheel inside packages of others."""
        self.environment.install(write_wheel(self.folder, "inside", modules, self.evidence))
        yield
        call(*PIP, "--python", self.environment.python, "uninstall", "-y", "stray_inside", cwd=self.folder)

    def train(self, program):
        """Train, and return what ran in which process."""
        self.call(program)
        return self.marks()

    def call(self, program, status=0):
        """Train to an end with ``status``, and return what was printed of errors."""
        self.evidence.unlink(missing_ok=True)
        env = {"PYTHONPATH": self.library}
        out = tempfile.mkdtemp(prefix="run-", dir=self.folder)
        return call(
            program, "train", "job.yaml", "--out", out, cwd=self.folder, env=env, status=status
        ).stderr

    def marks(self):
        text = self.evidence.read_text() if self.evidence.exists() else ""
        return {tuple(line.split()) for line in text.splitlines()}

    def train_unguarded(self):
        program = self.environment.folder / "bin" / "unguarded"
        program.write_text(textwrap.dedent(UNGUARDED.format(python=self.environment.python)))
        program.chmod(0o755)
        return self.train(program)


@pytest.fixture(scope="module")
def place(new_environment, tmp_path_factory):
    table = dealt(TRIED, IMPORTED, LATER)
    return Place(new_environment(), tmp_path_factory.mktemp("stray"), table)


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_none_runs_in_the_trainer_or_the_zygote(place):
    assert place.train(place.environment.command) == set()


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_with_some_inside_the_packages_of_others_nothing_is_trained_and_whose_they_are_is_told(place):
    with place.inside(TRIED_INSIDE):
        told = place.call(place.environment.command, status=2)
        assert place.marks() == set()

    assert "'stray-inside', which brings plugins for ringfence, put files into" in told
    assert "pip uninstall stray-inside" in told
    assert "Traceback" not in told


@pytest.mark.room
@pytest.mark.control("code at start-up")
def test_without_the_guard_they_run_in_both(place):
    with place.inside(TRIED_INSIDE):
        ran = place.train_unguarded()

    for process, least in (("trainer", 0.5), ("zygote", 0.25)):
        names = {name for where, name in ran if where == process}
        assert len(names & {*TRIED, *TRIED_INSIDE}) >= least * len(TRIED), sorted(names)
    assert {name for where, name in ran if where == "trainer"} >= {
        "re",
        "ringfence",
        "typer",
        "torch",
        "uuid",
    }


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_of_all_that_either_process_imports_or_tries_none_runs(new_environment, tmp_path_factory):
    environment, folder = new_environment(), tmp_path_factory.mktemp("all")
    asked, missed = recorded(environment, folder)
    assert {"torch", "numpy", "torch.nn", "uuid"} <= set(asked)
    assert len({*TRIED, *TRIED_INSIDE} & missed) > 30, "the table for every day is out of date"
    # torch looks for dill, and can do no longer without it once it is there.
    tops = sorted(name for name in missed if "." not in name and name != "dill")
    inside = sorted(name for name in missed if "." in name and not name.startswith("ringfence."))
    later = asked[asked.index("ringfence.cli.app") :]
    place = Place(
        environment,
        folder,
        dealt(
            tops,
            sorted({name for name in asked if "." not in name} - {*tops, "sitecustomize"}),
            sorted({name for name in later if name in sys.stdlib_module_names} - {*tops}),
        ),
    )

    assert place.train(environment.command) == set()
    with place.inside(inside):
        assert "put files into" in place.call(environment.command, status=2)
        assert place.marks() == set()
        ran = {name for _, name in place.train_unguarded()}
    assert len(ran & {*tops, *inside}) >= 0.5 * len({*tops, *inside}), sorted({*tops, *inside} - ran)


def recorded(environment, folder):
    """Return what a run asks for, in the trainer's order and then in the zygote's, and what nobody finds."""
    record = folder / "asked.txt"
    hook = environment.folder / "lib" / VERSION / "site-packages" / "sitecustomize.py"
    hook.write_text(RECORDER.format(record=str(record)))
    (folder / "job.yaml").write_text(textwrap.dedent(JOB))
    call(environment.command, "train", "job.yaml", "--out", "recorded", cwd=folder)
    hook.unlink()
    lines = [line.split(" ", 2) for line in record.read_text().splitlines()]
    first = lines[0][0]
    lines.sort(key=lambda line: line[0] != first)
    asked = dict.fromkeys(name for _, kind, name in lines if kind == "asked")
    return list(asked), {name for _, kind, name in lines if kind == "missed"}


# without an environment of its own


def test_nothing_starts_where_a_list_of_files_cannot_be_read(tmp_path):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(POINTS.format(name="acme"))
    (info / "RECORD").write_bytes(b"\xff,,\n")
    env = {"PYTHONPATH": str(tmp_path)}

    done = call(sys.executable, "-m", "ringfence", "--help", cwd=tmp_path, env=env, status=2)

    assert done.stdout == ""
    assert done.stderr.startswith(
        "error: which modules belong to 'acme' cannot be told, since its list of files is"
    )
    assert f"uninstall it (pip uninstall acme), or delete {info}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("how", "ran"),
    [
        (["-m", "ringfence"], set()),
        (["-c", "import os, sys; sys.path[0] = os.getcwd(); import typer"], {"typer"}),
    ],
)
def test_started_as_a_module_the_command_takes_nothing_from_the_current_folder(tmp_path, how, ran):
    """The second line is the control."""
    evidence = tmp_path / "ran.txt"
    for name in ("typer", "rich", "click", "uuid", "signal"):
        (tmp_path / f"{name}.py").write_text(SPY.format(evidence=str(evidence)))

    call(sys.executable, *how, *(["--help"] if "-m" in how else []), cwd=tmp_path)

    text = evidence.read_text() if evidence.exists() else ""
    assert {line.split()[1] for line in text.splitlines()} & {"typer", "rich"} == ran


def test_where_the_command_itself_needs_what_a_plugin_has_overwritten_that_is_told(tmp_path):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(POINTS.format(name="acme"))
    (info / "RECORD").write_text(f"{typer.__file__},,\n")
    env = {"PYTHONPATH": str(tmp_path)}

    done = call(sys.executable, "-m", "ringfence", "--help", cwd=tmp_path, env=env, status=2)

    assert done.stderr.startswith(
        "error: module 'typer' belongs to 'acme', which brings plugins for ringfence"
    )
    assert "Traceback" not in done.stderr
