"""Metrics of a run: their names, and their values at one moment. Without I/O and without prometheus_client.

The names follow the conventions of Prometheus: base units, `_total` for what only grows. Labels have few
values: hosts beyond the first fifty are added up under `other`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Final, Literal

from ..model import events
from ..model.dataclasses import dataclass
from ..model.report import Status
from .board import Board
from .totals import Totals


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: its full name.
        kind: whether it only grows.
        help: what it says, as one sentence.
        labels: names of its labels, beside those of the run.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


RUN_LABELS: Final = ("folder", "shard")
"""Labels of every metric: the output folder or bucket, and the shard such as `0/8`, or nothing."""

METRICS: Final = (
    Metric("osp_fetch_received_bytes_total", "counter", "Bytes received and written.", ("host",)),
    Metric("osp_fetch_refetched_bytes_total", "counter", "Bytes that were held and had to be fetched again."),
    Metric("osp_fetch_files_total", "counter", "Files that have ended.", ("outcome",)),
    Metric("osp_fetch_failures_total", "counter", "Files that failed or are parked.", ("cause",)),
    Metric("osp_fetch_retries_total", "counter", "Requests that are repeated.", ("cause",)),
    Metric(
        "osp_fetch_pauses_seconds_total", "counter", "Time for which servers asked for a pause.", ("host",)
    ),
    Metric("osp_fetch_disk_waits_total", "counter", "Times that a file has waited for disk space."),
    Metric("osp_fetch_worker_deaths_total", "counter", "Worker processes that died."),
    Metric("osp_fetch_running", "gauge", "1 while the run goes on, 0 when it has ended."),
    Metric("osp_fetch_start_time_seconds", "gauge", "When the run began, in Unix seconds."),
    Metric("osp_fetch_rows", "gauge", "Rows of the manifest that are read."),
    Metric("osp_fetch_rows_final", "gauge", "1 when all rows of the manifest are read."),
    Metric("osp_fetch_queued_files", "gauge", "Files that are read and not begun."),
    Metric("osp_fetch_active_files", "gauge", "Files in progress."),
    Metric("osp_fetch_parked_files", "gauge", "Files that wait for fresh links."),
    Metric("osp_fetch_done_bytes", "gauge", "Bytes that are held or published."),
    Metric("osp_fetch_expected_bytes", "gauge", "Bytes of all files, as far as known."),
    Metric("osp_fetch_goodput_bytes_per_second", "gauge", "Mean rate of the last 15 seconds."),
    Metric("osp_fetch_time_left_seconds", "gauge", "Estimated time to the end; absent while unknown."),
    Metric("osp_fetch_connections", "gauge", "Open connections.", ("host",)),
    Metric("osp_fetch_connection_limit", "gauge", "Connections that a host gets.", ("host",)),
    Metric("osp_fetch_host_up", "gauge", "1 if the host answers, 0 while it does not.", ("host",)),
    Metric("osp_fetch_hosts_down", "gauge", "Hosts that do not answer."),
    Metric("osp_fetch_links_expire_time_seconds", "gauge", "When the first link expires, in Unix seconds."),
    Metric("osp_fetch_links_left_seconds", "gauge", "Time until the first link expires."),
    Metric("osp_fetch_disk_free_bytes", "gauge", "Free bytes on the disk of the output folder."),
    Metric("osp_fetch_disk_size_bytes", "gauge", "Size of that disk."),
    Metric("osp_fetch_archives", "gauge", "Archives by state: unpacking, unpacked, broken.", ("state",)),
    Metric("osp_fetch_workers", "gauge", "Processes that fetch."),
    Metric("osp_fetch_nodes", "gauge", "Nodes of a cluster that take part; absent in other runs."),
    Metric("osp_fetch_node_received_bytes_total", "counter", "Bytes that a node has received.", ("node",)),
    Metric("osp_fetch_node_connections", "gauge", "Open connections of a node.", ("node",)),
    Metric("osp_fetch_exit_code", "gauge", "Exit code of the run; absent until it has ended."),
)

Labels = tuple[str, ...]
Values = Mapping[str, Mapping[Labels, float]]
"""Name of a metric → values of its own labels → its value."""


@dataclass(slots=True)
class Surroundings:
    """What the events of a run do not state.

    Attributes:
        free: free bytes on the disk, None if unknown.
        capacity: size of the disk in bytes, None if unknown.
        archives: state → number of archives; empty if none are unpacked.
        code: exit code of the run, None until it has ended.
    """

    free: int | None = None
    capacity: int | None = None
    archives: Mapping[str, int] = field(default_factory=dict)
    code: int | None = None


class RunMetrics:
    """An observer of a run that knows the values of all metrics.

    Args:
        board: The state of the run. It must receive the same events, before this observer.
    """

    passes_over: Final = Totals.passes_over

    def __init__(self, board: Board) -> None:
        self._board, self.totals = board, Totals()
        self._begun = board.wall()

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        self.totals(event)

    def values(self, around: Surroundings) -> Values:
        """Return the value of each metric now; a metric whose value is unknown is left out.

        Args:
            around: What the events do not state.
        """
        made: dict[str, dict[Labels, float]] = {}
        for name, labels, value in (
            *self._by_label(around), *self._nodes(), *self._grown(), *self._state(), *self._estimates(),
            *_around(around),
        ):  # fmt: skip
            if value is not None:
                made.setdefault(f"osp_fetch_{name}", {})[labels] = float(value)
        return made

    def _by_label(self, around: Surroundings) -> Iterator[tuple[str, Labels, float | None]]:
        board, totals = self._board, self.totals
        by_label: dict[str, Mapping[str, float]] = {
            "received_bytes_total": totals.hosts,
            "failures_total": totals.failures,
            "retries_total": totals.retries,
            "pauses_seconds_total": totals.pauses,
            "connections": totals.by_host(board.at_hosts),
            "archives": around.archives,
        }
        for name, counts in by_label.items():
            yield from ((name, (label,), count) for label, count in counts.items())
        yield from (("files_total", (status.value,), board.counts[status]) for status in Status)
        for host in totals.hosts:
            yield "host_up", (host,), float(host not in totals.down)
            if host in board.levels:
                yield "connection_limit", (host,), board.levels[host][0]

    def _nodes(self) -> Iterator[tuple[str, Labels, float | None]]:
        lines = [line for line in self._board.nodes.lines() if not line.left]
        if self._board.nodes.any:
            yield "nodes", (), len(lines)
        for line in lines:
            yield "node_received_bytes_total", (line.name,), line.received
            yield "node_connections", (line.name,), line.connections

    def _grown(self) -> Iterator[tuple[str, Labels, float | None]]:
        totals = self.totals
        yield "refetched_bytes_total", (), totals.lost
        yield "disk_waits_total", (), totals.waits
        yield "worker_deaths_total", (), totals.deaths

    def _state(self) -> Iterator[tuple[str, Labels, float | None]]:
        board, totals = self._board, self.totals
        yield "start_time_seconds", (), self._begun
        yield "rows", (), board.rows
        yield "rows_final", (), float(board.rows_final)
        yield "queued_files", (), max(0, board.rows - board.finished - len(board.files) - totals.parked)
        yield "active_files", (), len(board.files)
        yield "parked_files", (), totals.parked
        yield "done_bytes", (), board.done
        yield "hosts_down", (), len(totals.down)
        yield "workers", (), max(1, totals.workers)

    def _estimates(self) -> Iterator[tuple[str, Labels, float | None]]:
        board = self._board
        rate = board.rate()
        yield "expected_bytes", (), board.total
        yield "goodput_bytes_per_second", (), rate
        yield "time_left_seconds", (), board.eta(rate)
        if board.expires is not None:
            yield "links_expire_time_seconds", (), board.expires
            yield "links_left_seconds", (), board.expires - board.wall()


def _around(around: Surroundings) -> Iterator[tuple[str, Labels, float | None]]:
    yield "running", (), float(around.code is None)
    yield "disk_free_bytes", (), around.free
    yield "disk_size_bytes", (), around.capacity
    yield "exit_code", (), around.code
