"""Renders a page in headless Chromium at the widths of a phone and a desktop, in light and dark mode."""

import functools
import html
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

WIDTHS_PX = (360, 1280)  # a phone and a desktop
TIMEOUT_S = 120
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip
SCHEMES = {"dark": 0, "light": 1}  # Chromium's own numbers
LOOK = (pathlib.Path(__file__).parent / "look.js").read_text()


@functools.cache
def find() -> str:
    """Path of Chromium; skips the test if Chromium is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed: there is no browser to render the page")
    return found


def look(page: str, scheme: str) -> list[dict]:
    """The layout of the page at each of WIDTHS_PX (see look.js).

    Each width is an iframe, because windows are at least 500 px wide.

    Raises:
        AssertionError: the browser console has messages.
    """
    source = html.escape(page)
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{source}"></iframe>' for width in WIDTHS_PX)
    style = ":root { color-scheme: light dark; } iframe { border: 0; }"
    document = f"<!doctype html><meta charset=utf-8><style>{style}</style><script>{LOOK}</script>{frames}"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "frames.html")
        path.write_text(document)
        prefers = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
        done = subprocess.run(
            [find(), *FLAGS, prefers, f"--user-data-dir={folder}/profile", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"HOME": folder},
        )  # fmt: skip
    messages = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not messages, messages
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title, done.stdout[:1000] + done.stderr
    return json.loads(html.unescape(title))
