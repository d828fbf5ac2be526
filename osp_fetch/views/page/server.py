"""The server of the page: aiohttp.web in the event loop of the run."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ...concurrency import stop
from ...model import events
from ...model.errors import FetchError, SettingsError
from .access import Access, Address
from .state import PageState

if TYPE_CHECKING:
    from aiohttp import web

Carry = Callable[[Sequence[str]], Awaitable[dict[str, Any]]]

_STATIC: Final = Path(__file__).parent / "static"
# Browsers that are served at a time.
_CLIENTS: Final = 16
# Bytes of a command.
_LONGEST: Final = 64 << 10
# Seconds between two looks at the disk, which may be a slow one.
_DISK: Final = 10.0
# Seconds that the browsers have at the end to receive the last document.
_LAST: Final = 2.0
_KEPT: Final = (
    "page.json"  # name of the file in the state folder with the token and the port of the last page
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page:
    """Serves the page of a run while its context is open, and ticks its `PageState`.

    Token and port are kept in the state folder, so that an open page finds the next run in the folder.

    Args:
        address: Where to listen.
        state: What the page shows.
        folder: The state folder of the run.
        disk: A folder on the disk of the output, None for a bucket.
        observe: Receives `PageOpened` with the link.
        carry: Carries out commands; None if the page only shows.

    Raises:
        SettingsError: On entering, the address cannot be used.
    """

    def __init__(
        self,
        address: Address,
        state: PageState,
        folder: Path,
        disk: Path | None,
        observe: events.Observer,
        carry: Carry | None = None,
    ) -> None:
        self._address, self._state, self._disk, self._observe = address, state, disk, observe
        self._carry, self._kept = carry, folder / _KEPT
        self._clients = 0
        self._ticked: asyncio.Event = asyncio.Event()
        self._is_over = False
        self._sent_last = asyncio.Event()
        self._texts: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        from aiohttp import web

        token, port = self._known()
        listening = self._bound(port)
        port = listening.getsockname()[1]
        names = {socket.gethostname().lower(), self._address.host.lower()}
        self._access = Access(token, frozenset(names), f"osp-fetch-{port}")
        application = web.Application(client_max_size=_LONGEST, middlewares=[_guard(self._access)])
        application.router.add_get("/", self._index)
        application.router.add_get("/events", self._events)
        application.router.add_post("/command", self._command)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # a traceback for each malformed request of a stranger would be printed into the run's terminal
            logger=logging.Logger("osp-fetch page", logging.CRITICAL + 1),
            handle_signals=False,
            shutdown_timeout=_LAST,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()
        with suppress(OSError):  # the next run then has another token
            _keep(self._kept, json.dumps({"token": token, "port": port}))
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._look())]
        self._observe(events.PageOpened(self._address.url(port, token)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop(self._tasks)
        self._state.tick()
        self._is_over = True
        self._ticked.set()
        if self._clients:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await self._sent_last.wait()
        await self._runner.cleanup()

    def _known(self) -> tuple[str, int]:
        """Return the token and the port of the last page of the folder, or new ones."""
        try:
            kept = json.loads(self._kept.read_text())
            token, port = str(kept["token"]), int(kept["port"])
        except (OSError, ValueError, TypeError, KeyError):
            token, port = "", 0
        if len(token) < 32:
            token, port = secrets.token_urlsafe(32), 0
        return token, self._address.port or port

    def _bound(self, port: int) -> socket.socket:
        """Return a socket that listens on the address; on a free port if the one of the last run is taken."""
        host = self._address.host
        try:
            family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            made = socket.socket(family, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                made.bind(place)
            except OSError:
                made.close()
                if self._address.port or not port:
                    raise
                return self._bound(0)
            return made
        except OSError as error:
            raise SettingsError(
                f"--page: {host}:{port} cannot be used ({error.strerror}); give another port, or 0 for any"
            ) from None

    # ---- what happens regularly

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._state.period)
            self._state.tick()
            self._texts.clear()
            ticked, self._ticked = self._ticked, asyncio.Event()
            ticked.set()

    async def _look(self) -> None:
        """Look at the disk, in a thread."""
        while self._disk is not None:
            with suppress(OSError):
                self._state.free = (await asyncio.to_thread(shutil.disk_usage, self._disk)).free
            await asyncio.sleep(_DISK)

    # ---- requests

    async def _index(self, _: web.Request) -> web.Response:
        from aiohttp import web

        nonce = secrets.token_urlsafe(16)
        text = await asyncio.to_thread(_page, nonce, controls=self._carry is not None)
        answer = web.Response(text=text, content_type="text/html", headers=_HEADERS)
        answer.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        answer.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="Strict", path="/")
        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send a document at once, and another one after each tick: server-sent events."""
        from aiohttp import web

        if self._clients >= _CLIENTS:
            return web.Response(status=503, text=f"{_CLIENTS} browsers are connected already\n")
        answer = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        self._clients += 1
        try:
            await answer.prepare(request)
            await answer.write(b"retry: 2000\n\n")
            since = -1
            while True:
                is_last = self._is_over
                await answer.write(self._text(since).encode())
                since = self._state.number
                if is_last:
                    return answer
                await self._ticked.wait()
        except (ConnectionError, asyncio.CancelledError):
            return answer  # the browser has gone, or the server ends
        finally:
            self._clients -= 1
            if self._is_over and not self._clients:
                self._sent_last.set()

    def _text(self, since: int) -> str:
        """Return the document as an event. Browsers that have seen the same share it."""
        key = f"{since}/{self._state.number}/{self._is_over}"
        if key not in self._texts:
            self._texts[key] = f"data: {json.dumps(self._state.document(since))}\n\n"
        return self._texts[key]

    async def _command(self, request: web.Request) -> web.Response:
        from aiohttp import web

        if self._carry is None:
            return _refused("this page only shows the run; start it with --page-control to steer it")
        if not self._access.admits_command(request.headers, request.cookies):
            return _refused("only the page itself may send commands")
        try:
            words = (await request.json())["command"]
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            return web.json_response({"ok": False, "error": "not a command"}, status=400, headers=_HEADERS)
        try:
            said = (await self._carry(words))["said"]
        except FetchError as error:
            return web.json_response({"ok": False, "error": str(error)}, status=409, headers=_HEADERS)
        return web.json_response({"ok": True, "said": said}, headers=_HEADERS)


