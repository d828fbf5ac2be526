"""Tests of joins between a manifest and other lists: a join is certain, or refused and reported."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, Status, entry, fetch_all, fetch_iter
from osp_fetch.model.errors import ManifestError
from osp_fetch.sources.columns import choose
from osp_fetch.sources.join import NameJoin
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.origin import status as origin_status
from tests.test_cli import QUICK, get


def joined(rows: list[str], listed: list[str]) -> dict[str, str | None]:
    join = NameJoin[str](listed)
    pairs = [pair for row in rows for pair in join.add(row, row)]
    return dict([*pairs, *join.end()])


@pytest.mark.parametrize(
    ("rows", "listed", "expected"),
    [
        # Equal paths join, whatever else is listed.
        (["a/x", "b/x"], ["a/x", "b/x"], {"a/x": "a/x", "b/x": "b/x"}),
        (["x", "a/x"], ["x"], {"x": "x", "a/x": None}),
        (["a/x", "x"], ["x"], {"x": "x", "a/x": None}),
        # One candidate on each side.
        (["a/x"], ["x"], {"a/x": "x"}),
        (["x"], ["a/x"], {"x": "a/x"}),
        (["data/a/x", "data/b/x"], ["a/x", "b/x"], {"data/a/x": "a/x", "data/b/x": "b/x"}),
        # Folders that contradict each other.
        (["train/000.tar"], ["val/000.tar"], {"train/000.tar": None}),
        (["train/000.tar", "val/000.tar"], ["val/000.tar"], {"train/000.tar": None, "val/000.tar": "val/000.tar"}),  # noqa: E501
        (["ba/x"], ["a/x"], {"ba/x": None}),
        # Several candidates on one side.
        (["a/x", "b/x"], ["x"], {"a/x": None, "b/x": None}),
        (["x"], ["a/x", "b/x"], {"x": None}),
        (["b/x"], ["x", "a/x"], {"b/x": None}),
        (["x", "b/x"], ["a/x"], {"x": None, "b/x": None}),
        (["c/a/x", "d/a/x"], ["a/x"], {"c/a/x": None, "d/a/x": None}),
        (["c/a/x", "d/a/x", "e/a/x"], ["a/x"], {"c/a/x": None, "d/a/x": None, "e/a/x": None}),
        # No candidate of that name.
        (["a/x"], ["y"], {"a/x": None}),
    ],
)  # fmt: skip
def test_a_join_needs_one_candidate_on_both_sides(
    rows: list[str], listed: list[str], expected: dict[str, str | None]
) -> None:
    assert joined(rows, listed) == expected
    assert joined(rows[::-1], listed[::-1]) == expected


PATHS = st.lists(
    st.builds("/".join, st.lists(st.sampled_from(["a", "b", "x", "y"]), min_size=1, max_size=3)),
    unique=True, max_size=6,
)  # fmt: skip


@given(PATHS, PATHS, st.randoms())
def test_a_join_depends_on_no_order_and_gives_each_listed_path_once(
    rows: list[str], listed: list[str], chance: object
) -> None:
    found = joined(rows, listed)
    assert set(found) == set(rows)
    given_out = [other for other in found.values() if other is not None]
    assert len(given_out) == len(set(given_out))
    shuffled = chance.sample(rows, len(rows))  # type: ignore[attr-defined]
    assert joined(shuffled, listed) == found
    for row, other in found.items():
        if other is None or row == other:
            continue
        longer, shorter = sorted([row, other], key=len, reverse=True)
        assert longer.endswith("/" + shorter)


async def mirrored(origin: Origin, tmp_path: Path, digest: bool) -> None:
    train, val = noise(200_000, 1), noise(200_000, 2)
    rows = []
    for name, data in (("train/000.tar", train), ("val/000.tar", val)):
        row = {
            "path": name,
            "url": origin.add(name, data),
            **({"sha256": sha256(data)[7:]} if digest else {}),
        }
        rows.append(json.dumps(row))
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    (tmp_path / "mirror.jsonl").write_text(
        json.dumps({"path": "val/000.tar", "url": origin.add("mirror/val/000.tar", val)})
    )


@pytest.mark.parametrize("digest", [True, False])
async def test_a_mirror_of_one_folder_is_none_of_another(
    origin: Origin, tmp_path: Path, digest: bool
) -> None:
    await mirrored(origin, tmp_path, digest)
    code, _, said = await get("get", "m.jsonl", "--mirror", "mirror.jsonl", "-o", "out", *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out/train/000.tar").read_bytes() == noise(200_000, 1)
    assert (tmp_path / "out/val/000.tar").read_bytes() == noise(200_000, 2)
    assert "covers 1 of 2 files" in said


async def test_an_ambiguous_checksum_list_refuses_no_right_file_and_is_said(
    origin: Origin, tmp_path: Path
) -> None:
    await mirrored(origin, tmp_path, digest=False)
    (tmp_path / "sums").write_text(f"{hashlib.md5(noise(200_000, 2)).hexdigest()}  000.tar\n")
    words = ["get", "m.jsonl", "--checksums", "sums", "-o", "out", *QUICK]
    code, _, said = await get(*words, cwd=tmp_path)
    assert code == 2  # the list covers no row
    assert "train/000.tar and val/000.tar both match 000.tar" in said
    (tmp_path / "sums").write_text(f"{hashlib.md5(noise(200_000, 2)).hexdigest()}  val/000.tar\n")
    code, _, said = await get(*words, cwd=tmp_path)
    assert (code, "sums covers 1 of 2 files" in said) == (0, True), said


async def test_a_name_is_unique_in_the_manifest_not_in_what_is_wanted(origin: Origin, tmp_path: Path) -> None:
    await mirrored(origin, tmp_path, digest=False)
    origin.pages["/train/000.tar"].always = origin_status(404)
    (tmp_path / "mirror.jsonl").write_text(
        json.dumps({"path": "000.tar", "url": f"{origin.url}/val/000.tar"})
    )
    words = ["get", "m.jsonl", "--mirror", "mirror.jsonl", "--include", "train/*", "-o", "out", *QUICK]
    code, _, said = await get(*words, cwd=tmp_path)
    assert (code, (tmp_path / "out/train/000.tar").exists()) == (2, False), said


async def test_get_plan_and_verify_join_alike(origin: Origin, tmp_path: Path) -> None:
    data = noise(5000, 3)
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "deep/d/a.bin", "url": origin.add("a", data)}))
    (tmp_path / "sums").write_text(f"{hashlib.sha256(data).hexdigest()}  d/a.bin\n")
    code, _, said = await get("get", "m.jsonl", "--checksums", "sums", "-o", "out", *QUICK, cwd=tmp_path)
    assert code == 0, said
    code, out, said = await get("plan", "m.jsonl", "--checksums", "sums", "-o", "out", "--json", cwd=tmp_path)
    assert (code, json.loads(out)["digests"]) == (0, 1), said
    code, out, said = await get("verify", "out", "--checksums", "sums", cwd=tmp_path)
    assert (code, out) == (0, "1 ok\n"), said
    (tmp_path / "other").write_text(f"{hashlib.sha256(data).hexdigest()}  e/a.bin\n")
    for words in (["get", "m.jsonl"], ["plan", "m.jsonl"], ["get", "m.jsonl", "--strict"]):
        code, _, said = await get(*words, "--checksums", "other", "-o", "out", *QUICK, cwd=tmp_path)
        assert (code, "lists none of the manifest's files" in said) == (2, True), said


async def test_an_async_manifest_is_joined_like_any_other(origin: Origin, tmp_path: Path) -> None:
    data = noise(4000, 4)
    sums = tmp_path / "sums"
    sums.write_text(f"{hashlib.sha256(data).hexdigest()}  a\n")

    async def rows(*names: str):  # type: ignore[no-untyped-def]
        for name in names:
            yield entry(name, origin.add(name, data))

    report = await fetch_all(rows("d/a", "b"), tmp_path / "out", checksums=sums, settings=quick())
    assert report.ok
    assert {o.path: o.digest is not None and bool(o.entry and o.entry.digest) for o in report.outcomes} == {
        "d/a": True, "b": False
    }  # fmt: skip
    with pytest.raises(ManifestError, match="both match a"):
        await fetch_all(rows("d/a", "e/a"), tmp_path / "two", checksums=sums, settings=quick())


# Digest columns: none is dropped silently.


@pytest.mark.parametrize(
    ("column", "algorithm"),
    [("md5sum", "md5"), ("MD5", "md5"), ("sha256_hash", "sha256"), ("file_sha256", "sha256"),
     ("file_hash", "digest"), ("checksums", "digest"), ("integrity", "digest"), ("hash_value", "digest"),
     ("shasum", "digest"), ("OriginalMD5", "md5"), ("checksum_md5", "md5"), ("sha-256", "sha256"), ("sha1sum", "sha1")],  # noqa: E501
)  # fmt: skip
def test_columns_of_digests_are_known_by_all_their_names(column: str, algorithm: str) -> None:
    digest = {"md5": "0" * 32, "sha1": "0" * 40}.get(algorithm, "0" * 64)
    found = choose(["url", column], [["http://h/a", digest]], "m.csv")
    assert (found.places, found.notes) == ({"url": 0, algorithm: 1}, ())


def test_of_two_columns_of_digests_the_other_is_named() -> None:
    found = choose(["url", "hash", "checksum"], [["http://h/a", "0" * 64, "1" * 64]], "m.csv")
    assert found.places == {"url": 0, "digest": 1}
    assert "'checksum' is not used" in found.notes[0]


@pytest.mark.parametrize("column", ["md5_of_caption", "blake3", "crc32", "sha256sums_v2"])
def test_columns_that_seem_to_hold_digests_are_named(column: str) -> None:
    found = choose(["url", column], [["http://h/a", "0" * 64]], "m.csv")
    assert found.places == {"url": 0}
    assert f"{column!r} is not used" in found.notes[0]


@pytest.mark.parametrize(
    "column", ["caption", "image_phash", "width", "text_length", "sasha1", "clip_similarity_vitb32"]
)
def test_other_columns_are_left_alone(column: str) -> None:
    found = choose(["url", column], [["http://h/a", "0f3c9a7715e0b42d"]], "m.csv")
    assert (found.places, found.notes) == ({"url": 0}, ())


async def test_a_column_called_md5sum_is_verified(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"url,md5sum\n{origin.add('a', b'x')},{'0' * 32}\n")
    code, _, said = await get("get", "m.csv", "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, (tmp_path / "out/a").exists()) == (1, False), said


async def test_misspelt_options_are_type_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="did you mean checksums"):
        await fetch_all([], tmp_path, checksum="FILE")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean include"):
        await fetch_all([], tmp_path, includ=["a"])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"shard": (2, 2)}, "0 <= i < n"), ({"shard": "x"}, "0 <= i < n"), ({"include": 3}, "globs"),
     ({"headers": [1]}, "pairs"), ({"max_duration": "soon"}, "12h"), ({"settings": 3}, "sections"),
     ({"observer": 3}, "a function")],
)  # fmt: skip
async def test_options_of_a_wrong_form_name_the_right_one(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        await fetch_all([], tmp_path, **options)


async def test_options_take_plain_forms(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(name, origin.add(name, b"x")) for name in ("a", "b")]
    for shard in ("0/2", "1/2"):
        report = await fetch_all(
            rows, tmp_path, shard=shard, headers=[("X-A", "1")], max_duration="1m", include=None,  # type: ignore[arg-type]
            settings={"storage": {"min_free": 0}},
        )  # fmt: skip
        assert report.counts[Status.FETCHED] == 1

    async def observer(event: object) -> None: ...

    with pytest.raises(TypeError, match="async"):
        await fetch_all(rows, tmp_path, observer=observer)  # type: ignore[arg-type]


async def test_leaving_the_loop_gives_the_folder_back(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(50_000, n))) for n in range(20)]
    async for _ in fetch_iter(rows, tmp_path, settings=quick()):
        break
    assert (await fetch_all(rows, tmp_path, settings=quick())).ok


async def test_one_glob_may_be_a_string_and_one_that_leaves_nothing_is_an_error(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [entry(name, origin.add(name, b"x")) for name in ("a.bin", "b.bin")]
    report = await fetch_all(rows, tmp_path, include="a.bin", settings=quick())
    assert [o.path for o in report.outcomes] == ["a.bin"]
    with pytest.raises(ManifestError, match="leave none of the manifest's 2 files"):
        await fetch_all(rows, tmp_path, include="nothing*", settings=quick())
    (tmp_path / "m.txt").write_text(origin.add("a.bin", b"x"))
    for command in ("get", "plan"):
        code, _, said = await get(command, "m.txt", "--include", "nothing*", *QUICK, cwd=tmp_path)
        assert (code, "'nothing*'" in said) == (2, True)


async def test_waiting_rows_come_out_in_the_end(origin: Origin, tmp_path: Path) -> None:
    """A join by last name is decided after the last row; the rows that waited are fetched then."""
    names = [f"d{n}/f{n}" for n in range(50)]
    rows: list[Entry] = [entry(name, origin.add(name, name.encode())) for name in names]
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{hashlib.md5(n.encode()).hexdigest()}  {n[3:].lstrip('/')}\n" for n in names))
    report = await fetch_all(iter(rows), tmp_path / "out", checksums=sums, settings=quick())
    assert report.counts[Status.FETCHED] == 50
    assert all(o.entry and o.entry.digest for o in report.outcomes)
    assert await asyncio.to_thread(lambda: len(list((tmp_path / "out").rglob("f*")))) == 50


async def test_each_list_is_used_and_the_strongest_digest_decides(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", data := noise(5000))
    md5, wrong = hashlib.md5(data).hexdigest(), hashlib.sha256(b"other").hexdigest()
    (tmp_path / "good").write_text(f"{md5}  f\n")
    (tmp_path / "bad").write_text(f"{wrong}  f\n")
    (tmp_path / "m.csv").write_text(f"url,md5\n{url},{md5}\n")
    for words in (["m.csv", "--checksums", "bad"], [url, "--checksums", "bad", "--checksums", "good"]):
        code, _, said = await get("get", *words, "-o", "out", *QUICK, cwd=tmp_path)
        assert (code, wrong in said) == (1, True), said
    (tmp_path / "sum").write_text(f"{sha256(data)[7:]}  f\n")
    (tmp_path / "other").write_text(f"{hashlib.md5(b'other').hexdigest()}  f\n")
    words = [url, "--checksums", "other", "--checksums", "sum", "-o", "out2"]
    code, _, said = await get("get", *words, *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert "1 of its digests is not checked" not in said, "the weaker one was replaced"
    words = [url, "--checksums", "sum", "--checksums", "other", "-o", "out3"]
    code, _, said = await get("get", *words, *QUICK, cwd=tmp_path)
    assert (code, "other: 1 of its digests is not checked" in said) == (0, True), said


async def test_a_list_of_one_value_is_verified_against_the_only_file(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", data := noise(5000))
    assert (await get("get", url, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    for value, expected in ((sha256(data)[7:], 0), (sha256(b"x")[7:], 1)):
        (tmp_path / "sum").write_text(value + "\n")
        code, out, said = await get("verify", "out", "--checksums", "sum", cwd=tmp_path)
        assert code == expected, said
        assert ("1 ok" if code == 0 else "1 damaged") in out


async def test_a_wrong_list_does_not_unpublish_right_files(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(5000))
    assert (await get("get", url, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    (tmp_path / "sums").write_text(f"{sha256(b'x')[7:]}  f\n")
    code, _, said = await get("verify", "out", "--checksums", "sums", "--repair", cwd=tmp_path)
    assert (code, "f: not repaired: it has the digest that the ledger recorded" in said) == (1, True), said
    assert (tmp_path / "out/f").read_bytes() == noise(5000)
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0


async def test_verify_says_where_a_list_has_other_paths(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f.bin", noise(1000))
    assert (await get("get", url, "-o", "out", cwd=tmp_path))[0] == 0
    (tmp_path / "sums").write_text(f"{sha256(noise(1000))}  other/g.bin\n")
    code, _, said = await get("verify", "out", "--checksums", "sums", cwd=tmp_path)
    assert code == 1
    assert "No path of sums is that of a file in out" in said
