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

#: The two modules that know both the engine and the sandbox.
WIRES = {"ringfence.run.execute", "ringfence.run.load_plugins"}


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


def test_there_are_modules_to_look_at():
    assert len({name for name, _, _ in OURS}) > 30


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        (
            "ringfence.engine",
            [
                "ringfence.isolation",
                "ringfence.run.load_plugins",
                "ringfence.run.execute",
                "ringfence.cli.app",
            ],
        ),
        (
            "ringfence.isolation",
            ["ringfence.engine", "ringfence.run.load_plugins", "ringfence.run.execute", "ringfence.cli.app"],
        ),
        ("ringfence.testing", ["ringfence.engine"]),
    ],
)
def test_engine_and_isolation_know_only_the_hooks(source, targets):
    wrong = [
        where
        for name, target, where in OURS
        if below(name, source) and any(below(target, package) for package in targets)
    ]

    assert wrong == []


def test_hooks_import_nothing_else_of_ours():
    wrong = [
        where
        for name, target, where in OURS
        if below(name, "ringfence.hooks")
        and below(target, "ringfence")
        and not below(target, "ringfence.hooks")
    ]

    assert wrong == []


def test_only_the_wiring_knows_both_engine_and_isolation():
    knows = {}
    for name, target, _ in OURS:
        for side in ("ringfence.engine", "ringfence.isolation"):
            if below(target, side) and not below(name, side):
                knows.setdefault(name, set()).add(side)

    assert {name for name, sides in knows.items() if len(sides) == 2} <= WIRES


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


def test_every_file_of_the_sandbox_is_on_its_map():
    page = (CORE / "isolation" / "__init__.py").read_text()
    files = [path.stem for path in (CORE / "isolation").glob("*.py") if path.stem != "__init__"]

    assert [name for name in files if f"``{name}``" not in page] == []
