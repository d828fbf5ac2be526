"""Tests that unpacking and deleting lose no byte.

A state machine combines archives, user files, kills, targets, formats and edits at random. The invariant:
every byte of the user or of an archive is still present, unless the user removed it. An archive is deleted
only by a run that saw all its members.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from osp_fetch.archives.extract import Unpacked, unpack
from osp_fetch.archives.extractor import UnpackOptions, lost_members, unpack_folder
from osp_fetch.archives.splits import archives
from osp_fetch.model.errors import StorageError
from osp_fetch.model.record import Published
from osp_fetch.storage.folder.disk import Disk, files_below
from tests.origin import sha256
from tests.test_archives import job, tar_bytes, tree, zip_bytes

EXAMPLES = int(os.environ.get("OSP_TEST_UNPACKINGS", "60"))


class Killed(BaseException):
    """The kill of the process."""


class MortalDisk(Disk):
    """A disk on which the process is killed at operation number `until`."""

    def __init__(self, until: int) -> None:
        self.left = until

    def _use(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        self._use()
        super().rename_new(place, final)

    def unlink(self, place: Path | str) -> None:
        self._use()
        super().unlink(place)

    def put_text(self, place: Path, text: str) -> None:
        self._use()
        super().put_text(place, text)

    def remove_tree(self, folder: Path) -> None:
        self._use()
        super().remove_tree(folder)

    def make_folder(self, folder: Path, *, durable: bool, below: Path | None = None) -> None:
        self._use()
        super().make_folder(folder, durable=durable, below=below)


def reachable(root: Path) -> set[bytes]:
    """Return the contents of all files below `root` and of all members of tars there.

    Members that a killed run has written before it had a plan do not count: they may be half a file, and
    their archive was there.
    """
    found, unpacking = set(), root / ".osp-fetch" / "unpack"
    for place in root.rglob("*"):
        if not place.is_file():
            continue
        if place.is_relative_to(unpacking):
            unpacked = unpacking / place.relative_to(unpacking).parts[0]
            if unpacked.is_dir() and not (unpacked / "plan").exists():
                continue
        found.add(place.read_bytes())
        if ".tar" in place.suffixes:  # kept files of one name are numbered: x.tar.1
            try:
                with tarfile.open(place) as tar:
                    found |= {tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
            except tarfile.TarError:
                pass
    return found


NAMES = st.sampled_from(["a", "b", "d/c", "d/e", "d"])
ARCHIVES = st.sampled_from(["x.tar", "y.tar"])
TARGETS = st.sampled_from(["out", "other"])


class Unpacking(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.must: set[bytes] = set()  # contents that must be reachable
        self.own: dict[Path, bytes] = {}  # the user's files
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _content(self) -> bytes:
        self.number += 1
        return b"content %d " % self.number * 40

    def _user_did(self) -> None:
        """Stop requiring the contents that the user removed."""
        self.must &= reachable(self.root)

    @rule(archive=ARCHIVES, names=st.sets(NAMES, min_size=1), share=st.booleans())
    def bring_archive(self, archive: str, names: set[str], share: bool) -> None:
        if "d" in names and any(name.startswith("d/") for name in names):
            names.discard("d")
        shared = b"the same in every archive " * 20
        files = {name: shared if share and name == "a" else self._content() for name in sorted(names)}
        place = self.root / archive
        place.unlink(missing_ok=True)
        self._user_did()
        place.write_bytes(tar_bytes(files))
        self.must |= set(files.values())

    @rule(into=TARGETS, name=NAMES)
    def write_own_file(self, into: str, name: str) -> None:
        place = self.root / into / name
        if any(above.is_file() for above in place.parents) or place.is_dir():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        content = self._content()
        place.unlink(missing_ok=True)
        place.write_bytes(content)
        self._user_did()
        self.own[place] = content
        self.must.add(content)

    @rule(into=TARGETS, name=NAMES)
    def remove_file(self, into: str, name: str) -> None:
        place = self.root / into / name
        if place.is_file():
            place.unlink()
            self.own.pop(place, None)
            self._user_did()

    @rule(
        archive=ARCHIVES, into=TARGETS, delete=st.booleans(), flat=st.booleans(), shard=st.sampled_from([0, 5000]),  # noqa: E501
        kill=st.one_of(st.none(), st.integers(0, 25)),
    )  # fmt: skip
    def run(self, archive: str, into: str, delete: bool, flat: bool, shard: int, kill: int | None) -> None:
        (found,) = archives([archive])
        how = UnpackOptions(into=into, flat=flat, shard=shard, delete_after=delete, durable=False)
        there = (self.root / archive).is_file()
        try:
            done = unpack(how.job(self.root, found), MortalDisk(kill if kill is not None else 1 << 30))
        except (Killed, StorageError):
            return
        self._check(done, archive, there, shard)

    def _check(self, done: Unpacked, archive: str, there: bool, shard: int) -> None:
        if done.broken is None and not shard:
            members = tree(self.root / done.target)
            assert len(members) >= done.members > 0
        if there and not done.deleted:
            assert (self.root / archive).is_file()
        assert not (done.deleted and (self.root / archive).exists())

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "root"):
            return
        assert self.must <= reachable(self.root)
        for place, content in self.own.items():
            assert place.read_bytes() == content


Unpacking.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestUnpacking = Unpacking.TestCase


# Regression tests: the ways in which archives, members and proofs were once lost.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a": b"1", "d/b": b"2"}))
    return tmp_path


def test_an_archive_is_not_deleted_when_members_were_removed_since(folder: Path) -> None:
    assert job(folder, "x.tar").members == 2
    (folder / "out/a").unlink()
    done = job(folder, "x.tar", delete_after=True)
    assert done.deleted
    assert tree(folder / "out") == {"a": b"1", "d/b": b"2"}  # it was unpacked again before the deletion


def test_an_archive_is_not_deleted_when_a_member_was_edited_since(folder: Path) -> None:
    job(folder, "x.tar")
    (folder / "out/a").write_bytes(b"edited")
    with pytest.raises(StorageError, match="differs"):
        job(folder, "x.tar", delete_after=True)
    assert (folder / "x.tar").exists()
    assert (folder / "out/a").read_bytes() == b"edited"


def test_another_target_or_format_is_not_taken_for_the_one_asked(folder: Path) -> None:
    job(folder, "x.tar")
    done = job(folder, "x.tar", into="other", delete_after=True)
    assert (done.already, done.deleted, done.target) == (False, True, "other")
    assert tree(folder / "other") == tree(folder / "out") == {"a": b"1", "d/b": b"2"}
    gone = job(folder, "x.tar", into="third")
    assert "--again" in (gone.broken or "")


def test_a_new_archive_under_the_name_of_a_deleted_one_is_unpacked(folder: Path) -> None:
    assert job(folder, "x.tar", delete_after=True).deleted
    (folder / "x.tar").write_bytes(tar_bytes({"new": b"3"}))
    done = job(folder, "x.tar")
    assert (done.already, done.deleted, done.members) == (False, False, 1)
    assert (folder / "x.tar").exists()
    assert (folder / "out/new").read_bytes() == b"3"


def test_an_archive_that_has_come_back_is_not_deleted_unless_that_is_asked_for(folder: Path) -> None:
    (archive,) = archives(["x.tar"])
    data, seen = (folder / "x.tar").read_bytes(), (folder / "x.tar").stat()
    known = {"x.tar": sha256(data)}
    keeps, deletes = UnpackOptions(into="out"), UnpackOptions(into="out", delete_after=True)
    assert unpack(deletes.job(folder, archive, known)).deleted
    (folder / "x.tar").write_bytes(data)
    os.utime(folder / "x.tar", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    done = unpack(keeps.job(folder, archive, known))
    assert (done.already, done.deleted) == (True, False)
    assert (folder / "x.tar").read_bytes() == data
    assert unpack(deletes.job(folder, archive, known)).deleted


def test_a_newer_version_replaces_the_members_of_the_older_one_and_no_others(folder: Path) -> None:
    job(folder, "x.tar")
    (folder / "x.tar").write_bytes(tar_bytes({"a": b"newer", "d/b": b"2"}))
    done = job(folder, "x.tar")
    assert (done.broken, done.members) == (None, 2)
    assert "1 changed file of its earlier version are kept" in (done.note or "")
    assert tree(folder / "out") == {"a": b"newer", "d/b": b"2"}
    assert tree(folder / ".osp-fetch/replaced") == {"out/a": b"1"}
    (folder / "out/a").write_bytes(b"edited")
    (folder / "x.tar").write_bytes(tar_bytes({"a": b"newest", "d/b": b"2"}))
    with pytest.raises(StorageError, match="differs"):
        job(folder, "x.tar")
    assert tree(folder / "out") == {"a": b"edited", "d/b": b"2"}


class FullDisk(Disk):
    """A disk on which no file gets the name `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        if Path(final).name == self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().rename_new(place, final)


def test_a_newer_version_that_cannot_be_published_leaves_the_older_one_in_place(folder: Path) -> None:
    job(folder, "x.tar")
    (folder / "x.tar").write_bytes(tar_bytes({"a": b"newer", "d/b": b"newer", "new": b"3"}))
    (archive,) = archives(["x.tar"])
    request = UnpackOptions(into="out").job(folder, archive)
    with pytest.raises(StorageError):
        unpack(request, FullDisk("new"))
    assert tree(folder / "out") == {"a": b"1", "d/b": b"2"}
    assert tree(folder / ".osp-fetch/replaced") == {}
    assert unpack(request).members == 3
    assert tree(folder / "out") == {"a": b"newer", "d/b": b"newer", "new": b"3"}


def test_an_archive_of_the_same_size_and_time_is_distinguished_from_the_old_one(folder: Path) -> None:
    job(folder, "x.tar")
    seen = (folder / "x.tar").stat()
    (folder / "x.tar").unlink()
    (folder / "x.tar").write_bytes(tar_bytes({"z": b"1", "d/b": b"2"}))
    os.utime(folder / "x.tar", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert not job(folder, "x.tar", delete_after=True).already
    assert (folder / "out/z").read_bytes() == b"1"


def test_a_linked_archive_is_known_by_its_target_and_not_deleted(folder: Path) -> None:
    (folder / "x.tar").rename(folder / "first")
    (folder / "second").write_bytes(tar_bytes({"c": b"3"}))
    (folder / "x.tar").symlink_to("first")
    done = job(folder, "x.tar", delete_after=True)
    assert (done.deleted, done.note is not None) == (False, True)
    (folder / "x.tar").unlink()
    (folder / "x.tar").symlink_to("second")
    assert job(folder, "x.tar").members == 1
    assert (folder / "out/c").read_bytes() == b"3"


def test_a_plan_is_finished_where_it_was_begun(folder: Path) -> None:
    files = {f"{n:02}": bytes([n]) * 50 for n in range(30)}
    (folder / "x.tar").write_bytes(tar_bytes(files))
    (found,) = archives(["x.tar"])
    for until in range(1, 40):
        try:
            unpack(UnpackOptions(into="out").job(folder, found), MortalDisk(until))
        except Killed:
            if 0 < len(tree(folder / "out") if (folder / "out").is_dir() else ()) < 30:
                break
    else:
        pytest.fail("no kill fell among the renames")
    done = unpack(UnpackOptions(into="other", delete_after=True).job(folder, found))
    assert (done.target, done.deleted) == ("other", True)
    assert tree(folder / "out") == tree(folder / "other") == files


def test_a_file_in_the_place_of_a_members_folder_keeps_all_of_the_archive_out(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/d").write_bytes(b"mine")
    with pytest.raises(StorageError, match="need a folder"):
        job(folder, "x.tar")
    assert tree(folder / "out") == {"d": b"mine"}


@pytest.mark.parametrize("turn", range(5))
def test_two_workers_with_equal_member_names_report_what_one_reports(tmp_path: Path, turn: int) -> None:
    for name in ("p", "q"):
        files = {f"{n:03}": f"{name}{n}".encode() * 20 for n in range(200)}
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes(files))
    how = UnpackOptions(into="out", workers=2, delete_after=True)
    done = unpack_folder(tmp_path, dict.fromkeys(["p.tar", "q.tar"]), how, lambda _: None)
    (bad,) = [each for each in done if each.broken]
    (good,) = [each for each in done if not each.broken]
    assert "differs" in (bad.broken or "")
    assert (tmp_path / bad.name).exists()
    assert not (tmp_path / good.name).exists()
    assert set(tree(tmp_path / "out").values()) == {f"{good.name[0]}{n}".encode() * 20 for n in range(200)}


def test_an_equal_file_of_the_users_is_left_as_it_is(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/a").write_bytes(b"1")
    before = (folder / "out/a").stat()
    job(folder, "x.tar", delete_after=True)
    after = (folder / "out/a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_shards_of_webdataset_are_not_unpacked_again(folder: Path) -> None:
    from osp_fetch.archives.extractor import loose_archives

    assert loose_archives(folder) == ["x.tar"]
    job(folder, "x.tar", shard=10_000)
    assert list((folder / "out").glob("*.tar"))
    assert loose_archives(folder) == ["x.tar"]


def test_lost_members_of_a_deleted_archive_are_named(folder: Path) -> None:
    job(folder, "x.tar", delete_after=True)
    assert list(lost_members(folder)) == []
    (folder / "out/d/b").unlink()
    assert list(lost_members(folder)) == [("x.tar", ["out/d/b"])]
    again = job(folder, "x.tar", delete_after=True)
    assert "1 of its files are gone" in (again.broken or "")


def test_a_torn_list_of_members_proves_nothing(folder: Path) -> None:
    job(folder, "x.tar")
    listed = folder / ".osp-fetch/unpacked/x.tar.members.gz"
    listed.write_bytes(listed.read_bytes()[:-12])
    done = job(folder, "x.tar", delete_after=True)
    assert not done.already  # it was unpacked again, so that this run saw every member
    assert done.deleted


@pytest.mark.parametrize("cut", [0, 20])
def test_a_plan_whose_list_is_torn_is_made_anew(folder: Path, cut: int) -> None:
    """A plan that publishes nothing must not pass for success."""
    files = {f"{n:02}": bytes([n]) * 50 for n in range(30)}
    (folder / "x.tar").write_bytes(tar_bytes(files))
    (found,) = archives(["x.tar"])
    options, listed = (
        UnpackOptions(into="out", delete_after=True),
        folder / ".osp-fetch/unpack/x.tar/members.gz",
    )
    for until in range(1, 40):
        with suppress(Killed):
            unpack(options.job(folder, found), MortalDisk(until))
        if listed.exists() and (folder / "out").is_dir():
            break
    assert 0 < len(tree(folder / "out")) < 30
    os.truncate(listed, cut)
    assert unpack(options.job(folder, found)).deleted
    assert tree(folder / "out") == files


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        list(files_below(tmp_path / "gone"))


class Forgetful(Disk):
    """A disk on which written files cannot be looked up: their folder has failed."""

    def look(self, place: Path | str) -> Published | None:
        return None if "tree" in str(place) else super().look(place)


def test_an_archive_whose_members_have_vanished_is_neither_unpacked_nor_deleted(folder: Path) -> None:
    (folder / "x.tar").write_bytes(tar_bytes({"a": b"a" * 99}))
    (found,) = archives(["x.tar"])
    with pytest.raises(StorageError, match="vanished"):
        unpack(UnpackOptions(into="out", delete_after=True).job(folder, found), Forgetful())
    assert (folder / "x.tar").exists()
    assert not (folder / "out").exists()


def test_what_was_kept_of_another_broken_archive_stays(folder: Path) -> None:
    for content in (b"first", b"second"):
        (folder / "x.tar").write_bytes(tar_bytes({"a": content, "b": b"x" * 2000})[:2000])
        done = job(folder, "x.tar")
        assert (folder / (done.kept or "") / "a").read_bytes() == content
    assert (folder / ".osp-fetch/broken/x.tar.1/a").read_bytes() == b"first"


# Damaged and concatenated archives.


@pytest.mark.parametrize("where", [0, 50, 98])
@pytest.mark.parametrize("harm", ["flipped", "zeros"])
def test_a_damaged_header_is_reported_wherever_it_is(tmp_path: Path, where: int, harm: str) -> None:
    files = {f"{n:03}.bin": bytes([n + 1]) * 700 for n in range(100)}
    data = bytearray(tar_bytes(files))
    at = where * (512 + 1024)
    if harm == "flipped":
        data[at + 20] ^= 0xFF
    else:
        data[at : at + 512] = bytes(512)
    (tmp_path / "x.tar").write_bytes(data)
    done = job(tmp_path, "x.tar", delete_after=True)
    assert done.broken
    assert (tmp_path / "x.tar").exists()
    assert not (tmp_path / "out").exists()


def test_zeros_at_the_end_of_data_are_no_end_mark(tmp_path: Path) -> None:
    data = tar_bytes({"a": b"x" * 96 + bytes(4000), "b": b"2"})
    (tmp_path / "x.tar").write_bytes(data[: 512 + 4096])
    assert "end mark" in (job(tmp_path, "x.tar", delete_after=True).broken or "")


@pytest.mark.parametrize("mode", ["w:xz", "w:bz2", "w:gz"])
@pytest.mark.parametrize("between", [b"XX", b"\0" * 8, b""])
def test_compressed_streams_after_another_are_read_or_broken(
    tmp_path: Path, mode: str, between: bytes
) -> None:
    one, two = {"a": b"1" * 5000}, {"b": b"2" * 5000}
    (tmp_path / "x.tar").write_bytes(tar_bytes(one, mode) + between + tar_bytes(two, mode))
    done = job(tmp_path, "x.tar", delete_after=True)
    assert not done.deleted
    if between == b"XX":
        assert done.broken
    else:
        assert tree(tmp_path / "out") == one | two
    (tmp_path / "y.tar").write_bytes(tar_bytes(one, mode) + tar_bytes(two))
    assert job(tmp_path, "y.tar", into="y").broken


def test_a_zstd_archive_is_read_to_its_end_or_broken(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    one, two = {"a": os.urandom(300_000)}, {"b": b"2" * 5000}
    packed = [zstandard.ZstdCompressor(write_checksum=True).compress(tar_bytes(each)) for each in (one, two)]
    whole = b"".join(packed)
    (tmp_path / "x.tar").write_bytes(whole)
    assert job(tmp_path, "x.tar").broken is None
    assert tree(tmp_path / "out") == one | two
    damaged = bytearray(whole)
    damaged[150_000] ^= 1
    for name, data in (("short", whole[:-3]), ("damaged", bytes(damaged)), ("more", whole + b"XX")):
        (tmp_path / f"{name}.tar").write_bytes(data)
        done = job(tmp_path, f"{name}.tar", into=name, delete_after=True)
        assert done.broken, name
        assert (tmp_path / f"{name}.tar").exists()
        assert not (tmp_path / name).exists()


def test_a_zip_after_another_is_broken(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes({"a": b"1"}) + zip_bytes({"b": b"2"}))
    assert "before its first member" in (job(tmp_path, "x.zip", delete_after=True).broken or "")


def test_a_zip_that_may_hold_more_is_not_deleted(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made, warnings.catch_warnings(action="ignore"):
        made.writestr("a", b"first")
        made.writestr("a", b"second")
    (tmp_path / "twice.zip").write_bytes(out.getvalue())
    with zipfile.ZipFile(out := io.BytesIO(), "w") as made:
        for name in ("a", "hidden", "b"):
            made.writestr(name, b"x" * 50)
        made.filelist.pop(1)  # the directory, which is written at the end, does not list it
    (tmp_path / "unlisted.zip").write_bytes(out.getvalue())
    for name in ("twice.zip", "unlisted.zip"):
        done = job(tmp_path, name, into=f"of-{name}", delete_after=True)
        assert (done.deleted, done.note is not None) == (False, True)
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("kind", ["a hole", "zeros alone", "twice"])
def test_an_archive_that_may_hold_more_is_not_deleted(tmp_path: Path, kind: str) -> None:
    data = bytearray(tar_bytes({"a": b"1", "b": b"2", "c": b"3"}))
    if kind == "a hole":
        data[1024:2048] = bytes(1024)
    elif kind == "zeros alone":
        data = bytearray(1 << 20)
    else:
        data = bytearray(tar_bytes({"a": b"first"})[:1024] + tar_bytes({"a": b"second"}))
    (tmp_path / "x.tar").write_bytes(data)
    for _ in range(2):
        done = job(tmp_path, "x.tar", delete_after=True)
        assert (done.deleted, done.note is not None) == (False, True)
    assert (tmp_path / "x.tar").exists()


def test_pieces_with_one_number_are_refused(tmp_path: Path) -> None:
    (found,) = archives(["x.tar.01", "x.tar.02", "x.tar.part1", "x.tar.part2"])
    assert "are the same piece" in found.problem


def test_a_plan_that_was_refused_is_dropped(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/a").write_bytes(b"mine")
    with pytest.raises(StorageError, match="--into"):
        job(folder, "x.tar")
    assert job(folder, "x.tar", into="other").members == 2
    assert tree(folder / "out") == {"a": b"mine"}


def test_concatenated_tars_are_read_to_their_end(tmp_path: Path) -> None:
    one, two = ({f"{name}{n}": f"{name}{n}".encode() for n in range(20)} for name in "ab")
    (tmp_path / "x.tar").write_bytes(tar_bytes(one) + tar_bytes(two))
    assert job(tmp_path, "x.tar").members == 40
    assert tree(tmp_path / "out") == one | two


def test_sparse_members_are_unpacked(tmp_path: Path) -> None:
    import subprocess

    content = b"begin" + bytes(3 << 20) + b"end"
    (tmp_path / "holes").write_bytes(b"")
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(5 + (3 << 20))
        file.write(b"end")
    for form in ("gnu", "posix"):
        subprocess.run(
            ["tar", "-S", f"--format={form}", "-cf", f"{form}.tar", "holes"], cwd=tmp_path, check=True
        )
        assert (tmp_path / f"{form}.tar").stat().st_size < 1 << 20
        assert job(tmp_path, f"{form}.tar", into=form).members == 1
        assert (tmp_path / form / "holes").read_bytes() == content


def test_a_zip_is_not_asked_for_an_end_mark(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes({"a": b"1"}))
    assert job(tmp_path, "x.zip", delete_after=True).deleted
