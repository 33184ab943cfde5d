"""What a job grants: refused with place and remedy, shown at the start, stamped into the run."""

import io
import json
import re
import socket
import threading
from pathlib import Path

import pytest
from rich.console import Console

from ringfence.api.run_display import Status
from ringfence.api.terminal_display import TerminalView, render
from ringfence.compat.source.plugin_source import read_plugin
from ringfence.hooks.permissions import GrantedPath, Permissions, Target
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.plugins.interface import PluginSpec, PluginUsage
from ringfence.report.page import write_report

HEAD = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 64}
steps: 2
batch_size: 32
threads: 1
plugins:
  - optim: {algorithm: sgd, lr: 0.1}
"""

PLUGIN = '''
from pathlib import Path

from ringfence import passthrough

try:
    from ringfence import connect
except ImportError:
    connect = None


class Distil:
    """Learn from a teacher."""

    role = "gradient"
    backward = passthrough
    needs = {
        "read": {"{teacher}": "the weights it learns from"},
        "connect": {"{host}:{port}": "posts the scores"},
    }

    def __init__(self, teacher: str | None = None, host: str = "localhost", port: int | None = None):
        self.teacher, self.where = teacher, (host, port)

    def forward(self, step):
        step.log("teacher", len(Path(self.teacher).read_bytes()))
        with connect(*self.where) as opened:
            opened.sendall(b"score")
            opened.recv(10)
'''


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """Install the plugin, and return the teacher's file."""
    site = tmp_path / "site"
    info = site / "distil-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "distil.py").write_text(PLUGIN)
    about = "Metadata-Version: 2.1\nName: distil\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
    (info / "METADATA").write_text(about)
    (info / "entry_points.txt").write_text("[ringfence.plugins]\ndistil = distil:Distil\n")
    (info / "RECORD").write_text("distil.py,,\ndistil-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(site))
    file = tmp_path / "models" / "teacher.bin"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file


@pytest.fixture
def server():
    heard = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(100))
                connection.sendall(b"ok")

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening.getsockname()[1], heard
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5.0)


def entry(options, **settings):
    """Return a job whose second plugin is the distilling one."""
    written = json.dumps(options)
    lines = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in settings.items())
    return f"{HEAD}  - distil: {written}\n{lines}"


def test_what_is_granted_is_shown_stamped_and_enough(ringfence, job, teacher, server):
    port, heard = server
    options = {"teacher": "models/teacher.bin", "port": port}
    settings = {"read": ["models/teacher.bin"], "connect": [f"localhost:{port}"], "write": ["out"]}
    Path(teacher.parents[1], "out").mkdir()
    done = ringfence("train", job(entry(options, **settings)), "--out", "run")

    assert done.status == 0, done.err
    assert f"GRANTED: may read {teacher} (the weights it learns from)\n" in done.out
    assert f"GRANTED: may write to {teacher.parents[1]}/out (it did not ask for this)\n" in done.out
    assert f"GRANTED: may connect to localhost:{port} (posts the scores)\n" in done.out
    assert heard == [b"score", b"score"]
    plugins = {each["name"]: each for each in json.loads(Path("run/run.json").read_text())["plugins"]}
    assert plugins["distil"]["permissions"] == {
        "needs": {
            "read": {str(teacher): "the weights it learns from"},
            "connect": {f"localhost:{port}": "posts the scores"},
        },
        "granted": {
            "read": [str(teacher)],
            "write": [f"{teacher.parents[1]}/out"],
            "connect": [f"localhost:{port}"],
        },
    }
    nothing = {"read": [], "write": [], "connect": []}
    assert plugins["optim"]["permissions"] == {"needs": {}, "granted": nothing}
    page = write_report(Path("run")).read_text()
    assert f"<code>{teacher}</code>" in page
    assert "the weights it learns from" in page
    assert "it did not ask for this" in page


