"""The flags that `get`, `plan` and `bench` share, and their conversion to settings and options."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import SettingsError, StorageError
from ..model.quantities import seconds
from ..model.settings import Layer, Settings
from ..model.spelling import nearest
from ..model.urls import shown
from ..options import plain
from ..storage.destination import Destination, destination
from ..storage.folder.disk import storage_error
from .flags import PREFIX, VARIABLES
from .shards import shard

if TYPE_CHECKING:
    from ..model.profile import Profile
    from ..options import PlainOptions

T = TypeVar("T")

# flags that set one setting: flag → (section, key)
_SETTING_FLAGS: Final = {
    "connections": ("limits", "connections"),
    "per_host": ("limits", "per_host"),
    "part_size": ("limits", "part_size"),
    "limit_rate": ("limits", "rate"),
    "processes": ("limits", "processes"),
    "min_free": ("storage", "min_free"),
    "on_expired": ("links", "on_expired"),
    "links_command": ("links", "command"),
    "s3_endpoint": ("s3", "endpoint"),
    "s3_source_endpoint": ("s3", "source_endpoint"),
}
# flags without a value that set one setting: flag → (section, key, value)
_FIXED_FLAGS: Final = {
    "accept_pages": ("network", "pages", "accept"),
    "overwrite": ("storage", "existing", "overwrite"),
    "no_mtime": ("storage", "mtime", "local"),
    "s3_unsigned": ("s3", "sign", "never"),
    "s3_requester_pays": ("s3", "requester_pays", "accept"),
}


# Suffixes of files that people give as --output; folders do not have them.
_FILES: Final = frozenset(
    ".safetensors .gguf .bin .pt .pth .ckpt .onnx .h5 .npz .parquet .arrow .tar .tgz .gz .bz2 .xz .zst .zip "
    ".7z .mp4 .mkv .webm .mov .jpg .jpeg .png .webp .wav .mp3 .flac .pdf .csv .tsv .json .jsonl .txt".split()
)


def layers(flags: Mapping[str, Any]) -> list[tuple[str, Layer]]:
    """Return the layers of settings, lowest precedence first.

    The order is: default for a terminal, -c file, environment, flags, --set.

    Args:
        flags: Flags by parameter name.

    Returns:
        Pairs of the layer's origin, as shown by `config show`, and its settings.

    Raises:
        SettingsError: The -c file cannot be read, or --set is malformed.
    """
    found: list[tuple[str, Layer]] = []
    if sys.stderr.isatty():
        # a person at the terminal can provide a fresh link file, so waiting is useful
        found.append(("a terminal", {"links": {"on_expired": "wait"}}))
    if flags.get("config"):
        found.append((str(flags["config"]), read_toml(preset_or_path(flags["config"]))))
    found.extend(_from_environment())
    for flag, (section, key) in _SETTING_FLAGS.items():
        if flags.get(flag) is not None:
            found.append((f"--{flag.replace('_', '-')}", {section: {key: flags[flag]}}))
    for flag, (section, key, value) in _FIXED_FLAGS.items():
        if flags.get(flag):
            found.append((f"--{flag.replace('_', '-')}", {section: {key: value}}))
    for text in flags.get("settings", ()):
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise SettingsError(f"--set {text}: expected SECTION.KEY=VALUE, such as limits.per_host=8")
        if section == "hosts":  # a name of a host has dots of its own
            host, dot, key = key.rpartition(".")
            found.append(("--set", {section: {host.strip('"'): {key: _plain(value.strip())}}}))
            continue
        found.append(("--set", {section: {key: _plain(value.strip())}}))
    return found


def preset_or_path(name: str) -> Path:
    """Return the file that `-c NAME` means: a path, or the name of a preset such as `sa1b`.

    Presets are the files of `configs/`. A wheel carries them as `osp_fetch/presets/`.

    Raises:
        SettingsError: there is neither such a file nor such a preset.
    """
    path = Path(name)
    if path.exists() or "/" in name or path.suffix:
        return path
    package = Path(__file__).parents[1]
    folders = [folder for folder in (package / "presets", package.parent / "configs") if folder.is_dir()]
    for folder in folders:
        if (found := folder / f"{name}.toml").is_file():
            return found
    known = sorted({place.stem for folder in folders for place in folder.glob("*.toml")})
    raise SettingsError(f"{name}: neither a file nor a preset; presets are {', '.join(known)}")


def read_toml(path: Path) -> Layer:
    """Return the sections of a TOML file.

    Raises:
        SettingsError: The file cannot be read, or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the settings cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def _from_environment() -> list[tuple[str, Layer]]:
    """Return the settings in the environment: `OSP_FETCH_LIMITS_PER_HOST=8` sets limits.per_host to 8."""
    found: list[tuple[str, Layer]] = []
    settings = {f"{PREFIX}{section}_{key}".upper(): (section, key) for section, key, _ in Settings().items()}
    for name in sorted(os.environ):
        if name in settings:
            section, key = settings[name]
            found.append((name, {section: {key: _plain(os.environ[name])}}))
        elif name.startswith(PREFIX) and name not in VARIABLES:
            # without this warning, a misspelt rate limit would be ignored, and a run would saturate the link
            near = nearest(name, [*settings, *VARIABLES])
            meant = f"; did you mean {near}?" if near else ""
            click.echo(f"osp-fetch: {name} is ignored: it is not a setting or flag{meant}", err=True)
    return found


