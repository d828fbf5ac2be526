"""`osp-fetch config show`: print the settings and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from ..model.quantities import host_name
from ..model.report import JSON_VERSION
from ..model.settings import Layer, Settings
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
    origins = {place: name for name, layer in given for place in _places(layer)}
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


def _places(layer: Layer) -> Iterator[tuple[str, str]]:
    """Yield the section and key of each setting of a layer, as `Settings.items` names them."""
    for section, values in layer.items():
        for key, value in values.items():
            if section == "hosts":
                yield from ((f'hosts."{host_name(key)}"', each) for each in value)
            else:
                yield section, key
