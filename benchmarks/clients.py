"""The clients that are compared.

Each fetches the same files, is run as its users run it, and verifies every byte. A client without support for
digests is followed by sha256sum. Each client runs as separate processes. The elapsed seconds and the CPU
seconds are those of all its processes together.
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
    """The result of one run: elapsed seconds, CPU seconds, and peak bytes of its largest process."""

    seconds: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Work:
    """The files to fetch into `folder`. All have the same content.

    Attributes:
        urls: One URL per file.
        sha256: The digest of every file, in hexadecimal.
        folder: The working folder of the client.
        ca: The certificate of an authority to trust, if the origin uses TLS.
    """

    urls: Sequence[str]
    sha256: str
    folder: Path
    ca: Path | None = None

    @property
    def names(self) -> list[str]:
        return [f"f{number}" for number in range(len(self.urls))]


def run(commands: Sequence[Sequence[str]], folder: Path, more: dict[str, str] | None = None) -> Measured:
    """Run commands one after another.

    Args:
        commands: Each a program with its arguments.
        folder: The working folder.
        more: Further environment variables.

    Raises:
        SystemExit: A command failed.
    """
    cpu, peak, begun = 0.0, 0, time.monotonic()
    for command in commands:
        process = subprocess.Popen(
            list(command), cwd=folder, env={**os.environ, **(more or {})}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(
                f"a client failed with exit code {process.returncode}: {' '.join(command)[:300]}"
            )
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return Measured(time.monotonic() - begun, cpu, peak)


@cache
def compile_ours() -> None:
    """Compile osp_fetch to bytecode, as pip does on installation.

    With PYTHONDONTWRITEBYTECODE each start from a checkout would compile all modules again.
    """
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
    """Run osp-fetch with hashing disabled, to measure the cost of verification."""
    (work.folder / "m.txt").write_text("\n".join(work.urls))
    words = ["osp-fetch", "get", "m.txt", "-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
    code = f"""
import sys
from osp_fetch.storage.folder import hashing
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
    # 16 connections, its largest number for one server: over many files, or to one file.
    many = flags or (("-j16", "-x16", "-s16") if len(work.urls) < 16 else ("-j16", "-x1", "-s1"))
    fixed = ["--file-allocation=none", "-k1M", "--check-certificate=false", "-q", "-m0", "--retry-wait=1"]
    return run([["aria2c", "-ilist", *fixed, *many]], work.folder)


def _checked(work: Work, command: list[str]) -> Measured:
    """Run `command`, then sha256sum over the fetched files."""
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
    """Run rclone once per URL. `copyurl` takes one URL, so that it is measured with few large files only."""
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
    """Run the usual hand-written script: 16 files at a time, one connection per file."""
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
    """Return whether a client is installed."""
    if name in _NEEDS:
        return shutil.which(_NEEDS[name]) is not None
    return name not in _MODULES or find_spec(_MODULES[name]) is not None


@cache
def digest(size: int) -> str:
    """Return the sha256 of an origin's file of `size` bytes, in hexadecimal."""
    made, pattern = hashlib.sha256(), Pattern(size)
    for at in range(0, size, MIB):
        made.update(pattern.read(at, min(at + MIB, size)))
    return made.hexdigest()


@contextmanager
def own_origin() -> Iterator[str]:
    """Start `origin.py` as a process that serves `/SIZE/anything`, and yield its URL."""
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
        listen 127.0.0.1:{port}{tls}; root {folder}; {more}
        location ~ ^/([0-9]+)/ {{ try_files /$1.bin =404; }}
    }}
}}
"""


@contextmanager
def nginx_origin(
    sizes: Sequence[int], place: str, *, tls: bool = False, more: str = ""
) -> Iterator[tuple[str, Path | None]]:
    """Start nginx with one worker process.

    nginx takes less of the two cores than `own_origin`, so that the figures compare clients, not servers.

    Args:
        sizes: The sizes of the files, in bytes.
        place: The folder for the files.
        tls: Whether to serve over TLS.
        more: Further directives of the server, such as `limit_rate 4m;`.

    Yields:
        The URL, and with TLS the certificate of the authority.

    Raises:
        SystemExit: nginx did not listen within four seconds.
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
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, tls=extra, more=more))
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
    raise SystemExit("nginx did not listen within four seconds")


@contextmanager
def origin(sizes: Sequence[int], place: str, *, tls: bool = False) -> Iterator[tuple[str, Path | None]]:
    """Start nginx if it is installed, else `own_origin`.

    Args:
        sizes: The sizes of the files, in bytes.
        place: The folder for the files.
        tls: Whether to serve over TLS.

    Yields:
        The URL, and with TLS the certificate of the authority.

    Raises:
        SystemExit: TLS was requested and nginx is not installed; `own_origin` does not support TLS.
    """
    if shutil.which("nginx"):
        with nginx_origin(sizes, place, tls=tls) as found:
            yield found
    elif tls:
        raise SystemExit("the TLS workload needs nginx: install it")
    else:
        with own_origin() as url:
            yield url, None
