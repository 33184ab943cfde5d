"""A wheel with modules that others merely try to import: none of them runs outside a sandbox."""

import base64
import hashlib
import textwrap
import zipfile

import pytest

from ringfence.imports import import_guard as guards
from ringfence.imports.import_guard import Guard, guard_imports
from ringfence.imports.module_owners import modules_in

from ..conftest import call

PLUGIN = """
    from niceclip_inner import FACTOR
    from ringfence import passthrough

    class Clip:
        role = "gradient"
        forward = passthrough

        def backward(self, gradients, step):
            step.log("factor", FACTOR)
            return None
"""
#: Modules that torch, sympy and the standard library try, and can do without.
TRIED = ("opt_einsum", "gmpy2", "flint", "msvcrt")
SPY = """
    import os, sys
    try:
        with open({path!r}, "a") as file:
            file.write(f"{{__name__}} in {{os.getpid()}}\\n")
    except OSError:
        pass
    raise ModuleNotFoundError("not really here", name=__name__)
"""
MODEL = """
    def mlp(*sizes):
        from torch import nn
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
JOB = """
    model: {model}
    data: mnist10k
    steps: 2
    batch_size: 8
    plugins:
      - niceclip: {{}}
        isolation: {isolation}
      - optim: {{algorithm: adamw, lr: 0.01}}
"""


def write_wheel(folder, name, files, points):
    info = f"{name}-1.0.dist-info"
    files = {
        **{path: textwrap.dedent(text) for path, text in files.items()},
        f"{info}/METADATA": f"Name: {name}\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for path, text in files.items()
    }
    record = "".join(f"{path},sha256={digests[path]},{len(text)}\n" for path, text in files.items())
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return tmp_path_factory.mktemp("evidence") / "ran.txt"


@pytest.fixture(scope="module")
def environment(new_environment, evidence, tmp_path_factory):
    """An environment with a plugin whose wheel brings more than its name says."""
    environment = new_environment()
    spies = {f"{name}.py": SPY.format(path=str(evidence)) for name in TRIED}
    files = {"niceclip.py": PLUGIN, "niceclip_inner.py": "FACTOR = 0.5\n" + textwrap.dedent(MODEL), **spies}
    points = "[ringfence.plugins]\nniceclip = niceclip:Clip\n"
    environment.install(write_wheel(tmp_path_factory.mktemp("wheel"), "niceclip", files, points))
    return environment


@pytest.fixture(autouse=True)
def _nothing_ran_before(evidence):
    evidence.unlink(missing_ok=True)


def train(environment, folder, isolation="sandbox", model="{name: mlp, hidden: [8]}"):
    (folder / "job.yaml").write_text(textwrap.dedent(JOB.format(isolation=isolation, model=model)))
    return call(environment.command, "train", "job.yaml", "--out", "run", cwd=folder)


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_no_module_of_a_plugin_runs_in_the_trainer_or_the_zygote(environment, evidence, tmp_path):
    done = train(environment, tmp_path)

    assert "completed after 2 steps" in done.stdout
    assert not evidence.exists(), evidence.read_text()


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_none_runs_when_plugins_are_listed_or_checked(environment, evidence, tmp_path):
    call(environment.command, "plugins", "list", cwd=tmp_path)
    done = call(environment.command, "plugins", "check", "niceclip", cwd=tmp_path)

    assert "OK  plugin 'niceclip'" in done.stdout
    assert not evidence.exists(), evidence.read_text()


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_none_runs_when_the_public_names_import_torch(environment, evidence, tmp_path):
    call(environment.python, "-c", "import ringfence; ringfence.passthrough", cwd=tmp_path)

    assert not evidence.exists(), evidence.read_text()


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_none_runs_in_a_program_that_imports_ringfence_first(environment, evidence, tmp_path):
    call(environment.python, "-c", "import ringfence; import torch, torch._dynamo", cwd=tmp_path)

    assert not evidence.exists(), evidence.read_text()


#: A program with a plugin host that needs no sandbox; ``{}`` is what it imports first.
PROGRAM = """
    {}
    import ringfence
    from torch import nn
    optim = {{"optim": {{"algorithm": "sgd", "lr": 0.1}}, "isolation": "trusted"}}
    try:
        with ringfence.plugin_host([optim], model=nn.Linear(2, 2)):
            print("it began")
    except ringfence.RingfenceError as error:
        print(error)
