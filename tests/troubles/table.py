"""Troubles that people had with trainers, as jobs with a module of their own, and what has to become of each.

``TRAINS``: the run completes, and its numbers are those of the plain loop or of the formula.
``REFUSED``: status 2 before a folder is made, in a message of few lines that says ``says``.
``ENDS``: the run began and ends with a checkpoint and with how to go on, and says ``says``.
"""

from dataclasses import dataclass, field

TRAINS, REFUSED, ENDS = "trains", "refused", "ends"

#: What every module starts with; ``NET`` and ``DATA`` are the ones of who has no trouble with them.
HEAD = """
import os, signal, multiprocessing, threading
import numpy as np
import torch
from torch import nn

def points(n, seed=0):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))

def classes(x):
    return (x.sum(1) > 0).long()
"""
NET = """
class Net(nn.Module):
    def __init__(self, num_outputs=2):
        super().__init__()
        self.layer = nn.Linear(4, num_outputs)
    def forward(self, x):
        return self.layer(x)
"""
DATA = """
def data(n=64, m=32):
    x, t = points(n), points(m, 1)
    return (x, classes(x)), (t, classes(t))
"""
NUMBERS = """
def data(offset=0.0, n=64, m=32):
    x, t = points(n).double(), points(m, 1).double()
    return (x, x[:, :1] + offset), (t, t[:, :1] + offset)
"""
REGRESSION = {"loss": "mse", "metric": "mse"}


@dataclass(frozen=True)
class Trouble:
    """One trouble.

    Attributes:
        name: What it is, in words with underscores.
        becomes: What has to become of it.
        says: Patterns that the output has to hold, each.
        net: Definition of ``Net``.
        data: Definition of ``data``.
        model: Options of the model.
        reads: Options of the data; with ``name`` another reader.
        job: Other keys of the job.
        optim: Options of the optimizer.
        plugins: Other plugins, before it.
        check: Name of a function in ``test_troubles.py`` that looks at what the run left.
        never: Patterns that the output must not hold.
    """

    name: str
    becomes: str
    says: tuple[str, ...] = ()
    net: str = NET
    data: str = DATA
    model: dict = field(default_factory=dict)
    reads: dict = field(default_factory=dict)
    job: dict = field(default_factory=dict)
    optim: dict = field(default_factory=lambda: {"algorithm": "sgd", "lr": 0.1})
    plugins: tuple = ()
    check: str = ""
    never: tuple[str, ...] = ()

    def __str__(self):
        return self.name


def _net(forward, init="", head=""):
    """Return a net whose forward is ``forward``, an expression or a block."""
    body = forward if "\n" in forward or forward.startswith("return") else f"return {forward}"
    lines = "\n".join(f"        {line}" for line in body.strip("\n").split("\n"))
    more = "\n".join(f"        {line}" for line in init.strip("\n").split("\n"))
    return f"""
{head}
class Net(nn.Module):
    def __init__(self, num_outputs=2):
        super().__init__()
        self.layer = nn.Linear(4, num_outputs)
{more}
    def forward(self, x):
{lines}
"""


def _arrays(inputs, targets, n=64, m=32):
    """Return data made of two expressions in ``x``."""
    return f"""
def data():
    def part(n, seed):
        x = points(n, seed)
        return {inputs}, {targets}
    return part({n}, 0), part({m}, 1)
"""


_POOL = """
def data():
    {pool}
    x, t = points(64), points(32, 1)
    return (x, classes(x)), (t, classes(t))
"""
_IMAGES = """
def data():
    x = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(0)){scale}
    y = torch.arange(64) % 2
    return (x, y), (x[:32], y[:32])
"""
_IMAGE_NET = """
class Net(nn.Module):
    def __init__(self, num_outputs=2):
        super().__init__()
        self.layer = nn.Linear(3 * 12 * 12, num_outputs)
    def forward(self, x):
        return self.layer(x.flatten(1))
"""


def _grey(name, scale, op, says="from 0 to 1"):
    return Trouble(
        f"float_images_{name}",
        REFUSED,
        (says,),
        net=_IMAGE_NET,
        data=_IMAGES.format(scale=scale),
        plugins=({"augment": {"ops": [op]}},),
    )


def _option(name, becomes, *says, **changes):
    return Trouble(name, becomes, says, **changes)


