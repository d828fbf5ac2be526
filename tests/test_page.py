"""Tests of the page of a run: who may see it, what it shows, and how it behaves in a real browser."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Error, Page, async_playwright

from osp_fetch import Event, Report, Settings, fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from osp_fetch.model.entry import Entry, entry
from osp_fetch.model.errors import Remedy, SettingsError, StatusError
from osp_fetch.model.report import Outcome, Status
from osp_fetch.views.board import Board
from osp_fetch.views.outlook import Pace, outlook
from osp_fetch.views.page.access import Access, Address, address
from osp_fetch.views.page.history import History, Sample
from osp_fetch.views.page.hosts import HostTable
from osp_fetch.views.page.server import Page as PageServer
from osp_fetch.views.page.state import PageState
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.origin import Page as OriginPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
TOKEN = "t" * 43
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;'\"`${1}.bin"


@asynccontextmanager
async def browsing(**options: Any) -> AsyncIterator[Page]:
    """Open a tab. An error of the page, and a request to anywhere but loopback, fails the test."""
    wrong: list[str] = []
    async with async_playwright() as playwright:
        # the sandbox of Chromium needs rights that a container often lacks; the page is ours
        browser: Browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = await (await browser.new_context(**options)).new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda each: None if _is_own(each.url) else wrong.append(each.url))
        try:
            yield tab
        finally:
            await browser.close()
    assert wrong == []


def _is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "http://localhost:", "data:"))


@dataclass
class Run:
    """A run with a page, in this process."""

    task: asyncio.Task[Report]
    seen: list[Event] = field(default_factory=list)

    @property
    def url(self) -> str:
        return next(event.url for event in self.seen if isinstance(event, events.PageOpened))


@asynccontextmanager
async def running(rows: list[Entry], folder: Path, settings: Settings, **options: Any) -> AsyncIterator[Run]:
    seen: list[Event] = []
    came = asyncio.Event()

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, events.PageOpened):
            came.set()

    work = fetch_all(rows, folder, settings=settings, observer=observe, **{"page": "0", **options})
    run = Run(asyncio.create_task(work), seen)
    try:
        await asyncio.wait_for(came.wait(), 30)
        yield run
    finally:
        run.task.cancel()
        await asyncio.wait({run.task})


async def paced(exchange: Exchange, page: OriginPage) -> None:
    await exchange.serve(Blob(page.data), page.headers, rate=400_000)


def large(origin: Origin, names: list[str], size: int = 4_000_000) -> list[Entry]:
    return [entry(name, origin.add(f"b{n}", noise(size, n), always=paced)) for n, name in enumerate(names)]


@asynccontextmanager
async def serving(
    folder: Path, carry: Callable[..., Any] | None = None, where: str = "127.0.0.1"
) -> AsyncIterator[tuple[PageState, Callable[[Event], None], str]]:
    """Serve the page of a run that a test makes up: its state, what takes its events, and its link."""
    board, links = Board(), []
    state = PageState(board, "data")

    def observe(event: Event) -> None:
        board(event)
        state(event)
        if isinstance(event, events.PageOpened):
            links.append(event.url)

    async with PageServer(Address(where, 0), state, folder, folder, observe, carry):
        yield state, observe, links[0]


# who may see it


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("8080", "127.0.0.1", 8080), ("0.0.0.0:80", "0.0.0.0", 80), ("[::1]:0", "::1", 0), ("a.b:1", "a.b", 1)],
)
def test_an_address_is_a_port_with_or_without_a_host(text: str, host: str, port: int) -> None:
    assert address(text) == Address(host, port)
    assert address(text).is_local == (host in ("127.0.0.1", "::1"))


@pytest.mark.parametrize("text", ["", "http://h:1", "h", "1:2:3", "h:70000", "h:-1", "::1:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"expected \[HOST:\]PORT"):
        address(text)


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:8080", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8080", True),
        ("10.0.0.5:8080", True), ("box:8080", True), ("evil.example:8080", False), (None, False), ("", False),
        ("localhost.evil.example", False), ("127.0.0.1.evil.example:80", False), ("[evil]:80", False),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(host: str | None, is_known: bool) -> None:
    assert Access(TOKEN, frozenset({"box"}), "c").knows_host(host) == is_known


async def test_without_the_token_nothing_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, link), aiohttp.ClientSession() as session:
        base, _, query = link.partition("?")
        for path in ("", "events", "command", "nowhere"):
            for more in ("", "?token=", f"?token={'x' * 43}", "?Token=1"):
                async with session.get(base + path + more, headers={"Cookie": "a=b"}) as answer:
                    assert answer.status == 403
                    assert TOKEN not in await answer.text()
        async with session.get(link, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        async with session.get(f"{base}?{query}") as answer:
            assert answer.status == 200
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            text = await answer.text()
        assert query.removeprefix("token=") not in text
        # nothing in it asks for anything outside: the one address is in the comment of uPlot's licence
        assert re.findall(r"(?:src|href|url|import|fetch)\s*[=(]\s*[\"']?(?:https?:)?//", text) == []
    kept = tmp_path / "page.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_commands_come_from_the_page_only(tmp_path: Path) -> None:
    carried: list[Any] = []

    async def carry(words: Any) -> dict[str, Any]:
        carried.append(words)
        return {"said": "done", "status": {}}

    own = {"X-Osp-Fetch": "1", "Content-Type": "application/json"}
    body = json.dumps({"command": ["pause"]})
    async with serving(tmp_path, carry) as (_, _, link), aiohttp.ClientSession() as session:
        base, _, query = link.partition("?token=")
        cookie = {"Cookie": f"osp-fetch-{base.rstrip('/').rpartition(':')[2]}={query}"}
        for headers in (
            {},
            own,
            {**cookie, "Content-Type": "application/json"},
            {**cookie, "X-Osp-Fetch": "1", "Content-Type": "text/plain"},
            {**cookie, **own, "Sec-Fetch-Site": "cross-site"},
            {**cookie, **own, "Host": "evil.example"},
        ):
            async with session.post(f"{base}command?token={query}", data=body, headers=headers) as answer:
                assert answer.status in (403, 421)
        assert carried == []
        async with session.post(f"{base}command", data=body, headers={**cookie, **own}) as answer:
            assert await answer.json() == {"ok": True, "said": "done"}
        async with session.post(f"{base}command", data="[1", headers={**cookie, **own}) as answer:
            assert answer.status == 400
        assert carried == [["pause"]]
    async with serving(tmp_path) as (_, _, link), aiohttp.ClientSession() as session:
        base = link.partition("?")[0]
        async with session.post(f"{base}command", data=body, headers={**cookie, **own}) as answer:
            assert "--page-control" in (await answer.json())["error"]


async def test_the_token_is_in_no_log_and_an_address_in_use_is_one_sentence(
    origin: Origin, tmp_path: Path
) -> None:
    rows = large(origin, ["a"], 300_000)
    async with running(rows, tmp_path, quick()) as run:
        port = run.url.rpartition("/?")[0].rpartition(":")[2]
        with pytest.raises(SettingsError, match=f"--page: 127.0.0.1:{port} cannot be used"):
            await fetch_all(rows, tmp_path / "other", settings=quick(), page=port)
        assert (await asyncio.wait_for(run.task, 30)).ok
    token = run.url.rpartition("=")[2]
    assert len(token) == 43
    for name in ("events.jsonl", "status.json"):
        assert token not in (tmp_path / ".osp-fetch" / name).read_text()


# what it shows


def test_a_month_of_history_is_bounded_and_keeps_its_mean() -> None:
    history, count = History(), 30 * 86400
    for second in range(count):
        history.add(Sample(float(second), float(second % 100), 8.0, 1.0))
    whole, recent = history.whole(), history.recent()
    assert len(recent) == 900
    assert 600 <= len(whole) <= 1200
    assert whole[-1][0] == recent[-1][0] == count - 1
    steps = {round(b[0] - a[0]) for a, b in itertools.pairwise(whole[:-1])}
    assert len(steps) == 1
    assert all(abs(row[1] - 49.5) < 5 for row in whole[:-1])


def test_hosts_are_bounded_and_their_troubles_come_first() -> None:
    table = HostTable()
    for n in range(5000):
        table.opened(events.Opened(f"f{n}", f"h{n}:443"))
        table.wrote(events.Wrote(f"f{n}", 1000 + n))
        table.closed(events.Closed(f"f{n}", f"h{n}:443"))
        table.finished(f"f{n}")
    assert len(table) == 2000
    table.observe(events.HostDown("h4000:443", 1.0, "timeout"), 100.0)
    table.observe(events.Cooling("h4001:443", 10.0, "429"), 100.0)
    table.observe(events.LimitChanged("h4999:443", 16, "goodput has increased"), 100.0)
    table.tick(100.0, 1.0)
    first, second, third, *_ = table.rows(100)
    assert {first["host"], second["host"]} == {"h4000:443", "h4001:443"}
    assert third["host"] == "h4999:443"
    assert third["limit"] == 16
    table.observe(events.HostBack("h4000:443"), 105.0)
    table.tick(111.0, 1.0)
    assert [row["trouble"] for row in table.rows(3)] == ["", "", ""]


DAY = 86400.0


@pytest.mark.parametrize(
    ("pace", "level", "words"),
    [
        (Pace(0, None, True, 1.0, 5), "unknown", "sizes"),
        (Pace(0, 0, True, 1.0, 0), "good", "Every byte is here"),
        (Pace(0, 100, True, 0.0, 5), "unknown", "No bytes are coming"),
        (Pace(0, 100, True, 1.0, 5, free=99), "bad", "The disk is too small: 100 B are to come, and 99 B"),
        (Pace(0, 100, False, 1.0, 5), "good", "it ends about"),
        (Pace(0, 100, True, 1.0, 5, expires=DAY), "good", "23 h 58 min before links expire"),
        (Pace(0, 100, True, 1.0, 5, expires=105.0), "warning", "5 s before links expire"),
        (Pace(0, 3 << 40, True, 1 << 20, 5, expires=DAY), "bad", "2.9 TiB will not make it before the first"),
        (Pace(DAY, 100, True, 1.0, 5, expires=1.0), "warning", "links expired"),
    ],
)
def test_the_outlook_says_whether_a_run_makes_it(pace: Pace, level: str, words: str) -> None:
    found = outlook(pace)
    assert (found.level, words in found.text) == (level, True), found


# in a browser


async def until(tab: Page, holds: str) -> None:
    """Wait until an expression holds in the page. Playwright's own wait uses eval, which the page forbids."""
    async with asyncio.timeout(30):
        while not await tab.evaluate(holds):
            await asyncio.sleep(0.05)


