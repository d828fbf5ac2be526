"""A proxy between osp-fetch and a real object store, which damages some requests and replies."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import yarl
from aiohttp import web

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'


@dataclass
class Call:
    """A request on its way to the store.

    Attributes:
        kind: the operation, such as "UploadPart".
        body: the body that is passed on; a fault may change it.
        number: how many requests of this kind came before.
    """

    kind: str
    body: bytes
    number: int


Fault = Callable[["Proxy", Call, web.Request], Awaitable[web.StreamResponse | None]]
"""Returns the reply instead of the store's, or None to pass the request on."""


@dataclass
class Proxy:
    """The proxy.

    Attributes:
        upstream: URL of the store.
        fault: what happens to requests; None passes all on.
        counts: operation → number of requests.
    """

    upstream: str
    fault: Fault | None = None
    url: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        kind = kind_of(request)
        call = Call(kind, await request.read(), self.counts.get(kind, 0))
        self.counts[kind] = call.number + 1
        if self.fault is not None and (reply := await self.fault(self, call, request)) is not None:
            return reply
        return await self.passed_on(call, request)

    async def passed_on(self, call: Call, request: web.Request) -> web.Response:
        """Send the request to the store, and return its reply."""
        url = yarl.URL(self.upstream + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("expect", "connection")}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                url,
                headers=headers,
                data=io.BytesIO(call.body) if call.body else None,
                skip_auto_headers=("Content-Type",),
            ) as reply,
        ):
            body = await reply.read()
            drop = ("transfer-encoding", "connection")
            found = {k: v for k, v in reply.headers.items() if k.lower() not in drop}
            return web.Response(status=reply.status, headers=found, body=body)


def kind_of(request: web.Request) -> str:
    """Return the name of the S3 operation."""
    query = request.query
    upload, own = "uploadId" in query, "/.osp-fetch/" in request.path
    match request.method:
        case "POST":
            return "CompleteMultipartUpload" if upload else "CreateMultipartUpload"
        case "PUT":
            return "UploadPart" if upload else "PutOwn" if own else "PutObject"
        case "GET":
            return "ListParts" if upload else "List" if "list-type" in query else "GetObject"
        case "DELETE":
            return "Abort" if upload else "DeleteObject"
    return "HeadObject"


def refusal(code: str, status: int) -> web.Response:
    """Return a reply that refuses a request."""
    return web.Response(status=status, text=ERROR.format(code=code), content_type="application/xml")


def each(kind: str, *faults: Fault) -> Fault:
    """Return a fault that does to the first requests of a kind what `faults` do, one each."""

    async def fault(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
        if call.kind != kind or call.number >= len(faults):
            return None
        return await faults[call.number](proxy, call, request)

    return fault


def answers(code: str, status: int) -> Fault:
    """Return a fault that refuses the request."""

    async def fault(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        return refusal(code, status)

    return fault


async def loses_reply(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
    """Let the store do what was asked, and close the connection instead of replying."""
    await proxy.passed_on(call, request)
    return await cuts(proxy, call, request)


async def cuts(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
    """Close the connection without a reply."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(0)
    return web.Response()


async def damages(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
    """Flip a bit of the body on its way to the store."""
    call.body = bytes([call.body[0] ^ 1]) + call.body[1:]
    return None


async def misstates_checksum(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
    """Let the store create the object, and state another checksum of it."""
    reply = await proxy.passed_on(call, request)
    assert "x-amz-checksum-crc64nvme" in reply.headers
    reply.headers["x-amz-checksum-crc64nvme"] = "AAAAAAAAAAA="
    return reply


async def error_in_200(proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse | None:
    """Reply 200 with an error as its body, as S3 does when it cannot complete an upload."""
    return web.Response(status=200, text=ERROR.format(code="InternalError"), content_type="application/xml")


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[Proxy]:
    """Start a proxy before the store at `upstream`."""
    proxy = Proxy(upstream)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{rest:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    proxy.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    try:
        yield proxy
    finally:
        await runner.cleanup()
