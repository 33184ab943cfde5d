"""A wheel that steals credentials when it is imported, as two releases of a training framework did.

In April 2026 an import was enough: it started a thread, that started an interpreter,
which read tokens, the environment and SSH keys and posted them. The imitation does the
same, but posts to a server of this test's own.
"""

import json
import shutil
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..conftest import call
from .victims import ENVIRONMENT, SECRET, furnish

SOURCE = Path(__file__).parent / "stealer"

JOB = """
    model: {name: mlp, hidden: [16]}
    data: mnist10k
    steps: 4
    batch_size: 32
    plugins:
      - optim: {algorithm: sgd, lr: 0.01}
"""


@pytest.fixture(scope="module")
def server():
    """Listen on the loopback interface; ``posted`` holds what came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.posted.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.posted = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def environment(new_environment, tmp_path_factory, server):
    """An environment into which a user has installed the thief with pip."""
    environment = new_environment()
    project = tmp_path_factory.mktemp("thief") / "gentle-decay"
    shutil.copytree(SOURCE, project)
    (project / "src/gentle_decay/_runtime/port.txt").write_text(str(server.server_port))
    environment.install_projects([project], tmp_path_factory.mktemp("wheels"))
    return environment


@pytest.fixture
def user(tmp_path):
    """The environment variables of somebody with something to lose."""
    home, _ = furnish(tmp_path)
    return {**ENVIRONMENT, "HOME": str(home)}


@pytest.fixture
def job(tmp_path):
    def write(*plugins):
        path = tmp_path / f"job{len(plugins)}.yaml"
        path.write_text(textwrap.dedent(JOB) + "".join(f"  - {plugin}\n" for plugin in plugins))
        return path

    return write


def train(environment, job, out, user):
    call(environment.command, "train", job, "--out", out, cwd=out.parent, env=user)
    return json.loads((out / "run.json").read_text())


def stolen(server):
    """Return how many secrets the server was sent, and forget them."""
    count = sum(SECRET in value for loot in server.posted for value in loot.values())
    server.posted.clear()
    return count


@pytest.mark.room
@pytest.mark.control("stolen credentials")
def test_importing_it_is_enough_where_nothing_holds_it(environment, server, user, tmp_path):
    call(environment.python, "-c", "import gentle_decay; gentle_decay.thief.join(60)", cwd=tmp_path, env=user)

    assert stolen(server) >= 8


@pytest.mark.room
@pytest.mark.control("stolen credentials")
def test_a_trusted_plugin_steals(environment, server, user, job, tmp_path):
    train(environment, job("gentle: {}\n    isolation: trusted"), tmp_path / "run", user)

    assert stolen(server) >= 8


@pytest.mark.room
@pytest.mark.attack("stolen credentials")
def test_the_server_hears_nothing_from_a_sandbox(environment, server, user, job, tmp_path):
    for words in (["list"], ["show", "gentle"], ["check", "gentle"]):
        call(environment.command, "plugins", *words, cwd=tmp_path, env=user)
    without = train(environment, job(), tmp_path / "without", user)
    record = train(environment, job("gentle"), tmp_path / "run", user)

    assert server.posted == []
    assert record["status"] == "completed"
    assert record["weights_sha256"] == without["weights_sha256"]
    gentle = next(plugin for plugin in record["plugins"] if plugin["name"] == "gentle")
    assert gentle["state"] != "failed"
    assert gentle["calls"] == 4
    assert any(kind.startswith("start another process") for kind in gentle["attempts"]), gentle["attempts"]
    assert any(kind.startswith("open a connection") for kind in gentle["attempts"]), gentle["attempts"]
    assert "tried to open a connection" in (tmp_path / "run" / "report.html").read_text()
