"""Every JSON document follows its schema in docs/schemas, and states no field that the schema omits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from osp_fetch.demo import media
from osp_fetch.model import events
from osp_fetch.model.errors import Remedy, StatusError
from osp_fetch.model.report import Outcome, Report, Status
from osp_fetch.views.event_log import EventLog
from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"
REFUSED = StatusError("a.tar: 404", status=404, remedy=Remedy.FAIL)
FAILED = Outcome("a.tar", Status.FAILED, size=5, error=REFUSED)
REPORT = Report(counts=dict.fromkeys(Status, 1), failures=[FAILED], notes=["a note"], shard=(0, 4))
EVERY_EVENT: list[events.Event] = [
    events.RunStarted("data"),
    events.FileBegun("a.tar", 5, 5, 2),
    events.Adopted("a.tar", 5, "digest"),
    events.SetAside("a.tar", ".osp-fetch/aside/a.tar"),
    events.Decoded("a.tar", "example.org"),
    events.WidthLearned("example.org:443", 1 << 20),
    events.MirrorDropped("a.tar", "example.org"),
    events.Lost("a.tar", 5),
    events.Retrying("a.tar", "network", 0.5, "cut"),
    events.Cooling("example.org", 2.0, "429"),
    events.LimitChanged("example.org:443", 8, "it pays"),
    events.HostDown("example.org", 1.25),
    events.HostBack("example.org"),
    events.DestinationFound("bucket", "s3://b/x"),
    events.NodeJoined("n1", 2),
    events.NodeLeft("n1", "it ended", 1),
    events.DiskWaiting("too little space"),
    events.LedgerReplaced("file is not a database", "out/.osp-fetch/ledger.sqlite3.damaged"),
    events.WorkerDied(0, "killed"),
    events.LinksRenewed(3),
    events.LinksCommandFailed("exit 1"),
    events.Repeating((FAILED,)),
    events.Steered("paused", True, ("example.org",), "08:00,10 19:00,0", "auto"),
    events.Stopping("SIGTERM"),
    events.Finished(Outcome("b.tar", Status.FETCHED, size=5, digest="md5:00")),
    events.Finished(FAILED),
    events.RunEnded(REPORT),
]


def check(name: str, document: Any) -> None:
    """Fail if `document` does not follow schema `name`, or has a field at any level that the schema omits."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, closed(schema))


def closed(schema: Any) -> Any:
    """Return the schema with `additionalProperties: false` wherever it lists properties."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **made} if isinstance(schema.get("properties"), dict) else made


async def test_the_documents_of_the_commands_follow_their_schemas(origin: Origin, tmp_path: Path) -> None:
    held = noise(6 << 20)
    lines = [
        {"path": "a.bin", "url": origin.add("a", noise(1000)), "size": 1000},
        {"path": "gone.bin", "url": origin.add("gone", b"x", *[o.status(404)] * 20)},
        {"path": "held.bin", "url": origin.add("held", held, *[o.cut(5 << 20)] * 20), "size": len(held)},
    ]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["m.jsonl", "-o", "out", *QUICK]

    code, out, _ = await get("get", *words, "--json", "--set", "retry.attempts=1", cwd=tmp_path)
    assert code == 1
    check("report", json.loads(out))
    assert len(json.loads(out)["failures"]) == 2
    check("run", json.loads((tmp_path / "out/.osp-fetch/status.json").read_text()))
    (tmp_path / "out/mine.txt").write_text("mine")
    _, out, _ = await get("plan", *words, "--json", cwd=tmp_path)
    check("plan", json.loads(out))
    assert json.loads(out)["present"] == 1
    _, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    check("status", json.loads(out))
    (tmp_path / "out/a.bin").write_bytes(noise(1000, 9))
    _, out, _ = await get("verify", "out", "--archives", "--json", cwd=tmp_path)
    check("verify", json.loads(out))
    assert json.loads(out)["bad"]
    flags = ["--bytes", "1MiB", "--time", "2", "--json", "--profiles", "none"]
    code, out, said = await get("bench", origin.add("large", noise(4 << 20)), *flags, cwd=tmp_path)
    assert code == 0, said
    check("bench", json.loads(out))
    _, out, said = await get("bench", "--disk", "--json", cwd=tmp_path)
    check("bench", json.loads(out))


async def test_status_of_a_run_at_work_follows_its_schema(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(origin.add("slow.bin", noise(4 << 20), *[o.slow(200_000)] * 20))
    process = await start("get", "m.txt", "-o", "out", *QUICK, cwd=tmp_path)
    try:
        while not origin.seen:
            await asyncio.sleep(0.02)
        _, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    finally:
        process.terminate()
        await process.communicate()
    check("status", json.loads(out))
    assert json.loads(out)["owner"]


async def test_the_documents_about_datasets_and_settings_follow_their_schemas(tmp_path: Path) -> None:
    (tmp_path / "anno_jsons").mkdir()
    captions = tmp_path / "anno_jsons" / "video_mixkit_65f_54735.json"
    captions.write_text('[{"path": "a.mp4", "cap": "x"}, {"path": "b.mp4", "cap": "y"}]')
    (tmp_path / "datasets" / "mixkit").mkdir(parents=True)
    (tmp_path / "datasets" / "mixkit" / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.tar").write_bytes(media.sa1b_tar(1, 10_000))
    words = {
        "datasets": ["datasets"], "coverage": ["coverage", "."], "layout": ["layout", "."],
        "config": ["config", "show"], "unpack": ["unpack", ".", "--include", "a.tar"],
    }  # fmt: skip
    for name, command in words.items():
        _, out, said = await get(*command, "--json", cwd=tmp_path)
        document = json.loads(out)
        assert document, said
        check(name, document)
        first = document[0] if isinstance(document, list) else document
        assert first["version"] == 1


def test_every_line_of_the_event_log_follows_its_schema(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for event in EVERY_EVENT:
        log(event)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(lines) == len(EVERY_EVENT)
    for line in lines:
        check("event", line)
    named = json.loads((SCHEMAS / "event.json").read_text())["oneOf"]
    assert {each["properties"]["event"]["const"] for each in named} == {line["event"] for line in lines}


def test_an_event_has_the_same_name_in_python_and_in_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for event in EVERY_EVENT:
        log(event)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    for event, line in zip(EVERY_EVENT, lines, strict=True):
        assert line["event"].replace(" ", "") == type(event).__name__.lower()


@pytest.mark.parametrize("name", sorted(place.stem for place in SCHEMAS.glob("*.json")))
def test_a_document_without_its_version_or_with_a_wrong_type_is_refused(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(name, {"version": "one"})