"""


@pytest.mark.room
@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("import niceclip", "was imported in this process before ringfence: 'niceclip' (niceclip"),
        ("import ringfence, niceclip", "it began"),  # the user's own choice
        ("import ringfence", "it began"),
    ],
)
def test_a_program_in_which_a_plugin_ran_before_is_refused_by_name(environment, tmp_path, first, says):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM).format(first))

    assert says in call(environment.python, "program.py", cwd=tmp_path).stdout


@pytest.mark.room
@pytest.mark.attack("code at start-up")
def test_a_program_in_which_a_plugin_ran_before_trains_nothing(environment, tmp_path):
    job = "model='mlp', data='mnist10k', steps=1, plugins=['optim']"
    done = call(
        environment.python,
        "-c",
        f"import niceclip, ringfence\ntry: ringfence.train({job})\n"
        "except ringfence.RingfenceError as error: print(error)",
        cwd=tmp_path,
    )

    assert "was imported in this process before ringfence: 'niceclip' (niceclip" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.room
def test_a_plugin_that_is_trusted_may_have_run_before(environment, tmp_path):
    plugins = (
        "[{'niceclip': {}, 'isolation': 'trusted'}, "
        "{'optim': {'algorithm': 'adamw', 'lr': 0.01}, 'isolation': 'trusted'}]"
    )
    job = f"model='mlp', data='mnist10k', steps=2, plugins={plugins}"
    done = call(environment.python, "-c", f"import niceclip, ringfence; ringfence.train({job})", cwd=tmp_path)

    assert "completed after 2 steps" in done.stdout


@pytest.mark.room
@pytest.mark.control("code at start-up")
@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import torch, torch._dynamo", {"opt_einsum", "gmpy2"}),
        (
            "from ringfence.imports.import_guard import take_off; take_off(); import ringfence.cli.app",
            {"msvcrt"},
        ),
    ],
)
def test_without_the_guard_they_run(environment, evidence, tmp_path, code, names):
    call(environment.python, "-c", code, cwd=tmp_path)

    assert names <= {line.split()[0] for line in evidence.read_text().splitlines()}


@pytest.mark.room
def test_a_trusted_plugin_is_imported_in_the_trainer(environment, tmp_path):
    done = train(environment, tmp_path, isolation="trusted")

    assert "is trusted" in done.stdout
    assert "completed after 2 steps" in done.stdout


@pytest.mark.room
@pytest.mark.parametrize("name", ["niceclip_inner:mlp", "mine:mlp"])
def test_the_users_own_model_may_come_from_a_plugins_distribution(environment, tmp_path, name):
    (tmp_path / "mine.py").write_text("from niceclip_inner import mlp\n")

    done = train(environment, tmp_path, model=f"{{name: '{name}'}}")

    assert "completed after 2 steps" in done.stdout


# the guard by itself


def asking(file, module):
    """Import ``module`` as code in ``file`` would."""
    exec(compile(f"import {module}", file, "exec"), {"__name__": "somebody"})  # noqa: S102


@pytest.fixture
def guard(tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "acme_thing.py").write_text("RAN = True\n")
    monkeypatch.syspath_prepend(str(library))
    finder = Guard({"acme_thing": ["acme"]}, [str(library)])
    monkeypatch.setattr(guards.sys, "meta_path", [finder, *guards.sys.meta_path])
    yield finder
    guards.sys.modules.pop("acme_thing", None)


@pytest.mark.parametrize("file", ["library/torch/x.py", "<string>"])
def test_what_a_library_asks_for_is_refused_with_its_owner(guard, tmp_path, file):
    asker = file if file.startswith("<") else str(tmp_path / file)

    with pytest.raises(ModuleNotFoundError, match="'acme_thing' belongs to 'acme', which brings plugins"):
        asking(asker, "acme_thing")


def test_what_the_users_file_asks_for_is_imported(guard, tmp_path):
    asking(str(tmp_path / "mine.py"), "acme_thing")

    assert guards.sys.modules["acme_thing"].RAN


@pytest.mark.parametrize("allow", [lambda g: g.allow("Acme"), lambda g: g.allow_module("acme_thing.inner")])
def test_what_the_job_chooses_is_imported(guard, tmp_path, allow):
    allow(guard)

    asking(str(tmp_path / "library" / "x.py"), "acme_thing")

    assert guards.sys.modules["acme_thing"].RAN


def test_nothing_is_guarded_in_a_program_that_has_torch(monkeypatch):
    import torch  # noqa: F401

    # A test before this one may have run the command in this process.
    others = [finder for finder in guards.sys.meta_path if not isinstance(finder, Guard)]
    monkeypatch.setattr(guards.sys, "meta_path", others)
    with guard_imports():
        assert guards.current() is None


def test_of_a_shared_folder_only_what_is_inside_is_owned():
    shared = ["google/acme/__init__.py", "google/acme/x.py", "torch/acme_extra.py"]
    own = ["acme/a.py", "acme/__init__.py", "one.cpython-311-x86_64-linux-gnu.so"]
    none = ["__pycache__/y.py", "../../bin/z.py", "acme-1.0.dist-info/METADATA"]

    assert modules_in([*shared, *own, *none]) == {"google.acme", "torch.acme_extra", "acme", "one"}
