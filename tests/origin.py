"""An origin that misbehaves in the ways that the tests need, one fault per request."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from osp_fetch.demo.server import Blob, Cut, Exchange, Server

Fault = Callable[[Exchange, "Page"], Awaitable[None]]


@dataclass
class Page:
    """One file of the origin: each request uses up one of `faults`, then `always` or `polite` applies."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None


class Origin:
    """A server of pages by path that counts requests and bytes."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: Counter[str] = Counter()
        self.seen: list[Exchange] = []
        self.sent: Counter[str] = Counter()
        self.open = 0
        self.most_open = 0
        self.server: Server

    @property
    def url(self) -> str:
        return self.server.url

    def add(
        self,
        path: str,
        data: bytes,
        *faults: Fault,
        always: Fault | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """Serve `data` under `path`.

        Args:
            path: The path without a leading slash.
            data: The content of the file.
            faults: What the first requests meet, one each.
            always: What every later request meets, by default `polite`.
            headers: Further headers of a correct reply.

        Returns:
            The URL of the page.
        """
        self.pages[f"/{path}"] = Page(data, headers or {}, deque(faults), always)
        return f"{self.url}/{path}"

    async def handle(self, exchange: Exchange) -> None:
        self.requests[exchange.path] += 1
        self.seen.append(exchange)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            page = self.pages.get(exchange.path)
            if page is None:
                await exchange.answer(404, "nothing here", {"Content-Type": "text/plain"})
            elif page.faults:
                await page.faults.popleft()(exchange, page)
            elif page.always:
                await page.always(exchange, page)
            else:
                await polite(exchange, page)
        finally:
            self.open -= 1


@asynccontextmanager
async def serving() -> AsyncIterator[Origin]:
    origin = Origin()
    async with Server(origin.handle) as server:
        origin.server = server
        yield origin


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# Correct replies and faults.


async def polite(exchange: Exchange, page: Page) -> None:
    await exchange.serve(Blob(page.data), page.headers)


async def rangeless(exchange: Exchange, page: Page) -> None:
    exchange.headers.pop("range", None)
    await exchange.serve(Blob(page.data), {**page.headers, "Accept-Ranges": "none"})


async def chunked(exchange: Exchange, page: Page) -> None:
    """Reply in chunked coding, without Content-Length, and ignore ranges."""
    await exchange.head(200, {**page.headers, "Transfer-Encoding": "chunked"})
    for at in range(0, len(page.data), 1000):
        piece = page.data[at : at + 1000]
        await exchange.raw(b"%x\r\n%s\r\n" % (len(piece), piece))
    await exchange.raw(b"0\r\n\r\n")


async def until_close(exchange: Exchange, page: Page) -> None:
    """Reply with neither length nor chunks: the end of the connection ends the body."""
    await exchange.head(200, {**page.headers, "Connection": "close"})
    await exchange.raw(page.data)
    exchange.keep_alive = False


def until_close_reset(after: int) -> Fault:
    """Send a body without a length, and reset the connection after `after` bytes of it."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.head(200, {**page.headers, "Connection": "close"})
        await exchange.raw(page.data[:after])
        connection = exchange.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Cut

    return fault


def until_close_short(count: int) -> Fault:
    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.head(200, {**page.headers, "Connection": "close"})
        await exchange.raw(page.data[:count])
        exchange.keep_alive = False

    return fault


def cut(after: int) -> Fault:
    """Drop the connection after `after` bytes of the body."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.serve(Blob(page.data), page.headers, cut_after=after)

    return fault


async def reset(exchange: Exchange, page: Page) -> None:
    raise Cut


def status(code: int, body: str = "no", **headers: str) -> Fault:
    async def fault(exchange: Exchange, page: Page) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.answer(code, body, {"Content-Type": "text/plain", **named})

    return fault


def slow(rate: float) -> Fault:
    """Serve each connection at `rate` bytes per second."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.serve(Blob(page.data), page.headers, rate=rate)

    return fault


