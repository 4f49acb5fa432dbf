import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kip.errors import OutputError
from kip.storage import files
from kip.storage.files import atomic_write, cache_dir, check_private, open_regular, remove_leftovers

needs_owners = pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no owners and modes of files")


def test_writes_the_bytes_and_makes_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.bin"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    atomic_write(tmp_path / "ours", lambda file: None)
    assert (tmp_path / "ours").stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize(
    ("failure", "raised"), [(OSError(errno.ENOSPC, "No space left on device"), OutputError), (ZeroDivisionError(),) * 2]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure, raised):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise failure

    with pytest.raises(raised if isinstance(raised, type) else type(raised)) as caught:
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    if raised is OutputError:
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_output_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="name another folder"):
        atomic_write(tmp_path / "file" / "below" / "out.npz", lambda file: None)


def test_a_process_that_dies_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    script = (
        "import os, sys; from kip.storage.files import atomic_write\n"
        "atomic_write(sys.argv[1], lambda file: (file.write(b'half'), file.flush(), os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert path.read_bytes() == b"old"


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    """Such files stayed for ever, each as large as a checkpoint."""
    script = (
        "import os, sys; from kip.storage.files import atomic_write\n"
        "atomic_write(sys.argv[1], lambda file: (file.write(b'half'), file.flush(), os.kill(os.getpid(), 9)))"
    )
    for name in ("000050.npz", "result.json"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
    left = set(tmp_path.iterdir())
    assert len(left) == 2
    others = [tmp_path / name for name in ("000050.npz", "notes.tmp", ".hidden.tmp", f".{'0' * 32}.tmp", "sub")]
    for path in others[:-1]:
        path.write_bytes(b"the user's")
    others[-1].mkdir()
    (others[-1] / f".deep.{'0' * 32}.tmp").touch()
    ages = [path.stat().st_mtime for path in left]
    assert remove_leftovers(tmp_path, before=min(ages)) == [], "they might be another process's at this moment"
    assert set(remove_leftovers(tmp_path, before=max(ages) + 1)) == left
    assert sorted(tmp_path.iterdir()) == sorted(others)
    assert list(others[-1].iterdir())


def test_a_folder_that_is_missing_holds_no_leftovers(tmp_path):
    assert remove_leftovers(tmp_path / "none", before=1e12) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
def test_only_a_regular_file_is_opened(tmp_path):
    """The opening of a pipe waited for a writer, for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


@pytest.fixture
def stranger(monkeypatch):
    """Make this process another user than the one that owns the files of the test."""

    def become(number):
        monkeypatch.setattr(os, "getuid", lambda: number)

    return become


@needs_owners
def test_a_folder_of_the_users_own_is_private(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    check_private(tmp_path / "cache")
    (tmp_path / "own").symlink_to(tmp_path / "cache")
    check_private(tmp_path / "own")


@needs_owners
def test_a_folder_of_another_user_is_not_private(tmp_path, stranger):
    (tmp_path / "cache").mkdir(mode=0o700)
    stranger(os.getuid() + 1)
    with pytest.raises(PermissionError, match="another user"):
        check_private(tmp_path / "cache")


@needs_owners
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("which", ["link", "folder above", "link on the way"])
def test_what_another_user_put_on_the_way_is_not_followed(tmp_path, which):
    (tmp_path / "mine").mkdir(mode=0o700)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    if which == "folder above":
        (shared / "theirs" / "cache").mkdir(parents=True, mode=0o700)
        os.chown(shared / "theirs", 12345, 12345)
        path = shared / "theirs" / "cache"
    else:
        (tmp_path / "mine" / "cache").mkdir(mode=0o700)
        (shared / "link").symlink_to(tmp_path / "mine")
        os.chown(shared / "link", 12345, 12345, follow_symlinks=False)
        if which == "link on the way":
            (tmp_path / "own").symlink_to(shared / "link" / "cache")
            path = tmp_path / "own"
        else:
            path = shared / "link"
    with pytest.raises(PermissionError, match="another user"):
        check_private(path)


@needs_owners
@pytest.mark.parametrize(
    ("mode", "is_private"), [(0o755, True), (0o1777, True), (0o777, False), (0o757, False), (0o770, None)]
)
def test_folders_above_a_private_one_let_nobody_else_swap_it(tmp_path, mode, is_private):
    """A folder of the user's own group is as good as one that the user alone can write: the group has one member."""
    (tmp_path / "above" / "cache").mkdir(parents=True, mode=0o700)
    (tmp_path / "above").chmod(mode)
    about = (tmp_path / "above").stat()
    if is_private is None:
        is_private = about.st_uid == about.st_gid
    if is_private:
        check_private(tmp_path / "above" / "cache")
    else:
        with pytest.raises(PermissionError, match="can be written by others"):
            check_private(tmp_path / "above" / "cache")


@needs_owners
def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        check_private(tmp_path / "a")


def test_without_a_home_the_cache_is_a_private_folder_among_temporary_files(tmp_path, monkeypatch, caplog):
    """`Path.expanduser` raised RuntimeError: a container often gives a user id that has no name and no home."""
    for name in (files.CACHE_DIR_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files.Path, "expanduser", _no_home)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    files._without_home.cache_clear()
    folder = cache_dir()
    assert folder.parent == tmp_path
    assert cache_dir() == folder
    assert caplog.text.count("KIP_CACHE_DIR") == 1, "it is said once"
    atomic_write(folder / "file", lambda file: None)
    if hasattr(os, "getuid"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files._without_home.cache_clear()


def test_a_temporary_cache_that_another_user_has_made_is_not_used(tmp_path, monkeypatch, stranger):
    if not hasattr(os, "getuid"):
        pytest.skip("Windows has no owners of files")
    monkeypatch.delenv(files.CACHE_DIR_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(files.Path, "expanduser", _no_home)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    stranger(os.getuid() + 1)
    (tmp_path / f"kip-{os.getuid()}").mkdir(mode=0o700)
    files._without_home.cache_clear()
    with pytest.raises(OutputError, match="KIP_CACHE_DIR"):
        cache_dir()
    files._without_home.cache_clear()


def _no_home(path):
    if str(path).startswith("~"):
        raise RuntimeError("Could not determine home directory.")
    return path
