"""`osp-fetch demo`: run the ordinary commands against local stand-ins of the real servers, with failures."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from . import exits

if TYPE_CHECKING:
    from rich.console import Console

    from ..demo.sources import Hub, MetaCdn

# Tars of the SA-1B stand-in, and bytes of each: about half a minute at _PACE.
_TARS: Final = 24
_TAR_BYTES: Final = 3 << 20
# Bytes per second of one connection: slow enough to watch.
_PACE: Final = 800e3
_REPO: Final = "demo/Open-Sora-Plan"


@click.command("demo", short_help="Run a demonstration without a network.")
@click.option("-o", "--output", metavar="DIR", help="Keep the files in DIR.  [default: a temporary folder]")
@click.option("--fast", is_flag=True, help="Do not slow down the connections.")
def command(output: str | None, fast: bool) -> int:
    """Download from local stand-ins of Meta's CDN and the Hugging Face Hub, without a network.

    During the demonstration a process is killed, a connection is cut, and links expire. It takes half a
    minute.
    """
    if output:
        return asyncio.run(_Demo(Path(output), fast).run())
    with tempfile.TemporaryDirectory(prefix="osp-fetch-demo-") as folder:
        return asyncio.run(_Demo(Path(folder), fast).run())


class _Demo:
    """Runs the scenes of the demonstration below `root`."""

    def __init__(self, root: Path, fast: bool) -> None:
        from rich.console import Console

        self._root = root
        self._pace = None if fast else _PACE
        self._console: Console = Console(stderr=True, highlight=False)
        self._steps = 0

    async def run(self) -> int:
        """Run the demonstration. Return exit code 0 if everything ended as expected, else 1."""
        from ..demo import media
        from ..demo.server import Blob, Server
        from ..demo.sources import Hub, HubRepo, MetaCdn

        self._root.mkdir(parents=True, exist_ok=True)
        tars = {f"sa_{n:06}.tar": media.sa1b_tar(n, _TAR_BYTES) for n in range(_TARS)}
        cdn = MetaCdn({name: Blob(data) for name, data in tars.items()}, rate=self._pace)
        shop = {f"all_mixkit/{n}.tar": media.sa1b_tar(100 + n, _TAR_BYTES) for n in range(4)}
        notes = {"README.md": b"# Open-Sora-Plan, a stand-in\n"}
        repo = HubRepo(_REPO, lfs=shop, git=notes)
        hub = Hub({_REPO: repo}, token="hf_demo_token", rate=self._pace)
        async with Server(cdn.handle) as meta, Server(hub.handle) as site, Server(hub.handle_cdn) as store:
            hub.cdn_url = store.url
            right = await self._sa1b(cdn, meta.url, tars)
            right &= await self._hub(hub, site.url, {**shop, **notes})
        self._say(
            "[bold green]All as it should be.[/]" if right else "[bold red]A check failed: see above.[/]"
        )
        return exits.OK if right else exits.SOME_FAILED

    async def _sa1b(self, cdn: MetaCdn, url: str, tars: dict[str, bytes]) -> bool:
        folder, links = self._root / "sam", self._root / "links.tsv"
        total = sum(map(len, tars.values()))
        get = ["get", "sam-11m", "--links", str(links), "-o", str(folder), "--min-free", "0", "-x", "8"]
        get += ["--on-expired", "exit"]
        self._act(
            f"Meta's CDN: a link file of {_TARS} tars ({total >> 20} MB), no sizes, no checksums, no ETag",
            get,
        )
        links.write_text(cdn.link_file(url, time.time() + 3600))
        code = await self._command(get, until=lambda: cdn.sent.total() > total * 0.3)
        self._say(
            f"   [yellow]kill -9[/] after 30 % (exit {code}). Under final names: {_sound(folder, tars)}"
        )

        self._act("The same command again. A connection is cut in mid-file, and then all links expire", get)
        cdn.cuts = dict.fromkeys(list(tars)[-8:-6], 1 << 20)
        code = await self._command(
            get, when=lambda: cdn.sent.total() > total * 0.65, then=lambda: _expire(cdn)
        )
        right = code == exits.CREDENTIALS
        self._say(
            f"   exit {code}: links expired, the rest is parked. Under final names: {_sound(folder, tars)}"
        )

        self._act("A fresh link file, and the same command: it continues at the same byte", get)
        links.write_text(cdn.link_file(url, time.time() + 9 * 3600))
        right &= await self._command(get) == exits.OK
        right &= await self._command(["verify", str(folder)]) == exits.OK
        same = all(_sha256(folder / name) == hashlib.sha256(data).hexdigest() for name, data in tars.items())
        twice = cdn.sent.total() - total
        self._say(
            f"   every byte {'is correct' if same else '[red]IS NOT correct[/]'}; of {total >> 20} MB, "
            f"{twice / 1e6:.1f} MB were sent twice (because of the kill and the cuts)"
        )
        return right and same

    async def _hub(self, hub: Hub, url: str, files: dict[str, bytes]) -> bool:
        folder = self._root / "hub"
        get = ["get", f"hf://datasets/{_REPO}", "-o", str(folder), "--min-free", "0", "-k", "1MiB", "-x", "2"]
        self._act(
            "A Hugging Face repository: signed links expire after two seconds, and the token must not leak",
            get,
        )
        hub.lifetime = 2.0
        hub.cut_after = {"all_mixkit/1.tar": 700_000}
        home = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_demo_token", "HF_HOME": str(self._root / "home")}
        right = await self._command(get, more=home) == exits.OK
        same = all(_sha256(folder / name) == hashlib.sha256(data).hexdigest() for name, data in files.items())
        self._say(
            f"   {len(files)} files {'verified by sha256' if same else '[red]ARE NOT correct[/]'}; the hub "
            f"got {hub.resolves.total()} resolve requests; the token reached another host "
            f"{len(hub.leaks)} times"
        )
        return right and same and not hub.leaks

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _act(self, what: str, words: list[str]) -> None:
        self._steps += 1
        self._say(f"\n[bold]{self._steps}. {what}.[/]")
        shown = " ".join(word.replace(str(self._root) + "/", "") for word in words)
        self._say(f"   [dim]$ osp-fetch {shown}[/]")

    async def _command(
        self,
        words: list[str],
        *,
        until: Callable[[], bool] | None = None,
        when: Callable[[], bool] | None = None,
        then: Callable[[], None] | None = None,
        more: dict[str, str] | None = None,
    ) -> int:
        """Run osp-fetch in a new process. Kill it when `until` is true; call `then` once `when` is true."""
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment |= {"HF_HUB_OFFLINE": "0", **(more or {})}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "osp_fetch", *words, env=environment
        )
        ended = asyncio.create_task(process.wait())
        while not ended.done():
            if until is not None and until():
                process.send_signal(signal.SIGKILL)
                until = None
            if when is not None and then is not None and when():
                then()
                when = None
            await asyncio.wait({ended}, timeout=0.02)
        if sys.stderr.isatty() and ended.result() < 0:
            sys.stderr.write("\x1b[?25h\n")  # a killed process leaves the cursor hidden
        return ended.result()


def _expire(cdn: MetaCdn) -> None:
    cdn.clock = lambda: time.time() + 2 * 3600


def _sound(folder: Path, tars: dict[str, bytes]) -> str:
    """Return how many files have final names and how many of them are correct. Both should be equal."""
    there = [name for name in tars if (folder / name).exists()]
    right = [name for name in there if _sha256(folder / name) == hashlib.sha256(tars[name]).hexdigest()]
    return f"{len(there)} files, {len(right)} of them correct"


def _sha256(place: Path) -> str:
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
