"""The command line `osp-fetch`: one module per command, imported only when the command is called.

`--help` must be instant, so it imports neither pandas nor aiohttp; commands import what they need inside
their functions. stdout carries data, stderr carries messages for people.

The package may import every other package of osp_fetch; nothing imports it except `__main__`. Only this
package may import click.
Start with `get.py` (the main command), then `options.py` (shared flags) and `exits.py` (exit codes).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from importlib import import_module
from typing import Final, NoReturn

import click

from ..version import __version__
from .completion import complete

_COMMANDS: Final = {
    "get": "Download files into a folder; run it again to resume.",
    "plan": "Show what get would do.",
    "status": "Show what a folder holds.",
    "report": "Write what the runs of a folder did, as a page.",
    "ctl": "Steer a run while it works.",
    "verify": "Check finished files against their checksums.",
    "clean": "Abort unfinished uploads in a bucket.",
    "datasets": "List the datasets of Open-Sora-Plan v1.1.0.",
    "unpack": "Unpack the archives in a folder.",
    "layout": "Write the file lists that training reads.",
    "coverage": "Count the caption entries whose file is present.",
    "notify": "Test where get sends its messages.",
    "bench": "Find the best settings for a host, and what limits a run.",
    "doctor": "Say what limits a run, and what to do.",
    "demo": "Run a demonstration without a network.",
    "config": "Show the settings and where they come from.",
}


class _Lazy(click.Group):
    """A group that imports the module of a command when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f".{cmd_name}", __name__).command
        assert isinstance(command, click.Command)
        complete(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="osp-fetch", prog_name="osp-fetch")
def group() -> None:
    """Download large training datasets over HTTP, with resume and checksum verification.

    \b
    osp-fetch get sam-11m --links sa1b_links.tsv -o data/sam
    osp-fetch get 'hf://datasets/LanguageBind/Open-Sora-Plan-v1.1.0/all_mixkit/*' -o data
    """


def _use_utf8() -> None:
    """Start again in UTF-8 mode if the locale has another encoding: file names may have any letter."""
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or sys.flags.utf8_mode:
        return
    os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def main() -> None:
    """Run the command line and exit the process. The reference lists the exit codes."""
    _use_utf8()
    # There is little cyclic garbage. Python's default thresholds cost 10 % of the start-up time and 5 % of
    # the time of small files. The imports of a command make about 50,000 objects, which stay.
    gc.set_threshold(100_000, 20, 50)
    from ..model.errors import FetchError
    from .streams import make_safe

    make_safe()

    try:
        code = group.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FetchError as error:
        from .exits import code_of

        click.echo(f"osp-fetch: {error}", err=True)
        code = code_of(error)
    _leave(code)


def _leave(code: int | None) -> NoReturn:
    """Exit the process, without the clean-up of the interpreter where nothing needs it.

    It takes 4 % of the time of a run of one file. Before it, the interpreter scans all objects again, which
    takes 10 %.
    """
    others = any(not each.daemon for each in threading.enumerate() if each is not threading.main_thread())
    if others or sys.gettrace() or sys.getprofile() or sys.flags.inspect:
        gc.freeze()
        sys.exit(code)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # the interpreter reports it once more, and exits with its own code
        sys.exit(code)
    os._exit(code or 0)
