"""Read the data of a job: the set that ships with ringfence, files, or a function of the user's."""

from .arrays import Task
from .dataset_registry import DATASETS, check_data, load_data

__all__ = ["DATASETS", "Task", "check_data", "load_data"]
