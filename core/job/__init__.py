"""The job: its file with line numbers, its flags, its schema, and the options that it gives to plugins."""

from .job_file import MAX_MEMORY_FRACTION, Choice, EarlyStopping, Job, JobFile, PluginJob, check_job, read_job

__all__ = [
    "MAX_MEMORY_FRACTION",
    "Choice",
    "EarlyStopping",
    "Job",
    "JobFile",
    "PluginJob",
    "check_job",
    "read_job",
]
