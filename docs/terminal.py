"""Draws the pictures of the terminal in this folder, from real runs against the stand-in of Meta's CDN.

Run it from the checkout: `python docs/terminal.py`. No network is needed. The stand-in cuts a connection, has
lost two of its files, and refuses a link.
"""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from osp_fetch import Event, Settings, StopToken, fetch_all
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import MetaCdn
from osp_fetch.views.board import Board
from osp_fetch.views.screen import panel

DOCS = Path(__file__).parent
SIZES = [size << 20 for size in (12, 24, 18, 30, 16, 26, 20, 34, 14, 22, 28, 32)]  # bytes of each tar
RATE = 2 << 20  # bytes per second of one connection
SHARE = 0.45  # of the bytes that are held when the picture of the live view is taken
HOST = "cdn.example.org"
GET = ["get", "sam-11m", "--links", "sa1b_links.tsv", "-o", "data/sam", "-j", "10"]


class Shell:
    """Runs commands in a folder, on a terminal of some width.

    Args:
        folder: The current folder of the commands.
        port: Port of the stand-in, which is reached under the name HOST.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.rule = f"{HOST}:80:127.0.0.1:{port}"
        # on a terminal, a run would wait for a fresh link in place of the one that is refused
        given = {"CONNECT_TO": self.rule, "MIN_FREE": "0", "ON_EXPIRED": "exit"}
        self._environment = {**os.environ, **{f"OSP_FETCH_{name}": text for name, text in given.items()}}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command without a terminal."""
        call = [sys.executable, "-m", "osp_fetch", *words]
        return subprocess.Popen(call, cwd=self._folder, env=self._environment, stderr=subprocess.DEVNULL)

    def run(self, width: int, *words: str, terminal: str = "xterm-256color") -> str:
        """Run a command on a terminal, and return what it shows. Blocks."""
        shown, other = pty.openpty()
        termios.tcsetwinsize(other, (40, width))
        ended = subprocess.Popen(
            [sys.executable, "-m", "osp_fetch", *words], cwd=self._folder, stdout=other, stderr=other,
            env={**self._environment, "TERM": terminal},
        )  # fmt: skip
        os.close(other)
        seen = b""
        with suppress(OSError):  # the command has ended
            while part := os.read(shown, 1 << 16):
                seen += part
        ended.wait()
        os.close(shown)
        return seen.decode().replace("\r\n", "\n").rstrip()


def draw(name: str, width: int, *parts: object) -> None:
    """Write a picture of a terminal of `width` columns."""
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for part in (*parts, ""):  # the lower edge of a picture cuts its last line
        console.print(Text.from_ansi(part) if isinstance(part, str) else part)
    console.save_svg(str(DOCS / name), title="osp-fetch")
    print(name)


def prompt(words: Sequence[str]) -> str:
    return f"$ osp-fetch {' '.join(words)}"


async def live_view(links: Path, folder: Path, rule: str) -> None:
    """Draw the live view at two widths while a run goes on, and stop the run then."""
    board, stop = Board(), StopToken()

    def observe(event: Event) -> None:
        board(event)
        if board.done > SHARE * sum(SIZES) and board.bottleneck() is not None and stop.why is None:
            draw("live_view.svg", 100, prompt(GET), panel(board, 100))
            draw("live_view-80.svg", 80, panel(board, 80))
            stop.ask("the picture is taken")

    limits = {"limits": {"connections": 10}, "storage": {"min_free": 0}}
    settings = Settings.load(("picture", limits))
    await fetch_all(
        links, folder, settings=settings, observer=observe, stop=stop, connect_to=[rule],
    )  # fmt: skip


async def status(shell: Shell) -> None:
    """Draw the status of a run as soon as something is known to limit it."""
    running = shell.start(*GET, "-q")
    words = ["status", "data/sam"]
    try:
        while f"limited by {HOST}" not in (said := await asyncio.to_thread(shell.run, 80, *words)):
            await asyncio.sleep(0.5)
            assert running.poll() is None, said
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait)
    draw("status.svg", 80, prompt(words), said)


def end(shell: Shell) -> None:
    """Draw the lines with which a run ends some of whose files have failed."""
    lines = shell.run(80, *GET, terminal="dumb").splitlines()  # one that cannot move its cursor
    first = next(number for number, line in enumerate(lines) if line.startswith("failed"))
    draw("end.svg", 80, prompt(GET), "…", "\n".join(lines[first:]))


async def main() -> None:
    cdn = MetaCdn(rate=RATE, cuts={"sa_000002.tar": 5 << 20})
    cdn.files.update({f"sa_{number:06}.tar": Blob(bytes(size)) for number, size in enumerate(SIZES)})
    cdn.files.update({f"sa_{number:06}.tar": Blob(bytes(1 << 20)) for number in (20, 21, 22)})
    with tempfile.TemporaryDirectory() as place:
        async with Server(cdn.handle) as server:
            folder, shell = Path(place), Shell(Path(place), int(server.url.rpartition(":")[2]))
            links = folder / "sa1b_links.tsv"
            text = cdn.link_file(f"http://{HOST}", time.time() + 29 * 86400)
            lines = text.splitlines()
            broken = next(number for number, line in enumerate(lines) if line.startswith("sa_000022"))
            lines[broken] = lines[broken].replace("&oh=00_", "&oh=00_x")
            links.write_text("\n".join(lines))
            del cdn.files["sa_000020.tar"], cdn.files["sa_000021.tar"]
            plan = ["plan", *GET[1:]]
            draw("plan.svg", 100, prompt(plan), await asyncio.to_thread(shell.run, 100, *plan))
            await live_view(links, folder / "data" / "sam", shell.rule)
            await status(shell)
            await asyncio.to_thread(end, shell)
            doctor = ["doctor", "data/sam"]
            draw("doctor.svg", 100, prompt(doctor), await asyncio.to_thread(shell.run, 100, *doctor))


asyncio.run(main())
