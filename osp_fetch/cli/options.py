"""The flags that `get` and `plan` share, and how they become settings and options."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import SettingsError
from ..model.settings import Layer, Settings, seconds
from ..model.urls import shown

if TYPE_CHECKING:
    from ..options import PlainOptions
    from ..model.profile import Profile

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
PREFIX: Final = "OSP_FETCH_"

# flags that are only another way to write a setting
_SETTING_FLAGS: Final = {
    "connections": ("limits", "connections"),
    "per_host": ("limits", "per_host"),
    "part_size": ("limits", "part_size"),
    "limit_rate": ("limits", "rate"),
    "processes": ("limits", "processes"),
    "min_free": ("storage", "min_free"),
    "on_expired": ("links", "on_expired"),
    "links_command": ("links", "command"),
}


_variables: Final = {PREFIX + name for name in ("RECHECK", "MAX_DURATION", "QUIET", "VERBOSE")}  # of get


def _option(*names: str, **more: Any) -> Callable[[F], F]:
    long = next(name for name in names if name.startswith("--"))
    env = PREFIX + long.strip("-").split("/")[0].replace("-", "_").upper()
    _variables.add(env)
    return click.option(*names, envvar=env, show_envvar=False, **more)


_OPTIONS: Final = (
    _option("-o", "--output", default=".", metavar="DIR", help="Folder to fetch into.  [default: .]"),
    _option("--links", metavar="FILE", help="Link file of a dataset that needs one (sam-11m)."),
    _option("-j", "--connections", metavar="N|auto", help="Connections in all."),
    _option("-x", "--per-host", metavar="N|auto", help="Connections to one host."),
    _option("-k", "--part-size", metavar="SIZE|auto", help="Bytes that one request asks for."),
    _option("--limit-rate", metavar="SIZE", help="Bytes per second, all together."),
    _option("--processes", metavar="N|auto", help="Processes that share the work."),
    _option("--min-free", metavar="SIZE", help="Leave at least so much of the disk free."),
    _option(
        "--on-expired", metavar="wait|exit", help="Dead links: wait for a fresh file, or end with exit 4."
    ),
    _option(
        "--links-command", metavar="CMD", help="Run this for fresh links; it prints or replaces the file."
    ),
    _option("--include", multiple=True, metavar="GLOB", help="Only these paths (repeatable)."),
    _option("--exclude", multiple=True, metavar="GLOB", help="Not these paths (repeatable)."),
    _option("--checksums", metavar="FILE", help="md5sum or sha256sum list to verify against."),
    _option("--digests", metavar="SOURCE", help="Take sizes and digests from there, such as hf://…"),
    _option("--mirror", metavar="SOURCE", help="The same files from there, too: sizes, digests and links."),
    _option(
        "--shard",
        metavar="I/N|auto",
        help="Only the I-th of N shares, from 0; auto: the one of this Slurm array or Kubernetes task.",
    ),
    _option("--again", multiple=True, metavar="GLOB", help="Fetch these anew, finished or not (repeatable)."),
    _option("--overwrite", is_flag=True, help="Replace files of your own instead of keeping them elsewhere."),
    _option("--strict", is_flag=True, help="End the run at the first bad row."),
    _option("--header", multiple=True, metavar="'NAME: VALUE'", help="Send with every request (repeatable)."),
    _option("--connect-to", multiple=True, metavar="HOST:PORT:HOST:PORT", help="Connect there instead."),
    _option("--cacert", metavar="FILE", help="Trust these certificate authorities, too."),
    _option("--profiles", metavar="FILE|none", help="What bench --save has learnt of hosts."),
    _option("-c", "--config", metavar="FILE", help="Settings in TOML; see configs/."),
    _option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting (repeatable)."),
    _option("--json", "as_json", is_flag=True, help="Print the result as one JSON document."),
)


def shared(command: F) -> F:
    """Add the flags of `get` and `plan` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def layers(flags: Mapping[str, Any]) -> list[tuple[str, Layer]]:
    """The layers of settings that were given, the weakest first: what a terminal means, -c file,
    environment, flags, --set."""
    found: list[tuple[str, Layer]] = []
    if sys.stderr.isatty():
        # somebody is there who can bring a fresh file
        found.append(("a terminal", {"links": {"on_expired": "wait"}}))
    if flags.get("config"):
        found.append((str(flags["config"]), read_toml(Path(flags["config"]))))
    found.extend(_from_environment())
    for flag, (section, key) in _SETTING_FLAGS.items():
        if flags.get(flag) is not None:
            found.append((f"--{flag.replace('_', '-')}", {section: {key: flags[flag]}}))
    if flags.get("overwrite"):
        found.append(("--overwrite", {"storage": {"existing": "overwrite"}}))
    for text in flags.get("settings", ()):
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise SettingsError(f"--set {text}: not of the form SECTION.KEY=VALUE, such as limits.per_host=8")
        found.append(("--set", {section: {key: _plain(value.strip())}}))
    return found


