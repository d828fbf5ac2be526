"""Stand-ins for Meta's CDN with its link file, and for the Hugging Face Hub with its CDN.

Their behavior follows docs/sources.md, "SA-1B link file" and "Hugging Face Hub".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import field
from urllib.parse import quote

from ..model.dataclasses import dataclass
from .server import Blob, Content, Exchange

_KEY = b"demo"
_PAGE = 1000  # files on one page of the listing, as on the real Hub


def _sign(text: str) -> str:
    """Return a signature of `text` that can stand in a URL."""
    return base64.urlsafe_b64encode(hmac.digest(_KEY, text.encode(), "sha256")).decode().rstrip("=")


@dataclass(slots=True)
class MetaCdn:
    """Meta's CDN: tars behind links with a signature `oh` and an expiry `oe`, without ETag and Last-Modified.

    Args:
        files: Name → content of the tar.
        clock: Returns the time in Unix seconds.
        cuts: Name → bytes of the body after which the next reply is cut, once.
        rate: Bytes per second of one connection, None for no limit.
        requests: Number of requests by name.
        sent: Bytes of bodies that were sent, by name.
    """

    files: dict[str, Content] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    cuts: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    requests: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def path_of(name: str) -> str:
        """Return the URL path of a tar: 99 characters and `.tar`, the same in every generation of links."""
        token = base64.urlsafe_b64encode(hashlib.sha512(name.encode()).digest() * 2).decode()
        return f"/m1/v/t6/{token[:99]}.tar"

    def link(self, base: str, name: str, expires: float) -> str:
        """Return a link to a tar; its parameter `_nc_gid` has no `=`, as in the real links.

        Args:
            base: The server's base URL.
            name: The tar's name.
            expires: The link's expiry in Unix seconds.
        """
        path, oe = self.path_of(name), f"{int(expires):X}"
        return f"{base}{path}?_nc_gid&ccb=10-5&oh=00_{_sign(path + oe)}&oe={oe}&_nc_sid=0fdd51"

    def in_order(self) -> list[str]:
        """Return the names in the order of the link file: unsorted, and the same in every generation."""
        return sorted(self.files, key=lambda name: hashlib.md5(name.encode()).digest())

    def link_file(self, base: str, expires: float) -> str:
        """Return a link file as Meta issues it, without a final newline.

        Args:
            base: The server's base URL.
            expires: The links' expiry in Unix seconds.
        """
        rows = [f"{name}\t{self.link(base, name, expires)}" for name in self.in_order()]
        return "\n".join(["file_name\tcdn_link", *rows])

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request for a tar; 403 where its link was altered or has expired.

        Args:
            exchange: The request.
        """
        by_path = {self.path_of(name): name for name in self.files}
        name = by_path.get(exchange.path)
        if name is None:
            await exchange.answer(404, "Not Found", {"Content-Type": "text/plain"})
            return
        self.requests[name] += 1
        oe = exchange.query.get("oe", "")
        if exchange.query.get("oh") != f"00_{_sign(exchange.path + oe)}" or "_nc_gid&" not in exchange.target:
            await exchange.answer(403, "URL signature mismatch", {"Content-Type": "text/plain"})
        elif int(oe, 16) <= self.clock():
            await exchange.answer(403, "URL signature expired", {"Content-Type": "text/plain"})
        else:
            counted = _Counted(self.files[name], name, self.sent)
            cut = self.cuts.pop(name, None)
            await exchange.serve(
                counted, {"Content-Type": "application/x-tar"}, cut_after=cut, rate=self.rate
            )


