"""Tests that the pages agree with the code: flags, settings, events, exit codes, JSON, links, file names."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import click
import pytest

import osp_fetch
from osp_fetch import Event, Outcome, Report, Settings, Status, entry
from osp_fetch.cli import exits, group
from osp_fetch.demo import media
from osp_fetch.inspection.status import folder_status
from osp_fetch.model import events
from osp_fetch.model.errors import NetworkError
from osp_fetch.model.record import Published
from osp_fetch.model.settings import HostLimits
from osp_fetch.storage.ledger.placement import Disk, Placed, Placement
from osp_fetch.views.board import Board
from osp_fetch.views.event_log import described
from osp_fetch.views.metrics import METRICS
from tests import origin as o
from tests.origin import Origin, noise

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
QUICK = ["--min-free", "0", "--set", "retry.attempts=2", "--set", "retry.initial=0.01", "--profiles", "none"]


# Markdown


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def section(page: Path, title: str) -> str:
    """Return the text below a heading, up to the next heading of its level or above.

    Args:
        page: The Markdown page.
        title: The heading, without its `#`; backticks in the page do not count.
    """
    found: list[str] = []
    level = 0
    for line, is_code in lines_of(page):
        match = None if is_code else re.fullmatch(r"(#+) (.*)", line)
        if match and level and len(match[1]) <= level:
            break
        if level:
            found.append(line)
        elif match and match[2].replace("`", "") == title:
            level = len(match[1])
    assert level, f"{name_of(page)} has no heading {title!r}"
    return "\n".join(found)


def lines_of(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a fenced block of code."""
    is_code = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_code = not is_code
            yield line, True
        else:
            yield line, is_code


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in `text`, without header rows and separators."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for before, line in pairwise(lines):
        if line.startswith("|") and not line.startswith("|--") and before.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def code_in(text: str) -> list[str]:
    """Return the code between backticks."""
    return re.findall(r"`([^`]+)`", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs derive them."""
    titles = [line for line, is_code in lines_of(page) if line.startswith("#") and not is_code]
    plain = (re.sub(r"[^\w\- ]", "", title.lstrip("#").strip().lower()) for title in titles)
    return {re.sub(r"[ ]", "-", text) for text in plain} | {re.sub(r"[ -]+", "-", text) for text in plain}


# commands and flags


def commands(parent: click.Group = group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the name of each command, such as `config show`, and the command."""
    context = click.Context(parent)
    for name in parent.list_commands(context):
        command = parent.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


COMMANDS = dict(commands())
SHARED = ("get", "plan", "bench")
SHARED_TITLE = "Flags of get, plan and bench"


def options_of(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


def line_of(option: click.Option, command: click.Command) -> str:
    """Return the beginning of the line that describes a flag: its names, the last one with its metavar."""
    value = "" if option.is_flag else " " + option.make_metavar(click.Context(command)).strip("[]")
    names = [f"`{each}`" for each in option.opts[:-1]] + [f"`{option.opts[-1]}{value}`"]
    return f"- {', '.join(names)}: "


def shared_lines() -> dict[str, click.Option]:
    """Return the flags that all of SHARED have, by their lines."""
    each = [
        {line_of(option, COMMANDS[name]): option for option in options_of(COMMANDS[name])} for name in SHARED
    ]
    return {line: option for line, option in each[0].items() if all(line in other for other in each)}


def check_flags(title: str, expected: Mapping[str, click.Option]) -> None:
    """Check that a section describes the flags `expected` and no other, with their defaults."""
    items = [item for item in section(REFERENCE, title).split("\n- ") if item.startswith(("- `-", "`-"))]
    items = [f"- {item.removeprefix('- ')}" for item in items]
    by_line = {line: [item for item in items if item.startswith(line)] for line in expected}
    assert [line for line, found in by_line.items() if len(found) != 1] == []
    assert [item for item in items if not item.startswith(tuple(expected))] == []
    for line, option in expected.items():
        for default in re.findall(r"\[default: (.*?)\]", option.help or ""):
            assert default in by_line[line][0].replace("`", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_each_flag_of_a_command_and_no_other(name: str) -> None:
    expected = {line_of(option, COMMANDS[name]): option for option in options_of(COMMANDS[name])}
    if name in SHARED:
        expected = {line: option for line, option in expected.items() if line not in shared_lines()}
    if name == "plan":  # the page says that it takes all flags of get
        of_get = {line_of(option, COMMANDS["get"]) for option in options_of(COMMANDS["get"])}
        expected = {line: option for line, option in expected.items() if line not in of_get}
    check_flags(f"osp-fetch {name}", expected)


def test_the_reference_has_the_shared_flags_once() -> None:
    check_flags(SHARED_TITLE, shared_lines())


def test_the_reference_says_which_flags_have_a_variable() -> None:
    with_variable = {
        name: {max(option.opts, key=len): option.envvar for option in options_of(command) if option.envvar}
        for name, command in COMMANDS.items()
    }
    for variables in with_variable.values():
        for long, variable in variables.items():
            assert variable == "OSP_FETCH_" + long.strip("-").replace("-", "_").upper()
    shared = {max(option.opts, key=len) for option in shared_lines().values()}
    text = section(REFERENCE, "Variables of the environment").strip().partition("\n\n")[0]
    of_get = {code for code in code_in(text) if code.startswith("--")}
    of_bucket = ("status", "report", "ctl", "verify", "unpack", "clean")
    bucket = {name: {"--state", "--s3-endpoint"} for name in of_bucket}
    others = {
        **bucket,
        "get": shared | of_get,
        "plan": shared | of_get,
        "bench": shared,
        "config show": {"--config", "--set"},
        "doctor": bucket["status"] | {"--config", "--set"},
        "notify": {"--notify", "--on-event"},
    }
    assert {name: set(each) for name, each in with_variable.items() if each} == others


def invocations(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each call of osp-fetch in the code of a page: the text, and its words after `osp-fetch`."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in [line for block in blocks for line in block.splitlines()] + code_in(prose.replace("\n", " ")):
        for call in re.findall(r"(?:^|[\s/])osp-fetch ([^|;&#>`]+)", line):
            try:
                words = shlex.split(call.replace("…", " "))
            except ValueError:
                words = call.split()
            if words:
                yield line.strip(), words


def all_flags() -> set[str]:
    return {name for command in COMMANDS.values() for option in options_of(command) for name in option.opts}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_flag_that_a_page_names_exists(page: Path) -> None:
    wrong = []
    for line, words in invocations(page):
        if words[0].startswith("-"):  # `osp-fetch --help`
            continue
        name = " ".join(words[:2]) if words[0] == "config" else words[0]
        if name not in COMMANDS:
            if re.fullmatch(r"[a-z]+", words[0]):
                wrong.append(f"no command {name}: {line}")
            continue
        known = {each for option in options_of(COMMANDS[name]) for each in option.opts} | {"--help", "-h"}
        flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        wrong += [f"{name} has no {flag}: {line}" for flag in flags if flag not in known]
    text = " ".join(line for line, is_code in lines_of(page) if not is_code)
    inline = [code.split()[0].partition("=")[0] for code in code_in(text) if re.match(r"--?[a-z]", code)]
    known = all_flags() | {"--help", "-h"}
    wrong += [f"no command has {flag}" for flag in inline if flag not in known]
    assert wrong == []


# settings, events, exit codes, public names


def settings_in(text: str) -> dict[str, Any]:
    """Return the keys in a table of settings, with their defaults."""
    made: dict[str, Any] = {}
    for key, default, *meaning in rows(text):
        assert meaning
        assert meaning[0].endswith(".")
        made[key.strip("`")] = tomllib.loads(f"x = {default.strip('`')}")["x"]
    return made


def test_the_reference_has_each_setting_with_its_default() -> None:
    made: dict[str, dict[str, Any]] = {}
    for name in [field.name for field in dataclasses.fields(Settings) if field.name != "hosts"]:
        made[name] = settings_in(section(REFERENCE, f"[{name}]"))
    own = settings_in(section(REFERENCE, '[hosts."NAME"]'))
    assert own == {f.name: getattr(HostLimits(), f.name) for f in dataclasses.fields(HostLimits)}
    assert [(section, key) for section, keys in made.items() for key in keys] == [
        (section, key) for section, key, _ in Settings().items()
    ]
    assert Settings.load(("reference", made)) == Settings()


def test_the_reference_has_each_event_with_its_fields() -> None:
    here = {code_in(name)[0]: code_in(fields) for name, _, fields in rows(section(REFERENCE, "Events"))}
    assert here == {each.__name__: [f.name for f in dataclasses.fields(each)] for each in get_args(Event)}


def test_the_reference_has_each_metric() -> None:
    here = [
        (code_in(name)[0], kind, tuple(code_in(labels)), meaning)
        for name, kind, labels, meaning in rows(section(REFERENCE, "Metrics"))
    ]
    assert here == [(each.name, each.kind, each.labels, each.help) for each in METRICS]


def test_the_reference_has_each_exit_code() -> None:
    known = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code, _ in rows(section(REFERENCE, "Exit codes"))} == known


def test_the_reference_links_each_schema() -> None:
    named = set(re.findall(r"\(schemas/([\w.]+)\)", section(REFERENCE, "JSON")))
    assert named == {place.name for place in (ROOT / "docs" / "schemas").iterdir()}


def test_the_library_page_has_each_public_name() -> None:
    named = re.findall(r"^::: osp_fetch\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(set(osp_fetch.__all__) - {"__version__"})


def test_ci_runs_the_test_command_of_the_readme() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    command = next(block.strip() for block in blocks if ".venv/bin/pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


# links and names of files


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = "\n".join(line for line, is_code in lines_of(page) if not is_code)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            wrong.append(target)
    assert wrong == []


# folders that the pages leave out of a path: `engine/run.py` is in osp_fetch, `test_power.py` in tests
PREFIXES = ("", "osp_fetch/", "tests/", "tests/contracts/", "benchmarks/")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_and_test_that_a_page_names_exists(page: Path) -> None:
    names = {place.name for folder in ("osp_fetch", "tests", "benchmarks", "examples", ".") for place in
             (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")}  # fmt: skip
    wrong = []
    for code in code_in(page.read_text(encoding="utf-8").replace("\n", " ")):
        match = re.fullmatch(r"([\w./-]+\.(?:py|toml|yml|md))(?:::(\w+)…?)?", code)
        if match is None or re.search(r"[A-Z]{4}\.py", code):  # `sources/NAME.py` stands for any
            continue
        path, test = match.groups()
        places = [ROOT / prefix / path for prefix in PREFIXES] + [page.parent / path]
        place = next((each for each in places if each.is_file()), None)
        if place is None and not ("/" not in path and path in names):
            wrong.append(path)
        elif test and place and f"def {test}" not in place.read_text():
            wrong.append(code)
    assert wrong == []


# JSON


Path_ = tuple[str, ...]  # keys, and "[]" for an item of a list
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "text", list: "list", dict: "object"}


def leaves(value: object, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """Yield the path and the kind of each value in a document."""
    if path:
        yield path, "null" if value is None else _KINDS[type(value)]
    items: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = (("[]", each) for each in value)
    for key, each in items:
        yield from leaves(each, (*path, key))


def documented(title: str) -> dict[Path_, set[str]]:
    """Return path → kinds of each field in the table below a heading: `hosts.*`, `failures[].path`."""
    table = rows(section(REFERENCE, title))
    paths = [tuple(code_in(field)[0].replace("[]", ".[]").strip(".").split(".")) for field, *_ in table]
    return {path: set(kinds.split(" or ")) for path, (_, kinds, _) in zip(paths, table, strict=True)}


def fits(path: Path_, field: Path_) -> bool:
    """Return whether a field of the reference covers `path`; `*` matches any key."""
    return len(path) == len(field) and all(
        key == name or (name == "*" and key != "[]") for key, name in zip(path, field, strict=True)
    )


def compare(title: str, *documents: object) -> None:
    """Compare documents with the reference.

    Each value has to be in the reference, with its kind. Each field of the reference has to be in a document.
    """
    known = documented(title)
    seen: set[Path_] = set()
    for path, kind in (leaf for document in documents for leaf in leaves(document)):
        fields = [field for field in known if fits(path, field)]
        assert fields, f"{title}: {'.'.join(path)} is not in the reference"
        field = path if path in fields else fields[0]
        kinds = known[field]
        assert kind in kinds or (kind == "integer" and "number" in kinds), f"{title}: {field} is {kind}"
        seen.add(field)
    assert set(known) - seen == set(), f"{title}: no document has these fields"


async def osp_fetch_json(*words: str | Path, cwd: Path, code: int = 0) -> Any:
    """Run a command with --json; return its document."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "osp_fetch", *map(str, words), "--json"),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    return json.loads(out)


def manifest(place: Path, urls: Mapping[str, str]) -> Path:
    place.write_text("path,url\n" + "".join(f"{path},{url}\n" for path, url in urls.items()))
    return place


async def test_the_json_of_get_and_plan_is_as_the_reference_says(origin: Origin, tmp_path: Path) -> None:
    urls = {"good": origin.add("good", noise(1000)), "bad": f"{origin.url}/absent"}
    place = manifest(tmp_path / "files.csv", urls)
    with place.open("a") as file:
        file.write("../out,http://h/x\n")
    failed = await osp_fetch_json("get", place, "-o", "a", *QUICK, cwd=tmp_path, code=1)
    # a digest list that covers one of two files makes a note
    (tmp_path / "sums").write_text(f"{o.sha256(noise(1000))[7:]}  good\n")
    words = ["-o", "b", "--shard", "0/1", "--checksums", "sums", *QUICK]
    shard = await osp_fetch_json("get", place, *words, cwd=tmp_path, code=1)
    slow = origin.add("slow", noise(20_000), always=o.slow(1000))
    stopped = await osp_fetch_json(
        "get", slow, "-o", "c", "--max-duration", "500ms", *QUICK, cwd=tmp_path, code=75
    )
    compare("get --json", failed, shard, stopped)

    (tmp_path / "a" / "bad").write_text("mine")
    expires = f"{int(time.time()) + 99:X}"
    links = manifest(tmp_path / "links.csv", {"a.tar": f"https://h/a.tar?oh=1&oe={expires}"})
    words = ["-o", "a", "--checksums", "sums", "--max-duration", "1h"]
    bad = await osp_fetch_json("plan", place, *words, cwd=tmp_path, code=1)
    compare("plan --json", bad, await osp_fetch_json("plan", links, cwd=tmp_path))


def placement_of(folder: Path) -> list[dict[str, Any]]:
    """Return what status says of a folder whose file lies on a node."""
    (folder / ".osp-fetch").mkdir()
    places = Placement(folder / ".osp-fetch")
    places.add([Placed("a", Disk("0123", "n1", "10.0.0.1"), Published(5, 1))])
    places.close()
    return folder_status(folder).placement


async def test_the_json_of_status_and_verify_is_as_the_reference_says(origin: Origin, tmp_path: Path) -> None:
    tars = {f"{name}.tar": media.sa1b_tar(n, 100_000) for n, name in enumerate(["good", "half"])}
    tars["half.tar"] = tars["half.tar"][:50_000]
    urls = {name: origin.add(name, data) for name, data in {"a": noise(1000), **tars}.items()}
    # a host that refuses more than two connections: it is retried, and its limit changes
    urls["large"] = origin.add("large", noise(9_000_000), always=o.refuse_above(origin, 2, 300e3))
    urls["absent"] = f"{origin.url}/absent"
    place = manifest(tmp_path / "files.csv", urls)
    words = ("get", str(place), "-o", "out", "-k", "256KiB", "-q", *QUICK, "--set", "retry.attempts=20")
    running = await asyncio.create_subprocess_exec(*(sys.executable, "-m", "osp_fetch", *words), cwd=tmp_path)
    state = tmp_path / "out" / ".osp-fetch"
    run: dict[str, Any] = {}
    try:
        while not (run.get("levels") and run["limited"] and run["retries"] and run["counts"]["fetched"] == 3):
            await asyncio.sleep(0.1)
            assert running.returncode is None, run
            run = json.loads((state / "status.json").read_text()) if (state / "status.json").exists() else {}
        told = await osp_fetch_json("ctl", "out", "host", "example.org", "pause", cwd=tmp_path)
        status = await osp_fetch_json("status", "out", cwd=tmp_path)
    finally:
        running.terminate()
        code = await running.wait()
    assert code == 75
    board = Board()
    for event in (events.NodeJoined("a", 1), events.NodeLeft("a", "it ended", 0)):
        board(event)
    run["nodes"] = board.snapshot()["nodes"]
    compare("status.json", run, status["run"], told, json.loads((state / "status.json").read_text()))
    history = [json.loads(line) for line in (state / "history.jsonl").read_text().splitlines()]
    assert {"pauses", "nodes"} == {key for key in history[-1] if history[-1][key] == {}}
    history[-1].update(pauses={"h:80": 1.5}, nodes={"a": 1}, error="x")
    compare("history.jsonl", *history)
    runs = [{**each, "state": {}} for each in status["runs"]]
    sharded = {"runs": [{"shard": "0/2", "owner": None, "state": None}]}
    on_nodes = {"placement": placement_of(tmp_path)}
    compare("status --json", {**status, "run": {}, "runs": runs}, sharded, on_nodes)

    (tmp_path / "out" / "a").write_bytes(b"other")
    words = ("unpack", "out", "--delete-after", "--min-free", "0")
    unpacked = await osp_fetch_json(*words, cwd=tmp_path, code=1)
    compare("unpack --json", unpacked)
    next((tmp_path / "out" / "good").rglob("*.jpg")).unlink()
    compare("verify --json", await osp_fetch_json("verify", "out", "--archives", cwd=tmp_path, code=1))


async def test_the_json_of_layout_and_coverage_is_as_the_reference_says(tmp_path: Path) -> None:
    for place, text in {
        "datasets/pexels/1.mp4": "",
        "anno_jsons/video_pexel_65f_3832666.json": '[{"path": "1.mp4"}, {"path": "2.mp4"}]',
        "anno_jsons/video_pexels_513f_271782.json": "[]",
        "video_data.txt": "mine",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    compare("coverage --json", await osp_fetch_json("coverage", ".", cwd=tmp_path, code=1))
    compare("layout --json", await osp_fetch_json("layout", ".", cwd=tmp_path))


async def test_the_json_of_the_other_commands_is_as_the_reference_says(
    origin: Origin, tmp_path: Path
) -> None:
    compare("datasets --json", await osp_fetch_json("datasets", cwd=tmp_path))
    compare("config show --json", await osp_fetch_json("config", "show", cwd=tmp_path))
    url = origin.add("f", noise(2_000_000), always=o.slow(2e6))
    words = ("bench", url, "--disk", "--time", "14s", "--per-host", "1", "--min-free", "0")
    compare("bench --json", await osp_fetch_json(*words, cwd=tmp_path))


_SAMPLES: Mapping[str, Any] = {
    "int": 1,
    "int | None": 1,
    "float": 1.0,
    "bool": True,
    "float | None": 1.0,
    "str": "x",
    "tuple[str, ...]": ("x",),
    "tuple[Outcome, ...]": (),
    "int | str": 1,
    "Outcome": Outcome("a", Status.FAILED, entry("a", "http://h/a"), 1, None, 1.0, NetworkError("no answer")),
    "Report": Report(),
}


def sample(kind: type[Any]) -> Any:
    """Return an event of a type with a value in each field."""
    return kind(**{field.name: _SAMPLES[str(field.type)] for field in dataclasses.fields(kind)})


def test_the_reference_has_each_line_of_the_event_log() -> None:
    here = {
        code_in(name)[0]: (code_in(kind)[0], code_in(fields))
        for name, kind, fields in rows(section(REFERENCE, "events.jsonl"))
    }
    written = {kind.__name__: line for kind in get_args(Event) if (line := described(sample(kind)))}
    assert here == {
        line["event"]: (kind, [key for key in line if key != "event"]) for kind, line in written.items()
    }
    fast = Outcome("a", Status.FETCHED, entry("a", "http://h/a"), 1, "md5:0", 1.0)
    assert list(fast.row()) == here["finished"][1]
