"""Draws docs/report-light.png, -dark.png and -phone.png: the report of two real runs against faulty servers.

Run it from the checkout: `python docs/report_view.py`. It needs Chromium, and no network.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from osp_fetch import Settings, entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange, Server
from osp_fetch.inspection.summary import summary_of
from osp_fetch.views.report_page import report_page

HOSTS = {"eu.example.org": 900e3, "us.example.org": 600e3, "mirror.example.net": 250e3}  # bytes a second
FILES = 60
SIZES = {"light": (1000, 2300), "dark": (1000, 1500), "phone": (430, 1900)}  # pixels


class Origin:
    """Serves `/SIZE/NAME` at a rate for each connection; one request in twelve meets a fault."""

    def __init__(self, rate: float) -> None:
        self._rate, self._chance = rate, random.Random(7)

    async def handle(self, exchange: Exchange) -> None:
        length, name = exchange.path.strip("/").split("/")
        fault = self._chance.random()
        if name.startswith("gone"):
            await exchange.answer(404, "nothing here", {"Content-Type": "text/plain"})
        elif fault < 0.04:
            await exchange.answer(503, "busy", {"Retry-After": "1"})
        else:
            cut = int(length) // 3 if fault < 0.08 else None
            await exchange.serve(Blob(bytes(int(length))), {"ETag": '"1"'}, rate=self._rate, cut_after=cut)


async def run(folder: Path) -> None:
    """Fetch from three servers: stop after some seconds, and continue."""
    async with AsyncExitStack() as stack:
        rules = []
        for host, rate in HOSTS.items():
            server = await stack.enter_async_context(Server(Origin(rate).handle))
            rules.append(f"{host}:80:127.0.0.1:{server.port}")
        chance, rows = random.Random(1), []
        for number in range(FILES):
            host, size = chance.choice(list(HOSTS)), chance.randrange(1 << 20, 6 << 20)
            path = f"part-{number // 20}/shard-{number:04}.tar"
            rows.append(entry(path, f"http://{host}/{size}/{number}", size=size if number % 3 else None))
        rows += [entry(f"old/{n}.tar", f"http://us.example.org/5/gone{n}") for n in range(7)]
        settings = Settings.load(
            ("picture", {"limits": {"per_host": 6, "part_size": "1MiB"}, "storage": {"min_free": 0}})
        )
        for seconds in (12, 120):
            await fetch_all(rows, folder, settings=settings, connect_to=rules, max_duration=seconds)


def draw(page: Path, name: str, scratch: Path) -> None:
    """Take a picture of a page with Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    width, height = SIZES[name]
    picture = Path(__file__).with_name(f"report-{name}.png")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--user-data-dir={scratch}", f"--window-size={width},{height}", f"--screenshot={picture}"]
    if name == "dark":
        words += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
    subprocess.run([*words, f"file://{page}"], check=True, capture_output=True, timeout=100)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")
        asyncio.run(run(folder))
        page = Path(scratch, "report.html")
        page.write_text(report_page(summary_of(folder, "/srv/data/videos")), encoding="utf-8")
        for name in SIZES:
            draw(page, name, Path(scratch, "browser"))


if __name__ == "__main__":
    main()
