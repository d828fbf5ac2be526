"""A stand-in for ModelScope's dataset API, its faults included (docs/sources.md, "ModelScope")."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import field
from urllib.parse import quote

from ..model.dataclasses import dataclass
from .server import Blob, Exchange

_SMALL = 64 << 10  # bytes; smaller files are not LFS files, and their replies ignore Range


@dataclass(slots=True)
class ModelScope:
    """ModelScope's API and its CDN; `handle` is the handler of a `server.Server`.

    Args:
        repositories: OWNER/NAME → path → bytes of the file.
        token: The token that requests must carry; None where they need none.
        without_sha256: Paths whose digest is not listed.
        wrong_sha256: Paths whose listed digest is wrong.
        denials: Number of a listing page → spurious 403 replies that are left for it.
        requests: Number of requests by path; `tree` and `cdn` count listings and redirected downloads.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    without_sha256: set[str] = field(default_factory=set)
    wrong_sha256: set[str] = field(default_factory=set)
    denials: Counter[int] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request to the API or the CDN.

        Args:
            exchange: The request.
        """
        words = exchange.path.strip("/").split("/")
        if words[:1] == ["cdn"]:
            await self._cdn(exchange, words)
            return
        if words[:3] != ["api", "v1", "datasets"] or len(words) < 5:
            await self._say(exchange, 404, success=False, message="not found")
            return
        name = "/".join(words[3:5])
        authorized = exchange.headers.get("authorization") == f"Bearer {self.token}"
        if self.token and not (
            authorized or f"m_session_id={self.token}" in exchange.headers.get("cookie", "")
        ):
            await self._say(exchange, 403, success=False, message="access denied")
            return
        files = self.repositories.get(name)
        if files is None:
            # ModelScope reports this error with HTTP status 200
            await self._say(exchange, 200, success=False, message="dataset not found", code=10010205001)
            return
        match words[5:]:
            case ["repo", "tree"]:
                await self._tree(exchange, files)
            case ["repo"]:
                await self._file(exchange, name, files)
            case _:
                data = {"Name": words[4], "Id": 1, "Type": 4, "Namespace": words[3]}
                await self._say(exchange, 200, success=True, data=data)

    async def _say(
        self,
        exchange: Exchange,
        status: int,
        *,
        success: bool,
        message: str = "success",
        data: object = None,
        code: int = 200,
    ) -> None:
        """Send a JSON reply in the API's envelope."""
        said = {"Code": code, "Success": success, "Message": message, "Data": data}
        await exchange.answer(status, json.dumps(said), {"Content-Type": "application/json"})

    async def _tree(self, exchange: Exchange, files: dict[str, bytes]) -> None:
        """Send one page of the listing, or a spurious 403 where some are left for it."""
        self.requests["tree"] += 1
        page, size = int(exchange.query.get("PageNumber", 1)), int(exchange.query.get("PageSize", 200))
        if self.denials[page] > 0:
            self.denials[page] -= 1
            await self._say(exchange, 403, success=False, message="access denied")
            return
        rows = [self._row(path, data) for path, data in sorted(files.items())]
        folders = sorted({path.rsplit("/", 1)[0] for path in files if "/" in path})
        rows += [{"Path": f, "Name": f.rsplit("/", 1)[-1], "Type": "tree", "Size": 0} for f in folders]
        some = rows[(page - 1) * size : page * size]
        await self._say(exchange, 200, success=True, data={"Files": some})

    def _row(self, path: str, data: bytes) -> dict[str, object]:
        """Return the row of a file in the listing."""
        sha256 = hashlib.sha256(data + b"!" if path in self.wrong_sha256 else data).hexdigest()
        return {
            "Name": path.rsplit("/", 1)[-1],
            "Path": path,
            "Type": "blob",
            "Size": len(data),
            "Sha256": "" if path in self.without_sha256 else sha256,
            "Revision": "master",
            "IsLFS": len(data) >= _SMALL,
            "CommitId": "0" * 40,
            "CommittedDate": 1700000000,
        }

    async def _file(self, exchange: Exchange, name: str, files: dict[str, bytes]) -> None:
        """Send a small file, or the redirect of a large one to the CDN."""
        path = exchange.query.get("FilePath", "")
        self.requests[path] += 1
        data = files.get(path)
        if data is None:
            await self._say(exchange, 404, success=False, message="file not found")
        elif len(data) >= _SMALL:
            await exchange.answer(302, "", {"Location": f"/cdn/{name}/{quote(path)}?auth_key=1"})
        else:
            exchange.headers.pop("range", None)
            await exchange.serve(Blob(data), {"Content-Type": "application/octet-stream"})

    async def _cdn(self, exchange: Exchange, words: list[str]) -> None:
        """Send a file, or a range of it, as the CDN does."""
        data = self.repositories["/".join(words[1:3])]["/".join(words[3:])]
        self.requests["cdn"] += 1
        try:
            span = exchange.span(len(data))
        except ValueError:
            await exchange.answer(416, "", {"Content-Range": f"bytes */{len(data)}"})
            return
        if span is None:
            await exchange.serve(Blob(data), {"Content-Type": "application/octet-stream"})
            return
        start, stop = span
        # ModelScope's CDN sends a range with status 200 and a correct Content-Range
        await exchange.head(
            200,
            {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
                "Content-Length": str(stop - start),
            },
        )
        await exchange.raw(data[start:stop])
