"""Fill the disk: with bytes, with names, with files that seem larger than they are or have no name."""

import os

MIB = 1 << 20
#: More than may be; bounded, for the sake of whoever has no sandbox.
BYTES = 320 * MIB
FILES = 12_000
#: What was got, for the trainer that has no sandbox.
FOUND = {}


def _fill(open_file):
    """Write files of 8 MiB each, and keep them open."""
    kept = []
    for number in range(BYTES // (8 * MIB)):
        kept.append(open_file(number))
        for _ in range(8):
            kept[-1].write(bytes(MIB))
        kept[-1].flush()
    _stay(sum(os.fstat(file.fileno()).st_blocks for file in kept) * 512 >> 20)


def _stay(mib):
    """In a sandbox, stay until somebody has looked."""
    FOUND["written_mib"] = mib
    if os.environ.get("USER") == "plugin":
        import time

        time.sleep(4)


def many_bytes(aim, gradients, step):
    _fill(lambda number: open(f"file-{number}", "wb"))  # noqa: SIM115 - kept open


def removed(aim, gradients, step):
    def open_and_remove(number):
        file = open(f"file-{number}", "wb")  # noqa: SIM115 - kept open
        os.unlink(f"file-{number}")
        return file

    _fill(open_and_remove)


def without_name(aim, gradients, step):
    _fill(lambda number: open(os.open(".", os.O_RDWR | os.O_TMPFILE), "wb"))  # noqa: SIM115 - kept open


def many_files(aim, gradients, step):
    for number in range(FILES):
        open(f"file-{number}", "w").close()
    _stay(0)
    FOUND["files"] = len(os.listdir("."))


def deep(aim, gradients, step):
    for _ in range(200):
        os.mkdir("d")
        os.chdir("d")
    FOUND["depth"] = os.getcwd().count("/d")
    _stay(0)


def sparse(aim, gradients, step):
    with open("sparse", "wb") as file:
        os.ftruncate(file.fileno(), 1 << 40)
        FOUND["size_gib"] = os.fstat(file.fileno()).st_size >> 30


def seek_and_write(aim, gradients, step):
    with open("sparse", "wb") as file:
        file.seek(1 << 40)
        file.write(b"x")
        file.flush()
        FOUND["size_gib"] = os.fstat(file.fileno()).st_size >> 30


def one_file(aim, gradients, step):
    with open("large", "wb") as file:
        file.writelines(bytes(MIB) for _ in range(100))
        FOUND["written_mib"] = os.fstat(file.fileno()).st_blocks * 512 >> 20
