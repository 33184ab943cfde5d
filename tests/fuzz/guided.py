"""Coverage-guided fuzzing of one target: ``python tests/fuzz/guided.py TARGET SECONDS FOLDER``.

atheris counts which lines and branches of the host's own modules an input
reaches, and goes on from those that reach new ones. It starts from valid
messages, made here, and stops at the first input that ends in anything but a
checked result or an error of the plugin's; that input lies in FOLDER then.
"""

import sys
from pathlib import Path

import atheris

RSS_LIMIT_MB = 2048
SLOWEST_S = 20
_INSTRUMENTED = ("ringfence.isolation", "ringfence.plugins", "ringfence.tensors", "ringfence.hooks")


def main(name, seconds, folder):
    """Fuzz ``name`` until the time is over; the exit status is libFuzzer's."""
    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        import targets
    target = targets.TARGETS[name]()
    corpus = Path(folder, "corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-timeout={SLOWEST_S}",
        f"-artifact_prefix={folder}/",
        "-max_len=70000",
        "-print_final_stats=1",
        # Repeatable: one seed, one order.
        "-seed=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
