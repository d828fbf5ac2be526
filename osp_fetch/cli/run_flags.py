"""The flags of `get` that `bench` does not share. `plan` takes them, and says what they would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.engines import Folder, Ray
from ..s3.address import is_bucket
from .flags import PREFIX
from .options import duration, options
from .unpack import how_flags, how_of
from .watching import check_watching, port_of, watch_flags

if TYPE_CHECKING:
    from ..options import PlainOptions

F = TypeVar("F", bound=Callable[..., Any])

_FIRST: Final = (
    click.option("--unpack", is_flag=True, help="Unpack each archive when it is complete."),
    click.option("--layout", is_flag=True, help="At the end, write the file lists that training reads."),
)
_LAST: Final = (
    click.option(
        "--recheck", is_flag=True, envvar=PREFIX + "RECHECK",
        help="Check finished files against their checksums.",
    ),
    click.option("--update", is_flag=True, help="Fetch finished files again if their source has changed."),
    click.option(
        "--max-duration", envvar=PREFIX + "MAX_DURATION", metavar="TIME",
        help="Stop after TIME with exit code 75.",
    ),
    click.option("--wait-lock", metavar="TIME", help="Wait up to TIME while another run uses the folder."),
    click.option(
        "--engine", type=click.Choice(["local", "ray", "folder"]), default="local",
        help="Where files are fetched: here, on a Ray cluster, or by all runs that share the folder.",
    ),
    click.option("--join", is_flag=True, help="The same as --engine folder."),
    click.option("--address", default="auto", metavar="HOST:PORT", help="The Ray cluster.  [default: auto]"),
    click.option(
        "--nodes", type=click.IntRange(min=1), metavar="N", help="Use at most N nodes of the cluster."
    ),
    click.option("--node-local", is_flag=True, help="Let each node keep what it fetches on its own disk."),
    click.option("--failed", metavar="FILE", help="List files that failed or are parked in FILE, for get."),
    watch_flags,
    click.option("--page", metavar="PORT|HOST:PORT", help="Serve a page about the run; its link is printed."),
    click.option("--page-control", is_flag=True, help="Let the page pause, limit and stop the run."),
    click.option("-n", "--dry-run", is_flag=True, help="Only show what would be done, like plan."),
    click.option("-q", "--quiet", is_flag=True, envvar=PREFIX + "QUIET", help="Print errors only."),
    click.option(
        "-v", "--verbose", is_flag=True, envvar=PREFIX + "VERBOSE",
        help="Print a line for every file and retry.",
    ),
)  # fmt: skip


def run_flags(command: F) -> F:
    """Add the flags of `get` beyond the shared ones to a command."""
    for option in (*reversed(_LAST), how_flags, *reversed(_FIRST)):
        command = option(command)
    return command


def run_names() -> frozenset[str]:
    """Return the names of the parameters that `run_flags` adds."""

    @run_flags
    def holder() -> None:
        """Hold the parameters, as click collects them."""

    params: list[click.Parameter] = vars(holder)["__click_params__"]
    return frozenset(str(param.name) for param in params)


def run_options(flags: dict[str, Any]) -> PlainOptions:
    """Convert the flags of a run to options of the library.

    Args:
        flags: Flags by parameter name, with a folder as `output`.

    Raises:
        SettingsError: A setting is invalid, or a file that a flag names cannot be used.
        click.UsageError: A flag is malformed, or needs another one.
    """
    flags = _joined(flags)
    if flags["layout"] and is_bucket(flags["output"]):
        raise click.UsageError(
            "--layout: the file lists are written beside the files; fetch to a local folder for it"
        )
    limit, patience = duration(flags["max_duration"]), duration(flags["wait_lock"])
    made = options(flags)
    made["recheck"], made["update"] = flags["recheck"], flags["update"]
    if patience is not None:
        made["wait_lock"] = patience
    if flags["failed"]:
        made["failed"] = Path(flags["failed"])
    if limit is not None:
        made["max_duration"] = limit
    _add_engine(made, flags)
    _add_page(made, flags)
    return made


def _add_engine(made: PlainOptions, flags: dict[str, Any]) -> None:
    """Add the engine. Raises click.UsageError for flags of another engine, or that need the files here."""
    named = [name for name in ("nodes", "address", "node_local") if flags[name] not in (None, "auto", False)]
    if flags["engine"] != "ray" and named:
        raise click.UsageError(
            f"--{named[0].replace('_', '-')}: it is for nodes of a Ray cluster; give --engine ray, too, or "
            "leave it out"
        )
    here = [name for name in ("unpack", "layout") if flags[name]]
    if flags["node_local"] and here:
        raise click.UsageError(
            f"--{here[0]}: it needs all files in one place, and with --node-local each node has its own; "
            "leave one of the two out"
        )
    if flags["engine"] == "folder":
        made["engine"] = Folder()
    elif flags["engine"] == "ray":
        made["engine"] = Ray(flags["address"], flags["nodes"] or 0, flags["node_local"])


def _joined(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with `--join` as the engine, whose shares need no `--shard auto`.

    Raises:
        click.UsageError: `--join` and another engine were given.
    """
    if flags["join"]:
        if flags["engine"] == "ray":
            raise click.UsageError("--join: runs that share a folder need no Ray; leave one of the two out")
        flags = {**flags, "engine": "folder"}
    if flags["engine"] == "folder" and flags["shard"] == "auto":
        flags = {**flags, "shard": None}
    return flags


