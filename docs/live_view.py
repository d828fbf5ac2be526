"""Draws docs/live_view.svg: the live view of a real run against the demo's stand-in of Meta's CDN.

Run it from the checkout: `python docs/live_view.py`. No network is needed.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from pathlib import Path

from rich.console import Console

from osp_fetch import Event, Settings, StopToken, fetch_all
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import MetaCdn
from osp_fetch.views.board import Board
from osp_fetch.views.screen import panel

SIZES = [size << 20 for size in (12, 24, 18, 30, 16, 26, 20, 34, 14, 22, 28, 32)]  # bytes of each tar
RATE = 3 << 20  # bytes per second of one connection
SHARE = 0.55  # of the bytes that are held when the picture is taken


async def main() -> None:
    board, console, stop = Board(), Console(record=True, width=100, file=io.StringIO()), StopToken()
    console.print("$ osp-fetch get sam-11m --links sa1b_links.tsv -o data/sam", highlight=False)
    cdn = MetaCdn(rate=RATE)
    cdn.files.update({f"sa_{number:06}.tar": Blob(bytes(size)) for number, size in enumerate(SIZES)})

    def observe(event: Event) -> None:
        board(event)
        if board.done > SHARE * sum(SIZES) and stop.why is None:
            console.print(panel(board))
            stop.ask("the picture is taken")

    with tempfile.TemporaryDirectory() as folder:
        async with Server(cdn.handle) as server:
            links = Path(folder, "sa1b_links.tsv")
            links.write_text(cdn.link_file(server.url, time.time() + 29 * 86400))
            settings = Settings.load(("picture", {"limits": {"connections": 10}}))
            await fetch_all(links, f"{folder}/sam", settings=settings, observer=observe, stop=stop)
    console.save_svg(str(Path(__file__).with_suffix(".svg")), title="osp-fetch")


asyncio.run(main())
