"""Use a core that has two more roles, each by one file; prints what came of it as JSON.

    python with_new_role.py CLONE FOLDER

The core that is imported is a copy with the files; CLONE is where this file's core lies, FOLDER is empty.
"""

import contextlib
import io
import json
import sys
from importlib import invalidate_caches
from pathlib import Path

CLONE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 96}
steps: 3
batch_size: 32
threads: 1
plugins:
"""
OPTIM = "  - optim: {algorithm: sgd, lr: 0.1}\n    isolation: trusted\n"
#: What the author writes in place of what the template leaves empty.
WRITTEN = {
    "del outputs, step\n        return None": "outputs.mean().item()",
    "del losses, step\n        return None": "losses.max().item()",
}
CURVE = """
import torch


class Curve:
    role = "odd"

    def __init__(self):
        self.seen = [torch.is_grad_enabled()]

    def forward(self, outputs, step):
        return float(torch.is_grad_enabled())

    def backward(self, losses, step):
        weight = torch.ones(3, requires_grad=True)
        (weight * losses[:3]).sum().backward()
        return weight.grad.sum().item()

    def state_dict(self):
        return {"seen": [*self.seen, torch.is_grad_enabled()]}

    def load_state_dict(self, state):
        self.seen = state["seen"]
"""


def command(*arguments):
    """Run the command line here; return its status and what it printed."""
    from ringfence.cli.app import app

    out, status = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            app([str(argument) for argument in arguments], prog_name="ringfence", standalone_mode=False)
        except SystemExit as end:
            status = int(end.code or 0)
        except Exception as error:  # noqa: BLE001 - to be looked at
            status = getattr(error, "exit_status", 1)
            out.write(str(error))
    return status, out.getvalue()


def derive():
    """Write the record of the series; return it, and the page of the hooks."""
    sys.path[:0] = [str(CLONE / "tools"), str(CLONE / "tools" / "reference")]
    import hooks_page
    import snapshot

    snapshot.path().write_text(snapshot.text())
    return json.loads(snapshot.text()), hooks_page.text()


def install(site, name, source):
    """Lay out an installed distribution that has a plugin of this name, class and module."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: ringfence>=0.4\n"
    )
    (info / "entry_points.txt").write_text(f"[ringfence.plugins]\n{name} = {name}:{name.title()}\n")
    (site / f"{name}.py").write_text(source)


def trained(name, plugin):
    """Run a job; return the weights and what the plugin's numbers were, by step."""
    job, out = FOLDER / f"{name}.yaml", FOLDER / name
    job.write_text(JOB + plugin + OPTIM)
    status, told = command("train", job, "--out", out, "--quiet")
    if status:
        return told
    numbers = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [{key: line[key] for key in line if key == "step" or key.startswith("feel/")} for line in numbers]
    record = json.loads((out / "run.json").read_text())
    return json.dumps(record).partition('"weights_sha256": "')[2][:64], [x for x in found if len(x) > 1]


def fuzzed():
    """Answer calls of the new role as a worker might; return what came of it."""
    sys.path.insert(0, str(CLONE / "tests" / "fuzz"))
    import msgspec
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from other_end import HOOKS, Attacked
    from strategies import BYTES, DONE, FILLS
    from verdict import Bounds, assert_contained

    bounds = Bounds()
    methods = [method for role, method in HOOKS if role == "probe"]
    with Attacked("probe") as plugin:

        @given(st.sampled_from(methods), BYTES | DONE.map(msgspec.msgpack.encode), FILLS)
        @settings(deadline=None, max_examples=60, database=None, suppress_health_check=list(HealthCheck))
        def any_answer(method, reply, fill):
            kind, result = bounds(lambda: plugin.call(method, reply, fill=fill))
            assert_contained(kind, result, plugin.arguments)

        any_answer()

        def answered(value):
            done = msgspec.msgpack.encode(["Done", 0, "number", value, 0.0, {}, None])
            kind, result = plugin.call("forward", done)
            return [kind, str(result)]

        return {
            "methods": methods,
            "executions": bounds.executions,
            "good": answered(0.5),
            "bad": answered(float("nan")),
        }


def properties():
    """Return how plugins of the second role are treated."""
    from ringfence.hooks.types import StepInfo
    from ringfence.job.job_file import check_job
    from ringfence.job.yaml_document import parse_yaml
    from ringfence.plugins.local_plugin import LocalPlugin
    from ringfence.run.load_plugins import plan
    from ringfence.tensors import pytree
    from ringfence.testing import PluginHost, samples

    job = check_job(parse_yaml(JOB + "  - curve\n  - optim: {algorithm: sgd, lr: 0.1}\n", "a job"))
    (spec,) = [item.spec for item in plan(job, command=None) if item.spec.name == "curve"]
    local = LocalPlugin(spec)
    given = samples.arguments()
    with PluginHost() as host:
        sandboxed = host.start("curve")
        inside = [sandboxed.call(method, step=1, **given).result for method in ("forward", "backward")]
        seen = sandboxed.state()
    outside = [local.call(method, given, StepInfo(1)) for method in ("forward", "backward")]
    return {
        "deadline_s": spec.deadline_s,
        "sandboxed": [inside, seen],
        "trusted": [outside, pytree.decode(local.state_dict())],
        "train": trained("refused", "  - curve\n"),
    }


def main():
    """Do all of it."""
    record, page = derive()
    project = FOLDER / "project"
    new = command(*f"plugins new feel --role probe --licence MIT --author Ada --out {project}".split())
    source = (project / "src" / "ringfence_feel" / "plugin.py").read_text()
    check = command("plugins", "check", project)
    written = source
    for empty, value in WRITTEN.items():
        assert empty in written
        written = written.replace(empty, f"return {value}")
    site = FOLDER / "site"
    install(site, "feel", written)
    install(site, "curve", CURVE)
    sys.path.insert(0, str(site))
    invalidate_caches()
    facts = {
        "record": record,
        "page": page,
        "new": new,
        "help": command("plugins", "new", "--help")[1],
        "source": source,
        "pyproject": (project / "pyproject.toml").read_text(),
        "check": check,
        "without": trained("without", ""),
        "trusted": trained("trusted", "  - feel:\n    isolation: trusted\n"),
        "sandboxed": trained("sandboxed", "  - feel\n"),
        "fuzzed": fuzzed(),
        "properties": properties(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
