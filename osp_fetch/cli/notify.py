"""`osp-fetch notify`: list the notices of a run, and test where they go."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..model.text import printable
from ..model.urls import redact
from . import exits
from .watching import notify_flags, targets_of

if TYPE_CHECKING:
    from ..views.delivery import Target

_LIMIT: Final = 30.0  # seconds for one delivery
_SHOWN: Final = 500  # bytes that are shown of what a command prints


@click.command("notify", short_help="Test where get sends its messages.")
@click.argument("urls", nargs=-1, metavar="[URL|@FILE]...")
@click.option("--test", is_flag=True, help="Send a test message, and say whether it was delivered.")
@notify_flags
def command(urls: tuple[str, ...], test: bool, **flags: Any) -> int:
    """List the notices that get sends with --notify and --on-event, or send a test message with --test.

    URL is an address of apprise, such as ntfys://ntfy.sh/TOPIC or mailto://USER:PASSWORD@HOST.
    """
    from ..views.notice import MEANINGS

    flags["notify"] = (*urls, *flags["notify"])
    if not test:
        for kind, meaning in MEANINGS.items():
            click.echo(f"{kind.value:22}{meaning}")
        return exits.OK
    targets = targets_of(flags)
    if not targets:
        raise click.UsageError("--test: name a URL or --on-event CMD")
    delivered = [_tested(target) for target in targets]
    return exits.OK if all(delivered) else exits.SOME_FAILED


def _tested(target: Target) -> bool:
    """Send a test message, print the result, and return whether it was delivered."""
    from ..views.delivery import deliver
    from ..views.notice import trial_notice

    notice = trial_notice(str(Path.cwd()), socket.gethostname(), time.time())
    with tempfile.TemporaryFile() as out:
        why = deliver(target, notice.row(), _LIMIT, out=out)
        out.seek(0)
        printed = out.read(_SHOWN).decode("utf-8", "replace").strip()
    if why is None:
        click.echo(f"{target.name}: delivered")
        return True
    detail = _detail(printed) if target.url else printable(redact(printed))
    click.echo(f"{target.name}: {why}{f': {detail}' if detail else ''}", err=True)
    return False


def _detail(printed: str) -> str:
    """Return the error of a service from the JSON that the process for it prints."""
    try:
        return printable(str(json.loads(printed.splitlines()[-1])["why"]))
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