@dataclass(frozen=True)
class _Counted(Blob):
    """Content that adds what is read of it to `sent`."""

    sent: Counter[str]
    path: str

    def read(self, start: int, stop: int) -> bytes:
        self.sent[self.path] += stop - start
        return self.data[start:stop]


def counted(origin: Origin, rate: float) -> Fault:
    """As `slow`, and count the bytes of bodies in `Origin.sent`."""

    async def fault(exchange: Exchange, page: Page) -> None:
        content = _Counted(page.data, origin.sent, exchange.path)
        await exchange.serve(content, page.headers, rate=rate)

    return fault


def refuse_above(origin: Origin, most: int, rate: float) -> Fault:
    """Reply 503 above `most` concurrent requests; serve the others at `rate` bytes per second each."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await (status(503) if origin.open > most else slow(rate))(exchange, page)

    return fault


def instead(body: str, kind: str = "text/html") -> Fault:
    """Reply 200 with a page in place of the file."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.answer(200, body, {"Content-Type": kind})

    return fault


def shifted(by: int) -> Fault:
    """Serve a range that starts `by` bytes after the requested start."""

    async def fault(exchange: Exchange, page: Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        start = max(0, start + by)
        body = page.data[start:stop]
        await exchange.head(
            206,
            {"Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}", "Content-Length": str(len(body))},
        )
        await exchange.raw(body)

    return fault


async def gzipped(exchange: Exchange, page: Page) -> None:
    await exchange.serve(Blob(page.data), {"Content-Encoding": "gzip"})


async def status_200_with_range(exchange: Exchange, page: Page) -> None:
    """Serve a range with status 200 and a correct Content-Range, as ModelScope does."""
    span = exchange.span(len(page.data))
    if span is None:
        await polite(exchange, page)
        return
    start, stop = span
    await exchange.head(
        200,
        {"Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}", "Content-Length": str(stop - start)},
    )
    await exchange.raw(page.data[start:stop])


async def status_206_of_all(exchange: Exchange, page: Page) -> None:
    """Answer every request with the complete file and status 206."""
    total = len(page.data)
    await exchange.head(206, {"Content-Range": f"bytes 0-{total - 1}/{total}", "Content-Length": str(total)})
    await exchange.raw(page.data)


async def status_200_with_nonsense(exchange: Exchange, page: Page) -> None:
    """Send the complete file with a Content-Range that is not valid."""
    total = len(page.data)
    await exchange.head(200, {"Content-Range": f"bytes=0-{total}/{total}", "Content-Length": str(total)})
    await exchange.raw(page.data)


def short_range(most: int) -> Fault:
    """Reply with a legal 206 that holds at most `most` bytes of the requested range."""

    async def fault(exchange: Exchange, page: Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        stop = min(stop, start + most)
        headers = {
            "Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}",
            "Content-Length": str(stop - start),
        }
        await exchange.head(206, {**page.headers, **headers})
        await exchange.raw(page.data[start:stop])

    return fault


async def silent(exchange: Exchange, page: Page) -> None:
    """Send nothing and keep the connection open."""
    await asyncio.sleep(3600)


def stall(after: int) -> Fault:
    """Send `after` bytes of the body, then nothing more."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.head(200, {"Content-Length": str(len(page.data))})
        await exchange.raw(page.data[:after])
        await asyncio.sleep(3600)

    return fault


def replaced(data: bytes, headers: dict[str, str] | None = None) -> Fault:
    """Replace the content of the page from this request on."""

    async def fault(exchange: Exchange, page: Page) -> None:
        page.data = data
        page.headers = headers or page.headers
        await polite(exchange, page)

    return fault


def redirect(target: str, code: int = 302) -> Fault:
    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.answer(code, "elsewhere", {"Location": target})

    return fault


def overlong(extra: int) -> Fault:
    """Send `extra` bytes more than the Content-Range announces, in chunked coding."""

    async def fault(exchange: Exchange, page: Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        headers = {
            "Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}",
            "Transfer-Encoding": "chunked",
        }
        await exchange.head(206, headers)
        body = page.data[start:stop] + b"x" * extra
        await exchange.raw(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    return fault


def cut_head(line: bytes) -> Fault:
    """Close the connection in the middle of the head of a reply."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await exchange.raw(line)
        raise Cut

    return fault


async def header_flood(exchange: Exchange, page: Page) -> None:
    """Send headers without end."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.raw(b"X-Flood: " + b"x" * 4000 + b"\r\n")


async def slow_head(exchange: Exchange, page: Page) -> None:
    """Send one byte of the head every 20 ms, without end."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await exchange.raw(b"x")
        await asyncio.sleep(0.02)


async def early_hints(exchange: Exchange, page: Page) -> None:
    """Send interim replies (103) without end, and never the final one."""
    while True:
        await exchange.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await asyncio.sleep(0.02)


def drip(pause: float) -> Fault:
    """Send the body one byte at a time, with `pause` seconds between two bytes."""

    async def fault(exchange: Exchange, page: Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        head = {"Content-Length": str(stop - start)}
        if "range" in exchange.headers:
            head["Content-Range"] = f"bytes {start}-{stop - 1}/{len(page.data)}"
        await exchange.head(206 if "range" in exchange.headers else 200, {**page.headers, **head})
        for at in range(start, stop):
            await exchange.raw(page.data[at : at + 1])
            await asyncio.sleep(pause)

    return fault


async def endless(exchange: Exchange, page: Page) -> None:
    """Send a body without a length and without an end."""
    await exchange.head(200, {"Connection": "close"})
    block = noise(1 << 20)
    while True:
        await exchange.raw(block)


def trailing(forged: bytes, pause: float) -> Fault:
    """Serve correctly and, `pause` seconds later, send a second reply that was not requested."""

    async def fault(exchange: Exchange, page: Page) -> None:
        await polite(exchange, page)
        await asyncio.sleep(pause)
        await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(forged), forged))

    return fault


def ranged(**odd: str) -> Fault:
    """Serve a range with headers that contradict it.

    Args:
        odd: Headers that replace the correct ones. `_` in a name stands for `-`. In a value, `{start}`,
            `{last}` and `{total}` are filled in (bytes).
    """

    async def fault(exchange: Exchange, page: Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        right = {
            "Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}",
            "Content-Length": str(stop - start),
        }
        filled = {
            name.replace("_", "-"): value.format(start=start, last=stop - 1, total=len(page.data))
            for name, value in odd.items()
        }
        await exchange.head(206, {**page.headers, **right, **filled})
        await exchange.raw(page.data[start:stop])

    return fault


async def two_content_ranges(exchange: Exchange, page: Page) -> None:
    start, stop = exchange.span(len(page.data)) or (0, len(page.data))
    await exchange.raw(
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n"
        b"Content-Range: bytes 0-%d/%d\r\n\r\n"
        % (stop - start, start, stop - 1, len(page.data), stop - start - 1, len(page.data))
    )
    await exchange.raw(page.data[start:stop])


async def several_ranges(exchange: Exchange, page: Page) -> None:
    await ranged(Content_Type="multipart/byteranges; boundary=x")(exchange, page)


async def bad_chunks(exchange: Exchange, page: Page) -> None:
    """Send a chunk whose size is not a number."""
    await exchange.head(200, {"Transfer-Encoding": "chunked"})
    await exchange.raw(b"5\r\nabcde\r\nzz\r\n")
    await asyncio.sleep(3600)


async def deaf_to_if_range(exchange: Exchange, page: Page) -> None:
    """Reply to If-Range with the complete file although the tag is the same."""
    if "if-range" in exchange.headers:
        exchange.headers.pop("range", None)
    await polite(exchange, page)


def other_tag_each_time(weak: bool) -> Fault:
    """Serve with another ETag in each reply, as different edge servers do."""
    count = 0

    async def fault(exchange: Exchange, page: Page) -> None:
        nonlocal count
        count += 1
        exchange.headers.pop("if-range", None)
        await exchange.serve(Blob(page.data), {"ETag": ("W/" if weak else "") + f'"edge{count}"'})

    return fault
