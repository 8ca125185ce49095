"""Files that commands write: whole or not at all."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.errors import LocalError
from edgectl.output_files import write_output


def _cut_off() -> Iterator[bytes]:
    yield b"the first half"
    raise KeyboardInterrupt


def test_what_is_cut_off_leaves_the_older_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "har.oci"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        write_output(path, _cut_off())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_is_the_user_s(tmp_path: Path) -> None:
    path = tmp_path / "sample"
    before = os.umask(0o077)
    try:
        assert write_output(path, [b"one", b"two"]) == len(b"onetwo")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"onetwo"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(path.read_bytes()), daemon=True)
    reader.start()
    write_output(path, [b"content"])
    reader.join(10)
    assert came == [b"content"]
    assert path.is_fifo()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        write_output(tmp_path / "absent" / "file", [b""])
    assert caught.value.code == "output.file"
    assert "--output" in str(caught.value.hint)