def _add_page(made: PlainOptions, flags: dict[str, Any]) -> None:
    """Add the options of the page. Raises click.UsageError for a flag that needs the other one."""
    if flags["page_control"] and not flags["page"]:
        raise click.UsageError("--page-control: give --page, too")
    if flags["page"]:
        from ..views.page.access import address

        address(flags["page"])
        made["page"], made["page_control"] = flags["page"], flags["page_control"]


def announced(sources: list[str], flags: dict[str, Any], made: PlainOptions) -> dict[str, str]:
    """Return what the flags of a run would do, by name; the arguments and errors are those of `check_run`."""
    check_run(sources, flags, made)
    return dict(_announced(_joined(flags), made, check_watching(flags)))


def without_unpack(flags: dict[str, Any]) -> list[str]:
    """Return a sentence if flags were given that matter only with `--unpack`, which was not."""
    given = [name for name in ("into", "flat", "delete_after", "workers") if flags[name]]
    given += ["format"] * (flags["form"] != "files") + ["shard_size"] * (flags["shard_size"] is not None)
    if flags["unpack"] or not given:
        return []
    names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    return [f"{names}: nothing is unpacked without --unpack"]


def check_run(sources: list[str], flags: dict[str, Any], made: PlainOptions) -> None:
    """Check what a run would refuse only after it has been announced.

    Args:
        sources: The SOURCE arguments.
        flags: Flags by parameter name.
        made: The result of `run_options`.

    Raises:
        SettingsError: A file, an address or a package that a flag needs cannot be used.
        click.UsageError: A flag is malformed.
    """
    from ..api import check_shares
    from ..assembly import failed_file_of
    from ..cluster.of_run import destination_of
    from ..storage.folder.run_lock import state_folder

    if (kinds := made["settings"].notify.kinds) not in ("all", "problems"):
        from ..views.notice import wanted_kinds

        wanted_kinds(kinds)
    if flags["unpack"]:
        how_of(flags, made["settings"].storage.min_free)
    place = destination_of(flags["output"], made)
    if isinstance(made.get("engine"), Folder):
        check_shares(sources, place, made)
    failed_file_of(sources, made, state_folder(place.root, made.get("shard")))


def _announced(
    flags: dict[str, Any], made: PlainOptions, watching: dict[str, str]
) -> Iterator[tuple[str, str]]:
    from ..views import formatting

    if flags["engine"] == "ray":
        most = f", at most {formatting.count(flags['nodes'], 'node')}" if flags["nodes"] else ""
        is_here = flags["address"] == "auto"
        which = "this machine's Ray cluster" if is_here else f"the Ray cluster at {flags['address']}"
        yield "engine", f"the nodes of {which}{most}"
        from ..cluster.probe import destination_found
        from ..storage.destination import destination

        engine = Ray(flags["address"], flags["nodes"] or 0, flags["node_local"])
        yield "destination", destination_found(engine, destination(flags["output"], made.get("state")))
    elif flags["engine"] == "folder":
        yield "engine", "shared with all runs in the folder"
    if (processes := made["settings"].limits.processes) != 1:
        yield "processes", str(processes)
    if flags["recheck"]:
        yield "recheck", "finished files are hashed again; those that are wrong are fetched"
    if flags["update"]:
        yield "update", "finished files without a digest are fetched again if their source has changed"
    if limit := made.get("max_duration"):
        yield "stops after", formatting.duration(limit)
    if (patience := made.get("wait_lock")) is not None:
        yield "waits", f"up to {formatting.duration(patience)} for another run in the folder"
    for said in without_unpack(flags):
        yield "unpacking", said
    if flags["layout"]:
        yield "layout", "the file lists that training reads are written at the end"
    if flags["failed"]:
        yield "failures", f"written to {flags['failed']}"
    if flags["page"]:
        from ..views.page.access import address

        page = address(flags["page"])
        yield "page", port_of(page.host, page.port)
    yield from watching.items()
