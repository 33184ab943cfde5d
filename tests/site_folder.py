"""A folder as pip installs to, with distributions of which a test writes anything."""

import base64
import hashlib


class SiteFolder:
    """Distributions, each with its files and a list of them.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def install(self, name, files=None, version="1.0", requires=(), points=""):
        """Install a distribution; returns the folder of its metadata."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        told = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}\nText.\n"
        }
        if points:
            told[f"{info}/entry_points.txt"] = f"[ringfence.plugins]\n{points}\n"
        rows = [self._write(path, text) for path, text in {**(files or {}), **told}.items()]
        rows += [f"{info}/RECORD,,"]
        (self.folder / info / "RECORD").write_text("\n".join([*rows, ""]))
        return self.folder / info

    def _write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        file.write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(data)}"
