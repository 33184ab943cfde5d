"""``ringfence plugins``, ``doctor``, ``--version`` and ``--help``."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from ringfence import __version__
from ringfence.cli import list_plugins
from ringfence.cli.doctor_page import print_diagnosis
from ringfence.isolation.doctor import diagnose


def test_version(ringfence):
    done = ringfence("--version")
    assert (done.status, done.out) == (0, f"ringfence {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "list"]], ids=" ".join)
def test_what_must_answer_at_once_imports_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['ringfence', *{arguments!r}]\n"
        "from ringfence.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'jinja2', 'numpy', 'msgspec', 'pydantic', 'rich.console', 'ruamel.yaml'}\n"
        "heavy.add('urllib.request')\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--help"], ["plugins", "list", "--help"]])
def test_every_command_has_help(ringfence, arguments):
    done = ringfence(*arguments)
    assert done.status == 0
    assert "Usage: ringfence" in done.out
    assert "--help" in done.out


@pytest.mark.parametrize("group", [[], ["plugins"]], ids=["root", "plugins"])
def test_every_summary_is_whole_at_80_columns(ringfence, monkeypatch, group):
    monkeypatch.setenv("COLUMNS", "80")
    commands = ringfence(*group, "--help").out.partition("Commands:\n")[2].splitlines()
    assert len(commands) >= 5
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)
    assert max(map(len, commands)) <= 80


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_missing_argument_is_spelt_as_in_the_usage(ringfence, command):
    done = ringfence("plugins", command)
    assert done.status == 2
    assert "Missing argument '" in done.err
    assert "Missing argument 'name'" not in done.err


def listed(out: str) -> dict[str, str]:
    """Return the rows of the table by the names of the plugins."""
    return {line.split()[0]: line for line in out.partition("\n\n")[0].splitlines()[1:]}


def test_list_tells_role_origin_and_fit(ringfence):
    done = ringfence("plugins", "list")
    assert done.status == 0
    rows = {name: row.split()[1:] for name, row in listed(done.out).items()}
    assert {"augment", "gradclip", "monitor", "optim"} <= set(rows)
    assert rows["gradclip"][:4] == ["gradient", "ringfence", __version__, "ok"]
    assert rows["gradclip"][4:6] == ["mode,", "max_norm,"]
    # What a plugin cannot do without comes first.
    assert rows["optim"][4] == "algorithm!,"


PLUGIN = '''
from pathlib import Path

from ringfence import passthrough

Path(__file__).with_suffix(".imported").touch()


class Plugin:
    """Clips."""

    role = "gradient"
    needs = {"read": {"/usr/share/dict": "to look words up"}}
    forward = passthrough

    def __init__(self, limit: float, window: int = 8): ...

    def backward(self, gradients, step): ...
'''


def test_thirty_plugins_one_of_them_broken_are_told_and_none_is_imported(ringfence_in, tmp_path):
    for number in range(30):
        module, info = f"acme_{number:02}", tmp_path / f"acme_{number:02}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{module}.py").write_text(PLUGIN if number != 13 else "class Plugin(:\n")
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
        )
        (info / "entry_points.txt").write_text(f"[ringfence.plugins]\nclip-{number:02} = {module}:Plugin\n")
        (info / "RECORD").write_text(
            f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n"
        )
    done = ringfence_in(tmp_path, "plugins", "list")
    assert done.returncode == 0, done.stderr
    rows = listed(done.stdout)
    assert len([name for name in rows if name.startswith("clip-")]) == 30
    assert rows["clip-00"].split() == [
        "clip-00",
        "gradient",
        "acme_00",
        "1.0",
        "ok",
        "limit!,",
        "window",
        "read",
    ]
    assert rows["clip-13"].split() == ["clip-13", "?", "acme_13", "1.0", "REFUSED", "U-SOURCE", "?"]
    for name, told in (("clip-29", "limit"), ("clip-13", "acme_13.py:1")):
        shown = ringfence_in(tmp_path, "plugins", "show", name)
        assert shown.returncode == 0, shown.stderr
        assert told in shown.stdout
    assert not list(tmp_path.glob("*.imported"))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('ringfence>=0.1; "x" in extras', "its marker names extras"),
        ('ringfence>=0.1; os_name ~= "posix"', "Undefined"),
        (f"ringfence>=0.1.{'1' * 5000}", "it has 5015 characters"),
        (f"ringfence>=0.1; {'(' * 3000}os_name == 'x'{')' * 3000}", "characters; at most 500"),
    ],
)
def test_a_plugin_whose_requirement_says_nothing_hides_no_other_and_is_told_with_why(
    ringfence_in, tmp_path, entry, why
):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (tmp_path / "acme.py").write_text(PLUGIN)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: acme\nVersion: 1.0\nRequires-Dist: {entry}\n"
    )
    (info / "entry_points.txt").write_text("[ringfence.plugins]\nbroken = acme:Plugin\n")

    done = ringfence_in(tmp_path, "plugins", "list")

    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line}
    assert "E-NO-DECLARATION" in rows["broken"]
    assert "optim" in rows
    assert why in ringfence_in(tmp_path, "plugins", "show", "broken").stdout


@pytest.fixture
def ringfence_in():
    """Return a function that runs the command where what lies in a folder is installed."""

    def run(folder, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "ringfence", *arguments],
            check=False,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_list_as_json(ringfence):
    records = {record["name"]: record for record in json.loads(ringfence("plugins", "list", "--json").out)}
    assert records["optim"]["role"] == "optimizer"
    assert records["optim"]["decision"] == "accepted"
    assert "I-IN-STEP" in records["optim"]["rules"]


# the table of a terminal


def record(name: str = "clip", **more: object) -> dict:
    option = {"name": "limit", "type": "float", "default": None, "required": True}
    more_options = [
        option | {"name": name, "required": False} for name in ("window", "a_longer_name", "mode")
    ]
    return {
        "name": name,
        "role": "gradient",
        "distribution": f"acme-{name}",
        "version": "1.0",
        "decision": "accepted",
        "rules": [],
        "options": [option, *more_options],
        "takes_any_option": False,
        "is_read": True,
        "needs": {},
    } | more


@pytest.fixture
def lines(monkeypatch):
    """Return a function that lists what is in some records."""

    def told(records, width=None):
        monkeypatch.setattr(list_plugins, "list_records", lambda _: records)
        return list_plugins.list_lines(width)

    return told


MANY = [
    *(record(f"clip-{number:02}") for number in range(30)),
    record("x" * 64, needs={"read": {}, "connect": {}, "write": {}}),
    record("spoilt", role="", is_read=False, decision="refused", rules=["U-SOURCE"]),
    record("old", decision="refused", rules=["E-NO-DECLARATION", "W-PARTIAL"]),
]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200, 400])
def test_no_line_of_the_table_is_wider_than_the_terminal(lines, width):
    told = lines(MANY, width)
    assert max(map(len, told)) <= width
    assert len("\n".join(told).partition("\n\n")[0].splitlines()) == 1 + len(MANY)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (50, "NAME FITS"),
        (80, "NAME ROLE FROM FITS NEEDS"),
        (120, "NAME ROLE FROM FITS OPTIONS NEEDS"),
        (200, "NAME ROLE FROM FITS OPTIONS NEEDS"),
    ],
)
def test_a_narrow_terminal_loses_what_matters_least_and_says_so(lines, width, titles):
    told = lines(MANY, width)
    assert told[0].split() == titles.split()
    assert any(line.startswith("left out: ") for line in told) == ("OPTIONS" not in titles)
    rows = listed("\n".join(told))
    assert "REFUSED U-SOURCE" in rows["spoilt"]
    assert "REFUSED E-NO-DECLARATION" in rows["old"]


def test_one_long_name_does_not_widen_every_row_of_a_terminal(lines):
    rows = listed("\n".join(lines(MANY, 120)))
    assert f"{'x' * 23}…" in rows
    assert all(row.index("gradient") < 30 for row in rows.values() if "gradient" in row)


def test_options_that_have_no_room_are_counted(lines):
    few = [record()]
    assert "limit!, window, a_longer_name, mode" in lines(few, 120)[1]
    assert "limit!, window, a_longer_name, mode" in lines(few)[1]
    assert lines(few, 64)[1].endswith("limit!, window +2")
    assert lines(few, 64)[-1] == "option!: it cannot do without; +N: N more options"


def test_what_is_piped_is_whole(lines):
    told = lines(MANY)
    assert any("x" * 64 in line and line.endswith("read, connect, write") for line in told)
    assert "…" not in "".join(told)


def test_signs_have_a_legend_only_where_they_occur(lines):
    assert len(lines([record(options=[])], 80)) == 2
    assert "?: its text does not tell" in lines([record(role="", options=[])], 80)
    assert not any("option!" in line for line in lines([record("a" * 60, needs={"read": {}})], 60))


def test_the_list_ends_with_what_to_do_about_a_refusal(lines):
    advice = "refused: see ringfence plugins check NAME, or ringfence plugins show NAME"
    assert lines(MANY, 80)[-1] == f"2 {advice}"
    assert lines(MANY)[-1] == f"2 {advice}"
    assert not any("refused" in line for line in lines([record()], 80))


def test_the_list_takes_the_width_of_its_terminal():
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with os.fdopen(parent, "rb", buffering=0) as screen:
        command = [sys.executable, "-m", "ringfence", "plugins", "list"]
        subprocess.run(command, check=True, stdout=child, env=environment, timeout=60)
        os.close(child)
        told = screen.read(65536).decode().splitlines()
    assert any(line.startswith("optim ") for line in told)
    assert max(map(len, told)) <= 60


def test_listing_imports_no_torch():
    code = (
        "import sys\n"
        "from ringfence.cli.list_plugins import list_lines, show_lines\n"
        "list_lines(); show_lines('optim')\n"
        "assert 'torch' not in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('ringfence.builtin.')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_show_tells_options_with_types_and_defaults(ringfence):
    done = ringfence("plugins", "show", "optim")
    assert done.status == 0
    options = {
        line.split()[0]: line for line in done.out.splitlines() if line.startswith(("algorithm", "lr "))
    }
    assert options["algorithm"].endswith("(needed)")
    assert options["lr"].split(maxsplit=1)[1] == "number > 0 or null       null"


def test_show_as_json(ringfence):
    shown = json.loads(ringfence("plugins", "show", "gradclip", "--json").out)
    assert shown["role"] == "gradient"
    assert "gradients" in shown["methods"]["backward"]
    assert {"name", "type", "default", "required"} == set(shown["options"][0])


def test_check_loads_the_class_in_a_sandbox(ringfence):
    done = ringfence("plugins", "check", "gradclip")
    assert done.status == 0, done.err
    assert done.out.startswith("OK  plugin 'gradclip'")
    assert "NOT-LOADED" not in done.out


def test_check_says_when_it_could_not_load(ringfence):
    done = ringfence("plugins", "check", "optim", "--json")
    assert done.status == 0
    assert [f["rule"] for f in json.loads(done.out)["findings"] if f["rule"] == "I-NOT-LOADED"]


@pytest.mark.parametrize("command", ["show", "check"])
def test_unknown_plugin_names_the_nearest(ringfence, command):
    done = ringfence("plugins", command, "gradclp")
    assert done.status == 2
    assert done.err == "error: plugin 'gradclp' is not installed; did you mean 'gradclip'?\n"


def test_doctor_tells_each_layer(ringfence):
    done = ringfence("doctor")
    assert done.status == 0, done.out
    assert "landlock" in done.out
    assert "grade A" in done.out


def test_doctor_as_json(ringfence):
    diagnosis = json.loads(ringfence("doctor", "--json").out)
    assert diagnosis["usable"] is True
    assert set(diagnosis["required"]) <= {layer["name"] for layer in diagnosis["layers"]}
    assert 0 < diagnosis["budget_bytes"] <= 0.15 * diagnosis["total_bytes"]


def test_doctor_names_a_missing_layer_its_meaning_and_the_way_out(capsys):
    diagnosis = diagnose(skip_layers=("landlock",))
    assert not diagnosis.usable
    print_diagnosis(diagnosis, Console(width=200))
    printed = capsys.readouterr().out
    assert "landlock  REQUIRED: a plugin may read and change every file of the user" in printed
    assert "To have it: enable Landlock" in printed
    assert "ringfence refuses to run untrusted plugins here" in printed


@pytest.fixture(scope="module")
def diagnosis():
    return diagnose()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_doctor_prints_all_that_it_tells_as_json_within_the_terminal(capsys, diagnosis, width):
    print_diagnosis(diagnosis, Console(width=width))
    printed = capsys.readouterr().out
    assert all(len(line) <= width for line in printed.splitlines())
    words = "".join(printed.split())
    told = diagnosis.to_dict()
    for layer in told["layers"]:
        assert layer["name"] in words
        assert "".join(layer["detail"].split()) in words
    for title, meaning in told["not_covered"].items():
        assert "".join(title.split()) in words
        assert "".join(meaning.split()) in words
    assert told["grade"].replace(" ", "") in words


def test_doctor_refuses_a_layer_that_there_is_not():
    with pytest.raises(ValueError, match=r"'landlok' is no layer .*: process, fds, .*, landlock, seccomp$"):
        diagnose(skip_layers=("landlok",))
    with pytest.raises(ValueError, match="'watchdog' cannot be left out"):
        diagnose(skip_layers=("watchdog",))


def test_doctor_tells_of_a_control_group_that_is_left_out():
    diagnosis = diagnose(skip_layers=("cgroup",))
    assert {layer.name: layer.status for layer in diagnosis.layers}["cgroup"] == "disabled"
    assert diagnosis.usable


def test_python_m_is_the_same_command(process):
    done = subprocess.run(
        [sys.executable, "-m", "ringfence", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"ringfence {__version__}\n"
