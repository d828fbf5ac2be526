"""`osp-fetch demo`: run the ordinary commands against local stand-ins of the real servers, with failures."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..model.dataclasses import dataclass
from ..model.errors import SettingsError
from . import exits

if TYPE_CHECKING:
    from rich.console import Console

    from ..demo.destinations import Destination
    from ..demo.seaweed import SeaweedServer
    from ..demo.sources import Hub, MetaCdn


@dataclass(frozen=True, slots=True)
class _Size:
    """How much is fetched: about half a minute at `pace`.

    Attributes:
        tars: tars of the SA-1B stand-in.
        tar_bytes: bytes of each.
        connections: connections that fetch them.
        pace: bytes per second of one connection: slow enough to watch.
        killed: the fraction of all bytes after which the process is killed.
        expires: the fraction after which all links expire.
    """

    tars: int
    tar_bytes: int
    connections: int
    pace: float
    killed: float
    expires: float


_TO_FOLDERS: Final = _Size(24, 3 << 20, 8, 800e3, 0.3, 0.65)
# Several parts of 8 MiB for each file: only whole parts survive a kill.
_TO_BUCKET: Final = _Size(8, 12 << 20, 4, 1600e3, 0.4, 0.7)
# Bytes of each file in the stand-in of the Hub.
_HUB_BYTES: Final = 3 << 20
_REPO: Final = "demo/Open-Sora-Plan"


@click.command("demo", short_help="Run a demonstration without a network.")
@click.option("-o", "--output", metavar="DIR", help="Keep the files in DIR.  [default: a temporary folder]")
@click.option("--fast", is_flag=True, help="Do not slow down the connections.")
@click.option("--s3", is_flag=True, help="Fetch into a bucket of a SeaweedFS server that is started for it.")
def command(output: str | None, fast: bool, s3: bool) -> int:
    """Download from local stand-ins of Meta's CDN and the Hugging Face Hub, without a network.

    During the demonstration a process is killed, a connection is cut, and links expire. It takes half a
    minute.
    """
    if output:
        return _shown(Path(output), fast=fast, s3=s3)
    with tempfile.TemporaryDirectory(prefix="osp-fetch-demo-") as folder:
        return _shown(Path(folder), fast=fast, s3=s3)


def _shown(root: Path, *, fast: bool, s3: bool) -> int:
    """Run the demonstration below `root`, and return the exit code. SIGTERM ends it as Ctrl-C does."""
    from ..demo.destinations import Folders
    from ..demo.seaweed import SeaweedServer

    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        if not s3:
            return await _Demo(root, Folders(root), _TO_FOLDERS, fast).run()
        _check_library()
        return await _to_bucket(root, SeaweedServer(root / "seaweedfs"), fast)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        return exits.STOPPED_EARLY


def _check_library() -> None:
    """Raise SettingsError if the library for buckets is not installed."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise SettingsError("buckets need a library; run: pip install 'osp-fetch[s3]'")


async def _to_bucket(root: Path, server: SeaweedServer, fast: bool) -> int:
    """Run the demonstration with a bucket of `server`, which is started and stopped."""
    from ..demo.destinations import BUCKET, Prefixes

    try:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.make_bucket, BUCKET)
        demo = _Demo(root, Prefixes(root, server), _TO_BUCKET, fast)
        demo.say(f"SeaweedFS, an object store, runs at {server.url} as process {server.pid}.")
        return await demo.run()
    finally:
        server.stop()