@pytest.mark.room
def test_a_resumed_run_has_the_grants_of_its_job(ringfence, job, teacher, server):
    port, heard = server
    options = {"teacher": "models/teacher.bin", "port": port}
    text = entry(options, read=["models"], connect=[f"localhost:{port}"])
    assert ringfence("train", job(text), "--out", "run", "--quiet").status == 0
    done = ringfence("train", "--resume", "run", "--set", "steps=4")

    assert done.status == 0, done.err
    assert f"GRANTED: may read {teacher.parent} (the weights it learns from)\n" in done.out
    assert len(heard) == 4


def test_a_plugin_that_needs_more_is_refused_with_the_lines_to_add(refused, teacher):
    err = refused(entry({"teacher": "models/teacher.bin", "port": 443}))

    lines = [line.removeprefix("error: ") for line in err.splitlines()]
    assert len(lines) == 2
    assert lines[0] == (
        f"job.yaml:8:13: plugins[1].distil: 'distil' needs to read {teacher} (the weights it learns from), "
        f"which the job does not grant; to grant it, add beside 'distil' the line: read: [{teacher}]"
    )
    assert lines[1].endswith("add beside 'distil' the line: connect: [localhost:443]")


def test_a_file_that_is_not_there_is_told_as_missing_not_as_a_grant_to_add(refused, teacher):
    err = refused(entry({"teacher": "models/teecher.bin"}))

    assert err == (
        f"error: job.yaml:8:13: plugins[1].distil: 'distil' needs to read {teacher.parent}/teecher.bin (the "
        "weights it learns from), which does not exist; have its options name what does, or make it, and "
        "grant it then\n"
    )


def test_grants_that_are_too_few_are_told_with_the_whole_line(refused, teacher):
    options = {"teacher": "models/teacher.bin"}
    err = refused(entry(options, read=["models/../site"]))

    assert "job.yaml:9:11: plugins[1].read: 'distil' needs to read" in err
    assert err.endswith(f"to grant it, write beside 'distil' the line: read: [models/../site, {teacher}]\n")


def test_an_option_that_is_not_set_needs_nothing(refused, teacher):
    """So the only fault is the one that is put in."""
    err = refused(entry({}, connect=["nowhere"]))

    assert err.startswith("error: job.yaml:9:15: plugins[1].connect[0]: 'nowhere' is not HOST:PORT")
    assert len(err.splitlines()) == 1


def test_a_need_that_no_job_may_grant_is_no_line_to_add(refused, teacher):
    err = refused(entry({"teacher": "/etc/shadow"}))

    assert (
        "'distil' needs to read /etc/shadow (the weights it learns from), which may be granted to no plugin"
        in err
    )
    assert "the line:" not in err


def test_a_need_for_what_is_no_host_is_told(refused, teacher):
    err = refused(entry({"host": "169.254.169.254", "port": 80}))

    assert "says that it needs to connect to what cannot be granted" in err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"read": ["nope"]}, "job.yaml:9:12: plugins[1].read[0]: 'nope' does not exist (looked for "),
        (
            {"read": ["/"]},
            "plugins[1].read[0]: '/' may be granted to no plugin: it is a folder that holds too much",
        ),
        ({"read": ["/proc/self"]}, "plugins[1].read[0]: '/proc/self' ("),
        ({"write": ["."]}, "may be granted to no plugin for writing: it holds "),
        ({"write": ["job.yaml"]}, "may be granted to no plugin for writing: it is or holds the job file"),
        ({"write": ["site"]}, "may be granted to no plugin for writing: "),
        ({"write": ["/etc/hosts"]}, "for writing: it lies in /etc: it is part of the operating system"),
        ({"connect": ["x.example:99999"]}, "has no port from 1 to 65535"),
        ({"connect": ["*:443"]}, "stands for many hosts"),
        ({"connect": [443]}, "plugins[1].connect[0]: expected text, got 443"),
        ({"read": "models"}, "plugins[1].read: expected a list, got the text 'models'; write 'read: […]'"),
        ({"reed": ["models"]}, "is no setting of a plugin; did you mean 'read'?"),
        ({"read": ["models"] * 40}, "plugins[1].read: has 40 entries; at most 32"),
        (
            {"isolation": "trusted", "read": ["models"]},
            "plugins[1].read: grants mean nothing with 'isolation: trusted'",
        ),
    ],
)
def test_a_grant_that_cannot_be_given_is_told_with_its_place(refused, teacher, settings, said):
    assert said in refused(entry({}, **settings))