async def text_of(tab: Page, selector: str) -> str:
    return await tab.inner_text(selector)


@in_browser
async def test_the_page_of_a_run_loads_updates_and_escapes_names(origin: Origin, tmp_path: Path) -> None:
    rows = large(origin, [HOSTILE, "plain.bin"])
    rows.insert(0, entry(f"gone/{HOSTILE}", f"{origin.url}/nowhere"))
    settings = quick(limits={"connections": 2}, retry={"attempts": 1})
    async with browsing() as tab, running(rows, tmp_path, settings) as run:
        await tab.goto(run.url)
        await until(tab, "document.getElementById('files').rows.length == 2")
        assert "token" not in tab.url
        assert await text_of(tab, "#files tr:first-child bdi") == HOSTILE
        await until(tab, "document.getElementById('failures').rows.length == 1")
        assert HOSTILE in await text_of(tab, "#failures")
        assert await tab.locator("img").count() == 0
        assert "owned" not in await tab.title()
        assert await text_of(tab, "#state") == "running"
        assert await text_of(tab, "#files-of") == "of 3"
        before = await text_of(tab, "#bytes")
        await until(tab, f"document.getElementById('bytes').innerText != {json.dumps(before)}")
        await until(tab, "document.getElementById('chart-text').innerText.includes('mean')")
        assert await tab.locator("#chart canvas").count() == 1
        assert await tab.locator("#controls").is_hidden()
        await tab.reload()  # the cookie admits it
        await until(tab, "document.getElementById('files').rows.length == 2")
        report = await asyncio.wait_for(run.task, 60)
        await until(tab, "document.getElementById('state').innerText == 'ended'")
        assert f"{report.counts[Status.FETCHED]} fetched, 1 failed" in await text_of(tab, "#summary-text")
        assert "100.0 %" not in await tab.title() or report.ok