class _Demo:
    """Runs the scenes of the demonstration.

    Args:
        root: the folder for link files, and for whatever else is kept.
        destination: where the files go.
        size: how much is fetched.
        fast: whether the connections are not slowed down.
    """

    def __init__(self, root: Path, destination: Destination, size: _Size, fast: bool) -> None:
        from rich.console import Console

        self._root, self._destination, self._size = root, destination, size
        self._pace = None if fast else size.pace
        self._console: Console = Console(stderr=True, highlight=False)
        self._steps = 0

    async def run(self) -> int:
        """Run the demonstration. Return exit code 0 if everything ended as expected, else 1."""
        from ..demo import media
        from ..demo.server import Blob, Server
        from ..demo.sources import Hub, HubRepo, MetaCdn

        self._root.mkdir(parents=True, exist_ok=True)
        tars = {f"sa_{n:06}.tar": media.sa1b_tar(n, self._size.tar_bytes) for n in range(self._size.tars)}
        cdn = MetaCdn({name: Blob(data) for name, data in tars.items()}, rate=self._pace)
        shop = {f"all_mixkit/{n}.tar": media.sa1b_tar(100 + n, _HUB_BYTES) for n in range(4)}
        notes = {"README.md": b"# Open-Sora-Plan, a stand-in\n"}
        repo = HubRepo(_REPO, lfs=shop, git=notes)
        hub = Hub({_REPO: repo}, token="hf_demo_token", rate=self._pace)
        async with Server(cdn.handle) as meta, Server(hub.handle) as site, Server(hub.handle_cdn) as store:
            hub.cdn_url = store.url
            right = await self._sa1b(cdn, meta.url, tars)
            right &= await self._hub(hub, site.url, {**shop, **notes})
        if left := await asyncio.to_thread(self._destination.unfinished):
            self.say(f"   [red]{left} uploads were left unfinished[/]")
            right = False
        self.say(
            "[bold green]All as it should be.[/]" if right else "[bold red]A check failed: see above.[/]"
        )
        return exits.OK if right else exits.SOME_FAILED

    async def _sa1b(self, cdn: MetaCdn, url: str, tars: dict[str, bytes]) -> bool:
        links, size, place = self._root / "links.tsv", self._size, self._destination.address("sam")
        total = sum(map(len, tars.values()))
        get = ["get", "sam-11m", "--links", str(links), "-o", *place, "--min-free", "0"]
        get += ["-x", str(size.connections), "--on-expired", "exit"]
        self._act(
            f"Meta's CDN: a link file of {len(tars)} tars ({total >> 20} MB), "
            "no sizes, no checksums, no ETag",
            get,
        )
        links.write_text(cdn.link_file(url, time.time() + 3600))
        code = await self._command(get, until=lambda: cdn.sent.total() > total * size.killed)
        self.say(
            f"   [yellow]kill -9[/] after {size.killed:.0%} (exit {code}). "
            f"Under final names: {await self._sound('sam', tars)}"
        )

        self._act("The same command again. A connection is cut in mid-file, and then all links expire", get)
        cdn.cuts = dict.fromkeys(cdn.in_order()[-2:], 1 << 20)
        code = await self._command(
            get, when=lambda: cdn.sent.total() > total * size.expires, then=lambda: _expire(cdn)
        )
        right = code == exits.CREDENTIALS
        self.say(
            f"   exit {code}: links expired, the rest is parked. "
            f"Under final names: {await self._sound('sam', tars)}"
        )

        self._act("A fresh link file, and the same command: it continues at the same byte", get)
        links.write_text(cdn.link_file(url, time.time() + 9 * 3600))
        right &= await self._command(get) == exits.OK
        right &= await self._command(["verify", *place]) == exits.OK
        same = await self._right("sam", tars) == len(tars)
        twice = cdn.sent.total() - total
        self.say(
            f"   every byte {'is correct' if same else '[red]IS NOT correct[/]'}; of {total >> 20} MB, "
            f"{twice / 1e6:.1f} MB were sent twice (because of the kill, the cuts and the dead links)"
        )
        return right and same

    async def _hub(self, hub: Hub, url: str, files: dict[str, bytes]) -> bool:
        get = ["get", f"hf://datasets/{_REPO}", "-o", *self._destination.address("hub")]
        get += ["--min-free", "0", "-k", "1MiB", "-x", "2"]
        self._act(
            "A Hugging Face repository: signed links expire after two seconds, and the token must not leak",
            get,
        )
        hub.lifetime = 2.0
        hub.cut_after = {"all_mixkit/1.tar": 700_000}
        home = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_demo_token", "HF_HOME": str(self._root / "home")}
        right = await self._command(get, more=home) == exits.OK
        same = await self._right("hub", files) == len(files)
        self.say(
            f"   {len(files)} files {'verified by sha256' if same else '[red]ARE NOT correct[/]'}; the hub "
            f"got {hub.resolves.total()} resolve requests; the token reached another host "
            f"{len(hub.leaks)} times"
        )
        return right and same and not hub.leaks

    def say(self, text: str) -> None:
        """Print a line of text, in the markup of rich."""
        self._console.print(text)

    async def _digests(self, run: str, names: Iterable[str]) -> list[str]:
        """Return the digests of files under their final names, "missing" for those that do not exist."""
        return [await asyncio.to_thread(self._destination.digest, run, name) for name in names]

    async def _right(self, run: str, files: Mapping[str, bytes]) -> int:
        """Return how many files are correct under their final names."""
        found = await self._digests(run, files)
        return sum(a == hashlib.sha256(b).hexdigest() for a, b in zip(found, files.values(), strict=True))

    async def _sound(self, run: str, files: Mapping[str, bytes]) -> str:
        """Return how many files have final names and how many are correct. Both should be equal."""
        there = sum(digest != "missing" for digest in await self._digests(run, files))
        return f"{there} files, {await self._right(run, files)} of them correct"

    def _act(self, what: str, words: list[str]) -> None:
        self._steps += 1
        self.say(f"\n[bold]{self._steps}. {what}.[/]")
        shown = " ".join(word.replace(str(self._root) + "/", "") for word in words)
        self.say(f"   [dim]$ osp-fetch {shown}[/]")

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
        environment |= {"HF_HUB_OFFLINE": "0", **self._destination.environment, **(more or {})}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "osp_fetch", *words, env=environment
        )
        ended = asyncio.create_task(process.wait())
        try:
            await self._watched(process, ended, until, when, then)
        finally:
            if process.returncode is None:
                process.kill()
        if sys.stderr.isatty() and ended.result() < 0:
            sys.stderr.write("\x1b[?25h\n")  # a killed process leaves the cursor hidden
        return ended.result()

    async def _watched(
        self,
        process: asyncio.subprocess.Process,
        ended: asyncio.Task[int],
        until: Callable[[], bool] | None,
        when: Callable[[], bool] | None,
        then: Callable[[], None] | None,
    ) -> None:
        """Wait for the end of a process that `_command` has started."""
        while not ended.done():
            if until is not None and until():
                process.send_signal(signal.SIGKILL)
                until = None
            if when is not None and then is not None and when():
                then()
                when = None
            await asyncio.wait({ended}, timeout=0.02)


def _expire(cdn: MetaCdn) -> None:
    cdn.clock = lambda: time.time() + 2 * 3600
