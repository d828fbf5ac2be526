"""Exposition of metrics in the formats of Prometheus: over HTTP, and as a file for node_exporter."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ..model.errors import SettingsError
from ..storage.folder.disk import replace_text
from .metrics import METRICS, RUN_LABELS, RunMetrics, Surroundings, Values

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

_PERIOD: Final = 15.0  # seconds between two files; Prometheus looks every 15 to 60 s
_PATIENCE: Final = 10.0  # seconds for one request, so that a client that sends nothing holds no thread
_PLAIN: Final = [("Content-Type", "text/plain; charset=utf-8")]


class Exposed:
    """The metrics of one run as a collector of prometheus_client.

    The values are computed in the event loop at each `tick`. Other threads read the last ones.

    Args:
        metrics: The values.
        run: The values of RUN_LABELS.
        around: Returns what the events do not state; it must not block.

    Attributes:
        period: Seconds between two calls of `tick`.
    """

    period = 1.0

    def __init__(self, metrics: RunMetrics, run: tuple[str, ...], around: Callable[[], Surroundings]) -> None:
        self._metrics, self._run, self._around = metrics, run, around
        self._values: Values = metrics.values(around())

    def tick(self) -> None:
        """Compute the values."""
        self._values = self._metrics.values(self._around())

    def collect(self) -> Iterator[Family]:
        """Yield the metrics for prometheus_client. May be called in any thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        values = self._values
        for metric in METRICS:
            if metric.name not in values:
                continue
            labels = (*RUN_LABELS, *metric.labels)
            family: Any = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            made = family(metric.name.removesuffix("_total"), metric.help, labels=labels)
            for own, value in values[metric.name].items():
                made.add_metric((*self._run, *own), value)
            yield made

    def registry(self) -> CollectorRegistry:
        """Return a registry that holds this collector alone."""
        from prometheus_client.registry import CollectorRegistry

        made = CollectorRegistry(auto_describe=False)
        made.register(self)
        return made

    def text(self) -> str:
        """Return the metrics in the text format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry()).decode()


class MetricsFile:
    """Writes the metrics to a file again and again, in a thread. Use it as a context manager.

    The file is replaced atomically: node_exporter never sees a part of it. It has the permissions of the
    umask, because node_exporter is another user.

    Args:
        place: The file.
        exposed: The metrics.
        period: Seconds between two times.
    """

    def __init__(self, place: Path, exposed: Exposed, period: float = _PERIOD) -> None:
        self._place, self._exposed, self._period = place, exposed, period
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="osp-metrics-file", daemon=True)

    def __enter__(self) -> MetricsFile:
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            over = self._over.is_set()
            # a full disk must not end the thread; the next time it may have space again
            with contextlib.suppress(OSError):
                replace_text(self._place, self._exposed.text())
            if over:
                return
            self._over.wait(self._period)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)  # a network file system may hang


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, *_: object) -> None:
        """Log nothing: stderr is for the user."""


class MetricsServer:
    """Serves the metrics over HTTP, in threads. Use it as a context manager.

    On a loopback address, requests must name a loopback host: a page in a browser could otherwise read the
    metrics under a name of its own that leads to 127.0.0.1.

    Args:
        address: Host and port; port 0 takes a free one.
        exposed: The metrics.

    Raises:
        SettingsError: The address cannot be used.
    """

    def __init__(self, address: tuple[str, int], exposed: Exposed) -> None:
        from prometheus_client import make_wsgi_app

        self._host, self._app = address[0], make_wsgi_app(exposed.registry())
        server = _Server6 if ":" in address[0] else _Server
        try:
            self._server = make_server(*address, self._answer, server, _Handler)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"--metrics: {address[0]} port {address[1]} cannot be used ({error}); choose another port"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="osp-metrics", daemon=True
        )

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/metrics"

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not self._knows(environ.get("HTTP_HOST", "")):
            start("403 Forbidden", _PLAIN)
            return [b"The Host header names another host than this one.\n"]
        if environ.get("PATH_INFO") != "/metrics":
            start("404 Not Found", _PLAIN)
            return [b"The metrics are at /metrics.\n"]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer

    def _knows(self, header: str) -> bool:
        """Return whether the Host header is one by which this server is meant to be reached."""
        if not is_loopback(self._host):
            return True
        name = header.rpartition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
        return not header or is_loopback(name) or name == self._host

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def is_loopback(host: str) -> bool:
    """Return whether a name or an IP address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def metrics_address(text: str) -> tuple[str, int]:
    """Parse the value of --metrics: `HOST:PORT`, `[IPV6]:PORT`, `:PORT` or `PORT`.

    Returns:
        Host and port; without a host, 127.0.0.1.

    Raises:
        ValueError: `text` is anything else.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9105")
    return host or "127.0.0.1", int(port)
