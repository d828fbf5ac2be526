"""Draws docs/page-*.png: the page of a real run against the demo's stand-in of Meta's CDN, with faults.

Run it from the checkout, with a Chromium installed: `python docs/page_pictures.py`. No network is needed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright

from osp_fetch import Event, Settings, StopToken, fetch_all
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import MetaCdn
from osp_fetch.model import events

SIZES = [size << 20 for size in (12, 24, 18, 30, 16, 26, 20, 34, 14, 22, 28, 32)]  # bytes of each tar
RATE = 300_000  # bytes per second of one connection
SECONDS = 25  # after which the pictures are taken
DOCS = Path(__file__).resolve().parent
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 900}},
    "dark": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True},
}


async def take(browser: Browser, url: str, name: str, options: dict[str, Any]) -> None:
    context = await browser.new_context(**options)
    tab = await context.new_page()
    await tab.goto(url)
    while not await tab.evaluate("document.getElementById('chart-text').innerText.includes('mean')"):
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.5)  # for another sample
    place = DOCS / f"page-{name}.png"
    await tab.screenshot(path=place, full_page=name != "phone")
    await context.close()


async def main() -> None:
    cdn, stop, link = MetaCdn(rate=RATE), StopToken(), asyncio.Queue[str]()
    cdn.files.update({f"sa_{number:06}.tar": Blob(bytes(size)) for number, size in enumerate(SIZES)})

    def observe(event: Event) -> None:
        if isinstance(event, events.PageOpened):
            link.put_nowait(event.url)

    with tempfile.TemporaryDirectory() as folder:
        async with Server(cdn.handle) as server, async_playwright() as playwright:
            os.chdir(folder)  # so that the pictures show a short path
            links = Path("sa1b_links.tsv")
            links.write_text(cdn.link_file(server.url, time.time() + 29 * 86400))
            del cdn.files["sa_000003.tar"]  # its link answers 404
            cdn.cuts = dict.fromkeys(["sa_000001.tar", "sa_000006.tar"], 1 << 20)
            settings = Settings.load(("picture", {"limits": {"connections": 24}, "storage": {"min_free": 0}}))
            run = asyncio.create_task(
                fetch_all(
                    links, "data/sam", settings=settings, observer=observe, stop=stop, page="0",
                    page_control=True,
                )
            )  # fmt: skip
            url = await link.get()
            await asyncio.sleep(SECONDS)
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for name, options in VIEWS.items():
                await take(browser, url, name, options)
            await browser.close()
            stop.ask("the pictures are taken")
            await run


asyncio.run(main())
