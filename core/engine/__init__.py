"""The training loop and what it is made of; imports the hooks and nothing else of ringfence."""

from ..plugins.observer import NullRecorder, Recorder, RunInfo
from ..reproducibility.generator_states import TorchRng
from ..reproducibility.seeding import seed_run
from .checkpoints.checkpoint import Contents, list_checkpoints, read_latest, read_manifest, write_checkpoint
from .checkpoints.fingerprint import Course
from .checkpoints.fingerprint_diff import Difference
from .config import EarlyStopping, TrainConfig, resolve_device
from .data import Data, Dataset, Normalise, Plan, batches, epoch_order
from .evaluate import evaluate
from .losses import L1, LOSSES, MSE, CrossEntropy, Huber, Loss, SmoothL1, apply_changes
from .metrics import METRICS, Metric
from .objective import Objective
from .progress import Progress
from .schedules import SCHEDULES, Constant, Cosine, Exponential, Linear, OneCycle, Schedule, Step
from .state import Snapshot, TrainState
from .train import Result, Status, train
from .trial import Tried, try_out
from .weights import Weights, weights_sha256

__all__ = [
    "L1",
    "LOSSES",
    "METRICS",
    "MSE",
    "SCHEDULES",
    "Constant",
    "Contents",
    "Cosine",
    "Course",
    "CrossEntropy",
    "Data",
    "Dataset",
    "Difference",
    "EarlyStopping",
    "Exponential",
    "Huber",
    "Linear",
    "Loss",
    "Metric",
    "Normalise",
    "NullRecorder",
    "Objective",
    "OneCycle",
    "Plan",
    "Progress",
    "Recorder",
    "Result",
    "RunInfo",
    "Schedule",
    "SmoothL1",
    "Snapshot",
    "Status",
    "Step",
    "TorchRng",
    "TrainConfig",
    "TrainState",
    "Tried",
    "Weights",
    "apply_changes",
    "batches",
    "epoch_order",
    "evaluate",
    "list_checkpoints",
    "read_latest",
    "read_manifest",
    "resolve_device",
    "seed_run",
    "train",
    "try_out",
    "weights_sha256",
    "write_checkpoint",
]
