"""`osp-fetch ctl`: steer a run while it works."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from ..model.errors import FetchError
from . import exits
from .flags import bucket_flags
from .options import place_of_flags
from .shards import shard


@click.command("ctl", short_help="Steer a run while it works.")
@click.argument("folder", metavar="DIR|s3://…")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND...")
@click.option("--shard", metavar="I/N", help="Only the run of this shard; otherwise all that work in DIR.")
@bucket_flags
@click.option("--json", "as_json", is_flag=True, help="Print the state of the run as one JSON document.")
def command(folder: str, words: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Steer the run that works in DIR, without a restart. Nothing that is held is lost.

    \b
    status                    how far it is, and what commands have changed
    pause, resume             close all transfers; go on at the same byte
    rate 20MiB                limit the rate; also off, or '08:00,10MiB 19:00,off'
    connections 8             limit the connections; auto for the usual number
    host NAME pause           leave one server alone; host NAME resume
    retry-failed              fetch the files that have failed again
    add SOURCE                fetch the files of another SOURCE, too
    links FILE                take fresh links from FILE
    stop                      save and end, with exit code 75
    """
    where, _ = place_of_flags(folder, flags)
    states = _states(where.root, flags["shard"])
    words = _with_absolute_paths(words)
    if words == ("stop",) and flags["shard"] is None:
        from ..cluster.shares import ask_to_stop

        ask_to_stop(where.root)
    documents, refused = [], []
    for state, asked in zip(states, _asked(states, words), strict=True):
        name = f"shard {state.name.replace('-of-', '/')}: " if state.parent.name == "shards" else ""
        try:
            reply = asked.result()
        except FetchError as error:
            refused.append((f"osp-fetch: {name}{error}", error.cause == "no run"))
            continue
        documents.append(reply["status"])
        if not as_json:
            _print(name, reply)
    if as_json and documents:
        click.echo(json.dumps(documents[0] if len(states) == 1 else documents, indent=2))
    # the stop of one run may end others before they have answered, and only some have failed files to repeat
    repeats = words[0] == "retry-failed"
    wrong = [line for line, is_gone in refused if not (documents and (is_gone or repeats))]
    for line in wrong:
        click.echo(line, err=True)
    return exits.SOME_FAILED if wrong else exits.OK


def _states(root: Path, text: str | None) -> list[Path]:
    """Return the state folders of the runs that a command is for; at least one."""
    from ..storage.folder.run_lock import owners_of, state_folder, state_folders

    if text is not None:
        return [state_folder(root, shard(text, {}))]
    states = state_folders(root)
    owned = [state for state, owner in zip(states, owners_of(states), strict=True) if owner is not None]
    return owned or [state_folder(root)]


def _asked(states: list[Path], words: tuple[str, ...]) -> list[Future[dict[str, Any]]]:
    """Send a command to all runs at once: one that does not answer delays no other."""
    from ..control.client import ask
    from ..control.commands import parse

    def one(state: Path) -> dict[str, Any]:
        parse(words)  # a command that makes no sense is refused, also where no run works
        return ask(state, words)

    with ThreadPoolExecutor(len(states)) as pool:
        return [pool.submit(one, state) for state in states]


def _with_absolute_paths(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words with the path of a file made absolute: the run has another working directory."""
    if words[0] in ("links", "add") and len(words) == 2 and (words[0] == "links" or Path(words[1]).exists()):
        return words[0], str(Path(words[1]).absolute())
    return words


def _print(name: str, reply: dict[str, Any]) -> None:
    from ..views.status_lines import run_lines

    lines = [reply["said"]] if reply["said"] else run_lines(reply["status"])
    for line in lines:
        click.echo(f"{name}{line}")
