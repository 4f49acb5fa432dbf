import errno
import os
import subprocess
import sys

import pytest

from kip.errors import OutputError
from kip.files import atomic_write, remove_leftovers


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
        "import os, sys; from kip.files import atomic_write\n"
        "atomic_write(sys.argv[1], lambda file: (file.write(b'half'), file.flush(), os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert path.read_bytes() == b"old"


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    """Such files stayed for ever, each as large as a checkpoint."""
    script = (
        "import os, sys; from kip.files import atomic_write\n"
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
