"""Tests that user files are kept, that sources are distinguished, and that secrets stay hidden."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from osp_fetch import Event, Status, entry, fetch_all
from osp_fetch.datasets.coverage import cover
from osp_fetch.datasets.layout import lay_out
from osp_fetch.demo.server import Exchange
from osp_fetch.inspection.verify import repair_files
from osp_fetch.model import events, urls
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import FetchError, ManifestError, NetworkError, StorageError
from osp_fetch.model.protocols import Row
from osp_fetch.model.record import Published
from osp_fetch.storage.folder import ownership
from osp_fetch.storage.folder.disk import Disk, Existing, FolderGoneError
from osp_fetch.storage.folder.layout import Layout
from osp_fetch.storage.folder.ownership import Decision
from tests.conftest import quick
from tests.origin import Origin, Page, cut, noise, polite, serving, sha256, status
from tests.test_archives import tar_bytes, tree
from tests.test_cli import QUICK, get, manifest

OURS = Published(5, 7)


def file(size: int = 5, mtime: int = 7, names: int = 1) -> Existing:
    return Existing("file", size, mtime, names)


LINK, FOLDER, DEVICE = Existing("link", 5, 7, 1), Existing("folder", 5, 7, 1), Existing("other", 5, 7, 1)


@pytest.mark.parametrize(
    ("existing", "recorded", "overwrite", "decision"),
    [
        (None, (), False, Decision.WRITE),
        (None, (OURS,), True, Decision.WRITE),
        (file(), (OURS,), False, Decision.REPLACE),
        (file(), (None, OURS), False, Decision.REPLACE),
        (file(), (), False, Decision.KEEP),
        (file(6), (OURS,), False, Decision.KEEP),
        (file(5, 8), (OURS,), False, Decision.KEEP),
        (file(5, 8), (OURS,), True, Decision.REPLACE),
        (LINK, (OURS,), False, Decision.KEEP),
        (LINK, (), True, Decision.REPLACE),
        (FOLDER, (OURS,), True, Decision.REFUSE),
        (DEVICE, (), True, Decision.REFUSE),
    ],
)
def test_what_lies_under_a_fetched_files_name(
    existing: Existing | None, recorded: tuple[Published | None, ...], overwrite: bool, decision: Decision
) -> None:
    assert ownership.over_fetched(existing, recorded, overwrite=overwrite) is decision


@pytest.mark.parametrize(
    ("found", "decision"),
    [
        (ownership.over_member(None, same_bytes=False), Decision.WRITE),
        (ownership.over_member(file(), same_bytes=True), Decision.LEAVE),
        (ownership.over_member(file(), same_bytes=False), Decision.REFUSE),
        (ownership.over_member(LINK, same_bytes=True), Decision.REFUSE),
        (ownership.over_member(FOLDER, same_bytes=False), Decision.REFUSE),
        (ownership.over_generated(None, same=False, own=False), Decision.WRITE),
        (ownership.over_generated(file(), same=True, own=False), Decision.LEAVE),
        (ownership.over_generated(file(), same=False, own=True), Decision.REPLACE),
        (ownership.over_generated(file(), same=False, own=False), Decision.REFUSE),
        (ownership.over_generated(LINK, same=False, own=True), Decision.REFUSE),
        (ownership.to_repair(file(), OURS), Decision.REPLACE),
        (ownership.to_repair(file(names=2), OURS), Decision.KEEP),
        (ownership.to_repair(file(6), OURS), Decision.KEEP),
        (ownership.to_repair(file(), None), Decision.KEEP),
        (ownership.to_repair(LINK, OURS), Decision.REFUSE),
        (ownership.to_repair(None, OURS), Decision.REFUSE),
    ],
)
def test_members_lists_and_damaged_files(found: Decision, decision: Decision) -> None:
    assert found is decision


def test_a_doubtful_archive_is_left() -> None:
    decision = ownership.of_unpacked(
        same_archive=True, members_there=True, members_durable=True, is_link=False, is_doubtful=True
    )
    assert decision is Decision.LEAVE


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("link", [True, False])
def test_an_archive_is_removed_only_if_all_is_proved(
    same: bool, there: bool, durable: bool, link: bool
) -> None:
    decision = ownership.of_unpacked(
        same_archive=same, members_there=there, members_durable=durable, is_link=link
    )
    assert (decision is Decision.REMOVE) == (same and there and durable and not link)


def test_a_name_that_is_taken_is_not_renamed_over(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        Disk().rename_new(tmp_path / "a", tmp_path / "b")
    Disk().rename_new(tmp_path / "a", tmp_path / "c")
    assert tree(tmp_path) == {"b": b"b", "c": b"a"}


# The user's own files.


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_file_of_the_users_is_kept_and_that_is_said(
    origin: Origin, tmp_path: Path, size: int, processes: str
) -> None:
    (tmp_path / "out/d").mkdir(parents=True)
    (tmp_path / "out/d/config.json").write_bytes(b"mine")
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"path": "d/config.json", "url": origin.add("c", noise(size))})
    )
    words = ["get", "m.jsonl", "-o", "out", "--processes", processes, *QUICK]
    code, _, said = await get(*words, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out/d/config.json").read_bytes() == noise(size)
    assert (tmp_path / "out/.osp-fetch/replaced/d/config.json").read_bytes() == b"mine"
    assert ".osp-fetch/replaced/d/config.json" in said
    # A second edit is kept beside the first.
    (tmp_path / "out/d/config.json").write_bytes(b"edited")
    code, _, said = await get(*words, cwd=tmp_path)
    assert (tmp_path / "out/.osp-fetch/replaced/d/config.json").read_bytes() == b"mine"
    assert (tmp_path / "out/.osp-fetch/replaced/d/config.json.1").read_bytes() == b"edited"


async def test_overwrite_does_without(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    code, _, said = await get("get", origin.add("a", b"theirs"), "--overwrite", *QUICK, cwd=tmp_path)
    assert (code, (tmp_path / "a").read_bytes()) == (0, b"theirs"), said
    assert not (tmp_path / ".osp-fetch/replaced").exists()


async def test_what_an_earlier_run_wrote_is_replaced_also_after_a_kill(
    origin: Origin, tmp_path: Path
) -> None:
    """At that time the record describes the new partial; a mark beside it describes the old file."""
    old, new = noise(3 << 20, 1), noise(3 << 20, 2)
    url = origin.add("f", old)
    assert (await fetch_all([entry("f", url, digest=sha256(old))], tmp_path, settings=quick())).ok

    origin.add("f", new, *[polite] * 5, always=status(404))
    row = entry("f", url, digest=sha256(new))
    hurried = quick(retry={"attempts": 1, "initial": 0})
    report = await fetch_all([row], tmp_path, settings=hurried)
    assert report.counts[Status.FAILED] == 1
    assert (tmp_path / "f").read_bytes() == old
    origin.add("f", new)
    report = await fetch_all([row], tmp_path, settings=quick())
    assert (report.ok, report.notes) == (True, [])
    assert (tmp_path / "f").read_bytes() == new
    assert not (tmp_path / ".osp-fetch/replaced").exists()
    assert tree(tmp_path / ".osp-fetch/superseded") == {}


async def test_a_link_in_the_way_is_kept_as_a_link(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "f").symlink_to("../precious")
    report = await fetch_all([entry("f", origin.add("f", b"new"))], out, settings=quick())
    assert report.ok
    assert (out / ".osp-fetch/replaced/f").readlink() == Path("../precious")
    assert (tmp_path / "precious").read_bytes() == b"precious"


async def test_repair_writes_through_no_other_name(origin: Origin, tmp_path: Path) -> None:
    data = noise(40 << 20)
    row = entry("f", origin.add("f", data))
    assert (await fetch_all([row], tmp_path, settings=quick())).ok
    os.link(tmp_path / "f", tmp_path / "alias")
    with (tmp_path / "alias").open("r+b") as opened:
        opened.write(b"edited in place")
    edited = (tmp_path / "alias").read_bytes()
    ((record, kept),) = await repair_files(tmp_path, ["f"])
    assert len(record.held) == len(data) - (16 << 20)
    assert (tmp_path / (kept or "")).read_bytes() == edited
    assert (await fetch_all([row], tmp_path, settings=quick())).ok
    assert (tmp_path / "f").read_bytes() == data
    assert (tmp_path / "alias").read_bytes() == edited


async def test_a_partial_with_another_name_is_not_written_through(origin: Origin, tmp_path: Path) -> None:
    data = noise(2 << 20)
    url = origin.add("f", data, *[polite] * 5, always=status(404))
    await fetch_all([entry("f", url)], tmp_path, settings=quick())
    partial = tmp_path / ".osp-fetch/partial/f"
    os.link(partial, tmp_path / "other")
    before = (tmp_path / "other").read_bytes()
    assert 0 < len(before) < len(data)
    origin.add("f", data)
    assert (await fetch_all([entry("f", url)], tmp_path, settings=quick())).ok
    assert (tmp_path / "other").read_bytes() == before


async def test_a_folder_that_becomes_a_link_in_mid_run_is_not_followed(tmp_path: Path) -> None:
    """Someone moves a full folder to another disk, and leaves a link."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / ".osp-fetch").mkdir(parents=True)
    (root / "d").mkdir()
    layout = Layout(root, root / ".osp-fetch", Disk())
    layout.check(layout.final(RelativePath("d/f")))
    (root / "d").rename(elsewhere)
    (root / "d").symlink_to(elsewhere)

    async def until_refused() -> None:
        while True:
            layout.check(layout.final(RelativePath("d/f")))
            await asyncio.sleep(0.02)

    with pytest.raises(PermissionError, match="symbolic link"):
        await asyncio.wait_for(until_refused(), 10)


