"""Files that are replaced as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fastssl import _files
from fastssl._files import replacing, sync


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "[a].json"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:  # another process at the same time
            two.write_text("two")
        assert path.read_text() == "two" and one.exists()
    assert path.read_text() == "one"
    with pytest.raises(ZeroDivisionError), replacing(path) as three:
        three.write_text("three")
        raise ZeroDivisionError
    with pytest.raises(OSError, match="full"), replacing(path):
        raise OSError("full")
    assert path.read_text() == "one" and os.listdir(path.parent) == [path.name]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, left, other = (tmp_path / name for name in ("a", "a.0123abcd.tmp", "a.old.tmp"))
    for file in (left, other):
        file.write_text("half")
    with monkeypatch.context() as patch:  # without locks nobody knows whether it is alive
        patch.setattr(_files, "fcntl", None)
        with replacing(path) as file:
            file.write_text("whole")
    assert left.exists()
    with replacing(path) as file:
        file.write_text("whole")
    assert path.read_text() == "whole" and not left.exists() and other.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_file_systems_without_fsync(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", unable)
    with open(tmp_path / "a", "wb") as file:
        file.write(b"a")
        if code == errno.EIO:
            with pytest.raises(OSError, match="output error"):
                sync(file)
        else:
            sync(file)
            assert (tmp_path / "a").read_bytes() == b"a"
