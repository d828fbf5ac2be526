"""Tests of archives: they are read from their pieces and unpacked completely or not at all."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from osp_fetch.archives.extract import Unpacked, unpack
from osp_fetch.archives.extractor import UnpackOptions, unpack_folder
from osp_fetch.archives.read import BrokenArchiveError, members
from osp_fetch.archives.splits import Archive, archives, is_piece
from osp_fetch.model.errors import StorageError
from tests.origin import noise, sha256

FILES = {f"sa_{n}.{kind}": noise(3000 + 7 * n, n) for n in range(20) for kind in ("jpg", "json")}


def tar_bytes(files: dict[str, bytes], mode: str = "w", prefix: str = "./") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def read_all(*pieces: Path, disks: bool = False) -> dict[str, bytes]:
    return {m.path: b"".join(iter(lambda m=m: m.read(1000), b"")) for m in members(pieces, disks=disks)}  # type: ignore[misc]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def job(root: Path, *pieces: str, **how: object) -> Unpacked:
    (archive,) = archives(pieces)
    return unpack(UnpackOptions(**{"into": "out", **how}).job(root, archive))  # type: ignore[arg-type]


# Recognition of archives and their pieces.


@pytest.mark.parametrize(
    ("paths", "name", "order"),
    [
        (["d/x.tar.part10", "d/x.tar.part9", *(f"d/x.tar.part{n}" for n in range(9))], "d/x.tar", range(11)),
        (["x.tar.gz.01", "x.tar.gz.00", "x.tar.gz.02"], "x.tar.gz", range(3)),
        (["x.tar.002", "x.tar.001"], "x.tar", range(2)),
        (["x.tar.ab", "x.tar.aa", "x.tar.ac"], "x.tar", range(3)),
        (["x.tar.aab", "x.tar.aaa"], "x.tar", range(2)),
        (["x.tarab", "x.taraa"], "x.tar", range(2)),
        (["x.tar.gzaa", "x.tar.gzab"], "x.tar.gz", range(2)),
        (["x.tar.part.ab", "x.tar.part.aa"], "x.tar", range(2)),
        (["x.tar.zst.aa", "x.tar.zst.ab"], "x.tar.zst", range(2)),
        (["x.zip", "x.z02", "x.z01"], "x.zip", range(3)),
        (["x.zip", *(f"x.z{n:02}" for n in range(1, 12))], "x.zip", range(12)),
    ],
)
def test_pieces_are_put_in_numeric_order(paths: list[str], name: str, order: range) -> None:
    (archive,) = archives(random.Random(1).sample(paths, len(paths)))
    assert archive.name == name
    assert archive.problem == ""
    numbers = [p for p in archive.pieces if not p.endswith(".zip")]
    assert numbers == sorted(numbers, key=lambda p: (len(p), p))
    assert len(archive.pieces) == len(order)
    assert not archive.disks or archive.pieces[-1] == "x.zip"


def test_another_suffix_of_letters_is_no_piece() -> None:
    assert archives(["x.tar.lz", "y.zip.br", "z.tar.sig", "w.tar.md"]) == []
    (found,) = archives(["x.tar.md", "x.tar.aa", "x.tar.ab", "x.tar.asc", "y.targz", "z.tarxz", "z.zips"])
    assert (found.pieces, found.problem) == (("x.tar.aa", "x.tar.ab"), "")
    (gap,) = archives(["x.tar.ab", "x.tar.ac"])
    assert "piece 0" in gap.problem
    words = ["a.target", "b.zipper", "c.zipped", "d.tar.gzip", "e.tarot", "f.taras", "g.zipai"]
    assert archives(words) == []
    assert not any(map(is_piece, words[:5]))


@pytest.mark.parametrize(
    "paths",
    [["x.tar.part0", "x.tar.part2"], ["x.tar.aa", "x.tar.ac"], ["x.z01", "x.z03", "x.zip"],
     ["x.z01", "x.z02"], ["x.tar.part2", "x.tar.part3"]],
)  # fmt: skip
def test_a_gap_is_refused(paths: list[str], tmp_path: Path) -> None:
    for path in paths:
        (tmp_path / path).write_bytes(b"x")
    (archive,) = archives(paths)
    assert "missing" in archive.problem
    done = unpack(UnpackOptions().job(tmp_path, archive))
    assert done.broken == archive.problem


def test_other_files_are_no_archives() -> None:
    assert [a.name for a in archives(["x.tar.gz", "y.tar.xz", "z.tgz"])] == ["x.tar.gz", "y.tar.xz", "z.tgz"]
    assert archives(["a.jpg", "b.json", "README.md", "x.part1", "notes.01", "video_513f.mp4", "x.z01x"]) == []


# Reading.


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_is_what_its_bytes_say_whatever_it_is_called(tmp_path: Path, mode: str, name: str) -> None:
    """SA-1B's `.tar` files are gzip streams (docs/sources.md, "SA-1B link file")."""
    place = tmp_path / name
    place.write_bytes(tar_bytes(FILES, mode))
    assert read_all(place) == FILES
    place.write_bytes(zip_bytes(FILES))
    assert read_all(place) == FILES