def _plain(text: str) -> Any:
    """Return text as the value that TOML would give it: whole numbers become int, the rest stays text."""
    return int(text) if text.isdigit() else text


def options(flags: Mapping[str, Any]) -> PlainOptions:
    """Convert the flags of the command line to options of the library.

    Args:
        flags: Flags by parameter name.

    Raises:
        SettingsError: A setting is invalid, a settings or profiles file cannot be read, or a proxy or a file
            of certificates that the environment names cannot be used.
        click.UsageError: A flag is malformed.
    """
    _trust_environment()  # before aiohttp is imported: it then makes its TLS context
    from ..assembly import reach_of

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
    _add_names(made, flags)
    _check(flags)
    _add_lists(made, flags)
    if flags["cacert"]:
        made["cafile"] = flags["cacert"]
    if flags.get("output_name"):
        made["name"] = flags["output_name"]
    if flags.get("state"):
        made["state"] = Path(flags["state"])
    if flags["shard"]:
        made["shard"] = shard(flags["shard"], os.environ)
    reach_of(made["settings"], made)  # a proxy that cannot be used is reported before a source is listed
    return made


def _check(flags: Mapping[str, Any]) -> None:
    """Raise click.UsageError for a rule, a folder or a file of certificates that cannot be used."""
    from ..network.connector import ConnectTo

    for rule in flags["connect_to"]:
        try:
            ConnectTo.parse(rule)
        except ValueError as error:
            raise click.UsageError(f"--connect-to: {error}") from None
    _check_output(flags["output"])
    if flags["cacert"] and not Path(flags["cacert"]).is_file():
        raise click.UsageError(f"--cacert: {flags['cacert']} is not a file")


def _add_lists(made: PlainOptions, flags: Mapping[str, Any]) -> None:
    """Add the options that name further lists of the same files, and how deep folders are listed."""
    if flags["checksums"]:
        made["checksums"] = flags["checksums"]
    if flags["digests"]:
        made["digests"] = flags["digests"]
    if flags["mirror"]:
        made["mirror"] = flags["mirror"]
    if flags["links"]:
        made["links"] = flags["links"]
    if flags["depth"]:
        made["depth"] = flags["depth"]


def place_of_flags(where: str, flags: Mapping[str, Any]) -> tuple[Destination, Settings]:
    """Return a destination, and the settings to reach it by, for a command with `bucket_flags`.

    Raises:
        SettingsError: The address of the bucket is not valid.
    """
    s3 = {"s3_endpoint": flags["s3_endpoint"]} if flags["s3_endpoint"] else {}
    return destination(where, flags["state"]), Settings.load(*layers(s3))


def _check_output(output: str) -> None:
    """Raise click.UsageError if `output` is empty, or a URL of another kind than that of a bucket."""
    if not output:
        raise click.UsageError("--output: the path is empty; write . for the current folder")
    if "://" not in output or output.lower().startswith("s3://") or is_folder(Path(output)):
        return
    if output.lower().startswith("gs://"):
        raise click.UsageError(
            f"--output: Google's storage is reached by its S3 interface; write s3://{output[5:]} with "
            "--s3-endpoint https://storage.googleapis.com and HMAC keys"
        )
    raise click.UsageError(
        f"--output: {shown(output)} is a URL; give the path of a local folder, or s3://BUCKET/PREFIX"
    )


