"""A stand-in for Google Drive: its pages, downloads and API (docs/sources.md, "Google Drive")."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import field
from html import escape
from urllib.parse import quote

from ..model.dataclasses import dataclass
from .server import Blob, Exchange

# bytes; Drive sends a confirmation page in place of a file that is too large for its virus scan
_SCANNED = 100 << 10
_LIFE = 3600.0  # seconds for which a confirmed link is valid


@dataclass(frozen=True, slots=True)
class DriveFile:
    """One file of a folder.

    Args:
        id: The file's ID.
        name: Its name.
        data: Its bytes.
    """

    id: str
    name: str
    data: bytes


@dataclass(slots=True)
class Drive:
    """Google Drive with its three hosts; `handle` is the handler of a `server.Server`.

    Args:
        folders: Folder ID → (name, files, IDs of its subfolders).
        quota: IDs of files whose download quota is exceeded.
        key: The valid API key.
        clock: Returns the time in Unix seconds.
        requests: Number of requests by host and path; `bytes` counts the replies with a file.
        links: UUID of a confirmed link → its expiry in Unix seconds.
        private: IDs of folders in whose place a page for signing in is sent, with status 200.
    """

    folders: dict[str, tuple[str, list[DriveFile], list[str]]] = field(default_factory=dict)
    quota: set[str] = field(default_factory=set)
    key: str = "key"
    clock: Callable[[], float] = time.time
    requests: Counter[str] = field(default_factory=Counter)
    links: dict[str, float] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)

    def file(self, file_id: str) -> DriveFile | None:
        """Return the file with this ID, None where there is none."""
        every = (file for _, files, _ in self.folders.values() for file in files)
        return next((file for file in every if file.id == file_id), None)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request; its Host header decides which of Drive's hosts does so.

        Args:
            exchange: The request.
        """
        host = exchange.headers.get("host", "").split(":")[0]
        self.requests[f"{host}{exchange.path}"] += 1
        match host, exchange.path:
            case "drive.google.com", "/embeddedfolderview":
                await self._folder(exchange, exchange.query.get("id", ""))
            case "drive.google.com", "/uc":
                await self._file(exchange, exchange.query.get("id", ""))
            case "drive.usercontent.google.com", "/download":
                await self._content(exchange)
            case "www.googleapis.com", _:
                await self._api(exchange)
            case _:
                await self._page(exchange, 404, "<title>Error 404 (Not Found)</title>")

    async def _page(self, exchange: Exchange, status: int, html: str) -> None:
        """Send an HTML page."""
        kind = {"Content-Type": "text/html; charset=utf-8"}
        await exchange.answer(status, f"<!DOCTYPE html><html>{html}</html>", kind)

    async def _folder(self, exchange: Exchange, folder: str) -> None:
        """Send the page of a folder, with a link to each file and subfolder."""
        if folder not in self.folders:
            await self._page(exchange, 404, "<title>Error 404 (Not Found)</title>")
            return
        if folder in self.private:
            await self._page(exchange, 200, "<title>Sign in - Google Accounts</title><form></form>")
            return
        name, files, inside = self.folders[folder]
        rows = [(f"https://drive.google.com/file/d/{f.id}/view?usp=drive_web", f.name) for f in files]
        rows += [(f"https://drive.google.com/drive/folders/{i}", self.folders[i][0]) for i in inside]
        shown = "".join(
            f'<div class="flip-entry"><a href="{href}" target="_blank">'
            f'<div class="flip-entry-title">{escape(text)}</div></a></div>'
            for href, text in rows
        )
        await self._page(
            exchange,
            200,
            f'<head><title>{escape(name)}</title></head><body><div class="flip-entries">{shown}</div></body>',
        )

    async def _file(self, exchange: Exchange, file_id: str) -> None:
        """Send a small file, or the page that stands in place of another one."""
        file = self.file(file_id)
        if file is None:
            await self._page(exchange, 404, "<title>Error 404 (Not Found)</title>")
        elif file_id in self.quota:
            said = "Sorry, you can't view or download this file at this time."
            why = "Too many users have viewed or downloaded this file recently. Please try again later."
            body = f'<p class="uc-error-caption">{said}</p><p class="uc-error-subcaption">{why}</p>'
            await self._page(
                exchange, 200, f"<head><title>Google Drive - Quota exceeded</title></head>{body}"
            )
        elif len(file.data) < _SCANNED:
            await self._serve(exchange, file)
        else:
            minted = str(uuid.uuid4())
            self.links[minted] = self.clock() + _LIFE
            hidden = {"id": file_id, "export": "download", "confirm": "t", "uuid": minted}
            inputs = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in hidden.items())
            action = "https://drive.usercontent.google.com/download"
            form = (
                f'<form id="download-form" action="{action}" method="get">'
                f'<input type="submit" id="uc-download-link" value="Download anyway"/>{inputs}</form>'
            )
            title = "<title>Google Drive - Virus scan warning</title>"
            await self._page(exchange, 200, f"<head>{title}</head><body>{form}</body>")

    async def _content(self, exchange: Exchange) -> None:
        """Send the file of a confirmed link, or 403 where the link has expired."""
        file = self.file(exchange.query.get("id", ""))
        dies = self.links.get(exchange.query.get("uuid", ""), 0.0)
        if file is None:
            await self._page(exchange, 404, "<title>Error 404 (Not Found)</title>")
        elif dies <= self.clock():
            await self._page(exchange, 403, "<title>Error 403 (Forbidden)</title>")
        else:
            await self._serve(exchange, file)

    async def _serve(self, exchange: Exchange, file: DriveFile) -> None:
        """Send a file, or the requested range of it."""
        self.requests["bytes"] += 1
        named = f"attachment; filename=\"{file.name}\"; filename*=UTF-8''{quote(file.name)}"
        head = {"Content-Type": "application/octet-stream", "Content-Disposition": named}
        await exchange.serve(Blob(file.data), head)

    async def _api(self, exchange: Exchange) -> None:
        """Answer a request to version 3 of Drive's API."""
        if exchange.headers.get("x-goog-api-key", exchange.query.get("key")) != self.key:
            await exchange.answer(403, "{}", {"Content-Type": "application/json"})
            return
        said: dict[str, object]
        if exchange.path.endswith("/files"):
            name, files, inside = self.folders[exchange.query["q"].split("'")[1]]
            folders = [
                {"id": i, "name": self.folders[i][0], "mimeType": "application/vnd.google-apps.folder"}
                for i in inside
            ]
            said = {"files": [*map(self._described, files), *folders], "name": name}
        else:
            file = self.file(exchange.path.rsplit("/", 1)[-1])
            said = self._described(file) if file else {}
        await exchange.answer(200, json.dumps(said), {"Content-Type": "application/json"})

    def _described(self, file: DriveFile) -> dict[str, object]:
        """Return a file's metadata in the form of the API."""
        return {
            "id": file.id,
            "name": file.name,
            "mimeType": "application/octet-stream",
            "size": str(len(file.data)),
            "md5Checksum": hashlib.md5(file.data).hexdigest(),
        }