def _keep(place: Path, text: str) -> None:
    """Replace a file that only its owner can read, whatever the mode of the other files is."""
    fd, made = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        Path(made).replace(place)
    except OSError:
        Path(made).unlink(missing_ok=True)
        raise


def _refused(why: str) -> web.Response:
    from aiohttp import web

    return web.json_response({"ok": False, "error": why}, status=403, headers=_HEADERS)


def _guard(access: Access) -> Any:
    """Return the middleware that refuses other hosts, and requests without the token."""
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        if not access.knows_host(request.headers.get("Host")):
            return web.Response(status=421, text="this name does not belong to the page\n", headers=_HEADERS)
        if not access.admits(request.query, request.cookies):
            text = "open the link that osp-fetch has printed: it has a token\n"
            return web.Response(status=403, text=text, headers=_HEADERS)
        answer: web.StreamResponse = await handler(request)
        return answer

    return guard


def _page(nonce: str, *, controls: bool) -> str:
    """Return the page with everything that it needs in it."""
    text = (_STATIC / "page.html").read_text(encoding="utf-8")
    text = text.replace("{{nonce}}", escape(nonce)).replace("{{controls}}", "yes" if controls else "no")
    for name in ("uPlot.min.css", "page.css", "uPlot.iife.min.js", "page.js"):
        text = text.replace(f"{{{{{name}}}}}", (_STATIC / name).read_text(encoding="utf-8"))
    return text
