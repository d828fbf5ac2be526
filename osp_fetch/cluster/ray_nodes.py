"""Nodes on a Ray cluster: one actor for each node, which starts a worker process and relays its messages.

No byte of a file passes through Ray: the worker writes to the destination itself. An actor is not restarted
by Ray; the jobs of one that dies are given to other nodes, and an actor is started on every node that comes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..concurrency import outlast, stop
from ..model.dataclasses import dataclass
from ..model.engines import Ray
from ..model.entry import STATE_FOLDER
from ..model.errors import Remedy, SettingsError, StorageError
from ..model.urls import redact
from ..storage.destination import Destination
from ..version import __version__
from ..workers.channel import Channel
from . import ray_client
from .node import Link

_LOOK: Final = 2.0  # seconds between two looks for nodes that have come
_START, _SEES = 120.0, 20.0  # seconds that an actor may take to start; for a plan, to say what it sees
_BLOCK: Final = 1 << 20  # most bytes of one message to or from an actor
_WAIT: Final = 1.0  # seconds for which an actor waits for bytes of its worker
_DEATHS: Final = 3  # ends of its worker after which a node is not tried again
_CPUS: Final = 0.1  # of a node, for the actor; the worker takes what it needs


class _UnfitNodeError(StorageError):
    """A node can take no part in the run: it has another version, or sees another folder than it should."""

    remedy = Remedy.ABORT


class RayNodes:
    """The nodes of a Ray cluster; implements `node.NodeSource`. An async context manager.

    Args:
        engine: which cluster, and how many of its nodes.
        place: the destination. A folder has to be shared by all nodes, or by none with `engine.node_local`.
        processes: workers on each node.

    Raises:
        SettingsError: on entering, Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, engine: Ray, place: Destination, processes: int) -> None:
        self._engine, self._place, self._processes = engine, place, processes
        self._actors: dict[str, list[_Relay]] = {}  # node → its relays
        self._why = ""  # the last words of a worker
        self._deaths: Counter[str] = Counter()  # node → workers of it that have ended
        self._unfit: dict[str, str] = {}  # node → why it can take no part
        self._disconnect: Callable[[], None] | None = None  # set if this object has connected to the cluster
        self._first = True
        self._seen_by: dict[str, str] = {}  # node that sees the probe → its name

    async def __aenter__(self) -> RayNodes:
        ray = _ray()
        if not ray.is_initialized():
            connect = partial(ray_client.connect, ray, self._engine.address)
            connecting = asyncio.get_running_loop().run_in_executor(None, connect)
            try:
                self._disconnect = await outlast(connecting)
            except asyncio.CancelledError:
                await asyncio.to_thread(connecting.result())
                raise
        self._actor = ray.remote(_Actor)
        return self

    async def __aexit__(self, *_: object) -> None:
        for relays in self._actors.values():
            for relay in relays:
                await relay.close()
        if self._place.bucket is None:
            await asyncio.to_thread(_probe(self._place.root).unlink, missing_ok=True)
        if self._disconnect is not None:
            await asyncio.to_thread(self._disconnect)

    def destination(self, place: Destination) -> Destination:
        """Return the destination with the path that every node uses."""
        root = place.root.absolute()
        return replace(place, root=_below_home(root) if self._engine.node_local else root)

    async def arrivals(self) -> list[Link]:
        """Return the nodes that have come since the last call; wait for the next look if there is none.

        Raises:
            StorageError: the folder is not shared by the nodes, or none can be started.
        """
        while True:
            if not self._first:
                await asyncio.sleep(_LOOK)
            links = await self._new_nodes()
            if links or self._first:
                first, self._first = self._first, False
                if first and not links:
                    raise StorageError(
                        "the Ray cluster has no node with a processor; add one, or look at ray status",
                        remedy=Remedy.ABORT,
                    )
                return links

    def notes(self) -> list[str]:
        """Return a sentence for each node that came and could take no part in the run."""
        return [f"a node took no part in the run: {why}" for why in self._unfit.values()]

    async def _new_nodes(self) -> list[Link]:
        alive = await self._alive()
        for gone in set(self._actors) - set(alive):
            del self._actors[gone]
        for name, relays in self._actors.items():
            ended = [relay for relay in relays if relay.has_ended]
            self._deaths[name] += len(ended)
            self._why = next((relay.why for relay in ended if relay.why), self._why)
            relays[:] = [relay for relay in relays if not relay.has_ended]
        given_up = {name for name, deaths in self._deaths.items() if deaths >= _DEATHS * self._processes}
        good = [name for name in alive if name not in given_up | self._unfit.keys()]
        if alive and not good and not any(self._actors.values()):
            deaths = f"the worker of each has ended {_DEATHS} times ({self._why or 'killed'})"
            raise StorageError(
                f"no node is left: {next(iter(self._unfit.values()), deaths)}; a node needs what a run on it "
                "would need: credentials, packages, memory",
                remedy=Remedy.ABORT,
            )
        new = [name for name in good if not self._actors.get(name)]
        if self._engine.nodes:
            new = new[: max(0, self._engine.nodes - sum(bool(r) for r in self._actors.values()))]
        found = await asyncio.gather(*(self._start(alive[name]) for name in new), return_exceptions=True)
        links = [link for result in found if not isinstance(result, BaseException) for link in result]
        failed = [result for result in found if isinstance(result, BaseException)]
        unfit = [error for error in failed if isinstance(error, _UnfitNodeError)]
        results = zip(new, found, strict=True)
        self._unfit |= {name: str(why) for name, why in results if isinstance(why, _UnfitNodeError)}
        if failed and self._first and (unfit or not links):
            raise (unfit or failed)[0]
        return links

    async def seen(self, probe: Path) -> list[tuple[str, bool]]:
        """Return the name of each node, and whether it sees the file `probe`; no worker is started.

        Raises:
            StorageError: the cluster or a node does not answer.
        """
        alive = await self._alive()
        names = [_name(node) for node in alive.values()]
        asked = (self._sees(node, probe) for node in alive.values())
        found = await asyncio.gather(*asked, return_exceptions=True)  # all have ended before Ray is left
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [(name, each is True) for name, each in zip(names, found, strict=True)]

    async def _sees(self, node: dict[str, Any], probe: Path) -> bool:
        actor = self._on(node)
        try:
            at = str(_below_home(probe) if self._engine.node_local else probe)
            return bool(await asyncio.wait_for(_result(actor.sees.remote(at)), _SEES))
        except Exception as error:
            raise StorageError(f"{_name(node)} does not answer: {_why(error)}") from None
        finally:
            with suppress(Exception):
                _ray().kill(actor)

    def _on(self, node: dict[str, Any]) -> Any:
        """Return a new actor on a node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return self._actor.options(
            num_cpus=_CPUS, max_restarts=0, max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote()  # fmt: skip

    async def _alive(self) -> dict[str, dict[str, Any]]:
        """Return the nodes that can run an actor: a head without processors is common."""
        try:
            nodes = await asyncio.to_thread(_ray().nodes)
        except Exception as error:  # Ray has many kinds
            raise StorageError(
                f"the Ray cluster does not answer any more ({_why(error)}); run the same command again when "
                "it is back",
                remedy=Remedy.ABORT,
            ) from None
        return {
            each["NodeID"]: each
            for each in nodes
            if each["Alive"] and each["Resources"].get("CPU", 0) >= _CPUS
        }

    async def _start(self, node: dict[str, Any]) -> list[Link]:
        """Start the workers of one node."""
        probe = None if self._place.bucket else await asyncio.to_thread(_write_probe, self._place.root)
        name, links = _name(node), list[Link]()
        relays = self._actors.setdefault(node["NodeID"], [])
        for _ in range(self._processes):
            actor = self._on(node)
            relay = _Relay(actor)
            try:
                at = str(_below_home(probe) if probe and self._engine.node_local else probe or "")
                found = await asyncio.wait_for(_result(actor.start.remote(at)), _START)
            except Exception as error:
                raise StorageError(
                    f"{name} cannot start a worker: {_why(error)}", remedy=Remedy.ABORT
                ) from None
            try:
                self._check(name, found, probe, node_local=self._engine.node_local)
                if found["sees"] and self._engine.node_local:
                    self._check_alone(node["NodeID"], name)
            except _UnfitNodeError:
                relay.kill()
                raise
            links.append(
                Link(
                    name, await relay.begin(), relay.ended, relay.kill, _source(node),
                    str(node["NodeManagerHostname"]), str(node["NodeManagerAddress"]),
                )
            )  # fmt: skip
            relays.append(relay)
        return links

    def _check_alone(self, node: str, name: str) -> None:
        """Raise _UnfitNodeError if a second node sees the run's folder: it is not local to a node.

        One node may see it: that of the machine of the run.
        """
        self._seen_by[node] = name
        if len(self._seen_by) > 1:
            names = ", ".join(list(self._seen_by.values())[:3])
            raise _UnfitNodeError(
                f"--node-local: {len(self._seen_by)} nodes see the same {self._place.root} ({names}); leave "
                "it out if the folder is shared by all nodes, or give a folder on a disk of each node"
            )

    @staticmethod
    def _check(name: str, found: dict[str, Any], probe: Path | None, *, node_local: bool = False) -> None:
        """Raise _UnfitNodeError if a node has another version, or another folder under the same path."""
        if (found["version"], found["python"]) != (__version__, sys.version_info[:2]):
            python = ".".join(map(str, found["python"]))
            raise _UnfitNodeError(
                f"{name} has osp-fetch {found['version']} on Python {python}, this machine {__version__} on "
                f"{sys.version_info[0]}.{sys.version_info[1]}; install the same on all nodes"
            )
        if probe is not None and not found["sees"] and not node_local:
            raise _UnfitNodeError(
                f"{name} does not see {probe.parent.parent}: the folder is not shared; give one of a shared "
                "file system, or a bucket, or let each node keep what it fetches on its own disk with "
                "--node-local"
            )


class _Relay:
    """The bytes between the run's channel and an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._tasks: set[asyncio.Task[None]] = set()
        self._status: int | None = None  # of the worker process, once it is known
        self.why = ""  # its last words
        self.has_ended = False

    async def begin(self) -> Channel:
        """Begin to relay, and return the channel of the run."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=theirs, limit=_BLOCK)
        self._tasks = {asyncio.create_task(self._push()), asyncio.create_task(self._pull())}
        return await Channel.over(ours)

    async def ended(self) -> int | None:
        """Return the exit status of the worker process, None if it is not known to have ended."""
        return self._status

    def kill(self) -> None:
        """End the actor and its worker."""
        self.has_ended = True
        with suppress(Exception):
            _ray().kill(self._actor)

    async def close(self) -> None:
        """Stop relaying."""
        await stop(self._tasks)
        self._writer.close()
        self.kill()

    async def _push(self) -> None:
        with suppress(Exception):  # the actor has died: the other direction reports it
            while data := await self._reader.read(_BLOCK):
                await _result(self._actor.push.remote(data))

    async def _pull(self) -> None:
        try:
            while True:
                data, status, self.why = await _result(self._actor.pull.remote())
                self._writer.write(data)
                await self._writer.drain()
                if status is not None:
                    self._status = status
                    break
        except Exception:  # of Ray: the actor or its node has died
            pass
        self.has_ended = True
        self._writer.close()


@dataclass(slots=True)
class _Actor:
    """The actor on a node: starts a worker process, and relays between it and the run."""

    _process: Any = None
    _reader: Any = None
    _writer: Any = None

    async def start(self, probe: str) -> dict[str, Any]:
        """Start the worker, and return what the node has."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "osp_fetch.workers.worker", str(theirs.fileno()),
            pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        theirs.close()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_BLOCK)
        return {
            "version": __version__,
            "python": sys.version_info[:2],
            "sees": bool(probe) and await self.sees(probe),
        }

    async def sees(self, probe: str) -> bool:
        """Return whether this node has the file `probe`, whose path may begin with `~`."""
        return await asyncio.to_thread(_sees, probe)

    async def push(self, data: bytes) -> None:
        """Pass bytes of the run to the worker."""
        self._writer.write(data)
        await self._writer.drain()

    async def pull(self) -> tuple[bytes, int | None, str]:
        """Return bytes of the worker; its exit status and the last line it printed once it has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                if data := await self._reader.read(_BLOCK):
                    return data, None, ""
                printed = await self._process.stderr.read()
                lines = redact(printed.decode("utf-8", "replace")).strip().splitlines()
                return b"", await self._process.wait(), lines[-1][:300] if lines else ""
        return b"", None, ""


def _ray() -> Any:
    """Return the module `ray`.

    Raises:
        SettingsError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray; run: pip install 'osp-fetch[ray]'") from None
    return ray


def _sees(probe: str) -> bool:
    return Path(probe).expanduser().is_file()


def _below_home(place: Path) -> Path:
    """Return a path as nodes with other home directories name it: with `~` for that of the user."""
    home = Path.home()
    if home != Path("/") and place.is_relative_to(home):
        return Path("~", place.relative_to(home))
    return place


async def _result(reference: Any) -> Any:
    return await asyncio.wrap_future(reference.future())


def _write_probe(root: Path) -> Path:
    """Write the file by which nodes show that they see the same folder, and return its path."""
    place = _probe(root)
    place.write_text(socket.gethostname())
    return place


def _probe(root: Path) -> Path:
    return (root / STATE_FOLDER / "shared-folder-probe").absolute()


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _source(node: dict[str, Any]) -> str:
    """Return the address of a node that shares a machine with others, so that each has its own; else ""."""
    address = str(node["NodeManagerAddress"])
    return address if address.startswith("127.") and address != "127.0.0.1" else ""


def _why(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