TROUBLES = (
    # user code with processes
    Trouble(
        "a_pool_ended_by_sigterm",
        TRAINS,
        data=_POOL.format(
            pool="pool = multiprocessing.get_context('fork').Pool(1); pool.map(abs, [1]); "
            "pool.terminate(); pool.join()"
        ),
    ),
    Trouble(
        "a_helper_process_ended_by_sigterm_in_training",
        TRAINS,
        net=_net(
            "import time\n"
            "if self.training:\n"
            "    helper = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
            "    helper.start(); time.sleep(0.05); helper.terminate(); helper.join()\n"
            "return self.layer(x)"
        ),
        job={"steps": 3},
    ),
    Trouble(
        "a_fork_ended_by_sigint",
        TRAINS,
        data=_POOL.format(
            pool="import time\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        time.sleep(60); os._exit(0)\n"
            "    time.sleep(0.05); os.kill(pid, signal.SIGINT); time.sleep(0.05); "
            "os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)"
        ),
    ),
    Trouble(
        "a_pool_kept_in_a_global",
        TRAINS,
        data="POOL = multiprocessing.get_context('fork').Pool(1)\n" + _POOL.format(pool="POOL.map(abs, [1])"),
    ),
    Trouble(
        "a_daemon_process_that_stays",
        TRAINS,
        data=_POOL.format(
            pool="import time; multiprocessing.get_context('fork').Process(target=time.sleep, "
            "args=(600,), daemon=True).start()"
        ),
    ),
    Trouble(
        "persistent_workers_of_a_dataloader",
        TRAINS,
        data="KEPT = []\n"
        + _POOL.format(
            pool="loader = torch.utils.data.DataLoader(list(range(8)), num_workers=1, "
            "persistent_workers=True); KEPT.append((loader, iter(loader))); next(KEPT[0][1])"
        ),
    ),
    # true numbers
    *(
        Trouble(
            f"r2_of_targets_near_{offset}",
            TRAINS,
            net=_net(f"self.layer(x) + {offset}.0"),
            data=NUMBERS,
            reads={"offset": float(offset)},
            job={"loss": "mse", "metric": "r2"},
            optim={"algorithm": "sgd", "lr": 0.05},
            check="r2_is_true",
        )
        for offset in (1000, 10000, 300000)
    ),
    Trouble(
        "squeeze_and_a_last_batch_of_one",
        REFUSED,
        ("shape",),
        net=_net("self.layer(x).squeeze()"),
        reads={"n": 64, "m": 17},
        job={"eval_batch_size": 8},
    ),
    Trouble(
        "squeeze_and_batches_of_one_in_evaluation",
        REFUSED,
        ("shape",),
        net=_net("self.layer(x).squeeze()"),
        job={"eval_batch_size": 1},
    ),
    Trouble(
        "flat_outputs_in_evaluation_only",
        REFUSED,
        ("shape",),
        net=_net("self.layer(x) if self.training else self.layer(x).flatten()"),
        data=NUMBERS,
        job=REGRESSION,
    ),
    Trouble(
        "an_evaluation_that_is_not_finite",
        TRAINS,
        net=_net(
            "out = self.layer(x)\n"
            "if self.training:\n"
            "    self.seen += 1\n"
            "return out * float('nan') if not self.training and self.seen > 3 else out",
            init="self.register_buffer('seen', torch.zeros((), dtype=torch.long))",
        ),
        job={"steps": 8, "eval_every": 2},
        check="best_is_finite",
    ),
    # inputs
    _grey("to_255_with_brightness", " * 255", "brightness"),
    _grey("to_255_with_jitter", " * 255", "jitter"),
    _grey("below_zero_with_noise", " * 4 - 2", {"albumentations.GaussNoise": {"p": 1.0}}),
    _grey("below_zero_with_another_jitter", " * 4 - 2", {"ColorJitter": {"p": 1.0}}),
    _grey("to_255_with_randaugment", " * 255", "randaugment"),
    _grey("to_255_with_another_library", " * 255", {"InvertImg": {"p": 1.0}}),
    Trouble("labels_from_1", TRAINS, ("class",), data=_arrays("x", "classes(x) + 1"), check="completed"),
    Trouble("labels_with_gaps", TRAINS, ("class",), data=_arrays("x", "classes(x) * 7"), check="completed"),
    Trouble("labels_of_three_million", REFUSED, ("3,?000,?00",), data=_arrays("x", "classes(x) * 3_000_000")),
    Trouble("labels_of_a_billion", REFUSED, ("1,?000,?000,?00",), data=_arrays("x", "classes(x) * 10**9")),
    Trouble(
        "whole_numbers_for_a_regression",
        TRAINS,
        data=_arrays("x", "(x[:, 0] * 1000).long()"),
        job=REGRESSION,
        optim={"algorithm": "adamw", "lr": 0.01},
        check="completed",
    ),
    Trouble(
        "images_whose_layout_is_anybodys_guess",
        REFUSED,
        ("ambiguous",),
        data=_arrays("torch.rand(n, 12, 12, 10)", "classes(x)"),
        net=_IMAGE_NET,
    ),
    Trouble("big_endian_floats", TRAINS, data=_arrays("x.numpy().astype('>f4')", "classes(x)")),
    Trouble("long_doubles", TRAINS, data=_arrays("x.numpy().astype(np.longdouble)", "classes(x)")),
    Trouble(
        "quantised_tensors",
        REFUSED,
        ("quint8",),
        data=_arrays("torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)", "classes(x)"),
    ),
    Trouble("meta_tensors", REFUSED, ("meta",), data=_arrays("x.to('meta')", "classes(x)")),
    Trouble(
        "text_as_targets", REFUSED, ("text|str|<U",), data=_arrays("x", "np.array(['a', 'b'] * (n // 2))")
    ),
    Trouble(
        "dates_as_inputs",
        REFUSED,
        ("datetime|date",),
        data=_arrays("np.full((n, 4), np.datetime64('2020-01-01'))", "classes(x)"),
    ),
    Trouble("complex_inputs", REFUSED, ("complex",), data=_arrays("x.numpy().astype(complex)", "classes(x)")),
    Trouble(
        "a_number_beyond_float32",
        REFUSED,
        ("float32",),
        data=_arrays("np.full((n, 4), 1e300)", "classes(x)"),
        never=("not finite",),
    ),
    Trouble(
        "floats_as_labels",
        TRAINS,
        data=_arrays("x", "classes(x).float()"),
        check="completed",
    ),
    # options
    _option(
        "no_for_a_switch",
        REFUSED,
        "true or false",
        optim={"algorithm": "sgd", "lr": 0.1, "options": {"momentum": 0.9, "nesterov": "no"}},
    ),
    _option(
        "yes_for_a_switch",
        REFUSED,
        "true or false",
        optim={"algorithm": "sgd", "lr": 0.1, "options": {"momentum": 0.9, "nesterov": "yes"}},
    ),
    _option("an_infinite_rate", REFUSED, "finite", optim={"algorithm": "sgd", "lr": float("inf")}),
    _option(
        "a_rate_beyond_all_floats", REFUSED, "1e400|finite", optim={"algorithm": "sgd", "lr": "RAW:1e400"}
    ),
    _option(
        "a_momentum_that_is_no_number",
        REFUSED,
        "finite",
        optim={"algorithm": "sgd", "lr": 0.1, "options": {"momentum": float("nan")}},
    ),
    _option("steps_of_24_digits", REFUSED, "steps", job={"steps": 10**23}),
    _option("a_batch_beyond_64_bits", REFUSED, "batch_size", job={"batch_size": 2**63}),
    # optimizers
    Trouble(
        "a_schedule_free_optimizer",
        TRAINS,
        optim={"algorithm": "pytorch_optimizer.ScheduleFreeAdamW", "lr": 0.05},
        check="completed",
    ),
    Trouble(
        "batch_norm_under_sam",
        TRAINS,
        net=_net("self.layer(self.norm(x))", init="self.norm = nn.BatchNorm1d(4)"),
        optim={"algorithm": "sam", "lr": 0.1, "options": {"base": "sgd"}},
        check="norm_counts_steps",
    ),
    Trouble(
        "batch_norm_under_lbfgs",
        TRAINS,
        net=_net("self.layer(self.norm(x))", init="self.norm = nn.BatchNorm1d(4)"),
        optim={"algorithm": "lbfgs", "lr": 0.1, "options": {"max_iter": 3}},
        check="norm_counts_steps",
    ),
    _option(
        "a_second_order_optimizer",
        REFUSED,
        "graph",
        optim={"algorithm": "torch_optimizer.Adahessian", "lr": 0.1},
    ),
    _option(
        "a_second_order_optimizer_elsewhere",
        REFUSED,
        "graph|create_graph",
        optim={"algorithm": "pytorch_optimizer.SophiaH", "lr": 0.1},
    ),
    Trouble(
        "frozen_int8_weights",
        TRAINS,
        net=_net(
            "self.layer(x) + self.codes.float().sum() * 0",
            init="self.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)",
        ),
        check="completed",
    ),
    _option(
        "a_pattern_without_a_match",
        REFUSED,
        "head",
        optim={"algorithm": "sgd", "lr": 0.1, "groups": [{"head.*": {"lr": 0.01}}]},
    ),
    _option(
        "text_as_a_rate_of_a_group",
        REFUSED,
        "lr",
        optim={"algorithm": "sgd", "lr": 0.1, "groups": [{"layer.*": {"lr": "fast"}}]},
    ),
    _option(
        "lbfgs_with_groups",
        REFUSED,
        "groups",
        optim={"algorithm": "lbfgs", "lr": 0.1, "groups": [{"layer.weight": {"lr": 0.01}}]},
    ),
    # the state of a model
    Trouble(
        "a_counter_in_an_attribute",
        TRAINS,
        ("count",),
        net=_net(
            "if self.training:\n    self.count += 1\nreturn self.layer(x) * (1 + 0.01 * self.count)",
            init="self.count = 0",
        ),
    ),
    Trouble(
        "a_buffer_that_is_a_view_of_a_parameter",
        TRAINS,
        net=_net("self.layer(x)", init="self.register_buffer('row', self.layer.weight.data[0])"),
        check="row_is_a_view",
    ),
    Trouble(
        "a_buffer_that_grows",
        TRAINS,
        ("seen",),
        net=_net(
            "if self.training:\n    self.seen = torch.cat([self.seen, x.detach().mean(0, keepdim=True)])\n"
            "return self.layer(x)",
            init="self.register_buffer('seen', torch.zeros(1, 4))",
        ),
    ),
    Trouble(
        "a_compiled_model",
        TRAINS,
        net=_net("self.layer(x)", head="")
        + "\ndef make(num_outputs=2):\n    return torch.compile(Net(num_outputs), backend='eager')\n",
        model={"name": "mine:make"},
        optim={"algorithm": "sgd", "lr": 0.1, "groups": [{"layer.*": {"lr": 0.01}}]},
        check="names_are_plain",
    ),
    Trouble(
        "a_pattern_for_a_tied_weight",
        REFUSED,
        ("tied|same|shared",),
        net=_net(
            "self.twin(self.inner(self.layer(x)))",
            init="self.inner = nn.Linear(num_outputs, num_outputs)\n"
            "self.twin = nn.Linear(num_outputs, num_outputs)\n"
            "self.twin.weight = self.inner.weight",
        ),
        optim={"algorithm": "sgd", "lr": 0.1, "groups": [{"twin.weight": {"lr": 0.01}}]},
    ),
    # before the start
    Trouble(
        "a_tuple_in_evaluation",
        REFUSED,
        ("tuple",),
        net=_net("self.layer(x) if self.training else (self.layer(x), x)"),
    ),
    Trouble(
        "class_numbers_in_evaluation",
        REFUSED,
        ("int64|floating",),
        net=_net("self.layer(x) if self.training else self.layer(x).argmax(1)"),
    ),
    Trouble(
        "an_error_in_evaluation",
        REFUSED,
        (r"mine\.py", "scale"),
        net=_net("return self.layer(x) if self.training else self.layer(x) * self.scale"),
    ),
    Trouble(
        "no_graph_under_no_grad",
        REFUSED,
        ("grad",),
        net=_net("with torch.no_grad():\n    return self.layer(x)"),
    ),
    Trouble("no_graph_after_detach", REFUSED, ("grad",), net=_net("self.layer(x).detach()")),
    Trouble(
        "a_metric_that_the_data_cannot_have", REFUSED, ("top5_accuracy",), job={"metric": "top5_accuracy"}
    ),
    Trouble(
        "a_dtype_that_does_not_fit",
        REFUSED,
        (r"mine\.py", "Double|Half|Float|dtype"),
        net=_net("self.layer(x.double())"),
        never=("does not take this shape",),
    ),
    Trouble(
        "a_bug_in_the_model",
        REFUSED,
        (r"mine\.py:\d+", "laier"),
        net=_net("self.laier(x)"),
        never=("choose a model that does",),
    ),
    Trouble(
        "a_bug_in_the_data",
        REFUSED,
        (r"mine\.py:\d+", "undefined_name"),
        data="\ndef data():\n    return undefined_name\n",
    ),
    # ends
    Trouble(
        "a_model_that_raises_in_mid_run",
        ENDS,
        (r"mine\.py:\d+", "tired", "--resume"),
        net=_net(
            "if self.training:\n    self.seen += 1\n    if self.seen > 7: raise ValueError('tired')\n"
            "return self.layer(x)",
            init="self.register_buffer('seen', torch.zeros((), dtype=torch.long))",
        ),
        never=("Traceback",),
    ),
    Trouble(
        "a_model_that_exits_in_mid_run",
        ENDS,
        ("--resume",),
        net=_net(
            "if self.training:\n    self.seen += 1\n    if self.seen > 7: raise SystemExit(5)\n"
            "return self.layer(x)",
            init="self.register_buffer('seen', torch.zeros((), dtype=torch.long))",
        ),
        never=("Traceback",),
    ),
    # what was fine, and stays so
    *(
        Trouble(name, TRAINS, check="is_the_plain_loop", **changes)
        for name, changes in {
            "accumulation_with_a_short_last_batch": {
                "reads": {"n": 60},
                "job": {"batch_size": 16, "grad_accum_steps": 2, "steps": 6},
            },
            "a_short_last_batch": {"reads": {"n": 61}, "job": {"steps": 8}},
            "frozen_layers": {
                "net": _net(
                    "self.layer(self.first(x))",
                    init="self.first = nn.Linear(4, 4)\nself.first.requires_grad_(False)",
                ),
            },
            "tied_weights": {
                "net": _net(
                    "self.layer(self.b(self.a(x)))",
                    init="self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)\nself.b.weight = self.a.weight",
                ),
            },
            "odd_parameters": {
                "net": _net(
                    "self.layer(x) * self.scale + self.none.sum()",
                    init="self.scale = nn.Parameter(torch.tensor(1.0))\n"
                    "self.none = nn.Parameter(torch.zeros(0, 3))",
                ),
            },
            "parametrised_weights": {
                "net": _net(
                    "self.layer(self.first(x))",
                    init="self.first = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))",
                ),
            },
            "an_unused_parameter": {
                "net": _net("self.layer(x)", init="self.unused = nn.Linear(3, 3)"),
            },
            "parameters_that_are_transposed": {
                "net": _net(
                    "self.layer(x @ self.turn)", init="self.turn = nn.Parameter(torch.eye(4).t() * 2)"
                ),
            },
            "sparse_gradients": {
                "net": _net(
                    "self.layer(x) + self.table((x[:, 0] > 0).long())",
                    init="self.table = nn.Embedding(2, num_outputs, sparse=True)",
                ),
            },
            "labels_that_are_smoothed": {"job": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}}},
            "momentum_and_decay": {
                "optim": {
                    "algorithm": "sgd",
                    "lr": 0.1,
                    "weight_decay": 0.01,
                    "no_decay": [],
                    "options": {"momentum": 0.9, "nesterov": True},
                },
            },
            "batches_larger_than_the_data": {"job": {"batch_size": 64}},
            "dropout": {"net": _net("self.layer(self.drop(x))", init="self.drop = nn.Dropout(0.5)")},
            "batch_norm": {"net": _net("self.layer(self.norm(x))", init="self.norm = nn.BatchNorm1d(4)")},
        }.items()
    ),
    Trouble("bool_inputs_as_numbers", TRAINS, data=_arrays("(x > 0)", "classes(x)"), check="completed"),
    Trouble("float16_inputs", TRAINS, data=_arrays("x.half()", "classes(x)"), check="completed"),
    Trouble(
        "views_that_are_not_contiguous",
        TRAINS,
        data=_arrays("points(4, 9).repeat(1, n // 4)[:, :n].t()", "classes(x)"),
        check="completed",
    ),
    _option(
        "a_plugin_that_is_not_there",
        REFUSED,
        "no plugin|not installed|gradclipp",
        plugins=({"gradclipp": {"max_norm": 1.0}},),
    ),
    _option("two_optimizers", REFUSED, "optim", plugins=({"optim": {"algorithm": "sgd", "lr": 0.1}},)),
    _option(
        "an_unknown_option", REFUSED, "did you mean", optim={"algorithm": "sgd", "lr": 0.1, "wait_decay": 0.1}
    ),
    _option("a_negative_rate", REFUSED, "lr", optim={"algorithm": "sgd", "lr": -0.1}),
    _option("inputs_that_are_not_finite", REFUSED, "finite", data=_arrays("x / 0", "classes(x)")),
    _option("inputs_and_targets_of_two_lengths", REFUSED, "32|64", data=_arrays("x", "classes(x)[: n // 2]")),
    _option("no_samples", REFUSED, "sample|empty", data=_arrays("x[:0]", "classes(x)[:0]")),
    _option("a_model_that_is_no_module", REFUSED, "Module", net="def Net():\n    return 5\n"),
    _option("a_module_that_is_not_there", REFUSED, "there_is_none", model={"name": "there_is_none:Net"}),
)
