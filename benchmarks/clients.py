"""Who fetches the same files, each as its users would run it, and each verifying every byte.

A client that knows no digests is followed by sha256sum. Each runs as processes of its own; seconds on the
clock, CPU seconds and peak memory are those of all its processes.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from origin import Pattern

MIB = 1 << 20
PYTHON = sys.executable


@dataclass(frozen=True)
class Measured:
    """One run: seconds on the clock and of CPU, bytes of peak memory of its largest process."""

    seconds: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Work:
    """What is to be fetched: files of one content into `folder`. `ca`: a certificate to trust."""

    urls: Sequence[str]
    sha256: str
    folder: Path
    ca: Path | None = None

    @property
    def names(self) -> list[str]:
        return [f"f{number}" for number in range(len(self.urls))]


def run(commands: Sequence[Sequence[str]], folder: Path, more: dict[str, str] | None = None) -> Measured:
    """Run `commands` one after another. Raises SystemExit where one fails."""
    cpu, peak, begun = 0.0, 0, time.monotonic()
    for command in commands:
        process = subprocess.Popen(
            list(command), cwd=folder, env={**os.environ, **(more or {})}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"it failed ({process.returncode}): {' '.join(command)[:300]}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return Measured(time.monotonic() - begun, cpu, peak)


@cache
def compile_ours() -> None:
    """Compile osp_fetch, as pip does with what it installs: of a checkout each start would do it anew where
    Python is told to write no bytecode."""
    found = find_spec("osp_fetch")
    assert found is not None
    assert found.origin is not None
    compileall.compile_dir(Path(found.origin).parent, quiet=1)


def ours(work: Work, *flags: str) -> Measured:
    rows = zip(work.names, work.urls, strict=True)
    lines = [json.dumps({"path": name, "url": url, "sha256": work.sha256}) for name, url in rows]
    (work.folder / "m.jsonl").write_text("\n".join(lines))
    trust = ["--cacert", str(work.ca)] if work.ca else []
    words = ["get", "m.jsonl", "-o", "out", "-q", "--min-free", "0", "--profiles", "none", *trust, *flags]
    compile_ours()
    return run([[PYTHON, "-m", "osp_fetch", *words]], work.folder)


def unverified(work: Work) -> Measured:
    """osp-fetch with its hashing taken out: what verification costs."""
    (work.folder / "m.txt").write_text("\n".join(work.urls))
    words = ["osp-fetch", "get", "m.txt", "-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
    code = f"""
import sys
from osp_fetch.storage import hashing
class Nothing:
    def update(self, data): pass
    def hexdigest(self): return "0" * 64
hashing.hasher = lambda name, length: Nothing()
hashing.checksum = lambda data, value=0: value
def advance(self, read, upto, length):
    self._begin(length)
    self.position = upto
hashing.Tally.advance = advance
sys.argv = {words!r}
from osp_fetch.cli import main
main()
"""
    return run([[PYTHON, "-c", code]], work.folder)


def aria2(work: Work, *flags: str) -> Measured:
    rows = zip(work.urls, work.names, strict=True)
    lines = [f"{url}\n out={name}\n checksum=sha-256={work.sha256}" for url, name in rows]
    (work.folder / "list").write_text("\n".join(lines))
    # as many connections as it can have: many files, or many to one file
    many = flags or (("-j16", "-x16", "-s16") if len(work.urls) < 16 else ("-j16", "-x1", "-s1"))
    fixed = ["--file-allocation=none", "-k1M", "--check-certificate=false", "-q", "-m0", "--retry-wait=1"]
    return run([["aria2c", "-ilist", *fixed, *many]], work.folder)


def _checked(work: Work, command: list[str]) -> Measured:
    """`command`, and sha256sum over what it fetched."""
    lines = [f"{work.sha256}  {name}" for name in work.names]
    (work.folder / "sums").write_text("\n".join(lines) + "\n")
    return run([command, ["sha256sum", "--quiet", "-c", "sums"]], work.folder)


def curl(work: Work) -> Measured:
    rows = zip(work.urls, work.names, strict=True)
    (work.folder / "list").write_text("\n".join(f'url = "{u}"\noutput = "{n}"' for u, n in rows))
    trust = ["--cacert", str(work.ca)] if work.ca else []
    return _checked(work, ["curl", "-sS", "-Z", "--parallel-max", "16", *trust, "-K", "list"])


def wget2(work: Work) -> Measured:
    (work.folder / "list").write_text("\n".join(work.urls))
    return _checked(work, ["wget2", "-q", "--max-threads=16", "--no-check-certificate", "-i", "list"])


def rclone(work: Work) -> Measured:
    """It copies one URL a time; a list of them it does not take, so that it is for few large files."""
    fixed = ["--multi-thread-streams", "16", "--config", "/dev/null"]
    each = zip(work.urls, work.names, strict=True)
    copied = [["rclone", "copyurl", url, name, *fixed] for url, name in each]
    lines = [f"{work.sha256}  {name}" for name in work.names]
    (work.folder / "sums").write_text("\n".join(lines) + "\n")
    return run([*copied, ["sha256sum", "--quiet", "-c", "sums"]], work.folder)


def _script(work: Work, code: str) -> Measured:
    (work.folder / "urls.json").write_text(json.dumps(list(zip(work.urls, work.names, strict=True))))
    return _checked(work, [PYTHON, "-c", "import json; rows = json.load(open('urls.json'))\n" + code])


def hf_transfer(work: Work) -> Measured:
    return _script(
        work,
        "import hf_transfer\nfor u, n in rows: hf_transfer.download(u, n, max_files=16, chunk_size=10 << 20)",
    )


def parfive(work: Work) -> Measured:
    return _script(
        work,
        "import parfive\nd = parfive.Downloader(max_conn=16, max_splits=16, progress=False)\n"
        "for u, n in rows: d.enqueue_file(u, path='.', filename=n)\nassert not d.download().errors",
    )


def aiohttp_script(work: Work) -> Measured:
    """What many write themselves: 16 at a time, a file a connection."""
    return _script(
        work,
        """
