"""`osp-fetch config show`: print the settings and where they come from."""

from __future__ import annotations

import json
from typing import Any

import click

from ..model.report import JSON_VERSION
from ..model.settings import Settings
from .flags import PREFIX
from .options import layers


@click.group("config")
def command() -> None:
    """Show the settings."""


@command.command("show")
@click.option("-c", "--config", envvar=PREFIX + "CONFIG", metavar="FILE", help="TOML file with settings.")
@click.option(
    "--set",
    "settings",
    envvar=PREFIX + "SET",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting (repeatable).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(as_json: bool, **flags: Any) -> int:
    """Print every setting as TOML, with its value and where the value comes from."""
    given = layers(flags)
    made = Settings.load(*given)
    origins = {(s, k): name for name, layer in given for s, values in layer.items() for k in values}
    if as_json:
        document: dict[str, Any] = {"version": JSON_VERSION}
        for section, key, value in made.items():
            origin = origins.get((section, key), "default")
            document.setdefault(section, {})[key] = {"value": value, "from": origin}
        click.echo(json.dumps(document, indent=2))
        return 0
    last = ""
    for section, key, value in made.items():
        if section != last:
            click.echo(("\n" if last else "") + f"[{section}]")
            last = section
        origin = origins.get((section, key), "default")
        click.echo(f"{key} = {json.dumps(value)}  # {origin}")
    return 0
