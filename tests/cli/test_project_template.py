"""The template of a plugin: what it makes, what it refuses, and that cookiecutter makes the same."""

import ast
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from ruamel.yaml import YAML

from ringfence.cli.ci_matrix import matrix_record
from ringfence.cli.project_template import Answers, Template, write_project
from ringfence.compat.version_range import first_series
from ringfence.hooks.errors import JobError
from ringfence.hooks.series import Index, lower_bound
from ringfence.hooks.specs import ROLES
from ringfence.version import __version__

from ..conftest import call

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "plugin_template"
SETTINGS = json.loads((FOLDER / "cookiecutter.json").read_text())
LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause")
#: Awkward, each in its own way.
AUTHORS = dict(
    zip(ROLES, itertools.cycle(["Zoë O'Neill-李", "Ada Lovelace", "A & B <c@d.org>", "#"]), strict=False)
)
NAMES = dict(
    zip(
        ROLES,
        itertools.chain(
            ["l2-norm-3d", "sign-gradient", "x" * 40, "p9"], map("n-{}".format, itertools.count())
        ),
        strict=False,
    )
)
MADE = {
    *(".github/workflows/publish.yml", ".github/workflows/test.yml", ".gitignore", "CHANGELOG.md", "LICENSE"),
    *("README.md", "job.yaml", "pyproject.toml", "tests/test_plugin.py"),
    *("src/ringfence_{}/__init__.py", "src/ringfence_{}/plugin.py", "src/ringfence_{}/py.typed"),
}
#: Name to what the message says of it.
BAD_NAMES = {
    "Sign": "write small letters, digits and single hyphens",
    "sign gradient": "write small letters, digits and single hyphens",
    "sign_gradient": "write small letters, digits and single hyphens",
    "sign--gradient": "write small letters, digits and single hyphens",
    "-sign": "write small letters, digits and single hyphens",
    "3d": "write small letters, digits and single hyphens",
    "sign\n": "write small letters, digits and single hyphens",
    "../sign": "write small letters, digits and single hyphens",
    "{{sign}}": "write small letters, digits and single hyphens",
    "": "write small letters, digits and single hyphens",
    "x": "write 2 to 40 characters",
    "x" * 41: "write 2 to 40 characters",
    "ringfence-sign": "leave out 'ringfence'",
    "optim": "comes with ringfence",
    "none": "would hide one that the plugin uses",
}
BAD_AUTHORS = {
    "": "write who holds the copyright",
    " Ada": "write who holds the copyright",
    "Ada\nBob": "write who holds the copyright",
    'Ada "A"': "without double quotes and backslashes",
    "Ada \\": "without double quotes and backslashes",
    "Ada \x1b[31m": "without double quotes and backslashes",
    "A" * 101: "at most 100 characters",
}


def contents(folder):
    """Return path to bytes of every file below."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def oldest_series(role):
    """Return where the range of a new plugin of a role begins."""
    running = Version(__version__)
    return lower_bound(first_series(Index.read(), running, role).name, running)


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Role to the folder of a project of that role."""
    made = {}
    for role, licence in zip(ROLES, itertools.cycle(LICENCES), strict=False):
        made[role] = tmp_path_factory.mktemp(role) / "project"
        write_project(Template().files(Answers(NAMES[role], role, licence, AUTHORS[role])), made[role])
    return made


@pytest.fixture(params=ROLES)
def project(request, projects):
    return projects[request.param]


def test_the_questions_are_what_ringfence_knows():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    template = Template()

    assert set(template.choices("role")) == set(ROLES)
    assert template.choices("licence") == LICENCES
    assert SETTINGS["_kit_series"] in [known.name for known in Index.read().up_to(Version(__version__))]
    assert SETTINGS["_oldest_series"] == {role: oldest_series(role) for role in SETTINGS["role"]}
    for name in points["ringfence.plugins"]:
        assert "comes with ringfence" in template.fault("name", name)


def test_it_makes_these_files_and_no_others(projects):
    for role, folder in projects.items():
        module = NAMES[role].replace("-", "_")
        assert contents(folder).keys() == {path.format(module) for path in MADE}


def test_nothing_of_the_template_is_left(project):
    for path, content in contents(project).items():
        text = content.decode()
        assert not re.search(r"cookiecutter|\{%|%\}|(?<!\$)\{\{|\bringfence\._", text), path
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert text == "\n".join(line.rstrip() for line in text.split("\n")), path


def test_the_project_says_what_it_is(projects):
    for role, folder in projects.items():
        settings = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        (core,) = [Requirement(text) for text in settings["dependencies"] if text.startswith("ringfence")]
        ((plugin, value),) = settings["entry-points"]["ringfence.plugins"].items()
        module, _, qualname = value.partition(":")

        assert settings["name"] == f"ringfence-{NAMES[role]}"
        assert settings["authors"] == [{"name": AUTHORS[role]}]
        assert settings["license"] in LICENCES
        assert str(core.specifier) == f">={oldest_series(role)}"
        assert plugin == NAMES[role]
        tree = ast.parse((folder / "src" / module / "plugin.py").read_text())
        assert qualname in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        # That of Apache names nobody.
        assert settings["license"] == "Apache-2.0" or AUTHORS[role] in (folder / "LICENSE").read_text()


