"""The arrows between folders, the list of packages, and what importing may not do."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core"
BUILTIN = ROOT / "plugins_builtin"


def modules(folder, package):
    """Yield (dotted name, path) of the modules below a folder."""
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        yield ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)]), path


def imports(name, path):
    """Yield (dotted target, line) of each import, relative ones made absolute, those inside functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{target}.{alias.name}", node.lineno


def all_imports(folder, package):
    for name, path in modules(folder, package):
        for target, line in imports(name, path):
            yield name, target, f"{path.relative_to(ROOT)}:{line} imports {target}"


def below(name, package):
    return name == package or name.startswith(f"{package}.")


OURS = [*all_imports(CORE, "ringfence")]


#: The rooms, the ground floor last: a room imports from floors below its own.
FLOORS = (
    {"cli", "testing"},
    {"api", "integrations"},
    {"run"},
    {"inference", "loggers", "report"},
    {"tracking", "models", "datasets"},
    {"engine", "isolation", "discovery"},
    {"job"},
    {"plugins", "compat"},
    {"tensors", "reproducibility", "imports"},
    {"hooks"},
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
#: The two that import nothing of ringfence themselves: the public names, and the number of the version.
AT_THE_ROOT = {"version", "__main__"}


def room_of(name):
    """Return the room of a module or of a name in one, ``""`` at the root."""
    parts = name.split(".")
    return parts[1] if parts[0] == "ringfence" and len(parts) > 1 and parts[1] in ROOMS else ""


def inside(folder, name):
    """Return which file or folder of ``folder`` a dotted name leads to; None if to none."""
    return name[len(folder) + 1 :].partition(".")[0] if below(name, folder) and name != folder else None


def arrows(folder):
    """Return file or folder to those beside it that it imports, of those that lie in ``folder``."""
    children = {inside(folder, name) for name in NAMES if inside(folder, name)}
    found = {child: set() for child in children}
    for name, target, _ in OURS:
        here, there = inside(folder, name), inside(folder, target)
        if here in children and there in children and here != there:
            found[here].add(there)
    return found


NAMES = [name for name, _ in modules(CORE, "ringfence")]
FOLDERS = sorted({name.rpartition(".")[0] for name in NAMES if "." in name})


def test_there_are_modules_to_look_at():
    assert len(NAMES) > 200
    assert {room_of(name) for name in NAMES} - {""} == set(ROOMS)


def test_the_root_holds_three_files():
    assert {path.name for path in CORE.glob("*.py")} == {"__init__.py", "__main__.py", "version.py"}


def test_every_arrow_between_rooms_leads_down():
    wrong = [
        where
        for name, target, where in OURS
        if (here := room_of(name)) != (there := room_of(target))
        and here
        and there
        and ROOMS[there] <= ROOMS[here]
    ]

    assert wrong == []


def test_a_room_imports_nothing_of_the_root_but_the_version():
    wrong = [
        where
        for name, target, where in OURS
        if room_of(name) and below(target, "ringfence") and not room_of(target)
        if target.split(".")[1] not in {*AT_THE_ROOT, "__version__"} and name not in FACES
    ]

    assert wrong == []


#: Looks up the public names in the package itself, as plugins do.
FACES = {"ringfence.plugins.earlier_series"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_in_no_folder_do_imports_go_round_in_a_circle(folder):
    left = arrows(folder)
    while ready := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ready:
            del left[name]

    assert left == {}


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("isolation.worker", ["isolation.host", "isolation.sandbox", "isolation.doctor"]),
        ("isolation.host", ["isolation.worker", "isolation.sandbox", "isolation.doctor"]),
        ("isolation.transport", ["isolation.worker", "isolation.host"]),
        ("isolation.policy", ["isolation.worker", "isolation.host", "isolation.transport"]),
        ("engine", ["isolation"]),
        ("isolation", ["engine"]),
        ("testing", ["engine"]),
    ],
)
def test_these_never_meet(source, targets):
    wrong = [
        where
        for name, target, where in OURS
        if below(name, f"ringfence.{source}")
        and any(below(target, f"ringfence.{package}") for package in targets)
    ]

    assert wrong == []