@dataclass(slots=True)
class _Counted:
    """A content that counts the bytes that are read of it."""

    content: Content
    name: str
    sent: Counter[str]

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.content.length

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, without the one at `stop`."""
        data = self.content.read(start, stop)
        self.sent[self.name] += len(data)
        return data


@dataclass(slots=True)
class HubRepo:
    """One dataset repository.

    Args:
        name: OWNER/NAME.
        lfs: Path → bytes of the LFS files.
        git: Path → bytes of the small files, which are in git itself.
        gated: Whether a request without a valid token gets the error code GatedRepo.
        revisions: Name → files of a revision beside `main`, all of them in git itself.
    """

    name: str
    lfs: dict[str, bytes] = field(default_factory=dict)
    git: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def at(self, revision: str) -> HubRepo | None:
        """Return the repository at a revision, given by its name or commit; None if there is none."""
        others = {name: HubRepo(self.name, git=files) for name, files in self.revisions.items()}
        known = {"main": self, **others}
        return known.get(revision) or next((r for r in known.values() if r.commit == revision), None)

    @property
    def commit(self) -> str:
        """The commit of the revision `main`, 40 hex digits."""
        return hashlib.sha1(repr(sorted({**self.lfs, **self.git})).encode()).hexdigest()

    def tree(self) -> list[dict[str, object]]:
        """Return the listing, in the form of `/api/datasets/{repo}/tree/{sha}?recursive=True`."""
        items: list[dict[str, object]] = []
        for path, data in sorted({**self.lfs, **self.git}.items()):
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            item: dict[str, object] = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if path in self.lfs:
                sha256 = hashlib.sha256(data).hexdigest()
                item["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 135}
            items.append(item)
        folders = {path.rsplit("/", 1)[0] for path in {**self.lfs, **self.git} if "/" in path}
        items += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": each} for each in sorted(folders)]
        return items


@dataclass(slots=True)
class Hub:
    """The Hub and its CDN. The CDN needs a second `server.Server`, so that it is another origin.

    Args:
        repos: OWNER/NAME → repository.
        cdn_url: Base URL of the CDN.
        token: The token that requests to the Hub must carry; None where they need none.
        lifetime: Seconds for which a signed link to the CDN is valid.
        page: Files on one page of the listing.
        link_host: Base URL that the `Link` header states, as some mirrors state another than their own.
        clock: Returns the time in Unix seconds.
        cut_after: Path → bytes of the body after which the CDN's next reply is cut, once.
        rate: Bytes per second of one connection to the CDN, None for no limit.
        resolves: Number of `/resolve/` requests by path.
        leaks: Targets of the requests to the CDN that carried a token.
        left: Requests that are left of the quota.
    """

    repos: dict[str, HubRepo] = field(default_factory=dict)
    cdn_url: str = ""
    token: str | None = None
    lifetime: float = 3600.0
    page: int = _PAGE
    link_host: str | None = None
    clock: Callable[[], float] = time.time
    cut_after: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    resolves: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    left: int = 3000

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request to the Hub itself.

        Args:
            exchange: The request.
        """
        kind, _, rest = exchange.path.removeprefix("/api").lstrip("/").partition("/")
        repo = next((r for name, r in self.repos.items() if rest.startswith(name + "/")), None)
        if kind != "datasets" or repo is None:
            await self._error(exchange, 401 if self.token is None else 404, "RepoNotFound")
            return
        if self.token and exchange.headers.get("authorization") != f"Bearer {self.token}":
            await self._error(exchange, 401, "GatedRepo" if repo.gated else "RepoNotFound")
            return
        action, _, tail = rest.removeprefix(repo.name + "/").partition("/")
        match action:
            case "revision":
                await self._revision(exchange, repo, tail)
            case "tree":
                await self._tree(exchange, repo, tail)
            case "resolve":
                revision, _, path = tail.partition("/")
                await self._resolve(exchange, repo.at(revision) or repo, path)
            case _:
                await exchange.answer(404, "no such page", self._quota("pages"))

    def _quota(self, kind: str) -> dict[str, str]:
        """Return the headers that state the quota of a kind of request."""
        return {
            "RateLimit": f'"{kind}";r={self.left};t=55',
            "RateLimit-Policy": f'"fixed window";"{kind}";q=3000;w=300',
        }

    async def _error(self, exchange: Exchange, status: int, code: str) -> None:
        """Send an error in the Hub's form."""
        headers = {"X-Error-Code": code, "X-Error-Message": code, **self._quota("api")}
        await exchange.answer(status, json.dumps({"error": code}), headers)

    async def _revision(self, exchange: Exchange, repo: HubRepo, revision: str) -> None:
        """Send the commit and the file names of a revision."""
        found = repo.at(revision)
        if found is None:
            await self._error(exchange, 404, "RevisionNotFound")
            return
        repo = found
        siblings = [{"rfilename": path} for path in sorted({**repo.lfs, **repo.git})]
        facts = {"id": repo.name, "sha": repo.commit, "siblings": siblings, "tags": [], "downloads": 0}
        headers = {"Content-Type": "application/json", **self._quota("api")}
        await exchange.answer(200, json.dumps(facts), headers)

    async def _tree(self, exchange: Exchange, repo: HubRepo, revision: str) -> None:
        """Send one page of the listing, with the link to the next page."""
        found = repo.at(revision.partition("/")[0])
        if found is None:
            await self._error(exchange, 404, "RevisionNotFound")
            return
        repo = found
        items, at = repo.tree(), int(exchange.query.get("cursor", "0"))
        headers = {"Content-Type": "application/json", **self._quota("api")}
        if at + self.page < len(items):
            base = self.link_host or f"http://{exchange.headers['host']}"
            headers["Link"] = f'<{base}{exchange.path}?recursive=True&cursor={at + self.page}>; rel="next"'
        await exchange.answer(200, json.dumps(items[at : at + self.page]), headers)

    async def _resolve(self, exchange: Exchange, repo: HubRepo, path: str) -> None:
        """Send a small file, or the redirect of an LFS file to the CDN."""
        self.resolves[path] += 1
        headers = {"X-Repo-Commit": repo.commit, **self._quota("resolvers")}
        if path in repo.git:
            data = repo.git[path]
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            await exchange.serve(Blob(data), {**headers, "ETag": f'"{etag}"'})
        elif path in repo.lfs:
            data = repo.lfs[path]
            sha256 = hashlib.sha256(data).hexdigest()
            headers |= {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
                "ETag": f'"{sha256}"',
            }
            await exchange.answer(302, "Found", {**headers, "Location": self._signed(repo, path)})
        else:
            await self._error(exchange, 404, "EntryNotFound")

    def _signed(self, repo: HubRepo, path: str) -> str:
        """Return a signed link to a file on the CDN."""
        place = f"/{quote(repo.name, safe='/')}/{quote(path, safe='/')}"
        expires = int(self.clock() + self.lifetime)
        return f"{self.cdn_url}{place}?Expires={expires}&Policy=demo&Signature={_sign(place + str(expires))}"

    async def handle_cdn(self, exchange: Exchange) -> None:
        """Answer one request to the CDN: only signed links, and an ETag that is not the SHA-256 digest.

        Args:
            exchange: The request.
        """
        if "authorization" in exchange.headers:
            self.leaks.append(exchange.target)
        place, expires = exchange.target.partition("?")[0], exchange.query.get("Expires", "0")
        name = next((n for n in self.repos if exchange.path.startswith(f"/{n}/")), None)
        signed = exchange.query.get("Signature") == _sign(place + expires)
        if name is None or not signed or int(expires) <= self.clock():
            denied = "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
            await exchange.answer(403, denied, {"Content-Type": "application/xml"})
            return
        path = exchange.path.removeprefix(f"/{name}/")
        data = self.repos[name].lfs[path]
        etag = hashlib.blake2b(data, digest_size=32).hexdigest()
        cut = self.cut_after.pop(path, None)
        await exchange.serve(Blob(data), {"ETag": f'"{etag}"'}, cut_after=cut, rate=self.rate)