def test_flags_grant_too_and_are_named_in_messages(refused, teacher):
    err = refused(entry({}), "--set", "plugins.distil.read=[nope]", "--plugin", "distil:connect=[x]")

    assert "--set plugins.distil.read=[nope]: plugins[1].read[0]: 'nope' does not exist" in err
    assert "--plugin distil:connect=[x]: plugins[1].connect[0]: 'x' is not HOST:PORT" in err


def test_the_folder_of_the_run_is_nobodys_to_write(refused, teacher):
    for name in ("out", "out/deeper"):
        Path(name).mkdir()
    text = entry({}, write=["out"])

    for folder in ("out", "out/run"):
        err = refused(text, "--out", folder)
        assert "job.yaml:9:12: plugins[1].write: " in err or "--out out: the folder is not empty" in err
    assert "may not be written by a plugin" in err


def test_a_plugin_whose_needs_make_no_sense_is_refused(refused, teacher, tmp_path):
    (tmp_path / "site/distil.py").write_text(PLUGIN.replace('"the weights it learns from"', '""'))
    assert "E-NEEDS" in refused(entry({}))


def test_needs_are_listed_and_shown_with_reasons(ringfence, teacher):
    table = ringfence("plugins", "list").out.partition("\n\n")[0]
    listed = {line.split()[0]: line for line in table.splitlines()}
    assert listed["distil"].endswith("read, connect")
    # It needs nothing: the last column is empty.
    assert listed["gradclip"].endswith("max_value +3")

    shown = ringfence("plugins", "show", "distil").out
    assert "read     {teacher}      the weights it learns from" in shown
    record = json.loads(ringfence("plugins", "show", "distil", "--json").out)
    assert record["needs"]["connect"] == {"{host}:{port}": "posts the scores"}


def test_check_loads_no_plugin_that_needs_a_grant(ringfence, teacher, tmp_path):
    (tmp_path / "site/distil.py").write_text(PLUGIN.replace("port: int | None = None", "port: int = 443"))
    done = ringfence("plugins", "check", "distil")

    assert "I-NOT-LOADED" in done.out
    assert "not loaded, since it needs leave to connect to {host}:{port}" in done.out


def test_a_plugin_with_grants_is_marked_on_the_terminal():
    class Started:
        spec = PluginSpec(
            "distil",
            "distil",
            "1.0",
            "m",
            "C",
            "gradient",
            permissions=Permissions(
                (), (GrantedPath("/data", 1, 2, write=False),), (Target("x.example", 443),)
            ),
        )
        usage = PluginUsage()

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system="standard")
    console.print(render(Status(plugins=[Started()])))
    TerminalView(console).line("    GRANTED: may read /data (why)")

    yellow = "\x1b[33m"
    assert f"{yellow} +read+connect" in screen.getvalue()
    assert f"{yellow}    GRANTED: may read" in screen.getvalue()


def test_the_examples_of_the_page_are_what_they_say(tmp_path):
    page = (Path(__file__).parents[2] / "docs/permissions.md").read_text()
    example, code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "example.py").write_text(
        f"{example}\n    def forward(self, step): ...\n    backward = None\n"
    )
    source = read_plugin("example", "Distil", [str(tmp_path)])

    assert [need.kind for need in source.needs] == ["read", "write", "connect"]
    assert source.need_faults == ()
    compile(code, "permissions.md", "exec")
    (job,) = re.findall(r"```yaml\n(plugins:.*?)```", page, re.DOTALL)
    plugins = check_job(parse_yaml(f"model: cnn\ndata: mnist10k\nsteps: 1\n{job}", "example")).job.plugins
    assert plugins[0].connect == ["scores.example.com:443"]