# The folder that training reads.


def dataset(tmp_path: Path) -> Path:
    media = tmp_path / "datasets/pexels"
    media.mkdir(parents=True)
    (media / "m.mp4").write_bytes(b"x")
    (tmp_path / "anno_jsons").mkdir()
    place = tmp_path / "anno_jsons/video_pexels_513f_271782.json"
    place.write_text("[]")
    return place


def test_layout_keeps_lists_and_aliases_that_were_edited(tmp_path: Path) -> None:
    captions = dataset(tmp_path)
    alias = tmp_path / "anno_jsons/video_pexel_513f_271782.json"
    assert lay_out(tmp_path).kept == []
    assert lay_out(tmp_path, relative=True).kept == []  # layout may rewrite its own lists
    captions.unlink()
    captions.write_text('[{"path": "m.mp4"}]')  # the captions were fetched again
    assert lay_out(tmp_path).kept == []
    assert alias.samefile(captions)
    alias.unlink()
    alias.write_text("mine")
    (tmp_path / "video_data_513.txt").write_text("mine")
    kept = lay_out(tmp_path).kept
    assert [name.split()[0] for name in kept] == [
        "anno_jsons/video_pexel_513f_271782.json",
        "video_data_513.txt",
    ]
    assert (alias.read_text(), (tmp_path / "video_data_513.txt").read_text()) == ("mine", "mine")


