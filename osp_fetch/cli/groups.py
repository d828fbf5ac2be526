"""Help with groups: forty flags in one list are not read."""

from __future__ import annotations

from typing import Final

import click

# Title → names of the parameters below it, in this order. A flag that no group names is below "Other".
_GROUPS: Final = {
    "Where to, and which files": (
        "output state s3_endpoint links include exclude depth shard again overwrite no_mtime min_free"
    ),
    "Fast and polite": "connections per_host part_size limit_rate processes",
    "Right bytes": "checksums digests mirror recheck update accept_pages strict",
    "Names and columns": "columns names fan_out portable_names",
    "Links that expire": "on_expired links_command",
    "Unpacking": "unpack into flat form shard_size delete_after workers layout",
    "The run": "max_duration wait_lock failed dry_run export",
    "Many machines": "engine join address nodes node_local",
    "Watching": "page page_control notify on_event metrics metrics_file report quiet verbose as_json",
    "Network": "header connect_to cacert",
    "The measurement": "most_bytes most_time no_disk disk save csv html png",
    "Settings": "config settings profiles",
}
_OTHER: Final = "Other"


class Grouped(click.Command):
    """A command whose help lists the flags in groups."""

    def listed(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters that the help lists."""
        return self.get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags below the titles of their groups."""
        flags = (each for each in self.listed(ctx) if isinstance(each, click.Option))
        records = {each.name: record for each in flags if (record := each.get_help_record(ctx))}
        for title, names in _GROUPS.items():
            some = [records.pop(name) for name in names.split() if name in records]
            if some:
                with formatter.section(title):
                    formatter.write_dl(some)
        if records:
            with formatter.section(_OTHER):
                formatter.write_dl(list(records.values()))
