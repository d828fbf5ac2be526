"""The command line: one module a command, loaded when it is called, so that --help is instant."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Final

import click

from .. import __version__

_COMMANDS: Final = {
    "get": "Fetch into a folder; the same command resumes.",
    "plan": "Show what get would do.",
    "status": "Show what a folder holds.",
    "verify": "Hash every finished file again.",
    "datasets": "Show the datasets of Open-Sora-Plan v1.1.0.",
    "unpack": "Unpack the archives of a folder, all or nothing each.",
    "layout": "Make the folder that training reads.",
    "coverage": "Count the pairs whose file is there.",
    "bench": "Find the best number of connections to a host.",
    "demo": "See it work, without a network.",
    "config": "Show the settings and where they come from.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f".{cmd_name}", __name__).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="osp-fetch", prog_name="osp-fetch")
def group() -> None:
    """Move big training datasets over HTTP: ranged, resumable, verified.

    \b
    osp-fetch get sam-11m --links sa1b_links.tsv -o data/sam
    osp-fetch get 'hf://datasets/LanguageBind/Open-Sora-Plan-v1.1.0/all_mixkit/*' -o data
    """


def main() -> None:
    """The entry point. Exit codes are in the README."""
    # little is garbage: to look for it as often as Python does costs a start a tenth, and small files 5 %
    gc.set_threshold(50_000, 20, 50)
    from ..model.errors import FetchError

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
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    gc.freeze()  # or the interpreter looks through all of it once more on its way out, for a tenth of a start
    sys.exit(code)
