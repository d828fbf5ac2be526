"""ModelScope's dataset API with its manners, good and bad, as FACTS section 4 describes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote

from .server import Blob, Exchange

_SMALL = 64 << 10  # files below this are not LFS, and ignore Range


@dataclass(slots=True)
class ModelScope:
    """`repositories`: OWNER/NAME → path → bytes. `token`: asked for where set. `without_sha256`: paths
    whose digest is not listed; `wrong_sha256`: whose is wrong. `denials`: pages → spurious 403s left."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    without_sha256: set[str] = field(default_factory=set)
    wrong_sha256: set[str] = field(default_factory=set)
    denials: Counter[int] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
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
            # as the real one: HTTP 200, and an error all the same
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
        said = {"Code": code, "Success": success, "Message": message, "Data": data}
        await exchange.answer(status, json.dumps(said), {"Content-Type": "application/json"})

    async def _tree(self, exchange: Exchange, files: dict[str, bytes]) -> None:
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
        # a range with status 200 and a right Content-Range
        await exchange.head(
            200,
            {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
                "Content-Length": str(stop - start),
            },
        )
        await exchange.raw(data[start:stop])