def test_layout_leaves_other_files_of_the_users_alone(tmp_path: Path) -> None:
    captions = dataset(tmp_path)
    own = [tmp_path / "video_data_513.txt.new", tmp_path / "anno_jsons/video_pexel_513f_271782.json.new"]
    for place in own:
        place.write_text("mine")
    for _ in range(2):
        lay_out(tmp_path)
        captions.unlink()
        captions.write_text("[1]")
    assert [place.read_text() for place in own] == ["mine", "mine"]


# Which file a link identifies.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h/d?id=1&token=T", "http://h/d?id=2&token=T", False),
        ("http://h/d?id=1&token=T", "http://h/d?id=1&token=U", True),
        ("http://h/d?file=a&Expires=1&Signature=x", "http://h/d?file=b&Expires=1&Signature=x", False),
        ("http://h/d?Expires=1&Signature=x&Key-Pair-Id=k", "http://h/d?Expires=2&Signature=y&Key-Pair-Id=k", True),  # noqa: E501
        ("http://h/d?path=a&X-Amz-Signature=1&X-Amz-Date=2", "http://h/d?path=b&X-Amz-Signature=1&X-Amz-Date=2", False),  # noqa: E501
        ("http://h/d?versionId=1&X-Amz-Signature=1", "http://h/d?versionId=2&X-Amz-Signature=2", False),
        ("http://h/d?X-Amz-Signature=1&X-Amz-Expires=9", "http://h/d?X-Amz-Signature=2&X-Amz-Expires=8", True),  # noqa: E501
        ("http://h/d?sr=1&sig=T", "http://h/d?sr=2&sig=T", False),
        ("http://h/d?policy=1&signature=T", "http://h/d?policy=2&signature=T", False),
        ("http://h/d?x-id=1&X-Amz-Signature=T", "http://h/d?x-id=2&X-Amz-Signature=T", False),
        ("http://h/d?sv=1&se=2&sr=b&sp=r&sig=3", "http://h/d?sv=1&se=9&sr=b&sp=r&sig=8", True),
        ("http://h/d?se=1", "http://h/d?se=2", False),
        ("http://h/d?policy=a", "http://h/d?policy=b", False),
        ("http://h/d?expires=1", "http://h/d?expires=2", False),
        ("http://h/d?unknown=1&sig=3&sv=1", "http://h/d?unknown=2&sig=3&sv=1", False),
        ("http://h/d?oh=1&oe=2&_nc_gid=3&ccb=4", "http://h/d?oh=5&oe=6&_nc_gid&ccb=10", True),
        ("http://h/d?_nc_gid=3", "http://h/d?_nc_gid=4", False),
    ],
)  # fmt: skip
def test_only_known_signing_parameters_leave_a_sources_key(one: str, other: str, same: bool) -> None:
    assert (urls.source_key(one) == urls.source_key(other)) == same
    assert urls.leads_to(one, urls.source_key(one))
    assert urls.leads_to(other, urls.source_key(one)) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [("token=A", "token=B"), ("expires=1&token=T", "expires=2&token=T"), ("signature=A", "signature=B")],
)
async def test_links_of_one_manifest_that_differ_are_two_files(
    origin: Origin, tmp_path: Path, one: str, other: str
) -> None:
    """Two rows swap their links: the old files must not count as present, whatever the parameter's name."""
    files = {one: noise(900, 1), other: noise(900, 2)}

    async def by_query(exchange: Exchange, page: Page) -> None:
        await polite(exchange, Page(files[exchange.target.partition("?")[2]]))

    base = origin.add("d", b"", always=by_query)
    for order in ((one, other), (other, one), (other, one)):
        lines = ["path,url", *(f"f{n},{base}?{query}" for n, query in enumerate(order))]
        (tmp_path / "m.csv").write_text("\n".join(lines))
        report = await fetch_all(tmp_path / "m.csv", tmp_path / "out", settings=quick())
        assert report.ok
        assert [(tmp_path / f"out/f{n}").read_bytes() for n in range(2)] == [files[q] for q in order]
    assert report.counts[Status.PRESENT] == 2


