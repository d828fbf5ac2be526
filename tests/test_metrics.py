"""Tests of metrics: their values, their bounds, how they are served and written, and the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.demo import media
from osp_fetch.demo.server import Exchange
from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import NetworkError
from osp_fetch.model.report import Outcome, Status
from osp_fetch.views.board import Board
from osp_fetch.views.exposition import Exposed, MetricsFile, MetricsServer, metrics_address
from osp_fetch.views.metrics import METRICS, RUN_LABELS, RunMetrics, Surroundings
from osp_fetch.views.totals import OTHER, Named
from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "examples" / "grafana"


@pytest.fixture(autouse=True)
def needs_prometheus() -> None:
    pytest.importorskip("prometheus_client")


class Run:
    """A board and its metrics, fed with the same events."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.board = Board(clock=lambda: self.now, wall=lambda: self.now)
        self.metrics = RunMetrics(self.board)

    def __call__(self, *seen: events.Event) -> Run:
        for event in seen:
            self.board(event)
            self.metrics(event)
        return self

    def exposed(self, around: Surroundings | None = None) -> Exposed:
        return Exposed(self.metrics, ("/data", "0/8"), lambda: around or Surroundings())

    def value(self, name: str, *labels: str, around: Surroundings | None = None) -> float | None:
        return self.metrics.values(around or Surroundings()).get(f"osp_fetch_{name}", {}).get(labels)


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample of an exposition: (name, labels) → value."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def outcome(path: str, status: Status = Status.FETCHED) -> events.Finished:
    error = NetworkError("cut") if status in (Status.FAILED, Status.PARKED) else None
    return events.Finished(Outcome(path, status, entry(path, "http://h/x", size=5), 5, error=error))


def test_a_run_is_counted_by_host_outcome_and_cause() -> None:
    run = Run()(
        events.RowsRead(4, 4, 20, 5000.0), events.ManifestEnded(),
        events.Opened("a", "h:80"), events.Wrote("a", 5, "h:80"), events.Closed("a", "h:80"), outcome("a"),
        events.Opened("b", "h:80"), events.Opened("b", "i:80"), events.Wrote("b", 3, "i:80"),
        events.Retrying("b", "network", 2.5, "cut"), events.Lost("b", 2), events.Cooling("h:80", 30, "429"),
        events.LimitChanged("h:80", 16, "it pays"), events.HostDown("i:80", 1.0), outcome("c", Status.FAILED),
        events.Parked(1),
    )  # fmt: skip
    assert run.value("received_bytes_total", "h:80") == 5
    assert run.value("received_bytes_total", "i:80") == 3
    assert run.value("connections", "h:80") == 1
    assert run.value("connection_limit", "h:80") == 16
    assert (run.value("host_up", "h:80"), run.value("host_up", "i:80")) == (1, 0)
    assert run.value("hosts_down") == 1
    assert [run.value("files_total", status.value) for status in Status] == [1, 0, 0, 1]
    assert run.value("failures_total", "network") == 1
    assert run.value("retries_total", "network") == 1
    assert run.value("pauses_seconds_total", "h:80") == 30
    assert run.value("refetched_bytes_total") == 2
    assert (run.value("queued_files"), run.value("active_files"), run.value("parked_files")) == (0, 1, 1)
    assert run.value("expected_bytes") == 20
    assert run.value("links_left_seconds") == 4000
    run(events.LinksRenewed(1, 9000.0), events.HostBack("i:80"))
    assert run.value("links_left_seconds") == 8000
    assert (run.value("parked_files"), run.value("hosts_down")) == (0, 0)
    around = Surroundings(100, 500, {"unpacking": 2, "broken": 1}, 75)
    assert run.value("disk_free_bytes", around=around) == 100
    assert run.value("archives", "broken", around=around) == 1
    assert (run.value("running", around=around), run.value("exit_code", around=around)) == (0, 75)
    assert (run.value("running"), run.value("exit_code")) == (1, None)


def test_workers_are_counted_as_they_come_and_die() -> None:
    run = Run()
    assert run.value("workers") == 1
    run(events.WorkerStarted(0), events.WorkerStarted(1), events.WorkerDied(0, "killed"))
    assert (run.value("workers"), run.value("worker_deaths_total")) == (1, 1)
    run(events.WorkerStarted(0))
    assert run.value("workers") == 2


def test_no_label_grows_with_the_manifest_and_no_counter_falls() -> None:
    run = Run()
    before: dict[tuple[str, tuple[str, ...]], float] = {}
    for number in range(2000):
        host = f"h{number}.test:443"
        run(
            events.Opened(f"f{number}", host), events.Wrote(f"f{number}", 1, host),
            events.Cooling(host, 1.0, "429"), events.HostDown(host, 1.0), events.LimitChanged(host, 2, ""),
            events.Retrying(f"f{number}", f"cause {number}", 1.0, "x"), outcome(f"f{number}", Status.FAILED),
        )  # fmt: skip
        if number % 100 == 0:
            values = run.metrics.values(Surroundings())
            now = {
                (m.name, k): v
                for m in METRICS
                if m.kind == "counter"
                for k, v in values.get(m.name, {}).items()
            }
            assert all(now[key] >= value for key, value in before.items())
            before = now
    values = run.metrics.values(Surroundings())
    assert max(len(each) for each in values.values()) == 51
    received = values["osp_fetch_received_bytes_total"]
    assert sum(received.values()) == 2000
    assert received[(OTHER,)] == 1950
    assert values["osp_fetch_connections"][(OTHER,)] == 1950


