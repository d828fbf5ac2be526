"""Steering: applies commands to a run, and holds what is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Protocol

from ..connections.totals import per_host
from ..engine.context import Context, files_in_progress
from ..model import events
from ..model.dataclasses import dataclass
from ..model.errors import FetchError, ManifestError
from ..model.timetable import Timetable
from ..model.urls import shown
from ..views import formatting
from ..views.status_lines import rate_limit
from ..workers.limits import RunLimits, Workers, part_of
from . import commands
from .commands import Command, CommandError

# Seconds for which a paused host is sent no request. Each tick renews it.
_HOLD: Final = 3.0
# Hosts that may be paused at a time.
_MOST_HOSTS: Final = 1000


class Links(Protocol):
    """A source of fresh links that takes a further link file."""

    def offer(self, file: Path) -> None:
        """Take fresh links from `file` as well. Raises ManifestError if it has none."""
        ...


class Work(Protocol):
    """The run as far as commands change what it fetches."""

    def retry_failed(self) -> int | None:
        """Fetch the files that have failed again; return their number, None if the run is ending."""
        ...

    async def add(self, source: str) -> bool:
        """Fetch the files of `source`, too; return False if the run is ending. Raises FetchError."""
        ...


@dataclass(slots=True)
class SteeringState:
    """What commands have changed. Runs that share their connections share it.

    Attributes:
        usual: The number of connections that the settings and this process allow.
        is_fixed: Whether the settings state that number.
        rate: The byte rate, as `limits.rate` has it.
        most: The number of connections that a command has chosen, None if none has.
        paused: Whether everything is paused.
        place: Which part of the limits is used, from 0.
        parts: Number of parts.
        hosts: The hosts that are paused.
        is_changed: Whether a command has changed anything.
        is_shared: Whether several runs share it. Each of them gets every command.
    """

    usual: int
    is_fixed: bool
    rate: int | str
    most: int | None = None
    paused: bool = False
    place: int = 0
    parts: int = 1
    hosts: dict[str, None] = field(default_factory=dict)
    is_changed: bool = False
    is_shared: bool = False


class Steering:
    """Applies commands to one run, in its event loop.

    While the run or a host is paused, `tick` has to be called every `period` seconds: a request that was on
    its way when the pause began may be answered after it, and its transfer is closed then. The bytes that it
    has brought are held, as after any interruption.

    Args:
        context: The shared objects of the process of the run.
        status: Returns the state of the run as JSON-serializable values.
        ask_stop: Asks the run to stop for a reason.
        work: Repeats and adds files.
        links: Takes further link files; None if the manifest has no file.
        workers: The worker processes; None if the run fetches in its own process.

    Attributes:
        period: Seconds between two calls of `tick`.
    """

    period = 0.5

    def __init__(
        self,
        context: Context,
        status: Callable[[], dict[str, Any]],
        ask_stop: Callable[[str], None],
        work: Work,
        links: Links | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._context, self._status, self._ask_stop = context, status, ask_stop
        self._work, self._links, self._workers = work, links, workers
        limits = context.settings.limits
        self._now = SteeringState(context.pool.total, limits.connections != "auto", limits.rate)

    def divide(self, place: int, parts: int) -> None:
        """Keep to one part of the limits that the user has set, because other runs keep to the rest.

        Args:
            place: Which part, from 0.
            parts: Number of parts.
        """
        self._now.place, self._now.parts = place, parts
        self._limit(sheds=True)

    def take_over(self, before: Steering) -> None:
        """Apply what commands have changed in a run before, and from now on what they change in either."""
        self._now = before._now
        self._now.is_shared = True
        self._limit()
        if self._now.is_changed:
            self._tell(events.STILL_HOLDS)
        self.tick()

    async def __call__(self, words: Sequence[str]) -> dict[str, Any]:
        """Carry out a command.

        Args:
            words: The command and its arguments.

        Returns:
            `said`: what has changed, in words, empty for `status`; and `status`: the state of the run.

        Raises:
            CommandError: The command is not known, or cannot be carried out. Nothing has changed.
        """
        command = commands.parse(words)
        said = await self._apply(command)
        if said:
            self._tell(said)
            self.tick()
        return {"said": said, "status": self._status()}

    def tick(self) -> None:
        """Hold what is paused."""
        if self._now.paused:
            self._limit(sheds=True)
        for host in self._now.hosts:
            for name in self._context.pool.named(host):
                self._context.pool.cool(name, _HOLD, sheds=True)
            if self._workers is not None:
                self._workers.cool(host, _HOLD)

    async def _apply(self, command: Command) -> str:
        match command:
            case commands.Pause():
                self._now.paused = True
                return "paused; what is held is kept"
            case commands.Resume():
                self._now.paused = False
                self._limit()
                hosts = ", ".join(self._now.hosts)
                return f"resumed; still paused: {hosts}" if hosts else "resumed"
            case commands.SetRate(rate):
                self._now.rate = rate
                self._limit()
                return f"rate: {rate_limit(rate)}"
            case commands.SetConnections(most):
                return self._set_connections(most)
            case commands.PauseHost(host, pauses):
                return self._pause_host(host) if pauses else self._resume_host(host)
            case commands.RetryFailed():
                return self._retry_failed()
            case commands.Add(source):
                return await self._add(source)
            case commands.UseLinks(file):
                return await self._use_links(Path(file))
            case commands.Stop():
                self._ask_stop("osp-fetch ctl stop")
                return "stopping; what is held is saved"
            case _:
                return ""

    def _set_connections(self, most: int | None) -> str:
        least = self._workers.processes if self._workers else 1
        if most is None and self._now.is_fixed:
            raise CommandError(f"connections: the run was begun with {self._now.usual}; write that number")
        if most is not None and most < least:
            raise CommandError(f"connections: each of the {least} processes needs at least one")
        if most is not None and most > max(self._now.usual, self._context.pool.most):
            raise CommandError(
                f"connections: this run can have at most {self._context.pool.most}, because of its file "
                "descriptors or its memory"
            )
        self._now.most = most
        self._limit(sheds=True)
        self._context.places.resize(files_in_progress(most or self._now.usual))
        return f"connections: {most or f'auto, at most {self._now.usual}'}"

    def _limit(self, *, sheds: bool = False) -> None:
        """Give the present limits to the pool and the workers.

        Args:
            sheds: Whether transfers above a number that was chosen are closed; otherwise they end first.
        """
        pool, settings = self._context.pool, self._context.settings.limits
        total, is_fixed = self._now.most or self._now.usual, self._now.is_fixed or self._now.most is not None
        if is_fixed:
            total = max(1, part_of(total, self._now.place, self._now.parts))
        if self._now.paused:
            total, is_fixed = 0, True
        limits = RunLimits(
            Timetable.of(self._now.rate).divided(self._now.parts), total,
            per_host(settings, total or self._now.usual, self._now.parts), is_fixed,
            most_open=total if sheds and is_fixed else None, parts=self._now.parts,
        )  # fmt: skip
        pool.rate.change(limits.rate)
        pool.resize(total, is_fixed=is_fixed, most_open=limits.most_open, parts=self._now.parts)
        if self._workers is not None:
            self._workers.steer(limits)

    def _pause_host(self, host: str) -> str:
        if len(self._now.hosts) >= _MOST_HOSTS:
            raise CommandError(f"host: {_MOST_HOSTS} hosts are paused already")
        self._now.hosts[host] = None
        return f"{host} is paused; its files wait"

    def _resume_host(self, host: str) -> str:
        if host not in self._now.hosts and not self._now.is_shared:
            paused = f"paused are {', '.join(self._now.hosts)}" if self._now.hosts else "no host is"
            raise CommandError(f"{host} is not paused; {paused}")
        self._now.hosts.pop(host, None)
        return f"{host} is resumed"

    def _retry_failed(self) -> str:
        count = self._work.retry_failed()
        if count is None:
            raise CommandError("retry-failed: the run is ending; run the same get again")
        if not count:
            raise CommandError("retry-failed: no file has failed that may be fetched again")
        return f"{formatting.count(count, 'failed file')} will be fetched again"

    async def _add(self, source: str) -> str:
        try:
            added = await self._work.add(source)
        except FetchError as error:
            raise CommandError(f"add: {error}") from None
        if not added:
            raise CommandError("add: the run is ending; begin another one with this SOURCE")
        return f"the files of {shown(source)} are fetched, too"

    async def _use_links(self, file: Path) -> str:
        if self._links is None:
            raise CommandError(
                "links: the manifest of this run is no file, so that it has no links to replace"
            )
        try:
            await asyncio.to_thread(self._links.offer, file)
        except ManifestError as error:
            raise CommandError(f"links: {error}") from None
        return f"fresh links are taken from {file.name}"

    def _tell(self, said: str) -> None:
        self._now.is_changed = True
        connections = self._now.most or (self._now.usual if self._now.is_fixed else "auto")
        hosts = tuple(self._now.hosts)
        self._context.observe(events.Steered(said, self._now.paused, hosts, self._now.rate, connections))