@in_browser
async def test_the_page_survives_a_restart_of_the_run(origin: Origin, tmp_path: Path) -> None:
    rows = large(origin, ["a", "b"])
    async with browsing() as tab:
        async with running(rows, tmp_path, quick(limits={"connections": 2})) as run:
            await tab.goto(run.url)
            await until(tab, "document.getElementById('files').rows.length == 2")
            first = run.url
        await until(tab, "!document.getElementById('lost').hidden")
        async with running(rows, tmp_path, quick(limits={"connections": 2})) as run:
            assert run.url == first  # port and token are kept
            await until(tab, "document.getElementById('state').innerText == 'running'")
            assert await tab.locator("#lost").is_hidden()
            assert (await asyncio.wait_for(run.task, 60)).ok
            await until(tab, "document.getElementById('share').innerText == '100.0 %'")
            assert await text_of(tab, "#outlook") == "Every file is here."


@in_browser
async def test_a_run_is_steered_by_keyboard(origin: Origin, tmp_path: Path) -> None:
    rows = large(origin, ["a", "b"])
    settings = quick(limits={"connections": 2})
    async with browsing() as tab, running(rows, tmp_path, settings, page_control=True) as run:
        await tab.goto(run.url)
        await until(tab, "!document.getElementById('pause').disabled")
        await tab.keyboard.press("Tab")
        assert await tab.evaluate("document.activeElement.className") == "skip"
        for _ in range(10):
            await tab.keyboard.press("Tab")
            if await tab.evaluate("document.activeElement.id") == "pause":
                break
        await tab.keyboard.press("Enter")
        await until(tab, "document.getElementById('state').innerText == 'paused'")
        assert "paused" in await text_of(tab, "#said")
        await tab.fill("#in-rate", "fast")
        await tab.press("#in-rate", "Enter")
        await until(tab, "document.getElementById('said').innerText.includes('is not a size')")
        await tab.fill("#in-connections", "9")
        await tab.press("#in-connections", "Enter")
        await until(tab, "document.getElementById('said').innerText == 'connections: 9'")
        await tab.fill("#in-host", "127.0.0.1")
        await tab.click("#form-host button[value=pause]")
        await until(tab, "document.getElementById('wrong').innerText.includes('127.0.0.1')")
        await tab.click("#form-host button[value=resume]")
        await tab.click("#resume")
        await until(tab, "document.getElementById('state').innerText == 'running'")
        tab.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await tab.click("#stop")
        assert (await asyncio.wait_for(run.task, 30)).stopped == "osp-fetch ctl stop"
        await until(tab, "document.getElementById('state').innerText == 'stopped'")


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_hundred_thousand_files_and_500_hosts_fit_a_phone(tmp_path: Path, scheme: str) -> None:
    error = StatusError("x: 404", status=404, remedy=Remedy.FAIL)
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "color_scheme": scheme}
    async with browsing(**phone) as tab, serving(tmp_path) as (state, observe, link):
        observe(events.RowsRead(100_000, 100_000, 100_000 * 1000, 4e9))
        observe(events.ManifestEnded())
        for n in range(100_000):
            observe(events.Opened(f"d/{n}", f"host-{n % 500}.example:443"))
            observe(events.Wrote(f"d/{n}", 1000))
            observe(events.Closed(f"d/{n}", f"host-{n % 500}.example:443"))
            failed = n % 100 == 0
            status = Status.FAILED if failed else Status.FETCHED
            observe(events.Finished(Outcome(f"d/{n}", status, size=1000, error=error if failed else None)))
        for n in range(500):
            observe(events.LimitChanged(f"host-{n}.example:443", n, "goodput has increased"))
            observe(events.Opened(f"open/{n}", f"host-{n}.example:443"))
            observe(events.FileBegun(f"open/{n}", 5 << 20, None, 0))
        state.tick()
        assert len(json.dumps(state.document())) < 200_000
        await tab.goto(link)
        await until(tab, "document.getElementById('hosts').rows.length == 100")
        assert await text_of(tab, "#files-done") == "100,000"
        assert "100 of 500 hosts" in await text_of(tab, "#hosts-more")
        assert "500 files in progress" in await text_of(tab, "#files-more")
        assert await tab.locator("#files tr").count() == 20
        # the page itself does not scroll sideways; wide tables scroll by themselves
        assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert await tab.evaluate(TOO_SMALL) == []
        assert await tab.evaluate(CONTRAST) == []


