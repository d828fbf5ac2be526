"""What watches a run of `get` from afar, as its flags ask: the notifier and the metrics."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import FetchError, SettingsError
from ..model.settings import Settings
from ..s3.address import is_bucket
from ..storage.destination import destination
from . import exits
from .flags import PREFIX, Line
from .options import usage
from .report import check_report, summary_at, write_report

if TYPE_CHECKING:
    from ..archives.extractor import Unpacker
    from ..model.events import Observer
    from ..model.report import Report
    from ..options import PlainOptions
    from ..views.board import Board
    from ..views.delivery import Target
    from ..views.exposition import Exposed
    from ..views.free_space import FreeSpace
    from ..views.metrics import Surroundings
    from ..views.notify import Notifier

F = TypeVar("F", bound=Callable[..., Any])

_METRICS: Final = b"# HELP osp_fetch_"  # how a file of metrics begins
_CHECK: Final = 20.0  # seconds for the check of all addresses


def notify_flags(command: F) -> F:
    """Add the flags that name where notices go."""
    for option in (
        click.option(
            "--on-event",
            type=Line(),
            multiple=True,
            envvar=PREFIX + "ON_EVENT",
            metavar="CMD",
            help="Run CMD for each notice, with a JSON object on stdin (repeatable).",
        ),
        click.option(
            "--notify",
            multiple=True,
            envvar=PREFIX + "NOTIFY",
            metavar="URL|@FILE",
            help="Send messages to an address of apprise, or to those in FILE (repeatable).",
        ),
    ):
        command = option(command)
    return command


def watch_flags(command: F) -> F:
    """Add the flags of `get` for those who do not sit at its terminal."""
    for option in (
        click.option(
            "--report",
            envvar=PREFIX + "REPORT",
            metavar="FILE",
            help="When the run ends, write what the runs of the folder did to FILE, an HTML page.",
        ),
        click.option(
            "--metrics-file",
            envvar=PREFIX + "METRICS_FILE",
            metavar="FILE.prom",
            help="Keep the metrics up to date in FILE.prom, for node_exporter.",
        ),
        click.option(
            "--metrics",
            envvar=PREFIX + "METRICS",
            metavar="PORT|HOST:PORT",
            help="Serve metrics for Prometheus over HTTP; HOST is 127.0.0.1 by default.",
        ),
    ):
        command = option(command)
    return notify_flags(command)


def check_watching(flags: dict[str, Any]) -> dict[str, str]:
    """Check the flags of `watch_flags` as a run does, and return what they would do, by name.

    Raises:
        SettingsError: An address is not known, a package is not installed, or a file cannot be used.
        StorageError: A report cannot be written.
        click.UsageError: A flag is malformed.
    """
    found: dict[str, str] = {}
    _check_empty(flags)
    if targets := targets_of(flags):
        found["notices"] = f"to {', '.join(target.name for target in targets)}"
    if flags["metrics"] or flags["metrics_file"]:
        _need_metrics()
    if flags["metrics"]:
        from ..views.exposition import metrics_address

        host, port = usage(metrics_address, flags["metrics"])
        found["metrics"] = port_of(host, port)
    if flags["metrics_file"]:
        found["metrics file"] = str(metrics_file(Path(flags["metrics_file"])))
    if flags["report"]:
        check_report(Path(flags["report"]))
        found["report"] = str(flags["report"])
    return found


def _check_empty(flags: dict[str, Any]) -> None:
    """Raise click.UsageError for a flag with an empty value, as an unset variable gives it."""
    for name in ("metrics", "metrics_file", "report", "on_event"):
        value = flags[name]
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise click.UsageError(f"--{name.replace('_', '-')}: the value is empty")


def port_of(host: str, port: int) -> str:
    """Return where something will be served, and whether that port can be used now; port 0 is a free one."""
    where = f"port {port} of {host}" if port else f"a free port of {host}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"{where} cannot be used now ({error.strerror})"
    return where


def _need_metrics() -> None:
    """Raise SettingsError if the package for metrics is not installed."""
    if find_spec("prometheus_client") is None:
        raise SettingsError(
            "--metrics needs prometheus_client, which is not installed: pip install 'osp-fetch[metrics]'"
        )


class Watching:
    """The views for people elsewhere, as a context around a run.

    Args:
        flags: Flags by parameter name.
        made: Options of the library.
        board: The state of the run.

    Attributes:
        observers: The observers of the run that feed the views; the board is the first.
        report: The report, to be set when the run has ended.
        code: The exit code, to be set at the end of the context.
        unpacker: Unpacks archives, to be set where there is one.
    """

    def __init__(self, flags: dict[str, Any], made: PlainOptions, board: Board) -> None:
        self.board = board
        self.observers: list[Observer] = [board]
        self.report: Report | None = None
        self.code = exits.SOME_FAILED
        self.unpacker: Unpacker | None = None
        self._flags, self._made = flags, made
        output = str(flags["output"])
        self._place = output if is_bucket(output) else str(Path(output).absolute())
        self._notifier: Notifier | None = None
        self._exposed: Exposed | None = None
        self._space: FreeSpace | None = None
        self._unpacked: Counter[str] = Counter()
        self._ended: int | None = None
        self._stack = AsyncExitStack()

    @property
    def is_wanted(self) -> bool:
        """Whether there is any such view."""
        return self._notifier is not None or self._exposed is not None

    def unpacked(self, *, broken: bool) -> None:
        """Count an archive. May be called from any thread."""
        self._unpacked["broken" if broken else "unpacked"] += 1

    async def __aenter__(self) -> Watching:
        _check_empty(self._flags)
        targets = await asyncio.to_thread(targets_of, self._flags)
        metrics = self._flags["metrics"] or self._flags["metrics_file"]
        if self._flags["report"]:
            check_report(Path(self._flags["report"]))
        if (targets or metrics) and not is_bucket(self._place):
            from ..views.free_space import FreeSpace

            self._space = self._stack.enter_context(FreeSpace(Path(self._place)))
        try:
            if metrics:
                await self._measure()
            if targets:
                await self._notify(targets)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _notify(self, targets: Sequence[Target]) -> None:
        from ..views.delivery import Channel
        from ..views.fanout import Ticking
        from ..views.notices import Notices
        from ..views.notify import Notifier

        settings: Settings = self._made["settings"]
        shard = self._made.get("shard")
        place = f"{self._place} (shard {shard[0]} of {shard[1]})" if shard else self._place
        notices = Notices(settings.notify, place, socket.gethostname())
        channels = [Channel(target, settings.notify.timeout) for target in targets]
        room = self._space.beside(settings.storage.min_free) if self._space else lambda: None
        self._notifier = Notifier(self.board, notices, channels, room)
        self.observers.append(self._notifier)
        await self._stack.enter_async_context(Ticking(self._notifier, at_end=False))

    async def _measure(self) -> None:
        """Start the metrics. Raises SettingsError if they cannot be served or written."""
        _need_metrics()
        from ..views.exposition import Exposed, MetricsFile, MetricsServer, metrics_address
        from ..views.fanout import Ticking
        from ..views.metrics import RunMetrics

        metrics = RunMetrics(self.board)
        shard = self._made.get("shard")
        run = self._place, f"{shard[0]}/{shard[1]}" if shard else ""
        self._exposed = Exposed(metrics, run, self._around)
        self.observers.append(metrics)
        if self._flags["metrics"]:
            address = usage(metrics_address, self._flags["metrics"])
            server = self._stack.enter_context(MetricsServer(address, self._exposed))
            if not self._flags["quiet"]:
                click.echo(f"metrics: {server.url}", err=True)
        if self._flags["metrics_file"]:
            place = metrics_file(Path(self._flags["metrics_file"]))
            self._stack.enter_context(MetricsFile(place, self._exposed))
        await self._stack.enter_async_context(Ticking(self._exposed))

    def _write_report(self) -> None:
        """Write the report. What prevents it is printed: the run itself has ended."""
        try:
            where = destination(str(self._flags["output"]), self._made.get("state"))
            if not (where.root / ".osp-fetch").is_dir():
                return  # the run could not begin
            write_report(summary_at(where, self._made["settings"]), Path(self._flags["report"]))
        except Exception as error:  # whatever it is, the run has ended, and its end is printed next
            is_known = isinstance(error, (FetchError, OSError))
            click.echo(f"--report: {error if is_known else f'a bug in osp-fetch ({error!r})'}", err=True)

    def _around(self) -> Surroundings:
        from ..views.metrics import Surroundings

        archives = dict(self._unpacked)
        if self.unpacker is not None:
            archives["unpacking"] = max(0, self.unpacker.begun - self._unpacked.total())
        free, capacity = (self._space.free, self._space.capacity) if self._space else (None, None)
        return Surroundings(free, capacity, archives, self._ended)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, FetchError):
            self.code = exits.code_of(error)
        self._ended = self.code
        await asyncio.shield(self._stack.aclose())
        if self._flags["report"]:
            await asyncio.to_thread(self._write_report)
        if self._notifier is None:
            return
        report = self.report if error is None else None
        said = str(error) if isinstance(error, FetchError) else kind.__name__ if kind else None
        self._notifier.ended(report, said, self.code)
        for note in await asyncio.to_thread(self._notifier.close):
            click.echo(note, err=True)


def metrics_file(place: Path) -> Path:
    """Return where metrics are written, as an absolute path.

    Raises:
        SettingsError: node_exporter would not read it, it cannot be written, or it holds something else.
    """
    if place.suffix != ".prom":
        raise SettingsError(
            f"--metrics-file: {place} must end in .prom; node_exporter reads no other file of its folder"
        )
    if not os.access(place.absolute().parent, os.W_OK | os.X_OK):
        raise SettingsError(f"--metrics-file: {place.absolute().parent} is not a folder that can be written")
    try:
        with place.open("rb") as file:
            begin = file.read(len(_METRICS))
    except FileNotFoundError:
        begin = b""
    except OSError as error:
        raise SettingsError(f"--metrics-file: {place} cannot be read ({error.strerror})") from None
    if begin not in (b"", _METRICS):
        raise SettingsError(f"--metrics-file: {place} holds something else than metrics of osp-fetch")
    return place.absolute()


def targets_of(flags: dict[str, Any]) -> list[Target]:
    """Return where notices go.

    Args:
        flags: Flags by parameter name.

    Raises:
        SettingsError: apprise is not installed, does not know an address, or a file cannot be read.
    """
    if not (flags["notify"] or flags["on_event"]):
        return []
    from ..views.delivery import Target, unknown_addresses

    urls = [url for text in flags["notify"] for url in _urls(text)]
    if flags["notify"] and not urls:
        raise SettingsError(f"--notify: {', '.join(flags['notify'])} names no address")
    if urls and find_spec("apprise") is None:
        raise SettingsError("--notify needs apprise, which is not installed: pip install 'osp-fetch[notify]'")
    targets = [Target.of_url(url) for url in urls]
    for number in unknown_addresses(urls, _CHECK) if urls else ():
        raise SettingsError(
            f"--notify: address {number + 1} ({targets[number].name}) is not known to apprise; its "
            "documentation lists the forms, such as ntfys://ntfy.sh/TOPIC or mailto://USER:PASSWORD@HOST"
        )
    return [*targets, *(Target.of_command(command) for command in flags["on_event"])]


def _urls(text: str) -> list[str]:
    """Return the addresses that a value of --notify names: itself, or the lines of the file after an @."""
    if not text.startswith("@"):
        return [text.strip()]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--notify: {text[1:]} cannot be read ({error})") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