@pytest.mark.parametrize("size", [1, 511, 4096, 50_000])
def test_pieces_are_read_without_being_joined(tmp_path: Path, size: int) -> None:
    some = dict(list(FILES.items())[:4])
    for make in (tar_bytes, zip_bytes):
        data = make(some)
        step = max(size, len(data) // 400)
        pieces = []
        for n, at in enumerate(range(0, len(data), step)):
            pieces.append(tmp_path / f"x.tar.part{n}")
            pieces[-1].write_bytes(data[at : at + step])
        assert read_all(*pieces) == some


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
@pytest.mark.parametrize("size", ["64k", "70k", "1m"])
def test_split_zips_of_info_zip_are_read(tmp_path: Path, size: str) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-s", size, "x.zip", *FILES], cwd=tmp_path, check=True)
    (archive,) = archives(p.name for p in tmp_path.iterdir())
    found = read_all(*(tmp_path / piece for piece in archive.pieces), disks=archive.disks)
    assert found == FILES


def harmed(data: bytes, how: str) -> bytes:
    match how:
        case "cut in a member":
            return data[: len(data) // 2 + 100]
        case "cut between members":
            return data[: 3 * 4096]
        case "a flipped byte":
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        case "bytes after the end":
            return data + b"garbage" * 1000
        case _:
            return b""


@pytest.mark.parametrize("how", ["cut in a member", "cut between members", "bytes after the end", "nothing"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_broken_tar_is_reported_with_the_member(tmp_path: Path, how: str, mode: str) -> None:
    files = {name: noise(4096 - 512, n) for n, name in enumerate(FILES)}
    place = tmp_path / "a.tar"
    place.write_bytes(harmed(tar_bytes(files, mode), how))
    with pytest.raises(BrokenArchiveError):
        read_all(place)


@pytest.mark.parametrize("make", [lambda: tar_bytes(FILES, "w:gz"), lambda: zip_bytes(FILES)])
def test_a_flipped_byte_is_found_where_there_are_checksums(tmp_path: Path, make: Callable[[], bytes]) -> None:
    place = tmp_path / "a.tar"
    place.write_bytes(harmed(make(), "a flipped byte"))
    with pytest.raises(BrokenArchiveError):
        read_all(place)


def hostile(kind: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        first = tarfile.TarInfo("good.txt")
        first.size = 4
        tar.addfile(first, io.BytesIO(b"good"))
        info = tarfile.TarInfo({"parent": "../evil", "absolute": "/tmp/evil", "inner": "a/../../evil",
                                "state": ".osp-fetch/ledger.sqlite3"}.get(kind, "evil"))  # fmt: skip
        info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE,
                     "device": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)  # fmt: skip
        info.linkname = "/etc/passwd"
        if kind == "control":
            info.name = "e\x1bvil"
        tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    "kind",
    ["parent", "absolute", "inner", "state", "symlink", "hardlink", "fifo", "device", "control"],
)
def test_hostile_members_are_refused_and_nothing_of_the_archive_appears(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.tar").write_bytes(hostile(kind))
    done = job(root, "a.tar")
    assert done.broken
    assert not (root / "out").exists()
    assert not (tmp_path / "evil").exists()
    assert done.kept == ".osp-fetch/broken/a.tar"


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = (1 << 30) + (64 << 20)
        with open("/dev/zero", "rb") as zeros:
            tar.addfile(info, zeros)
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    assert "times its size" in (job(tmp_path, "a.tar").broken or "")


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("evil")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    (tmp_path / "a.zip").write_bytes(out.getvalue())
    assert "link" in (job(tmp_path, "a.zip").broken or "")


def test_a_folder_of_a_zip_that_contains_data_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"x")
        archive.writestr("e/", b"the data of a file")
    assert "contains the data of a file" in (job(tmp_path, "a.zip").broken or "")


# Unpacking.


def test_members_appear_where_they_should_and_once(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(FILES, "w:gz"))
    done = job(tmp_path, "a.tar")
    assert (done.members, done.already, done.broken) == (40, False, None)
    assert tree(tmp_path / "out") == FILES
    assert job(tmp_path, "a.tar").already
    assert list((tmp_path / ".osp-fetch/unpack").iterdir()) == []


def test_an_archive_of_folders_only_is_fine(tmp_path: Path) -> None:
    """Mixkit's Road.tar and Safari.tar hold folders only."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Road")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    assert len(out.getvalue()) == 10240
    (tmp_path / "Road.tar").write_bytes(out.getvalue())
    done = job(tmp_path, "Road.tar")
    assert (done.members, done.broken) == (0, None)


def test_flat_drops_folders_and_refuses_what_would_collide(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x/1.jpg": b"1", "y/2.jpg": b"2"}))
    (tmp_path / "b.tar").write_bytes(tar_bytes({"x/1.jpg": b"1", "y/1.jpg": b"2"}))
    job(tmp_path, "a.tar", flat=True)
    assert tree(tmp_path / "out") == {"1.jpg": b"1", "2.jpg": b"2"}
    assert "two of its members" in (job(tmp_path, "b.tar", flat=True).broken or "")


def test_members_that_a_newer_version_does_not_contain_are_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3", "edited": b"4"}))
    assert not job(tmp_path, "a.tar").broken
    (tmp_path / "out/edited").write_bytes(b"by the user")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"1", "d.jpg": b"new"}))
    done = job(tmp_path, "a.tar")
    assert (done.broken, done.note) == (
        None,
        "2 files that it no longer contains moved to .osp-fetch/replaced",
    )
    assert tree(tmp_path / "out") == {"a.jpg": b"1", "d.jpg": b"new", "edited": b"by the user"}
    assert set(tree(tmp_path / ".osp-fetch/replaced").values()) == {b"2", b"3"}


def test_tars_of_an_earlier_number_of_samples_are_moved_aside(tmp_path: Path) -> None:
    samples = {f"{n:03}.jpg": noise(3000, n) for n in range(9)}
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    assert not job(tmp_path, "a.tar", shard=8000).broken
    many = len(tree(tmp_path / "out"))
    assert not job(tmp_path, "a.tar", shard=1 << 20).broken
    assert (many > 1, len(tree(tmp_path / "out"))) == (True, 1)


def test_a_member_that_two_archives_have_stays_with_both(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"1", "LICENSE": b"same", "README": b"same, too"}))
    (tmp_path / "b.tar").write_bytes(tar_bytes({"b.jpg": b"2", "LICENSE": b"same", "README": b"same, too"}))
    assert not job(tmp_path, "b.tar", delete_after=True).broken
    assert not job(tmp_path, "a.tar").broken
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"new", "LICENSE": b"another"}))
    with pytest.raises(StorageError, match=r"LICENSE, which is a member of b\.tar, too"):
        job(tmp_path, "a.tar")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"new", "LICENSE": b"same"}))
    assert not job(tmp_path, "a.tar").broken
    assert tree(tmp_path / "out") == {
        "a.jpg": b"new", "b.jpg": b"2", "LICENSE": b"same", "README": b"same, too",
    }  # fmt: skip


def test_pieces_of_two_versions_are_refused_unless_their_source_was_asked(tmp_path: Path) -> None:
    old, new = (tar_bytes({"a": noise(20_000, n), "b": noise(20_000, n + 1)}) for n in (1, 5))
    half = len(old) // 2
    pieces = ("x.tar.part0", "x.tar.part1")
    for name, data in zip(pieces, (old[:half], old[half:]), strict=True):
        (tmp_path / name).write_bytes(data)
    assert not job(tmp_path, *pieces).broken
    before = tree(tmp_path / "out")
    (tmp_path / pieces[0]).write_bytes(new[:half])
    done = job(tmp_path, *pieces, delete_after=True)
    assert "some of its pieces are newer than those that were unpacked" in (done.broken or "")
    assert tree(tmp_path / "out") == before
    assert all((tmp_path / name).exists() for name in pieces)
    (tmp_path / pieces[1]).write_bytes(new[half:])
    assert not job(tmp_path, *pieces).broken
    assert (tmp_path / "out/b").read_bytes() == noise(20_000, 6)
    (tmp_path / pieces[0]).write_bytes(new[:half])
    assert not job(tmp_path, *pieces, is_current=True).broken


def test_a_piece_that_was_fetched_again_with_the_same_digest_is_no_other_version(tmp_path: Path) -> None:
    data = tar_bytes({"a": noise(20_000)})
    half, pieces = len(data) // 2, ("x.tar.part0", "x.tar.part1")
    for name, part in zip(pieces, (data[:half], data[half:]), strict=True):
        (tmp_path / name).write_bytes(part)
    (archive,) = archives(pieces)
    digests = {name: sha256((tmp_path / name).read_bytes()) for name in pieces}
    assert not unpack(UnpackOptions("out").job(tmp_path, archive, digests)).broken
    again = (tmp_path / pieces[0]).read_bytes()
    (tmp_path / pieces[0]).unlink()
    (tmp_path / pieces[0]).write_bytes(again)
    os.utime(tmp_path / pieces[0], (1, 1))
    assert not unpack(UnpackOptions("out").job(tmp_path, archive, digests)).broken


def test_files_stay_beside_the_tars_of_webdataset(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.jpg": b"1"}))
    assert not job(tmp_path, "a.tar").broken
    assert not job(tmp_path, "a.tar", shard=1 << 20).broken
    assert sorted(tree(tmp_path / "out")) == ["a-000000.tar", "a.jpg"]


def test_a_good_file_of_another_archive_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"same": b"1", "shared": b"x"}))
    (tmp_path / "b.tar").write_bytes(tar_bytes({"a-first": b"0", "same": b"2", "shared": b"x"}))
    job(tmp_path, "a.tar")
    with pytest.raises(StorageError, match="differs"):
        job(tmp_path, "b.tar")
    assert tree(tmp_path / "out") == {"same": b"1", "shared": b"x"}


def test_what_could_be_read_of_a_broken_archive_is_kept_aside(tmp_path: Path) -> None:
    files = {name: noise(4096 - 512, n) for n, name in enumerate(FILES)}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files)[: 20 * 4096 + 100])
    done = job(tmp_path, "a.tar")
    assert "number 20" in (done.broken or "")
    assert not (tmp_path / "out").exists()
    kept = tree(tmp_path / (done.kept or ""))
    assert len(kept) >= 20
    assert all(files[name] == data for name, data in list(kept.items())[:19])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_what_precedes_the_damage_of_a_compressed_tar_is_read(tmp_path: Path, mode: str) -> None:
    files = {"first.bin": noise(300_000), "second.bin": noise(2_500_000, 1)}
    whole = tar_bytes(files, mode, prefix="")
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) - 100_000])
    each = members([tmp_path / "a.tar"])
    first = next(each)
    assert first.path == "first.bin"
    assert first.read(1 << 20) == files["first.bin"]
    second = next(each)
    with pytest.raises(BrokenArchiveError, match=r"at or after its member second\.bin \(number 2\)"):
        second.read(1 << 22)


def zip_with_raw_names(raw: bytes) -> bytes:
    """Return a zip whose names are `raw`, without the bit that says UTF-8."""
    return zip_bytes({"?" * len(raw): b"data"}).replace(b"?" * len(raw), raw)


def test_names_in_a_zip_are_utf_8_or_refused(tmp_path: Path) -> None:
    (tmp_path / "utf.zip").write_bytes(zip_with_raw_names("图片/照.jpg".encode()))
    job(tmp_path, "utf.zip")
    assert tree(tmp_path / "out") == {"图片/照.jpg": b"data"}
    (tmp_path / "gbk.zip").write_bytes(zip_with_raw_names("图片/照.jpg".encode("gbk")))
    refused = job(tmp_path, "gbk.zip", delete_after=True).broken or ""
    assert "is not marked as UTF-8, so its letters are not certain" in refused
    assert (tmp_path / "gbk.zip").exists()


def test_a_link_in_the_target_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / "out").mkdir(parents=True)
    (root / "out/d").symlink_to(outside)
    (root / "a.tar").write_bytes(tar_bytes({"d/f": b"x"}))
    with pytest.raises(StorageError, match="link"):
        job(root, "a.tar")
    assert list(outside.iterdir()) == []


def test_an_archive_is_deleted_only_when_its_members_are_there(tmp_path: Path) -> None:
    data = tar_bytes(FILES)
    for n in range(3):
        (tmp_path / f"x.tar.part{n}").write_bytes(data[n * len(data) // 3 : (n + 1) * len(data) // 3])
    pieces = [f"x.tar.part{n}" for n in range(3)]
    done = job(tmp_path, *pieces, delete_after=True)
    assert done.deleted
    assert not list(tmp_path.glob("x.tar.*"))
    assert tree(tmp_path / "out") == FILES
    assert job(tmp_path, *pieces, delete_after=True).already
    (tmp_path / "b.tar").write_bytes(data[:9000])
    assert job(tmp_path, "b.tar", delete_after=True).broken
    assert (tmp_path / "b.tar").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset_puts_what_belongs_together_side_by_side(tmp_path: Path, mode: str) -> None:
    """The input has all pictures first and all captions last, the largest possible distance of a pair."""
    order = dict(sorted(FILES.items(), key=lambda item: item[0].rsplit(".", 1)[1]))
    (tmp_path / "a.tar").write_bytes(tar_bytes(order, mode))
    done = job(tmp_path, "a.tar", shard=30_000)
    assert (done.members, done.broken) == (40, None)
    found: dict[str, bytes] = {}
    shards = sorted((tmp_path / "out").iterdir())
    assert len(shards) >= 4
    assert all(shard.name.startswith("a-00") for shard in shards)
    for shard in shards:
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            assert [n.split(".")[0] for n in names[::2]] == [n.split(".")[0] for n in names[1::2]]
            found |= {n: tar.extractfile(n).read() for n in names}  # type: ignore[union-attr]
    assert found == FILES
    (tmp_path / "b.tar").write_bytes(tar_bytes(order, mode)[:20_000])
    assert job(tmp_path, "b.tar", shard=30_000).broken
    assert len(list((tmp_path / "out").iterdir())) == len(shards)


def test_a_folder_is_unpacked_in_processes(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"d{n}.tar").write_bytes(tar_bytes({f"{n}-{name}": data for name, data in FILES.items()}))
    told: list[Unpacked] = []
    done = unpack_folder(
        tmp_path, dict.fromkeys(f"d{n}.tar" for n in range(4)), UnpackOptions(workers=2), told.append
    )
    assert len(done) == len(told) == 4
    assert {p.name for p in (tmp_path / "d2").iterdir()} == {f"2-{name}" for name in FILES}


def test_an_archive_that_conflicts_costs_no_other(tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"d{n}.tar").write_bytes(tar_bytes({"same" if n == 0 else f"{n}": b"x"}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/same").write_bytes(b"another")
    told: list[Unpacked] = []
    how = UnpackOptions(into="out", workers=1)
    done = unpack_folder(tmp_path, dict.fromkeys(f"d{n}.tar" for n in range(6)), how, told.append)
    assert [bool(each.broken) for each in done] == [True] + [False] * 5
    assert {each.name for each in told} == {f"d{n}.tar" for n in range(6)}
    assert (tmp_path / "out/same").read_bytes() == b"another"


async def test_the_processes_of_a_killed_unpacking_end_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes({f"{name}{n}": noise(20, n) for n in range(5000)}))
    words = [sys.executable, "-m", "osp_fetch", "unpack", str(tmp_path), "--min-free", "0", "--workers", "2"]
    # a process that holds standard output keeps the pipe open
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # two workers, and what multiprocessing starts beside them
        assert process.returncode is None, "it ended before it had started its processes"
        await asyncio.sleep(0.01)
    process.kill()
    async with asyncio.timeout(30):
        await process.stdout.read()
        await process.wait()


async def test_a_killed_unpacking_shows_nothing_or_all(tmp_path: Path) -> None:
    files = {f"{n:05}.jpg": noise(2000, n) for n in range(1500)}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files, "w:gz"))
    chance = random.Random(3)
    words = [sys.executable, "-m", "osp_fetch", "unpack", str(tmp_path), "--min-free", "0", "--into", "out"]
    kills = 0
    for turn in range(30):
        process = await asyncio.create_subprocess_exec(
            *words, env=dict(os.environ), stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            await asyncio.wait_for(process.communicate(), chance.uniform(0.3, 1 + turn / 3))
        except TimeoutError:
            os.killpg(process.pid, 9)
            await process.communicate()
            kills += 1
            planned = (tmp_path / ".osp-fetch/unpack/a.tar/plan").exists()
            done = (tmp_path / ".osp-fetch/unpacked/a.tar.json").exists()
            assert planned or done or not (tmp_path / "out").exists()
            continue
        assert process.returncode == 0
        break
    else:
        pytest.fail("thirty runs did not finish the unpacking")
    assert kills
    assert tree(tmp_path / "out") == files


def test_records_can_be_read_by_people(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(FILES))
    job(tmp_path, "a.tar")
    record = json.loads((tmp_path / ".osp-fetch/unpacked/a.tar.json").read_text())
    assert record["members"] == 40
    assert Archive("a.tar", ("a.tar",)).stem == "a"
