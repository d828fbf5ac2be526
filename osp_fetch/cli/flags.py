"""The flags that `get`, `plan` and `bench` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PREFIX: Final = "OSP_FETCH_"
"""What the variables of the environment begin with."""

VARIABLES: Final = {
    PREFIX + name
    for name in (
        "RECHECK",
        "MAX_DURATION",
        "QUIET",
        "VERBOSE",
        "NOTIFY",
        "ON_EVENT",
        "METRICS",
        "METRICS_FILE",
        "REPORT",
    )
}  # flags of `get`


def _option(*names: str, **more: Any) -> Callable[[F], F]:
    long = next(name for name in names if name.startswith("--"))
    env = PREFIX + long.strip("-").split("/")[0].replace("-", "_").upper()
    VARIABLES.add(env)
    return click.option(*names, envvar=env, show_envvar=False, **more)


class Line(click.types.StringParamType):
    """Text of which a variable holds one value per line: a header contains blanks."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line.strip()]


_OPTIONS: Final = (
    _option(
        "-o",
        "--output",
        default=".",
        metavar="DIR|s3://…",
        help="Folder or bucket to write to; for one link, also a file.  [default: .]",
    ),
    _option("--state", metavar="DIR", help="Local folder for the state of a run to a bucket."),
    _option("--s3-endpoint", metavar="URL", help="Where the bucket is, if not at AWS."),
    _option("--s3-source-endpoint", metavar="URL", help="Where s3:// SOURCEs are, if elsewhere."),
    _option("--s3-unsigned", is_flag=True, help="Do not sign requests to s3:// SOURCEs: they are public."),
    _option("--s3-requester-pays", is_flag=True, help="Let s3:// SOURCEs charge your account."),
    _option("--links", metavar="FILE", help="Link file, for a dataset that needs one (sam-11m)."),
    _option("-j", "--connections", metavar="N|auto", help="Largest total number of connections."),
    _option("-x", "--per-host", metavar="N|auto", help="Largest number of connections to one host."),
    _option("-k", "--part-size", metavar="SIZE|auto", help="Bytes per range request."),
    _option(
        "--limit-rate",
        metavar="SIZE|TABLE",
        help="Limit the total rate to SIZE bytes per second, or by a timetable: '08:00,10MiB 19:00,off'.",
    ),
    _option("--processes", metavar="N|auto", help="Number of worker processes."),
    _option("--min-free", metavar="SIZE", help="Keep at least this much disk space free."),
    _option(
        "--on-expired",
        metavar="wait|exit",
        help="When links expire: wait for a fresh link file, or exit with code 4.",
    ),
    _option(
        "--links-command",
        metavar="CMD",
        help="Command that provides fresh links: it prints or replaces the link file.",
    ),
    _option("--include", multiple=True, metavar="GLOB", help="Fetch only matching paths (repeatable)."),
    _option("--exclude", multiple=True, metavar="GLOB", help="Skip matching paths (repeatable)."),
    _option(
        "--checksums",
        multiple=True,
        metavar="FILE|URL",
        help="Verify against this md5sum or sha256sum list (repeatable).",
    ),
    _option(
        "--depth",
        type=click.IntRange(min=1),
        metavar="N",
        help="Levels of folders to read below a folder page of a web server.  [default: 10]",
    ),
    _option(
        "--digests",
        multiple=True,
        metavar="SOURCE",
        help="Take sizes and checksums from this SOURCE, such as hf://… (repeatable).",
    ),
    _option(
        "--mirror",
        multiple=True,
        metavar="SOURCE",
        help="Another SOURCE of the same files: links, sizes, checksums (repeatable).",
    ),
    _option(
        "--shard",
        metavar="I/N|auto",
        help="Fetch only shard I of N, counted from 0. auto: take it from the Slurm array or Kubernetes job.",
    ),
    _option(
        "--again",
        multiple=True,
        metavar="GLOB",
        help="Fetch matching files again, even finished ones (repeatable).",
    ),
    _option(
        "--columns",
        metavar="MEANING=COLUMN,…",
        help="Columns of a table by hand, such as url=contentUrl,size=bytes,md5=OriginalMD5.",
    ),
    _option(
        "--names",
        metavar="url|host|hash|index|server",
        help="How rows without a path are named.  [default: url]",
    ),
    _option(
        "--fan-out", type=int, metavar="N", help="Spread files without a folder over N subfolders by name."
    ),
    _option("--portable-names", is_flag=True, help="Refuse names that Windows forbids."),
    _option("--accept-pages", is_flag=True, help="Save HTML pages, too, whatever the file is called."),
    _option("--overwrite", is_flag=True, help="Replace your own files instead of moving them aside."),
    _option("--no-mtime", is_flag=True, help="Do not set files' times to the server's Last-Modified."),
    _option("--strict", is_flag=True, help="Stop at the first bad row of the manifest."),
    _option(
        "--header",
        type=Line(),
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Header to send with every request (repeatable).",
    ),
    _option(
        "--connect-to",
        multiple=True,
        metavar="HOST:PORT:HOST:PORT",
        help="Connect to the second HOST:PORT instead of the first, as in curl (repeatable).",
    ),
    _option("--cacert", metavar="FILE", help="Also trust the CA certificates in FILE (PEM)."),
    _option(
        "--profiles", metavar="FILE|none", help="File with the results of bench --save; none to ignore it."
    ),
    _option(
        "-c",
        "--config",
        metavar="FILE",
        help="TOML file with settings, or a preset: sa1b, huggingface, polite.",
    ),
    _option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting (repeatable)."),
    _option("--json", "as_json", is_flag=True, help="Print the result as one JSON document."),
)


def bucket_flags(command: F) -> F:
    """Add the flags by which `status`, `verify` and `clean` find a bucket and its local state."""
    command = _option("--s3-endpoint", metavar="URL", help="Where the bucket is, if not at AWS.")(command)
    return _option("--state", metavar="DIR", help="Local folder with the state of the bucket.")(command)


def shared(command: F) -> F:
    """Add the flags of `get` and `plan` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