def test_no_file_outside_of_run_knows_both_engine_and_sandbox():
    knows = {}
    for name, target, _ in OURS:
        for side in ("engine", "isolation"):
            if room_of(target) == side != room_of(name):
                knows.setdefault(name, set()).add(side)

    both = {name for name, sides in knows.items() if len(sides) == 2}
    assert both
    assert {room_of(name) for name in both} == {"run"}


def test_nothing_of_the_core_imports_a_plugin():
    wrong = [where for _, target, where in OURS if below(target, "ringfence.builtin")]

    assert wrong == []


def test_nothing_of_the_core_imports_the_kit_for_authors():
    wrong = [
        where
        for name, target, where in OURS
        if below(target, "ringfence.testing") and not below(name, "ringfence.testing")
    ]

    assert wrong == []


def test_builtin_plugins_import_only_the_public_api():
    wrong = [
        where
        for name, target, where in all_imports(BUILTIN, "ringfence.builtin")
        if below(target, "ringfence")
        and not below(target, ".".join(name.split(".")[:3]))  # its own package
        and target.count(".") != 1
    ]

    assert wrong == []


def test_nobody_imports_the_folders_by_their_own_names():
    everything = [
        *OURS,
        *all_imports(BUILTIN, "ringfence.builtin"),
        *all_imports(ROOT / "tests", "tests"),
        *all_imports(ROOT / "tools", "tools"),
    ]

    wrong = [where for _, target, where in everything if target.split(".")[0] in {"core", "plugins_builtin"}]

    assert wrong == []
    assert not {"core", "plugins_builtin"} & set(sys.modules)


def test_no_module_imports_the_root_from_a_leaf():
    allowed = {"ringfence.__getattr__", "ringfence.__version__"}
    wrong = [
        where
        for name, target, where in OURS
        if target.count(".") == 1 and target not in allowed and target in PUBLIC_NAMES and name != "ringfence"
    ]

    assert wrong == []


PUBLIC_NAMES = {
    f"ringfence.{element.value}"
    for node in ast.parse((CORE / "__init__.py").read_bytes()).body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    for element in node.value.elts
}


def test_packages_listed_are_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for folder, package in ((CORE, "ringfence"), (BUILTIN, "ringfence.builtin"))
        for path in folder.rglob("__init__.py")
    }

    assert sorted(settings["packages"]) == sorted(folders | {"ringfence._rules", "ringfence._template"})
    assert settings["packages"] == sorted(settings["packages"])


def test_every_folder_with_code_is_a_package():
    code = {path.parent for folder in (CORE, BUILTIN) for path in folder.rglob("*.py")}

    assert [str(folder) for folder in code if not (folder / "__init__.py").exists()] == []


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )


@pytest.mark.parametrize(
    "module",
    [
        "ringfence",
        "ringfence.cli.app",
        "ringfence.cli.train_job",
        "ringfence.api.training",
        "ringfence.discovery.catalog",
        "ringfence.compat.version_range",
        "ringfence.cli.project_template",
        "ringfence.testing.fixtures",
        "ringfence.testing.job_runs",
        "ringfence.testing.conformance",
    ],
)
def test_what_must_answer_at_once_does_not_import_torch(module):
    done = run(f"import sys, {module}; sys.exit('torch' in sys.modules)")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "ringfence.cli.app",
        "ringfence.run.execute",
        "ringfence.run.load_plugins",
        "ringfence.engine.train",
        "ringfence.isolation.sandbox",
    ],
)
def test_importing_does_no_work(module):
    """No process, thread, file, signal handler, environment variable or random number."""
    done = run(
        "import os, random, signal, sys\n"
        "import numpy, torch\n"
        "def world():\n"
        "    handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}\n"
        "    children = open(f'/proc/self/task/{os.getpid()}/children').read()\n"
        "    state = torch.get_rng_state().tolist(), random.getstate()\n"
        "    threads = torch.get_num_threads(), torch.is_grad_enabled()\n"
        "    return handlers, children, state, threads, dict(os.environ), os.getcwd()\n"
        "before = world()\n"
        f"import {module}\n"
        "assert before == world()\n"
        "print('same')\n"
    )

    assert done.stdout == "same\n", done.stderr