def test_a_host_that_is_called_other_is_no_way_around_the_bound() -> None:
    named = Named(2)
    for name in (OTHER, "a", "b", "c", OTHER):
        named.add(name)
    assert named == {OTHER: 3, "a": 1, "b": 1}


def test_every_metric_is_exposed_with_its_help_and_type() -> None:
    run = Run()(
        events.RowsRead(9, 9, 90, 5000.0), events.ManifestEnded(), events.Opened("a", "h:80"),
        events.Wrote("a", 5, "h:80"), events.Retrying("a", "network", 1, "x"), events.Cooling("h:80", 9, "x"),
        events.LimitChanged("h:80", 4, ""), outcome("c", Status.FAILED), events.NodeJoined("n", 1),
    )  # fmt: skip
    run.now += 5
    text = run.exposed(Surroundings(1, 2, {"unpacked": 1}, 0)).text()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        assert f"# HELP {metric.name} {metric.help}\n" in text
    assert all(("folder", "/data") in labels and ("shard", "0/8") in labels for _, labels in parsed(text))
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_hostile_names_stay_inside_their_label() -> None:
    host = 'evil"} 1\nosp_fetch_running{folder="x\\'
    text = Run()(events.Wrote("a", 5, host)).exposed().text()
    samples = parsed(text)
    assert [
        value for (name, labels), value in samples.items() if ("host", host) in labels and "bytes" in name
    ] == [5]
    assert sum(name == "osp_fetch_running" for name, _ in samples) == 1


# ---- over HTTP


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with MetricsServer(("127.0.0.1", 0), Run()(events.Wrote("a", 5, "h:80")).exposed()) as made:
        yield made


def asked(url: str, **headers: str) -> tuple[int, str, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", error.read().decode()


def test_prometheus_gets_the_text_format_and_openmetrics(server: MetricsServer) -> None:
    status, kind, text = asked(server.url)
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert 'host="h:80",shard="0/8"} 5.0' in text
    status, kind, text = asked(server.url, Accept="application/openmetrics-text; version=1.0.0")
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert asked(server.url.replace("/metrics", "/other"))[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("[::1]:80", 200),
        ("evil.test", 403),
        ("127.0.0.1.evil.test", 403),
    ],
)
def test_a_page_of_another_name_cannot_read_the_metrics(
    server: MetricsServer, host: str, status: int
) -> None:
    assert asked(server.url, Host=host)[0] == status


def test_a_client_that_sends_nothing_keeps_no_other_from_reading(server: MetricsServer) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert asked(server.url)[0] == 200


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_server_leaves_no_thread_and_no_socket() -> None:
    threads, descriptors = threading.active_count(), open_descriptors()
    with MetricsServer(("127.0.0.1", 0), Run().exposed()) as made:
        asked(made.url)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "process_request" in thread.name:
            thread.join(30)
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9105", ("127.0.0.1", 9105)), (":9105", ("127.0.0.1", 9105)), ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9105", ("::1", 9105)), ("node7:80", ("node7", 80)),
    ],
)  # fmt: skip
def test_without_a_host_the_metrics_are_for_this_machine(text: str, address: tuple[str, int]) -> None:
    assert metrics_address(text) == address


# ---- as a file


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_part(tmp_path: Path) -> None:
    place, run = tmp_path / "osp.prom", Run()
    exposed = run.exposed()
    wrong: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if place.exists() and not place.read_text().endswith("\n"):
                wrong.append("a part of a file")

    reader = threading.Thread(target=read)
    reader.start()
    with MetricsFile(place, exposed, period=0.001):
        for number in range(300):
            run(events.Wrote("a", 1, f"h{number}:80"))
            exposed.tick()
    over.set()
    reader.join()
    assert wrong == []
    assert (
        parsed(place.read_text())[
            ("osp_fetch_received_bytes_total", (("folder", "/data"), ("host", "other"), ("shard", "0/8")))
        ]
        == 250
    )
    assert [each.name for each in tmp_path.iterdir()] == ["osp.prom"]


def test_a_folder_that_vanishes_ends_nothing(tmp_path: Path) -> None:
    place = tmp_path / "gone" / "osp.prom"
    with MetricsFile(place, Run().exposed(), period=0.001):
        pass
    assert not place.exists()


# ---- the command line