SIGNATURES = ["", "token={}", "Expires={}&Signature=s{}&Key-Pair-Id=K", "X-Amz-Signature={}&X-Amz-Date=d",
              "sig={}&sv=1&se=2", "oh={}&oe=699024E8&_nc_gid"]  # fmt: skip


class Signed:
    """A server that selects the file by a query parameter, with a new signature in each link."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.files = {n: noise(self.chance.choice([900, 150_000]), seed + n) for n in range(3)}
        self.sign = self.chance.choice(SIGNATURES)

    async def handle(self, exchange: Exchange, page: Page) -> None:
        page = Page(self.files[int(exchange.query["id"])])
        if self.chance.random() < 0.3:
            await cut(self.chance.randint(0, 100_000))(exchange, page)
        else:
            await polite(exchange, page)

    def link(self, base: str, number: int) -> str:
        signature = self.sign.replace("{}", f"{self.chance.randint(1, 999)}")
        parts = [f"id={number}", signature] if self.chance.random() < 0.5 else [signature, f"id={number}"]
        return f"{base}?{'&'.join(filter(None, parts))}"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 30))
def test_a_final_file_is_exactly_one_rows_source(seed: int) -> None:
    """No file mixes two sources: random signatures, rows swapped between runs, interrupted runs, mirrors."""

    async def play(folder: Path) -> None:
        world = Signed(seed)
        async with serving() as origin:
            bases = [origin.add(f"m{n}", b"", always=world.handle) for n in range(2)]
            order = list(world.files)
            for _ in range(4):
                world.chance.shuffle(order)
                rows = [
                    entry(
                        f"f{place}",
                        [world.link(base, number) for base in bases[: world.chance.randint(1, 2)]],
                    )
                    for place, number in enumerate(order)
                ]
                patience: dict[str, object] = {"attempts": world.chance.choice([1, 4]), "initial": 0}
                report = await fetch_all(rows, folder, settings=quick(retry=patience))
                for outcome in report.outcomes:
                    if outcome.status in (Status.FETCHED, Status.PRESENT):
                        number = order[int(outcome.path[1:])]
                        assert (folder / outcome.path).read_bytes() == world.files[number], outcome

    with TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


@pytest.mark.parametrize("tags", [True, False])
async def test_without_a_digest_another_mirror_begins_at_byte_0(
    origin: Origin, tmp_path: Path, tags: bool
) -> None:
    one, other = noise(600_000, 1), bytearray(noise(600_000, 1))
    other[500_000:] = noise(100_000, 2)  # equal where a sample would be taken
    headers = [{"ETag": '"same"'}, {"ETag": '"same"'}] if tags else [{}, {}]
    first = origin.add("one", one, cut(300_000), always=status(404), headers=headers[0])
    second = origin.add("other", bytes(other), headers=headers[1])
    seen: list[Event] = []
    row = entry("f", [first, second])
    report = await fetch_all([row], tmp_path, settings=quick(), observer=seen.append)
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == bytes(other)
    assert any(isinstance(event, events.Lost) for event in seen)


async def test_what_is_held_goes_on_at_its_own_source(origin: Origin, tmp_path: Path) -> None:
    """The manifest of the second run lists the mirrors in another order."""
    one, other = noise(600_000, 1), bytes(600_000)
    first = origin.add("one", one, always=cut(300_000))
    second = origin.add("other", other)
    hurried = quick(retry={"attempts": 1, "initial": 0})
    await fetch_all([entry("f", first)], tmp_path, settings=hurried)
    origin.add("one", one)
    assert (await fetch_all([entry("f", [second, first])], tmp_path, settings=quick())).ok
    assert (tmp_path / "f").read_bytes() == one
    assert origin.sent.total() < 1_300_000


# Secrets in addresses and messages.

SECRET = "hunter2SECRET"
ADDRESSES = st.builds(
    lambda scheme, slashes, user, host, path, query: f"{scheme}:{'/' * slashes}{user}{host}{path}{query}",
    st.sampled_from(["http", "HTTPS", "sftp", "s3", "ftp", "hf", "Http", "webdav+s"]),
    st.integers(1, 3),
    st.sampled_from(["", f"u:{SECRET}@", f"u:a@{SECRET}@", f"u:a/{SECRET}@", f":{SECRET}@", f"u:{SECRET}:b@"]),  # noqa: E501
    st.sampled_from(["h", "h.example", "h.example:80", "127.0.0.1:8080", "[::1]:80", ""]),
    st.sampled_from(["", "/", "/a b.jpg", "/p/사진.jpg", "/a;b,c", "/a%20b", "/x\x1b[2J"]),
    st.sampled_from(["", f"?apikey={SECRET}", f"?a=1&{SECRET}", f"?{SECRET}", f"#{SECRET}", f"?q=a b {SECRET}",  # noqa: E501
                     f"?a=1&b=2&sig={SECRET}", f"??{SECRET}", f"?a=1#{SECRET}"]),
)  # fmt: skip


@given(ADDRESSES)
@example(f"https:/u:{SECRET}@h")
def test_no_address_shows_its_secret_however_it_is_mangled(address: str) -> None:
    assert SECRET not in urls.shown(address)
    assert SECRET not in str(FetchError(f"{address!r} is not taken"))
    if f" {SECRET}" not in address:  # a space ends an address in a message, unless the address is quoted
        assert SECRET not in str(FetchError(f"{address}: no"))
        assert SECRET not in str(FetchError(f"see {address}, then go on"))


@given(ADDRESSES)
@settings(deadline=None)
def test_no_source_and_no_row_shows_its_secret(address: str) -> None:
    from osp_fetch.assembly import rows_of

    assume("\x1b" not in address)
    rows: list[Any] = [[address], [{"url": address}]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # a generated hf:// address reaches no real hub
        for each in rows:
            try:
                said = " ".join(str(row) for row in cast("Iterable[Row]", rows_of(each, {}).rows))
            except (ManifestError, NetworkError) as error:
                said = str(error)
            assert SECRET not in said


@pytest.mark.parametrize(
    "source",
    [f"sftp://u:{SECRET}@h/x", f"s3://KEY:{SECRET}@b/x", f"HTTP://u:{SECRET}@127.0.0.1:1/x",
     f"https:/u:{SECRET}@h/x", f"http://127.0.0.1:1/a b.jpg?apikey={SECRET}", f"https//u:{SECRET}@h/x?y",
     f"//u:{SECRET}@127.0.0.1/x", f"modelscope://datasets/u:{SECRET}@o/n", f"http://127.0.0.1:1/x&apikey={SECRET}",
     f"http://127.0.0.1:1/x;apikey={SECRET}", f"http://127.0.0.1:1/a%3Fapikey={SECRET}"],
)  # fmt: skip
async def test_the_command_line_shows_no_secret(tmp_path: Path, source: str) -> None:
    words = ["get", source, "-o", "out", "--json", *QUICK, "--set", "retry.attempts=1"]
    code, out, said = await get(*words, cwd=tmp_path)
    assert code in (1, 2)
    logs = [p.read_text() for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl")]
    assert all(SECRET not in text for text in (out, said, *logs))


def test_control_characters_reach_no_terminal() -> None:
    assert str(FetchError("a\x1b[2Jb\nc\u202e")) == "a\\x1b[2Jb\\nc\\u202e"


# Coverage refuses the paths that get refuses.


def captions(tmp_path: Path, paths: list[str]) -> None:
    (tmp_path / "datasets/mixkit").mkdir(parents=True)
    (tmp_path / "datasets/mixkit/a.mp4").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "anno_jsons").mkdir()
    rows = [{"path": path, "cap": ["c"]} for path in paths]
    (tmp_path / "anno_jsons/video_mixkit_65f_54735.json").write_text(json.dumps(rows))


async def test_coverage_takes_no_path_that_get_would_refuse(tmp_path: Path) -> None:
    hostile = [
        "../../outside",
        "x\ndatasets/mixkit/forged.mp4",
        "\x1b[2Jclear",
        "y" * 5000,
        "a\0b",
        "a/../../b",
    ]
    captions(tmp_path, ["a.mp4", *hostile])
    code, out, said = await get("coverage", ".", "--missing", "missing.txt", "--json", cwd=tmp_path)
    (found,) = json.loads(out)
    assert (code, found["found"], found["missing"], found["refused"]) == (1, 1, 6, 6)
    assert (tmp_path / "missing.txt").read_text() == ""
    code, out, said = await get("coverage", ".", cwd=tmp_path)
    assert "\x1b" not in out + said
    (tmp_path / "datasets/mixkit/link").symlink_to(tmp_path)
    (tmp_path / "anno_jsons/video_mixkit_65f_54735.json").write_text('[{"path": "link/outside"}]')
    (found,) = list(cover(tmp_path))
    assert (found.found, found.missing) == (0, 1)
    (tmp_path / "anno_jsons/video_mixkit_65f_54735.json").write_text('{"path": "a.mp4"}')
    with pytest.raises(ManifestError, match="not a list"):
        list(cover(tmp_path))
    assert (await get("coverage", ".", cwd=tmp_path))[0] == 2


# The output of plan, status and verify.


async def test_plan_and_status_look_at_the_disk(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path, 6)
    assert (await get("get", place, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    (tmp_path / "out/d/f0.bin").unlink()
    (tmp_path / "out/d/f1.bin").unlink()
    (tmp_path / "out/d/f2.bin").write_bytes(b"short")
    _, out, _ = await get("plan", place, "-o", "out", "--json", cwd=tmp_path)
    plan = json.loads(out)
    assert (plan["present"], plan["gone"], plan["changed"]) == (3, 2, 1)
    _, out, said = await get("status", "out", cwd=tmp_path)
    assert "finished: 3 files" in out
    assert "2 recorded but gone, 1 changed since" in out
    _, out, said = await get("status", "out", "--sums", cwd=tmp_path)
    assert [line.split()[1] for line in out.splitlines()] == ["d/f3.bin", "d/f4.bin", "d/f5.bin"]
    assert "2 recorded but gone, 1 changed since" in said


async def test_verify_without_a_ledger_is_no_success(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path)
    assert (await get("get", place, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    for name in (tmp_path / "out/.osp-fetch").glob("ledger.sqlite3*"):
        name.unlink()
    code, _, said = await get("verify", "out", cwd=tmp_path)
    assert (code, "ledger" in said) == (1, True)


# Archives that were unpacked and deleted.


async def unpacked(origin: Origin, tmp_path: Path) -> list[str]:
    members = {f"{n}.jpg": noise(500, n) for n in range(6)}
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"path": "x.tar", "url": origin.add("x.tar", tar_bytes(members))})
    )
    words = ["get", "m.jsonl", "-o", "out", "--unpack", "--delete-after", *QUICK]
    code, _, said = await get(*words, cwd=tmp_path)
    assert (code, (tmp_path / "out/x.tar").exists()) == (0, False), said
    return words


async def test_lost_members_are_named_and_can_be_had_again(origin: Origin, tmp_path: Path) -> None:
    words = await unpacked(origin, tmp_path)
    assert (await get(*words, cwd=tmp_path))[0] == 0
    assert (await get("unpack", "out", cwd=tmp_path))[0] == 0  # no archive is left to unpack
    (tmp_path / "out/x/3.jpg").unlink()
    code, _, said = await get(*words, cwd=tmp_path)
    assert (code, "1 of its files are gone or changed (x/3.jpg)" in said) == (1, True), said
    code, out, _ = await get("verify", "out", cwd=tmp_path)
    assert (code, "x/3.jpg" in out) == (1, True), out
    code, _, said = await get(*words, "--again", "x.tar", cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out/x/3.jpg").read_bytes() == noise(500, 3)
    assert not (tmp_path / "out/x.tar").exists()
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0


async def test_with_a_corrected_digest_a_deleted_archive_is_fetched_again(
    origin: Origin, tmp_path: Path
) -> None:
    words = await unpacked(origin, tmp_path)
    data = tar_bytes({"new.jpg": b"new"})
    row = {"path": "x.tar", "url": origin.add("x.tar", data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    code, _, said = await get(*words, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out/x/new.jpg").read_bytes() == b"new"


async def test_split_archives_over_shards_are_unpacked_by_the_last(origin: Origin, tmp_path: Path) -> None:
    members = {f"{n}.jpg": noise(5000, n) for n in range(9)}
    data = tar_bytes(members)
    step = len(data) // 4 + 1
    rows = [
        {"path": f"x.tar.part{n}", "url": origin.add(f"p{n}", data[n * step : (n + 1) * step])}
        for n in range(4)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for index in range(2):
        words = ["get", "m.jsonl", "-o", "out", "--unpack", "--shard", f"{index}/2", *QUICK]
        code, _, said = await get(*words, cwd=tmp_path)
        assert code == 0, said
        assert ("waits for pieces" in said) == (index == 0)
    assert tree(tmp_path / "out/x") == members
    assert "shard 1 of 2" in said


async def test_recheck_reports_lost_members(origin: Origin, tmp_path: Path) -> None:
    await unpacked(origin, tmp_path)
    (tmp_path / "out/x/3.jpg").unlink()
    code, _, said = await get("get", "m.jsonl", "-o", "out", "--recheck", *QUICK, cwd=tmp_path)
    assert (code, "x/3.jpg" in said) == (1, True), said


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("theirs", [None, b"", b"bytes that another run holds"])
def test_a_folder_that_takes_the_name_before_the_open_call_keeps_its_partials(
    tmp_path: Path, theirs: bytes | None, fresh: bool
) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    for folder in (out, foreign):
        (folder / ".osp-fetch/partial").mkdir(parents=True)
    if theirs is not None:
        (foreign / ".osp-fetch/partial/f").write_bytes(theirs)
    before = tree(foreign)

    class Swapping(Disk):
        def open(self, place: Path | str, flags: int) -> int:
            if foreign.exists():
                out.rename(tmp_path / "gone")
                foreign.rename(out)
            return super().open(place, flags)

    layout = Layout(out, out / ".osp-fetch", Swapping())
    path = RelativePath("f")
    with pytest.raises(FolderGoneError):
        layout.open_partial(layout.partial(path), layout.final(path), fresh=fresh)
    left = tree(out)
    if theirs is None and not fresh:
        left = {name: data for name, data in left.items() if data}  # an empty file may be theirs: it stays
    assert left == before


async def test_again_that_matches_nothing_is_reported(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(origin.add("a.bin", noise(1000)))
    for glob, asked in (("a.*", 2), ("b.*", 2)):
        code, _, said = await get("get", "m.txt", "-o", "out", "--again", glob, *QUICK, cwd=tmp_path)
        assert code == 0, said
        assert ("--again b.* matches no file of the manifest" in said) == (glob == "b.*")
        code, _, said = await get("get", "m.txt", "-o", "out", "--again", glob, *QUICK, cwd=tmp_path)
        assert (code, len(origin.seen)) == (0, asked), said


# Folders that change, and full disks.


@pytest.mark.parametrize("kind", ["plain", "another run's"])
async def test_nothing_is_written_into_a_folder_that_took_the_name(
    origin: Origin, tmp_path: Path, kind: str
) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    (foreign / ".osp-fetch/partial").mkdir(parents=True)
    if kind != "plain":
        (foreign / ".osp-fetch/claims").mkdir()
        (foreign / ".osp-fetch/status.json").write_text("theirs")
    before = tree(foreign)

    def observe(event: Event) -> None:
        if isinstance(event, events.Wrote) and foreign.exists():
            out.rename(tmp_path / "gone")
            foreign.rename(out)

    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(3 << 20, n))) for n in range(3)]
    with pytest.raises(StorageError, match="no longer the folder it was"):
        await fetch_all(rows, out, settings=quick(), observer=observe)
    assert tree(out) == before
    assert [p for p in out.rglob("*") if p.is_dir() and p.name == "claims"] == (
        [] if kind == "plain" else [out / ".osp-fetch/claims"]
    )


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_on_a_full_disk_finished_files_are_present_and_verified(origin: Origin, small: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(100_000, n))) for n in range(5)]
    assert (await fetch_all(rows, small / "out", settings=quick())).ok
    with (small / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    (small.parent / "m.txt").write_text("\n".join(row.urls[0] for row in rows))
    code, _, said = await get("get", "m.txt", "-o", small / "out", *QUICK, cwd=small.parent)
    assert (code, "5 present" in said) == (0, True), said
    code, out, said = await get("verify", small / "out", cwd=small.parent)
    assert (code, out) == (0, "5 ok\n"), said
    assert (await get("status", small / "out", cwd=small.parent))[0] == 0


async def test_a_links_command_that_hangs_is_ended(tmp_path: Path) -> None:
    from osp_fetch.demo.server import Blob, Server
    from osp_fetch.demo.sources import MetaCdn

    cdn = MetaCdn()
    cdn.files["sa_000000.tar"] = Blob(noise(1000))
    cdn.clock = lambda: 2000.0
    place = tmp_path / "urls.tsv"
    async with Server(cdn.handle) as server:
        place.write_text(cdn.link_file(server.url, 1000.0))
        seen: list[Event] = []
        made = quick(links={"command": "sleep 1000 & sleep 1000", "command_time": 1})
        async with asyncio.timeout(30):
            report = await fetch_all(place, tmp_path / "out", settings=made, observer=seen.append)
    assert report.counts[Status.PARKED] == 1
    (failed,) = [event for event in seen if isinstance(event, events.LinksCommandFailed)]
    assert "within 1 s" in failed.why


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("large", [False, True])
async def test_of_a_file_and_a_folder_of_one_name_one_fails_and_no_file_is_false(
    origin: Origin, tmp_path: Path, processes: int, large: bool
) -> None:
    rows, datas = [], {}
    for number in range(40):
        for path, size in ((f"p{number}", 3_000), (f"p{number}/big", 400_000 if large else 4_000)):
            datas[path] = noise(size, number + size)
            rows.append(entry(path, origin.add(f"f/{path}", datas[path])))
    report = await fetch_all(rows, tmp_path / "out", settings=quick(limits={"processes": processes}))
    there = {path for path in datas if (tmp_path / "out" / path).is_file()}
    assert {each.path for each in report.outcomes if each.status is Status.FETCHED} == there
    assert all((tmp_path / "out" / path).read_bytes() == datas[path] for path in there)
    assert len(there) >= 40
    failed = {type(each.error).__name__ for each in report.failures}
    assert failed <= {"NameConflictError", "StorageError"}
    assert not list((tmp_path / "out/.osp-fetch").glob("replaced/**/*")), "files of the run give way to none"


async def test_a_folder_that_has_the_name_of_a_file_is_named(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f.bin", noise(1000))
    (tmp_path / "out/f.bin").mkdir(parents=True)
    for command, code in (("plan", 0), ("get", 1)):
        got, out, err = await get(command, url, "-o", "out", *QUICK, cwd=tmp_path)
        assert got == code
        assert "replaced" not in out + err, "a folder is not moved"
        said = "f.bin: a folder has the name of this file" if command == "plan" else "out/f.bin; a file and"
        assert said in out + err
