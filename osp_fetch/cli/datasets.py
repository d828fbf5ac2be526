"""`osp-fetch datasets`: list the dataset names that can be used as SOURCE."""

from __future__ import annotations

import json

import click

from . import exits


@click.command("datasets", short_help="List the datasets of Open-Sora-Plan v1.1.0.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> int:
    """List the six datasets of Open-Sora-Plan v1.1.0 and their captions. Use a name as SOURCE of get."""
    from ..datasets.catalogue import OFFERED, warnings
    from ..views import formatting

    if as_json:
        click.echo(json.dumps([dataset.row() for dataset in OFFERED], indent=2))
        return exits.OK
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("name", "kind", "pairs", "frames", "hours", "files", "bytes"):
        table.add_column(name, justify="left" if name in ("name", "kind") else "right")
    for dataset in OFFERED:
        table.add_row(
            dataset.name, dataset.kind, " + ".join(f"{each.pairs:,}" for each in dataset.captions),
            " + ".join(str(each.frames) for each in dataset.captions if each.frames),
            f"{dataset.hours:,.1f}" if dataset.hours else "", str(dataset.files or ""),
            formatting.size(dataset.bytes) if dataset.bytes else "",
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for dataset in OFFERED:
        first, *others = dataset.sources
        console.print(f"{dataset.name}: from {dataset.needs or first}", markup=False)
        for other in others:
            console.print(f"{dataset.name}: also {other}", markup=False)
    for said in warnings(["all"]):
        console.print(said, style="yellow", markup=False)
    return exits.OK
