"""What a plugin may leave behind in its scratch folder for whoever cleans up."""

import os
import socket

ODD_NAMES = (
    b"a line\nand another",
    b"-rf",
    b"\xff\xfe",
    b"\x1b[2J",
    b" ",
    b"*",
    b"$(touch x)",
    b"x" * 255,
    b".hidden",
    b"...",
)


def made(aim):
    """Make what leads elsewhere, or blocks who opens it: none of these can be made."""

    def listens():
        with socket.socket(socket.AF_UNIX) as made_socket:
            made_socket.bind("socket")
        os.unlink("socket")

    def linked(target, name):
        os.symlink(target, name)
        os.unlink(name)

    def locked_up():
        os.mkdir("locked")
        try:
            os.chmod("locked", 0)
        finally:
            os.rmdir("locked")

    return {
        "link_to_secret": lambda: linked(f"{aim.home}/.ssh/id_ed25519", "link"),
        "link_to_folder": lambda: linked(aim.home, "link"),
        "link_upwards": lambda: linked("../..", "link"),
        "hard_link": lambda: (os.link(f"{aim.home}/.netrc", "hard"), os.unlink("hard")),
        "fifo": lambda: (os.mkfifo("fifo"), os.unlink("fifo")),
        "socket": listens,
        "locked_folder": locked_up,
        "replaced_by_link": lambda: _replaced(aim.home),
    }


def _replaced(target):
    """Put a link in the place of a folder that is being looked through."""
    os.mkdir("looked-through")
    os.rmdir("looked-through")
    os.symlink(target, "looked-through")
    os.unlink("looked-through")


def leave(aim, gradients, step):
    """Leave odd names, and folders in folders; what could not be made is not there."""
    for name in ODD_NAMES:
        with open(name, "wb") as file:
            file.write(b"left")
    for name in (b"folder\n", b"\xfefolder"):
        os.mkdir(name)
    deep = "deep"
    for _ in range(20):
        os.makedirs(deep)
        deep += "/deep"
    step.log("left", len(os.listdir(".")))