async def test_get_serves_and_writes_what_it_does(origin: Origin, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(exchange: Exchange, page: o.Page) -> None:
        await release.wait()
        await o.polite(exchange, page)

    slow = origin.add("slow.bin", noise(200_000), always=held)
    (tmp_path / "m.txt").write_text(f"{origin.add('a.bin', noise(1000))}\n{slow}\n")
    words = ["m.txt", "-o", "out", *QUICK, "--metrics", "0", "--metrics-file", "osp.prom"]
    process = await start("get", *words, cwd=tmp_path)
    assert process.stderr is not None
    url = ""
    while not url:
        line = (await process.stderr.readline()).decode()
        url = line.partition("metrics: ")[2].strip()
    seen: dict[str, float] = {}
    while len(seen) < 2:
        _, _, text = await asyncio.to_thread(asked, url)
        for (name, labels), value in parsed(text).items():
            if name == "osp_fetch_received_bytes_total" and ("folder", str(tmp_path / "out")) in labels:
                seen["received"] = value
            if name == "osp_fetch_disk_free_bytes":
                seen["free"] = value
        await asyncio.sleep(0.02)
    assert seen["received"] == 1000
    release.set()
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    samples = {name: value for (name, _), value in parsed((tmp_path / "osp.prom").read_text()).items()}
    assert samples["osp_fetch_received_bytes_total"] == 201_000
    assert (samples["osp_fetch_running"], samples["osp_fetch_exit_code"]) == (0, 0)
    assert samples["osp_fetch_disk_size_bytes"] > 0
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(asked, url)


async def test_archives_are_counted_by_state(origin: Origin, tmp_path: Path) -> None:
    whole = media.sa1b_tar(1, 50_000)
    urls = [origin.add("a.tar", whole), origin.add("b.tar", whole[:20_000])]
    (tmp_path / "m.txt").write_text("\n".join(urls))
    words = ["m.txt", "-o", "out", *QUICK, "--unpack", "--metrics-file", "osp.prom"]
    code, _, err = await get("get", *words, cwd=tmp_path)
    assert code == 1, err
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in parsed((tmp_path / "osp.prom").read_text()).items()
        if name == "osp_fetch_archives"
    }
    assert states == {"unpacking": 0, "unpacked": 1, "broken": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "nowhere"], "HOST:PORT"),
        (["--metrics", "127.0.0.1:99999"], "HOST:PORT"),
        (["--metrics-file", "osp.txt"], "must end in .prom"),
        (["--metrics-file", "absent/osp.prom"], "not a folder that can be written"),
    ],
)
async def test_what_cannot_be_served_is_said_before_the_run(
    tmp_path: Path, words: list[str], said: str
) -> None:
    code, _, err = await get("get", "http://127.0.0.1:9/a", "-o", "out", *words, cwd=tmp_path)
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


async def test_a_file_of_another_program_is_not_replaced_and_an_older_one_is(
    origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "other.prom").write_text("# HELP node_x y\n")
    url = origin.add("a", noise(9))
    words = ["get", url, "-o", "out", *QUICK, "--metrics-file"]
    code, _, err = await get(*words, "other.prom", cwd=tmp_path)
    assert (code, "something else" in err) == (2, True)
    assert (tmp_path / "other.prom").read_text() == "# HELP node_x y\n"
    for _ in range(2):
        code, _, err = await get(*words, "osp.prom", cwd=tmp_path)
        assert code == 0, err


async def test_a_port_in_use_is_said_before_the_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await get("get", "http://127.0.0.1:9/a", "--metrics", port, cwd=tmp_path)
    assert code == 2
    assert "choose another port" in err


def test_without_prometheus_client_the_message_names_the_extra(without: Callable[..., Any]) -> None:
    done = without({"prometheus_client"}, "get", "http://127.0.0.1:9/a", "--metrics", "0")
    assert done.returncode == 2
    assert "osp-fetch[metrics]" in done.stderr


# ---- the dashboard and the alerts


def queries() -> list[str]:
    """Return every query of the dashboard and of the alerts."""
    dashboard = json.loads((GRAFANA / "osp-fetch.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in dashboard["annotations"]["list"]]
    found += [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    yaml = pytest.importorskip("yaml")
    rules = yaml.safe_load((GRAFANA / "alerts.yml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_every_query_names_metrics_and_labels_that_exist() -> None:
    labels = {metric.name: {*RUN_LABELS, *metric.labels} for metric in METRICS}
    used: set[str] = set()
    for query in queries():
        names = set(re.findall(r"\bosp_fetch_\w+", query))
        assert names, query
        assert names <= set(labels), query
        used |= names
        known = set.union(*(labels[name] for name in names))
        grouped = [
            word for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for word in group.split(",")
        ]
        matched = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", query)
        assert {each.strip() for each in grouped} | set(matched) <= known, query
    charted = {"received_bytes_total", "files_total", "retries_total", "connections", "connection_limit"}
    assert {f"osp_fetch_{name}" for name in charted} <= used


def test_every_query_is_valid_promql() -> None:
    promql = pytest.importorskip("promql_parser")
    for query in queries():
        if query.startswith("label_values("):
            continue  # a function of Grafana
        promql.parse(query.replace("$__rate_interval", "5m").replace("$folder", ".*"))


def test_the_dashboard_asks_the_data_source_that_is_chosen_and_has_no_panel_twice() -> None:
    dashboard = json.loads((GRAFANA / "osp-fetch.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
