"""What is told by name and first bytes, and archives that want more than their place."""

import contextlib
import stat
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.conftest import archive
from edgectl_server.converters.foreign.archives import check_archive, unpack
from edgectl_server.converters.foreign.refusal import Refusal
from edgectl_server.converters.formats import recognise
from edgectl_server.pipeline.errors import PipelineRefused

MIB = 1024**2
ZIP = b"PK\x03\x04 and more"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("model.onnx", b"\x08\x07\x12\x04", "onnx"),
        ("model", b"anything", "onnx"),
        ("model.bin", b"", "onnx"),
        ("model.skops", ZIP, "sklearn"),
        ("MODEL.KERAS", ZIP, "keras"),
        ("model.h5", b"\x89HDF\r\n\x1a\n rest", "keras"),
        ("model.pt2", ZIP, "pytorch"),
        ("model.zip", ZIP, "savedmodel"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "tflite"),
        ("model.onnx", b"\x1c\0\0\0TFL3", "tflite"),
        ("model.onnx", ZIP, "convert.format"),
        ("model.txt", b"\x89HDF\r\n\x1a\n rest", "convert.format"),
        ("model.skops", b"\x80\x04\x95", "convert.pickle"),
        ("model.onnx", b"\x80\x05\x95", "convert.pickle"),
        ("model.pkl", b"(dp0", "convert.pickle"),
        ("model.joblib", b"(dp0", "convert.pickle"),
        ("model.pt", ZIP, "convert.pickle"),
        ("model.pth", ZIP, "convert.pickle"),
        ("model.pt2", b"\x08\x07", "convert.format"),
        ("model.tflite", b"\x08\x07", "convert.format"),
    ],
)
def test_formats(tmp_path, name, content, found):
    path = tmp_path / "source"
    path.write_bytes(content)
    if "." not in found:
        assert recognise(path, name) == found
        return
    with pytest.raises(PipelineRefused) as caught:
        recognise(path, name)
    assert caught.value.code == found
    assert caught.value.hint


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "C:evil", "..\\evil", "a/" * 20 + "deep", "x" * 600],
)
def test_names_outside_of_the_archive(tmp_path, name):
    path = archive(tmp_path / "evil.zip", {"fine": "1", name: "2"})
    with pytest.raises(Refusal) as caught:
        unpack(path, tmp_path / "into", MIB)
    assert caught.value.code == "convert.path"
    assert not (tmp_path / "into").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices(tmp_path, kind):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(link("variables", kind), "/etc/passwd")
    with pytest.raises(Refusal) as caught:
        unpack(path, tmp_path / "into", MIB)
    assert caught.value.code == "convert.path"


def test_a_name_twice(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("model", "2")
    with pytest.raises(Refusal) as caught:
        check_archive(path, MIB)
    assert caught.value.code == "convert.path"


def test_a_bomb_that_declares_itself(tmp_path):
    path = archive(tmp_path / "bomb.zip", {"zeros": bytes(20 * MIB)})
    with pytest.raises(Refusal) as caught:
        unpack(path, tmp_path / "into", MIB)
    assert caught.value.code == "convert.too_large"
    assert not (tmp_path / "into").exists()


def test_a_bomb_that_lies_about_its_size(tmp_path):
    path = archive(tmp_path / "bomb.zip", {"zeros": bytes(20 * MIB)})
    content = path.read_bytes().replace((20 * MIB).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(Refusal) as caught:
        unpack(path, tmp_path / "into", MIB)
    assert caught.value.code == "convert.damaged"
    assert sum(one.stat().st_size for one in (tmp_path / "into").iterdir()) <= MIB


def test_too_many_files(tmp_path):
    path = archive(tmp_path / "many.zip", {str(i): b"" for i in range(10_001)})
    with pytest.raises(Refusal) as caught:
        check_archive(path, MIB)
    assert caught.value.code == "convert.too_large"


def test_a_list_of_files_that_is_larger_than_the_file(tmp_path):
    path = archive(tmp_path / "model.zip", {"a": "1"})
    content = bytearray(path.read_bytes())
    content[-10:-6] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(Refusal) as caught:
        check_archive(path, MIB)
    assert caught.value.code == "convert.too_large"


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    length=st.integers(0, 400),
)
def test_mutated_archives_are_taken_or_refused(tmp_path_factory, changes, length):
    folder = tmp_path_factory.mktemp("fuzz")
    path = archive(folder / "model.zip", {"saved_model.pb": b"model", "variables/v": b"1" * 50})
    content = bytearray(path.read_bytes()[:length] if length < 350 else path.read_bytes())
    for place, value in changes:
        if place < len(content):
            content[place] = value
    path.write_bytes(content)
    with contextlib.suppress(Refusal):
        unpack(path, folder / "into", MIB)
    assert {one.name for one in folder.iterdir()} <= {"model.zip", "into"}
