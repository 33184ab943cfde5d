"""Too much: of memory, of the disk."""

from ringfence import PluginCrashedError, PluginMemoryError, PluginRaisedError

from ..harm import Harm

_BUDGET_MIB = 448


#: What has no time to look: the kernel itself.
_BY_THE_KERNEL = r" \(stopped by (RLIMIT_DATA|cgroup)\)"


def _leaks(number, name, peak_mib, no_control=""):
    return Harm(
        number,
        f"leaks:{name}",
        (PluginMemoryError,),
        r"used \d+ MiB of its \d+ MiB budget and asked for more" + (_BY_THE_KERNEL if number == 23 else ""),
        {"ended": "", "peak_mib": peak_mib},
        no_control=no_control,
        budget_mib=_BUDGET_MIB,
        limit_s=20.0,
        seconds=5.0,
    )


def _fills(name, says, **naive):
    return Harm(
        24,
        f"disk:{name}",
        (PluginCrashedError, PluginRaisedError),
        says,
        {"ended": "", **naive},
        limit_s=20.0,
        seconds=6.0,
    )


HARMS = (
    *(_leaks(21, f"by_{name}", 768) for name in ("torch", "numpy", "python", "malloc", "mapping")),
    _leaks(23, "spike", 3072, "takes the same memory as leaks:spike_of_threads"),
    _leaks(23, "spike_of_threads", 3072),
    _fills("many_bytes", "in its scratch folder; at most 256 MiB", written_mib=320),
    _fills("removed", "scratch|No space|disk", written_mib=320),
    _fills("without_name", "scratch|No space|disk|not supported", written_mib=320),
    _fills("many_files", "files in its scratch folder", files=12_000),
    _fills("deep", "nested over 32 deep", depth=200),
    _fills("sparse", "File too large", size_gib=1024),
    _fills("seek_and_write", "File too large", size_gib=1024),
    _fills("one_file", "File too large", written_mib=100),
)