def _add_names(made: PlainOptions, flags: Mapping[str, Any]) -> None:
    """Add the options for columns and names. Raises click.UsageError if one is malformed."""
    given = {name: flags[name] for name in ("columns", "names", "fan_out") if flags[name] is not None}
    try:
        made.update(plain(given))
    except TypeError as error:
        name, mark, rest = re.split(r"([=:])", str(error), maxsplit=1)
        raise click.UsageError(f"--{name.replace('_', '-')}{mark}{rest}") from None
    made["portable_names"] = flags["portable_names"]


# in the order of precedence; OpenSSL itself reads the first
_BUNDLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def _trust_environment() -> None:
    """Make the CA certificates that are configured for requests and curl those of this process, too.

    Every TLS client of this process and its workers uses OpenSSL's variables, also huggingface_hub.

    Raises:
        SettingsError: The file that a variable names cannot be used.
    """
    name = next((name for name in _BUNDLES if os.environ.get(name)), None)
    if name is None:
        return
    place = os.environ[name]
    if name != _BUNDLES[0] and Path(place).is_dir():
        os.environ["SSL_CERT_DIR"] = place
        return
    from ..network.certificates import check_certificates

    check_certificates(name, place)
    os.environ["SSL_CERT_FILE"] = place


def no_folder(folder: str | Path, said: str = "there is no such folder") -> StorageError:
    """Return the error for an argument that is no output folder.

    Args:
        folder: The argument.
        said: What is wrong with it, unless it is a file, as `get -o FILE` has written.
    """
    place = Path(folder)
    if place.is_file():
        return StorageError(f"{folder}: it is a file; give its folder: {place.parent}")
    return StorageError(f"{folder}: {said}")


def is_folder(place: Path) -> bool:
    """Return whether there is a folder.

    Raises:
        StorageError: The system does not tell, such as below a folder of another user.
    """
    try:
        return place.is_dir()
    except OSError as error:
        raise storage_error(error, f"{place} cannot be looked at") from None


def with_folder(sources: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags with `output` as a folder.

    `-o model.safetensors` is the name of the file if SOURCE is one link and no such folder exists. The folder
    is then its parent, and `output_name` is the name.

    Args:
        sources: The SOURCE arguments.
        flags: Flags by parameter name.

    Raises:
        click.UsageError: The output is, or looks like, a file, and SOURCE is not one link.
    """
    output = str(flags["output"])
    place, suffix = Path(output), Path(output).suffix.lower()
    if "://" in output or output.endswith("/") or is_folder(place):
        return dict(flags)
    one = len(sources) == 1 and sources[0].lower().startswith(("http://", "https://"))
    # a number is part of a folder's name, such as Open-Sora-Plan-v1.1.0
    if one and (place.exists() or not suffix[1:].isdigit()) and (suffix or place.exists()):
        return {**flags, "output": str(place.parent), "output_name": place.name}
    if place.exists():
        raise click.UsageError(f"--output: {output} is a file; give a folder, or one link as SOURCE")
    if not one and suffix in _FILES:
        raise click.UsageError(
            f"--output: {output} looks like the name of a file, and SOURCE is not one link; give a folder, "
            f"or write {output}/ if that is its name"
        )
    return dict(flags)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n\0"):
        raise click.UsageError("--header: expected 'NAME: VALUE'")
    return name.strip(), value.strip()


def usage(read: Callable[[Any], T], text: Any) -> T:
    """Parse the text of a flag.

    Args:
        read: Parser that raises ValueError.
        text: The text.

    Raises:
        click.UsageError: The parser raised ValueError.
    """
    try:
        return read(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def duration(text: str | None) -> float | None:
    """Return the seconds of a text such as `12h`, None if there is no text.

    Raises:
        click.UsageError: The text is not a duration.
    """
    try:
        return seconds(int(text) if text.isdigit() else text) if text else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def profiles_place(flag: str | None) -> Path:
    """Return the path of the profiles file: the flag's, else the one in $XDG_STATE_HOME."""
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
        click.echo(f"osp-fetch: {error}", err=True)  # the default file is optional: continue without it
        return {}


def _proxies() -> dict[str, str]:
    from urllib.request import getproxies

    return getproxies()
