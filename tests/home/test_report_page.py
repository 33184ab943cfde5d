"""The pages of real runs in a real browser: light, dark and narrow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.room,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]

JOB = """\
model: {name: cnn, width: 4}
data: {name: mnist10k, limit: 600}
epochs: 2
batch_size: 32
threads: 1
schedule: cosine
plugins:
- optim: {algorithm: adam, lr: 0.003}
- monitor: {}
  every: 4
"""
DARK = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Train two runs and return the report of one, and the comparison of both."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "job.yaml").write_text(JOB)

    def ringfence(*arguments):
        command = [sys.executable, "-m", "ringfence", *arguments]
        subprocess.run(command, cwd=folder, check=True, timeout=200, capture_output=True)

    ringfence("train", "job.yaml", "--out", "one")
    ringfence("train", "job.yaml", "--out", "two", "--set", "plugins.optim.lr=0.01")
    ringfence("compare", "one", "two", "--out", "compare.html")
    return {"report": folder / "one" / "report.html", "compare": folder / "compare.html"}


def screenshot(page: Path, width: int, *flags: str) -> Image.Image:
    """Return what the top of a page looks like; it is kept beside the page, for who wants to see."""
    shot = page.with_name(f"{page.stem}-{width}{'-dark' * bool(flags)}.png")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},5000",
            f"--screenshot={shot}",
            *flags,
            page.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_is_light_or_dark_as_its_reader_wants(pages, name):
    light, dark = screenshot(pages[name], 1280), screenshot(pages[name], 1280, *DARK)

    assert min(light.getpixel((2, 2))) > 230
    assert max(dark.getpixel((2, 2))) < 40
    # There are figures on it, in colours.
    assert len(light.getcolors(1 << 24)) > 200
    assert len(dark.getcolors(1 << 24)) > 200


@pytest.mark.parametrize("width", [400, 800, 1280])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_nothing_reaches_beyond_the_edge(pages, name, width):
    image = screenshot(pages[name], width)

    edge = image.crop((image.width - 4, 0, image.width, image.height))
    assert len(edge.getcolors(1 << 16)) == 1