# Buttons and inputs that are too small for a finger (WCAG 2.2, 2.5.5).
TOO_SMALL = """[...document.querySelectorAll('button, input')]
  .filter(e => e.offsetHeight && e.offsetHeight < 44).map(e => e.outerHTML)"""
# What has neither a text nor a label.
NAMELESS = """[...document.querySelectorAll('button, input, progress, section, [role=region], [role=img]')]
  .filter(e => !(e.innerText || '').trim() && !(e.labels && e.labels.length)
    && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML)"""
# Text whose contrast with its background is below 4.5 to 1 (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const bad = new Set();
  for (const e of document.querySelectorAll('body *')) {
    const isText = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!e.offsetHeight || e.disabled || !isText) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(e.tagName + '#' + e.id + '.' + e.className);
  }
  return [...bad];
}"""


@in_browser
async def test_a_screen_reader_finds_names_for_everything(tmp_path: Path) -> None:
    async def carry(_: Any) -> dict[str, Any]:
        return {"said": "", "status": {}}

    async with browsing() as tab, serving(tmp_path, carry) as (state, observe, link):
        observe(events.RowsRead(10, 10, 1000))
        observe(events.Opened("a", "h:443"))
        observe(events.Wrote("a", 10))
        state.tick()
        await tab.goto(link)
        await until(tab, "document.getElementById('files').rows.length == 1")
        assert await tab.evaluate("document.documentElement.lang") == "en"
        assert await tab.evaluate(NAMELESS) == []
        assert await tab.locator("section > .scroll th:not([scope])").count() == 0
        for role, name in (("button", "Pause"), ("textbox", "Rate"), ("progressbar", "Share of the bytes")):
            assert await tab.get_by_role(role, name=name).first.is_visible()  # type: ignore[arg-type]
        levels = await tab.evaluate("[...document.querySelectorAll('h1, h2')].map(e => e.tagName)")
        assert levels[0] == "H1"
        assert levels.count("H1") == 1


@in_browser
async def test_a_browser_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (state, observe, link):
        for _ in range(3):
            async with browsing() as tab:
                await tab.goto(link)
                await until(tab, "document.body.dataset.number !== undefined")
        observe(events.RowsRead(1, 1, 10))
        before = state.number
        async with asyncio.timeout(10):
            while state.number < before + 2:
                await asyncio.sleep(0.05)
        with suppress(Error):
            async with browsing() as tab:
                await tab.goto(link)
                assert await text_of(tab, "#state") in ("connecting", "running")