def test_no_class_can_hide_what_the_plugin_imports(projects):
    """Every capitalised name that a plugin imports is taken, as a class of a project cannot have it."""
    template = Template()
    imported = {
        alias.asname or alias.name
        for folder in projects.values()
        for path in folder.glob("src/*/plugin.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    classes = {name for name in imported if name[0].isupper()}

    assert len(classes) > 8
    for name in classes:
        spelt = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
        assert template.fault("name", spelt), f"a plugin '{spelt}' would have a class {name}"


def test_workflows_are_yaml_that_asks_for_no_more_than_it_needs(project):
    for name in ("test", "publish"):
        workflow = YAML(typ="safe").load((project / ".github" / "workflows" / f"{name}.yml").read_text())
        assert workflow["permissions"] == {"contents": "read"}
        for job, steps in workflow["jobs"].items():
            assert steps["timeout-minutes"] <= 30
            assert steps.get("permissions", {}) == ({"id-token": "write"} if job == "publish" else {})
    assert "secrets." not in (project / ".github" / "workflows" / "publish.yml").read_text()
    assert "${{ matrix.python }}" in (project / ".github" / "workflows" / "test.yml").read_text()


@pytest.mark.parametrize("role", ROLES)
def test_the_workflow_runs_what_the_matrix_of_the_project_says(projects, role):
    """What the command prints is what the job of the series takes apart."""
    project = projects[role]
    workflow = YAML(typ="safe").load((project / ".github" / "workflows" / "test.yml").read_text())
    series = workflow["jobs"]["series"]
    named = set(re.findall(r"matrix\.(\w+) \}\}", json.dumps(series["steps"])))
    rows = matrix_record(project)["include"]

    assert workflow["jobs"]["matrix"]["steps"][-1]["run"].count("ringfence plugins matrix --json") == 1
    assert series["strategy"]["matrix"] == "${{ fromJSON(needs.matrix.outputs.cores) }}"
    assert named == set(rows[0]) == {"core", "python"}
    names = [known.name for known in Index.read().up_to(Version(__version__))]
    since = names.index(first_series(Index.read(), Version(__version__), role).name)
    assert {row["core"] for row in rows} == set(names[since:])
    assert {row["python"] for row in rows} == set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"])


def test_the_code_is_as_tidy_as_that_of_ringfence(projects):
    settings = ["--config", ROOT / "pyproject.toml", "--no-cache"]
    ignored = ["--ignore", "D101,D103,INP001,S101"]  # as in the tests of ringfence
    folders = list(projects.values())

    call(sys.executable, "-m", "ruff", "format", "--check", *settings, *folders, cwd=ROOT)
    call(sys.executable, "-m", "ruff", "check", *settings, *ignored, *folders, cwd=ROOT)


@pytest.mark.soak
def test_the_code_is_as_typed_as_that_of_ringfence(projects, tmp_path):
    for folder in projects.values():
        call(
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"),
            *("--cache-dir", tmp_path, folder / "src", folder / "tests"),
            cwd=ROOT,
            env={"MYPYPATH": os.pathsep.join([str(ROOT / ".types"), str(folder / "src")])},
        )


# the other way

COOKIECUTTER = """
import json, sys
from cookiecutter.main import cookiecutter
from cookiecutter.exceptions import CookiecutterException
template, cases = sys.argv[1], json.loads(sys.argv[2])
for number, (answers, out) in enumerate(cases):
    try:
        cookiecutter(
            template, directory="plugin_template", no_input=True, extra_context=answers, output_dir=out
        )
    except CookiecutterException as error:
        print(number, "refused", flush=True)
"""


@pytest.fixture(scope="module")
def cookiecutter(tmp_path_factory):
    """Return a function that has cookiecutter itself render answers, each into a folder."""
    home = tmp_path_factory.mktemp("home")

    def render(cases):
        told = json.dumps([(answers, str(out)) for answers, out in cases])
        # It leaves the scripts that it runs where temporary files lie.
        env = {"HOME": str(home), "TMPDIR": str(home)}
        return call(sys.executable, "-c", COOKIECUTTER, ROOT, told, cwd=home, env=env)

    return render


def test_cookiecutter_makes_the_same_bytes(cookiecutter, tmp_path):
    """Of each role with each licence."""
    cases = [
        (Answers(NAMES[role], role, licence, AUTHORS[role]), tmp_path / f"{role} {licence}")
        for role, licence in itertools.product(SETTINGS["role"], LICENCES)
    ]

    done = cookiecutter([(asdict(answers), out) for answers, out in cases])

    assert "refused" not in done.stdout
    for answers, out in cases:
        write_project(Template().files(answers), out / "ours")
        assert contents(out / f"ringfence-{answers.name}") == contents(out / "ours")


def test_cookiecutter_bakes_without_a_question(tmp_path):
    """As it is called by who tries templates; what nobody has answered is answered as the template says."""
    words = [sys.executable, "-m", "cookiecutter", "--no-input", "--directory", "plugin_template"]

    call(*words, ROOT, cwd=tmp_path, env={"HOME": str(tmp_path), "TMPDIR": str(tmp_path)})

    answers = Answers("my-plugin", "gradient", "Apache-2.0", "The authors of ringfence-my-plugin")
    write_project(Template().files(answers), tmp_path / "ours")
    assert contents(tmp_path / "ringfence-my-plugin") == contents(tmp_path / "ours")


def test_cookiecutter_refuses_the_same_answers(cookiecutter, tmp_path):
    """By its hook, all but what would not get as far: a name that is no folder."""
    good = {"name": "sign", "author": "Ada", "role": "gradient", "licence": "MIT"}
    bad = [("name", name, says) for name, says in BAD_NAMES.items() if not {"/", "{"} & set(name)]
    bad += [("author", author, says) for author, says in BAD_AUTHORS.items()]
    picked = bad[::3]  # each takes a process

    done = cookiecutter([({**good, key: value}, tmp_path) for key, value, _ in picked])

    assert done.stdout.split() == [word for n in range(len(picked)) for word in (str(n), "refused")]
    for key, _, says in picked:
        assert re.search(rf"{key} .* cannot be used; .*{re.escape(says)}", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


# what is refused


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_with_what_to_write(name):
    assert BAD_NAMES[name] in Template().fault("name", name)


@pytest.mark.parametrize("author", BAD_AUTHORS)
def test_a_bad_author_is_refused_with_what_to_write(author):
    assert BAD_AUTHORS[author] in Template().fault("author", author)


def test_a_module_that_is_taken_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ringfence_sign.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    fault = Template().fault("name", "sign")

    assert f"its module ringfence_sign is taken, by {tmp_path}/ringfence_sign.py; write another name" in fault


def test_a_plugin_that_is_installed_is_refused(tmp_path, monkeypatch):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ringfence.plugins]\nsign = acme:Sign\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert "acme has a plugin 'sign'; write another name, or uninstall" in Template().fault("name", "sign")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(JobError, match=r"is not empty; name a new folder with --out, or empty this one"):
        write_project(Template().files(Answers("sign", "gradient", "MIT", "Ada")), tmp_path)

    assert contents(tmp_path) == {"mine": b"mine"}


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(JobError, match=r"file is a file, not a folder; name a new folder with --out$"):
        write_project(Template().files(Answers("sign", "gradient", "MIT", "Ada")), tmp_path / "file")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(JobError, match=r"cannot be written: .*; name another folder with --out"):
        write_project(Template().files(Answers("sign", "gradient", "MIT", "Ada")), tmp_path / "file" / "sign")


# the command


def new(*arguments, cwd, status=0):
    return call(sys.executable, "-m", "ringfence", "plugins", "new", *arguments, cwd=cwd, status=status)


def test_the_command_makes_a_project_and_says_what_is_next(projects, tmp_path):
    flags = ["--role", "gradient", "--licence", "MIT", "--author", AUTHORS["gradient"]]

    done = new(NAMES["gradient"], *flags, cwd=tmp_path)

    assert (
        "made ringfence-sign-gradient: the project ringfence-sign-gradient, a gradient plugin" in done.stdout
    )
    assert "python -m pip install -e '.[test]'" in done.stdout
    assert contents(tmp_path / f"ringfence-{NAMES['gradient']}") == contents(projects["gradient"])


def test_all_that_is_wrong_or_missing_is_told_at_once(tmp_path):
    done = new("Sign", "--role", "gradeint", "--licence", "GPL", cwd=tmp_path, status=2)

    assert "name 'Sign' cannot be used; write small letters" in done.stderr
    assert "role 'gradeint' is unknown; did you mean 'gradient'?" in done.stderr
    assert "licence 'GPL' is unknown; known: Apache-2.0, BSD-3-Clause, MIT" in done.stderr
    assert "--author is missing; write it" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_asks_for_what_is_missing_and_asks_again_after_a_wrong_answer(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ringfence", "plugins", "new", "--role", "monitor", "--out", "made"]
    try:
        running = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        os.write(ours, b"Loss Watch\nloss-watch\n\nAda\n")
        out, _ = running.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)

    assert running.returncode == 0, out
    settings = tomllib.loads((tmp_path / "made" / "pyproject.toml").read_text())["project"]
    assert (settings["name"], settings["license"]) == ("ringfence-loss-watch", "Apache-2.0")
    assert settings["authors"] == [{"name": "Ada"}]
    assert "'Loss Watch' cannot be used; write small letters" in out