import aiohttp, asyncio
async def main():
    todo = iter(rows)
    async def work(session):
        for url, name in todo:
            async with session.get(url) as reply:
                reply.raise_for_status()
                with open(name, "wb") as file:
                    async for chunk in reply.content.iter_chunked(1 << 20): file.write(chunk)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        await asyncio.gather(*(work(session) for _ in range(16)))
asyncio.run(main())
""",
    )


CLIENTS: dict[str, Callable[[Work], Measured]] = {
    "osp-fetch": ours,
    "aria2": aria2,
    "curl": curl,
    "wget2": wget2,
    "rclone": rclone,
    "hf_transfer": hf_transfer,
    "parfive": parfive,
    "aiohttp script": aiohttp_script,
}
_NEEDS = {"aria2": "aria2c", "curl": "curl", "wget2": "wget2", "rclone": "rclone"}
_MODULES = {"hf_transfer": "hf_transfer", "parfive": "parfive"}


def installed(name: str) -> bool:
    """Whether a client is here."""
    if name in _NEEDS:
        return shutil.which(_NEEDS[name]) is not None
    return name not in _MODULES or find_spec(_MODULES[name]) is not None


@cache
def digest(size: int) -> str:
    """The sha256 of a file of the origin's."""
    made, pattern = hashlib.sha256(), Pattern(size)
    for at in range(0, size, MIB):
        made.update(pattern.read(at, min(at + MIB, size)))
    return made.hexdigest()


@contextmanager
def own_origin() -> Iterator[str]:
    """Our own origin in a process of its own, which serves `/SIZE/anything`; its URL."""
    place = Path(__file__).with_name("origin.py")
    process = subprocess.Popen([PYTHON, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 2048; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{
        listen 127.0.0.1:{port}{tls}; root {folder};
        location ~ ^/([0-9]+)/ {{ try_files /$1.bin =404; }}
    }}
}}
"""


@contextmanager
def nginx_origin(sizes: Sequence[int], place: str, *, tls: bool = False) -> Iterator[tuple[str, Path | None]]:
    """nginx over files of `sizes` bytes, one worker; its URL, and the certificate that signs it.

    It takes less of the two cores than our own origin does, so that clients are compared, not servers.
    """
    import socket

    with tempfile.TemporaryDirectory(dir=place) as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        for size in sizes:
            with (folder / f"{size}.bin").open("wb") as file:
                for at in range(0, size, MIB):
                    file.write(Pattern(size).read(at, min(at + MIB, size)))
        extra, ca = "", None
        if tls:
            import trustme

            authority = trustme.CA()
            issued = authority.issue_cert("localhost", "127.0.0.1")
            ca = folder / "ca.pem"
            authority.cert_pem.write_to_path(ca)
            issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
            extra = f" ssl; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, tls=extra))
        server = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-e", "stderr"])
        stack.callback(server.wait)
        stack.callback(server.terminate)
        _until_listening(port)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", ca


def _until_listening(port: int) -> None:
    import socket

    for _ in range(200):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("nginx does not listen")


@contextmanager
def origin(sizes: Sequence[int], place: str, *, tls: bool = False) -> Iterator[tuple[str, Path | None]]:
    """nginx where it is installed, else our own origin (which speaks no TLS)."""
    if shutil.which("nginx"):
        with nginx_origin(sizes, place, tls=tls) as found:
            yield found
    elif tls:
        raise SystemExit("the TLS workload needs nginx")
    else:
        with own_origin() as url:
            yield url, None
