"""Tests of the command line as a process: exit codes, one-sentence errors, signals, and stdout."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import pytest

from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.views.formatting import ledger_replaced
from tests import origin as o
from tests.origin import Origin, noise

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = [
    "--min-free",
    "0",
    "--set",
    "retry.initial=0.01",
    "--set",
    "retry.longest=0.05",
    "--set",
    "retry.attempts=3",
]


async def get(
    *words: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run `osp-fetch` in a separate process, while the origin serves in this one."""
    process = await start(*words, cwd=cwd, environment=environment)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def start(
    *words: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "osp_fetch", *map(str, words)),
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def manifest(origin: Origin, folder: Path, count: int = 5, size: int = 1000) -> Path:
    lines = ["path\turl"]
    for n in range(count):
        lines.append(f"d/f{n}.bin\t{origin.add(f'f{n}', noise(size, n))}")  # noqa: PERF401
    place = folder / "m.tsv"
    place.write_text("\n".join(lines))
    return place


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['osp-fetch', '--help']\n"
        "from osp_fetch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'aiohttp', 'rich', 'huggingface_hub', 'uvloop', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "get" in done.stdout


@pytest.mark.parametrize("name", ["get", "plan", "status", "verify", "demo", "config"])
def test_every_command_has_help(command: Command, name: str) -> None:
    assert command(name, "--help").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["get"], 2, "Missing argument"),
        (["get", "absent.tsv"], 2, "the manifest cannot be read"),
        (["get", "pexel"], 2, "did you mean pexels"),
        (["get", "sam-11m"], 2, "--links FILE"),
        (["get", "http://h/a", "--connections", "many"], 2, "'many' is not a whole number"),
        (["get", "http://h/a", "--set", "limits.perhost=3"], 2, "did you mean per_host"),
        (["get", "http://h/a", "--set", "x"], 2, "SECTION.KEY=VALUE"),
        (["get", "http://h/a", "--shard", "4/4"], 2, "0 <= I < N"),
        (["get", "http://h/a", "--shard", "auto"], 2, "Slurm"),
        (["get", "http://h/a", "--connect-to", "x"], 2, "HOST:PORT:HOST:PORT"),
        (["get", "http://h/a", "--header", "x"], 2, "NAME: VALUE"),
        (["get", "http://h/a", "--cacert", "absent"], 2, "not a file"),
        (["get", "http://h/a", "--checksums", "absent"], 2, "cannot be read"),
        (["get", "http://h/a", "-c", "absent.toml"], 2, "cannot be read"),
        (["get", "http://h/a", "--max-duration", "long"], 2, "not a time"),
        (["get", "http://h/a", "-o", "/proc/none"], 3, "cannot be used"),
        (["status", "absent"], 3, "nothing was fetched"),
        (["verify", "absent"], 3, "no such folder"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_input_gets_one_sentence_and_its_exit_code(
    command: Command, words: list[str], code: int, said: str
) -> None:
    done = command(*words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_all_present_is_0_and_some_failed_is_1(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path)
    code, out, err = await get("get", place, "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, out) == (0, ""), err
    assert "5 fetched" in err
    del origin.pages["/f3"]
    (tmp_path / "out/d/f3.bin").unlink()
    code, out, err = await get("get", place, "-o", "out", "--json", *QUICK, cwd=tmp_path)
    assert code == 1
    document = json.loads(out)
    assert document["counts"] == {"fetched": 0, "present": 4, "parked": 0, "failed": 1}
    assert document["failures"][0]["path"] == "d/f3.bin"
    assert "404" in err


async def test_expired_links_are_4_and_a_fresh_file_goes_on(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path)
    origin.pages["/f2"].faults.append(o.status(403, "URL signature expired"))
    code, _, err = await get("get", place, "-o", "out", *QUICK, cwd=tmp_path)
    assert code == 4
    assert "fresh link file" in err
    code, _, err = await get("get", place, "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, "1 fetched, 4 present" in err) == (0, True)


async def test_refused_credentials_are_4(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", b"x", always=o.status(401))
    code, _, err = await get("get", url, *QUICK, cwd=tmp_path)
    assert code == 4
    assert "credentials" in err


async def test_a_folder_in_use_is_6_and_names_the_owner(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(100), always=o.silent)
    first = await start("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    while not origin.open:
        await asyncio.sleep(0.01)
    code, _, err = await get("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    assert code == 6
    assert f"process {first.pid}" in err
    code, out, _ = await get("status", "out", cwd=tmp_path)
    assert (code, f"process {first.pid}" in out) == (0, True)
    first.kill()
    await first.wait()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)],
)
async def test_signals_save_and_stop(
    origin: Origin, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    data = noise(4 << 20)
    url = origin.add("f.bin", data, o.stall(3 << 20))
    process = await start("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    while not (tmp_path / "out/.osp-fetch/partial/f.bin").exists():
        await asyncio.sleep(0.01)
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == code, err.decode()
    assert "again" in err.decode()
    assert not (tmp_path / "out/f.bin").exists()
    done, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    assert (done, json.loads(out)["held_bytes"] > 0) == (0, True)
    assert (await get("get", url, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    assert (tmp_path / "out/f.bin").read_bytes() == data


async def test_a_second_ctrl_c_is_immediate(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(100), always=o.silent)
    process = await start("get", url, *QUICK, cwd=tmp_path)
    while not origin.open:
        await asyncio.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    assert await process.wait() == 130


async def test_max_duration_is_75(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(100), always=o.silent)
    code, _, err = await get("get", url, "--max-duration", "200ms", *QUICK, cwd=tmp_path)
    assert code == 75
    assert "--max-duration" in err


async def test_plan_touches_nothing_and_counts_what_is_here(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path)
    code, out, _ = await get("plan", place, "-o", "out", "--json", cwd=tmp_path)
    plan = json.loads(out)
    assert (code, plan["files"], plan["present"], plan["unsized"]) == (0, 5, 0, 5)
    assert origin.requests.total() == 0
    assert not (tmp_path / "out").exists()
    await get("get", place, "-o", "out", *QUICK, cwd=tmp_path)
    code, out, _ = await get("get", place, "-o", "out", "--dry-run", cwd=tmp_path)
    assert "5 files, 4.9 KiB" in out


async def test_sums_are_what_sha256sum_accepts(origin: Origin, tmp_path: Path) -> None:
    await get("get", manifest(origin, tmp_path), "-o", "out", *QUICK, cwd=tmp_path)
    _, out, _ = await get("status", "out", "--sums", cwd=tmp_path)
    (tmp_path / "SHA256SUMS").write_text(out)
    done = subprocess.run(
        ["sha256sum", "-c", "../SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.count(b": OK") == 5


async def test_verify_finds_damage_and_takes_a_checksum_list(origin: Origin, tmp_path: Path) -> None:
    await get("get", manifest(origin, tmp_path), "-o", "out", *QUICK, cwd=tmp_path)
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0
    listed = "".join(f"{hashlib.md5(noise(1000, n)).hexdigest()}  d/f{n}.bin\n" for n in range(5))
    (tmp_path / "sums").write_text(listed)
    assert (await get("verify", "out", "--checksums", "sums", cwd=tmp_path))[0] == 0
    (tmp_path / "out/d/f1.bin").write_bytes(b"harm")
    for more in ([], ["--checksums", "sums"]):
        code, out, _ = await get("verify", "out", "--json", *more, cwd=tmp_path)
        document = json.loads(out)
        assert (code, document["counts"]) == (1, {"ok": 4, "damaged": 1})
        assert document["bad"][0]["path"] == "d/f1.bin"


async def test_flags_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[limits]\nper_host = 1\nrate = "1MiB"\nmemory = "64MiB"\n')
    environment = {"OSP_FETCH_LIMITS_PER_HOST": "2", "OSP_FETCH_LIMITS_RATE": "2MiB"}
    words = ["config", "show", "--json", "-c", "c.toml", "--set", "limits.per_host=3"]
    _, out, _ = await get(*words, cwd=tmp_path, environment=environment)
    limits = json.loads(out)["limits"]
    assert limits["per_host"] == {"value": 3, "from": "--set"}
    assert limits["rate"] == {"value": 2 << 20, "from": "OSP_FETCH_LIMITS_RATE"}
    assert limits["memory"] == {"value": 64 << 20, "from": "c.toml"}
    assert limits["connections"] == {"value": "auto", "from": "default"}


async def test_a_misspelt_variable_is_said_and_a_flags_own_is_not(origin: Origin, tmp_path: Path) -> None:
    environment = {"OSP_FETCH_LIMTS_RATE": "1MiB", "OSP_FETCH_QUIET": "1", "OSP_FETCH_OUTPUT": "out"}
    code, _, err = await get("get", origin.add("f", b"x"), cwd=tmp_path, environment=environment)
    assert code == 0
    assert (tmp_path / "out" / "f").exists()
    (line,) = err.splitlines()
    assert "OSP_FETCH_LIMTS_RATE" in line
    assert "OSP_FETCH_LIMITS_RATE" in line


@pytest.mark.parametrize(
    ("text", "wanted"), [("", ["wait", "a terminal"]), ('[links]\non_expired = "exit"\n', ["exit"])]
)
def test_on_a_terminal_fresh_links_are_waited_for_unless_a_file_says_otherwise(
    text: str, wanted: list[str], tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(text)
    ours, theirs = os.openpty()
    try:
        words = [sys.executable, "-m", "osp_fetch", "config", "show", "-c", "c.toml"]
        shown = subprocess.run(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True
        ).stdout
    finally:
        os.close(ours)
        os.close(theirs)
    (line,) = (line for line in shown.splitlines() if line.startswith("on_expired"))
    assert all(word in line for word in wanted)


async def test_what_config_show_prints_is_a_config_file(tmp_path: Path) -> None:
    _, out, _ = await get("config", "show", cwd=tmp_path)
    (tmp_path / "c.toml").write_text(out)
    code, again, err = await get("config", "show", "-c", "c.toml", cwd=tmp_path)
    assert code == 0, err
    assert [line.split("#")[0] for line in again.splitlines()] == [
        line.split("#")[0] for line in out.splitlines()
    ]


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/4", {}, (1, 4)),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"},
            (3, 5),
        ),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"},
            (3, 4),
        ),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
        ("auto", {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "2"}, (0, 2)),
    ],
)
def test_shards_from_words_and_from_batch_systems(
    text: str, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    from osp_fetch.cli.shards import shard

    assert shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "array", "said"),
    [
        ("auto/4", {"ID": "3", "MIN": "3", "MAX": "3", "COUNT": "1"}, "use --shard I/N"),
        ("auto/4", {"ID": "3", "MIN": "1", "MAX": "3", "COUNT": "2"}, "use --shard I/N"),
        ("auto", {"ID": "3", "MIN": "0", "MAX": "3", "COUNT": "3"}, "use --shard I/N"),
        ("auto", {"ID": ""}, "no Slurm array"),
        ("auto", {"ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x'"),
        ("auto", {"ID": "1", "STEP": "0"}, "SLURM_ARRAY_TASK_STEP is '0'"),
    ],
)
def test_a_slurm_array_without_a_task_for_each_shard_is_refused(
    text: str, array: dict[str, str], said: str
) -> None:
    from osp_fetch.cli.shards import shard

    with pytest.raises(click.UsageError, match=re.escape(said)):
        shard(text, {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()})


async def test_a_slurm_array_is_shared_only_where_that_is_asked_for(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path, 9)
    slurm = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    for task in "123":
        environment = {**slurm, "SLURM_ARRAY_TASK_ID": task}
        code, _, err = await get(
            "get", place, "-o", "out", "--shard", "auto", *QUICK, cwd=tmp_path, environment=environment
        )
        assert (code, f"3 fetched (shard {int(task) - 1} of 3, no other)" in err) == (0, True), err
    assert len(list((tmp_path / "out/d").iterdir())) == 9
    code, _, err = await get("get", place, "-o", "whole", *QUICK, cwd=tmp_path, environment=environment)
    assert (code, "9 fetched" in err, "shard" in err) == (0, True, False), err


async def test_shards_of_one_folder_run_at_once_and_together_hold_all(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path, 12)
    runs = [get("get", place, "-o", "out", "--shard", f"{i}/3", *QUICK, cwd=tmp_path) for i in range(3)]
    done = await asyncio.gather(*runs)
    assert [code for code, _, _ in done] == [0, 0, 0], [err for _, _, err in done]
    _, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    assert json.loads(out)["published"] == 12
    assert len(list((tmp_path / "out/d").iterdir())) == 12


async def test_a_bad_row_is_said_with_its_line_and_strict_ends_the_run(
    origin: Origin, tmp_path: Path
) -> None:
    place = manifest(origin, tmp_path)
    place.write_text(place.read_text() + "\n../x\thttp://h/x\n")
    code, _, err = await get("get", place, "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, "m.tsv:7" in err, "5 fetched" in err) == (1, True, True)
    code, _, err = await get("get", place, "-o", "strict", "--strict", *QUICK, cwd=tmp_path)
    assert (code, (tmp_path / "strict").exists()) == (2, False)


def test_the_demo_ends_well(command: Command) -> None:
    done = command("demo", "--fast")
    assert done.returncode == 0, done.stderr
    assert "All as it should be" in done.stderr


async def test_a_damaged_ledger_is_replaced_by_get_and_said_by_report(origin: Origin, tmp_path: Path) -> None:
    listed = manifest(origin, tmp_path)
    assert (await get("get", listed, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    ledger = tmp_path / "out/.osp-fetch/ledger.sqlite3"
    ledger.write_bytes(b"no database" * 1000)
    code, _, said = await get("report", "out", cwd=tmp_path)
    assert code == 0, said
    assert "cannot be read: file is not a database; the report leaves out which files are here" in said
    assert (tmp_path / "report.html").stat().st_size
    code, _, said = await get("get", listed, "-o", "out", *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert "the run replaces the ledger if it is damaged" in said
    kept = ledger.with_name("ledger.sqlite3.damaged")
    assert kept.exists()
    sentence = ledger_replaced("file is not a database", str(kept.relative_to(tmp_path)))
    assert said.count(sentence) == 2, said  # when it happened, and in the summary
    log = (tmp_path / "out/.osp-fetch/events.jsonl").read_text()
    assert '"event": "ledger replaced", "why": "file is not a database"' in log
    assert (await get("report", "out", cwd=tmp_path))[0] == 0
    assert "was begun anew; the old one is kept as" in (tmp_path / "report.html").read_text()
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0


async def test_repair_fetches_only_what_is_damaged(origin: Origin, tmp_path: Path) -> None:
    data = noise(40 << 20)
    url = origin.add("f.bin", data, headers={"ETag": '"1"'})
    await get("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    place = tmp_path / "out/f.bin"
    with place.open("r+b") as file:
        file.seek(20 << 20)
        file.write(b"harm")
    os.utime(place, ns=(0, place.stat().st_mtime_ns - 10**9))
    code, _, err = await get("verify", "out", "--repair", cwd=tmp_path)
    assert (code, "16.0 MiB are to be fetched again" in err) == (1, True), err
    assert not place.exists()
    origin.seen.clear()
    assert (await get("get", url, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    assert place.read_bytes() == data
    asked = [exchange.span(len(data)) or (0, len(data)) for exchange in origin.seen]
    # on a busy machine, a slow part may be asked for twice
    assert RangeSet.of(ByteRange(*span) for span in asked) == RangeSet((ByteRange(16 << 20, 32 << 20),))
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0


@pytest.mark.parametrize("name", ["get", "plan", "bench"])
def test_the_help_has_each_flag_once_below_a_title(command: Command, name: str) -> None:
    text = command(name, "--help", COLUMNS="200").stdout
    flags = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE)
    assert len(flags) == len(set(flags)) >= 30
    titles = re.findall(r"^([A-Z][^\n:]*):$", text, re.MULTILINE)
    assert titles[0] == "Where to, and which files"
    assert "Fast and polite" in titles


def test_the_plan_of_files_without_sizes_says_at_least(tmp_path: Path, command: Command) -> None:
    rows = ["path,url,size", "a,http://127.0.0.1:9/a,1048576", "b,http://127.0.0.1:9/b,"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    out = command("plan", "m.csv", "-o", "out", "--limit-rate", "64KiB").stdout
    assert "at least 16 s at --limit-rate" in out


async def test_the_link_of_the_page_is_printed_also_when_nothing_else_is(
    origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "m.txt").write_text(origin.add("f.bin", noise(1_000)))
    code, _, said = await get("get", "m.txt", "-o", "out", "-q", "--page", "0", cwd=tmp_path)
    assert code == 0, said
    assert said.startswith("page: http://127.0.0.1:")
    assert said.count("\n") == 1


def test_long_lines_are_broken_between_words_on_a_terminal(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("http://127.0.0.1:1/a-file-of-a-host-that-does-not-answer.bin\n")
    words = [sys.executable, "-m", "osp_fetch", "get", "m.txt", "-o", "out", *QUICK]
    shown, other = pty.openpty()
    termios.tcsetwinsize(other, (24, 60))
    ended = subprocess.Popen(
        words, cwd=tmp_path, stdout=other, stderr=other, env={**os.environ, "COLUMNS": ""}
    )
    os.close(other)
    seen = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(shown, 1 << 16):
            seen += part
    assert ended.wait(60) == 1
    os.close(shown)
    lines = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen).decode().splitlines()
    (first,) = (number for number, line in enumerate(lines) if line == "  failed, no answer:")
    end = next(number for number, line in enumerate(lines) if line.startswith("Run the same command again"))
    assert all(len(line) <= 60 or " " not in line.strip() for line in lines[first:end])
    assert all(line.startswith("    ") for line in lines[first + 1 : end])
    assert lines[end + 1].startswith("  "), "further lines are indented"


@pytest.mark.parametrize("source", ["-", "pipe"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
async def test_a_run_that_waits_for_its_list_ends_with_the_first_signal(
    tmp_path: Path, source: str, number: signal.Signals, code: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = [sys.executable, "-m", "osp_fetch", "get", source, "-o", "out", "--min-free", "0"]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        named = "standard input" if source == "-" else "pipe"
        assert (await process.stderr.readline()).decode().strip() == f"reading the list from {named}"
        process.send_signal(number)
        said = (await process.stderr.read()).decode()
        assert await process.wait() == code
    assert said.startswith("osp-fetch: stopped (")


@pytest.mark.parametrize(
    ("name", "begun"),
    [("d/", True), ("list.csv", True), ("SHA256SUMS", False), ("get/?file=1", False)],
    ids=["a folder page", "a list of links", "a checksum list", "the name of a file"],
)
@pytest.mark.parametrize("more", [(), ("-q",)])
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
async def test_a_run_that_waits_for_a_server_before_it_knows_its_files_ends_with_the_first_signal(
    origin: Origin, tmp_path: Path, name: str, begun: bool, more: tuple[str, ...], number: str, code: int
) -> None:
    page, mark, query = name.partition("?")
    waits = origin.add(page, b"page", always=o.silent) + mark + query
    source = [origin.add("f", b"x"), "--checksums", waits] if name == "SHA256SUMS" else [waits]
    process = await start("get", *source, "-o", "out", *QUICK, *more, cwd=tmp_path)
    async with asyncio.timeout(20):
        while not origin.requests.total():
            await asyncio.sleep(0.02)
        process.send_signal(signal.Signals[number])
        _, said = await process.communicate()
    assert process.returncode == code
    why = "Ctrl-C" if number == "SIGINT" else number
    if not begun:
        assert said.decode().splitlines()[-1] == f"osp-fetch: stopped ({why}) before the run began"
        assert not (tmp_path / "out").exists()
    elif not more:
        assert said.decode().splitlines()[-1].startswith(f"Stopped by {why}.")


def test_a_closed_standard_input_is_named(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -m osp_fetch get - -o out <&-"
    run = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "standard input is closed" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-o", ""], "--output: the path is empty"),
        (["--metrics", ""], "--metrics: the value is empty"),
        (["--metrics-file", ""], "--metrics-file: the value is empty"),
        (["--on-event", ""], "--on-event: the value is empty"),
    ],
)
def test_an_empty_value_of_an_unset_variable_is_refused(tmp_path: Path, flags: list[str], said: str) -> None:
    words = [sys.executable, "-m", "osp_fetch", "get", "http://127.0.0.1:9/a", *flags]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert said in run.stderr


def test_an_empty_list_from_a_pipe_is_a_failure_of_what_writes_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "osp_fetch", "get", "-", "-o", "out"]
    run = subprocess.run(words, cwd=tmp_path, input="", capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "did the command that writes the list fail?" in run.stderr


async def test_file_names_of_every_script_are_written_in_any_locale(origin: Origin, tmp_path: Path) -> None:
    origin.add("ü中.bin", noise(100))
    url = f"{origin.url}/%C3%BC%E4%B8%AD.bin"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for expected in ("1 fetched", "1 present"):
        code, _, said = await get("get", url, "-o", "out", *QUICK, cwd=tmp_path, environment=locale)
        assert (code, expected in said) == (0, True), said
    assert (tmp_path / "out/ü中.bin").read_bytes() == noise(100)
