"""Atomic writing against real full disks, real missing permissions and real kills."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from batchnorm.atomic import atomic_write
from batchnorm.errors import OutputError

SIZE = 3_000_000


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("needs Linux to mount a tiny file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a tiny file system is not allowed here; the test with a size limit covers the same path")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach (tmp_path is its owner's alone)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Permissions do not bind root: step down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_atomic_write_new_file_holds_the_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.bin", b"hello")
    assert (tmp_path / "a.bin").read_bytes() == b"hello"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_atomic_write_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "a.bin", b"hello")
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_atomic_write_to_a_symbolic_link_replaces_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real").write_bytes(b"old")
    (tmp_path / "latest").symlink_to(tmp_path / "elsewhere" / "real")
    atomic_write(tmp_path / "latest", b"new")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "elsewhere" / "real").read_bytes() == b"new"


def test_atomic_write_on_a_full_disk_keeps_the_last_good_file(tiny_disk: Path) -> None:
    atomic_write(tiny_disk / "model", b"good")
    with pytest.raises(
        OutputError, match=r"model': No space left on device; the last good file is still there"
    ) as caught:
        atomic_write(tiny_disk / "model", bytes(SIZE))
    assert "free some space" in str(caught.value)
    assert [(entry.name, entry.read_bytes()) for entry in tiny_disk.iterdir()] == [("model", b"good")]


def test_atomic_write_on_a_full_disk_without_an_older_file_leaves_nothing(tiny_disk: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device; no part of it was written"):
        atomic_write(tiny_disk / "model", bytes(SIZE))
    assert list(tiny_disk.iterdir()) == []


def test_atomic_write_beyond_the_file_size_limit_keeps_the_last_good_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "model", b"good")
    answer = python(
        f"""
        import resource
        from batchnorm.atomic import atomic_write
        from batchnorm.errors import OutputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            atomic_write({str(tmp_path / "model")!r}, bytes({SIZE}))
        except OutputError as error:
            print(error)
        """
    )
    assert "File too large; the last good file is still there, unchanged; free some space" in answer.stdout
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("model", b"good")]


def test_atomic_write_without_permission_keeps_the_last_good_file(open_folder: Path) -> None:
    atomic_write(open_folder / "model", b"good")
    open_folder.chmod(0o555)
    try:
        with an_ordinary_user(), pytest.raises(OutputError, match="Permission denied; the last good file") as caught:
            atomic_write(open_folder / "model", b"new")
        assert "choose a folder you may write to" in str(caught.value)
        assert [(entry.name, entry.read_bytes()) for entry in open_folder.iterdir()] == [("model", b"good")]
    finally:
        open_folder.chmod(0o755)


def test_atomic_write_to_a_folder_one_may_not_list_still_writes(open_folder: Path) -> None:
    open_folder.chmod(0o733)  # enter and write, not list: it cannot be opened to be synced
    try:
        with an_ordinary_user():
            atomic_write(open_folder / "model", b"new")
    finally:
        open_folder.chmod(0o755)
    assert (open_folder / "model").read_bytes() == b"new"


def test_atomic_write_into_a_missing_folder_says_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory; no part of it was written; create the folder"):
        atomic_write(tmp_path / "missing" / "model", b"new")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_atomic_write_over_what_is_no_file_is_refused_and_leaves_it(tmp_path: Path, kind: str) -> None:
    """A rename as root over /dev/null would replace the device for the whole machine."""
    target = tmp_path / "target"
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    before = target.stat().st_ino
    with pytest.raises(OutputError, match="a folder or a device, not a file"):
        atomic_write(target, b"new")
    assert target.stat().st_ino == before
    assert len(list(tmp_path.iterdir())) == 1


def test_atomic_write_to_an_impossible_name_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="null byte"):
        atomic_write(f"{tmp_path}/a\0b", b"new")
    with pytest.raises(OutputError, match="File name too long"):
        atomic_write(tmp_path / ("a" * 300), b"new")


def test_atomic_write_interrupted_removes_its_part_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "model").write_bytes(b"good")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "model", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("model", b"good")]


def test_atomic_write_where_the_disk_does_not_confirm_the_rename_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fail_on_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    with pytest.raises(OutputError, match="was written, but the disk did not confirm it"):
        atomic_write(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"new"


def test_atomic_write_killed_between_writing_and_renaming_keeps_the_last_good_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    atomic_write(target, b"good")
    killed = python(
        f"""
        import os, signal
        from batchnorm.atomic import atomic_write
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        atomic_write({str(target)!r}, b"new")
        """
    )
    assert killed.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"good"
    assert len(list(tmp_path.iterdir())) == 2  # the part file of the killed process
    atomic_write(target, b"newer")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("model", b"newer")]


def test_atomic_write_leaves_the_part_file_of_a_living_process_and_other_targets_alone(tmp_path: Path) -> None:
    others = [".model.1-abcdef01.part", ".model.x-abcdef01.part", ".model2.999999999-abcdef01.part", ".model.part"]
    for name in others:
        (tmp_path / name).touch()
    atomic_write(tmp_path / "model", b"new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", *others}


def test_atomic_write_killed_at_random_moments_always_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    writer = f"""
        from batchnorm.atomic import atomic_write
        print("ready", flush=True)
        while True:
            for letter in b"ab":
                atomic_write({str(target)!r}, bytes([letter]) * {SIZE})
        """
    seen = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", dedent(writer)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            while not target.exists():
                time.sleep(0.001)
            time.sleep(seen.uniform(0, 0.05))
            process.kill()
        content = target.read_bytes()
        assert content in {b"a" * SIZE, b"b" * SIZE}
    atomic_write(target, b"end")
    assert len(list(tmp_path.iterdir())) == 1


def test_atomic_write_by_several_processes_at_once_always_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    writers = []
    for letter in "abc":
        code = f"""
            from batchnorm.atomic import atomic_write
            for _ in range(15):
                atomic_write({str(target)!r}, {letter!r}.encode() * {SIZE})
            """
        writers.append(subprocess.Popen([sys.executable, "-c", dedent(code)]))
    whole = {letter.encode() * SIZE for letter in "abc"}
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            assert target.read_bytes() in whole
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