def read_toml(path: Path) -> Layer:
    """The sections of a TOML file. Raises SettingsError."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the settings cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None


def _from_environment() -> list[tuple[str, Layer]]:
    """`OSP_FETCH_LIMITS_PER_HOST=8` is limits.per_host = 8."""
    found: list[tuple[str, Layer]] = []
    settings = {f"{PREFIX}{section}_{key}".upper(): (section, key) for section, key, _ in Settings().items()}
    for name in sorted(os.environ):
        if name in settings:
            section, key = settings[name]
            found.append((name, {section: {key: _plain(os.environ[name])}}))
        elif name.startswith(PREFIX) and name not in _variables:
            # a run that takes a misspelt limit for none may fill a link for a weekend
            near = difflib.get_close_matches(name, [*settings, *_variables], 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            click.echo(f"osp-fetch: {name} is set, and is no setting or flag{meant}", err=True)
    return found


def _plain(text: str) -> Any:
    """Text from a shell as the value TOML would have: only whole numbers differ."""
    return int(text) if text.isdigit() else text


def options(flags: Mapping[str, Any]) -> PlainOptions:
    """What the library takes, from what was typed. Raises SettingsError and click.UsageError."""
    from ..network.connector import ConnectTo

    made: PlainOptions = {
        "settings": Settings.load(*layers(flags)),
        "include": flags["include"],
        "exclude": flags["exclude"],
        "again": flags["again"],
        "headers": dict(_header(text) for text in flags["header"]),
        "strict": flags["strict"],
        "connect_to": flags["connect_to"],
        "proxies": _proxies(),
        "profiles": _profiles(flags.get("profiles")),
    }
    for rule in flags["connect_to"]:
        try:
            ConnectTo.parse(rule)
        except ValueError as error:
            raise click.UsageError(f"--connect-to: {error}") from None
    if "://" in flags["output"] and not Path(flags["output"]).is_dir():
        raise click.UsageError(
            f"--output: {shown(flags['output'])} is an address; osp-fetch writes into a folder of this "
            "machine"
        )
    if flags["cacert"]:
        if not Path(flags["cacert"]).is_file():
            raise click.UsageError(f"--cacert: {flags['cacert']} is not a file")
        made["cafile"] = flags["cacert"]
    if flags["checksums"]:
        made["checksums"] = flags["checksums"]
    if flags["digests"]:
        made["digests"] = flags["digests"]
    if flags["mirror"]:
        made["mirror"] = flags["mirror"]
    if flags["links"]:
        made["links"] = flags["links"]
    if flags["shard"]:
        made["shard"] = shard(flags["shard"], os.environ)
    return made


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n\0"):
        raise click.UsageError("--header: not of the form 'NAME: VALUE'")
    return name.strip(), value.strip()


def shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """(i, n) of `i/n`, of `auto` (a Slurm array's variables, an indexed Kubernetes job's index), or of
    `auto/n`, where the environment tells only the index."""
    index, slash, total = text.partition("/")
    if index == "auto":
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
        task = environment.get("SLURM_ARRAY_TASK_ID")
        if task is not None:
            index = str((int(task) - int(first)) // int(step))
            total = total or environment.get("SLURM_ARRAY_TASK_COUNT", "")
        else:
            index = environment.get("JOB_COMPLETION_INDEX", "")
            total = total or environment.get("JOB_COMPLETIONS", "")
        if not index:
            raise click.UsageError(
                "--shard auto: neither a Slurm array nor an indexed Kubernetes job runs this"
            )
        if not total:
            raise click.UsageError("--shard auto: the number of shards is not told; write --shard auto/N")
    elif not slash:
        raise click.UsageError(f"--shard: {text!r} is not of the form I/N")
    if not (index.isdigit() and total.isdigit() and int(index) < int(total)):
        raise click.UsageError(f"--shard: {index}/{total} is not I/N with 0 <= I < N")
    return int(index), int(total)


def usage(read: Callable[[Any], T], text: Any) -> T:
    """What `read` makes of a flag's text. Raises click.UsageError where that makes no sense."""
    try:
        return read(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def duration(text: str | None) -> float | None:
    """Seconds of a flag such as --max-duration 12h."""
    try:
        return seconds(int(text) if text.isdigit() else text) if text else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def profiles_place(flag: str | None) -> Path:
    """The file of profiles: the one named, or the user's own."""
    if flag:
        return Path(flag)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "osp-fetch" / "profiles.json"


def _profiles(flag: str | None) -> dict[str, Profile]:
    from ..storage import profiles

    if flag == "none":
        return {}
    try:
        return profiles.read(profiles_place(flag))
    except SettingsError as error:
        if flag:
            raise
        click.echo(f"osp-fetch: {error}", err=True)  # nobody named it: the run goes on without
        return {}


def _proxies() -> dict[str, str]:
    from urllib.request import getproxies

    return getproxies()
