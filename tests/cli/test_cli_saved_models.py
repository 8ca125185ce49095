"""A folder is pushed as one file: the same bytes for the same content, and nothing from outside."""

import hashlib
import os
import zipfile

import pytest

from edgectl.errors import LocalError
from edgectl.saved_models import one_file


def folder(path, order=("saved_model.pb", "variables/data", "assets/words")):
    for name in order:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode() * 100)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first = folder(tmp_path / "a" / "door")
    second = folder(tmp_path / "b" / "door", ("assets/words", "variables/data", "saved_model.pb"))
    os.utime(second / "saved_model.pb", (1, 1))
    (second / "saved_model.pb").chmod(0o600)
    with one_file(first) as one, one_file(second) as other:
        assert one.name == other.name == "door.zip"
        assert digest(one) == digest(other)
        # A constant: another machine, another zlib, another Python give no other bytes.
        assert digest(one).startswith("3be902dcd95db87b")
        with zipfile.ZipFile(one) as archive:
            assert archive.namelist() == ["assets/words", "saved_model.pb", "variables/data"]
            assert archive.read("variables/data") == b"variables/data" * 100
    assert not one.exists()


def test_a_file_is_pushed_as_it_is(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"1")
    with one_file(path) as file:
        assert file == path
    assert path.exists()


def test_a_folder_that_is_no_saved_model(tmp_path):
    with pytest.raises(LocalError) as caught, one_file(tmp_path):
        pass
    assert caught.value.code == "push.folder"
    assert "saved_model.pb" in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize("target", ["/etc/passwd", "saved_model.pb", "/etc"])
def test_links_are_refused(tmp_path, target):
    (folder(tmp_path / "door") / "variables" / "link").symlink_to(target)
    with pytest.raises(LocalError) as caught, one_file(tmp_path / "door"):
        pass
    assert caught.value.code == "push.folder"
    assert "is a link" in caught.value.detail


def test_the_command_takes_the_folder_and_names_the_model_after_it(
    logged_in, fleet_server, tmp_path
):
    done = logged_in("push", folder(tmp_path / "har"), "--detach")
    assert done.code == 0, done.err
    assert "har@1 is being made" in done.out
    assert "uploading har.zip" in done.err


def test_the_command_refuses_another_folder(logged_in, tmp_path):
    (tmp_path / "door").mkdir()
    done = logged_in("push", tmp_path / "door", "--detach")
    assert done.code == 1
    assert done.err.startswith("error[push.folder]")
