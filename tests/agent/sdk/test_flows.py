"""Applications without code: real sources and sinks around a real model in an inference process."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

from agent.inference.models import make_bundle, save_model, tensor
from agent.sdk.conftest import Follow
from edgectl_agent import Model
from edgectl_agent.bundle import Bundle
from edgectl_agent.errors import UsageError
from edgectl_agent.flows.addresses import parse_address
from edgectl_agent.flows.delivery import Delivery
from edgectl_agent.flows.folder_source import FolderSource
from edgectl_agent.flows.iio_source import IioSource
from edgectl_agent.flows.items import Item, Source
from edgectl_agent.flows.runner import Flow, contract_of
from edgectl_agent.flows.sinks import open_sink
from edgectl_agent.flows.sources import open_source
from edgectl_agent.inference.process import InferenceProcess
from waiting import wait_for


class Kept:
    """A sink that keeps what it is sent."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def send(self, row: bytes) -> None:
        self.rows.append(json.loads(row))

    def close(self) -> None:
        pass


def passing(directory: Path, shape: Sequence[int | str], kind: int, slot: str = "flow") -> Bundle:
    """A model that gives back the largest and the smallest element, and the mean of its input."""
    reduced = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["max"], keepdims=0),
        helper.make_node("ReduceMin", ["f"], ["min"], keepdims=0),
        helper.make_node("ReduceMean", ["f"], ["mean"], keepdims=0),
    ]
    model = save_model(
        directory / f"{slot}.onnx",
        reduced,
        [tensor("x", kind, list(shape))],
        [tensor(name, TensorProto.FLOAT, []) for name in ("max", "min", "mean")],
    )
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return make_bundle(
        directory,
        model,
        slot=slot,
        golden_inputs={"x": np.ones((1, *sizes[1:]), dtype)},
        golden_outputs={name: np.ones(1, np.float32) for name in ("max", "min", "mean")},
    )


@contextmanager
def flowing(model: Model, source: Source | str, *sinks: Any) -> Iterator[tuple[Flow, Kept]]:
    """Run a flow in a thread; it is stopped in the end."""
    kept = Kept()
    opened = open_source(source, contract_of(model)) if isinstance(source, str) else source
    deliveries = [Delivery(str(n), sink) for n, sink in enumerate((kept, *sinks))]
    flow = Flow(model, opened, deliveries, outputs=True, pause_s=0.05)
    thread = threading.Thread(target=flow.run)
    thread.start()
    try:
        yield flow, kept
    finally:
        flow.stop()
        thread.join(60)
        assert not thread.is_alive()


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_pictures(process: InferenceProcess, follow: Follow, tmp_path: Path) -> None:
    process.load(passing(tmp_path, [1, 8, 8, 3], TensorProto.UINT8))
    folder = tmp_path / "in"
    folder.mkdir()
    picture(folder / "red.png", (200, 0, 0))
    picture(folder / "grey.jpg", (90, 90, 90), (1000, 10))
    picture(folder / "not-asked-for.bmp", (1, 1, 1))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(2000))
    (folder / "empty.png").touch()
    (folder / "link.png").symlink_to("red.png")
    os.mkfifo(folder / "pipe.png")
    address = f"folder:{folder}?pattern=*.[pj][np]g&settle_s=0&poll_s=0.02&done=delete"
    with flowing(follow("flow"), address) as (flow, kept):
        wait_for(lambda: flow.counts.predicted == 2 and flow.counts.malformed == 2)
        picture(folder / "late.png", (7, 7, 7))
        wait_for(lambda: flow.counts.predicted == 3)
        wait_for(lambda: not (folder / "late.png").exists())
    rows = {row["source"]: row["outputs"] for row in kept.rows}
    assert rows["red.png"]["max"] == 200
    assert rows["red.png"]["mean"] == pytest.approx(200 / 3, abs=0.1)
    assert abs(rows["grey.jpg"]["mean"] - 90) < 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "broken.jpg", "empty.png", "link.png", "not-asked-for.bmp", "pipe.png",
    ]  # fmt: skip
    assert (flow.counts.received, flow.counts.dropped) == (5, 0)


def test_arrays_and_rows_in_a_folder_once(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(passing(tmp_path, ["N", 4], TensorProto.FLOAT))
    folder, done = tmp_path / "in", tmp_path / "done"
    folder.mkdir()
    done.mkdir()
    np.save(folder / "one.npy", np.array([1, 2, 3, 4.0]))
    np.save(folder / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (folder / "two.json").write_text("[[1, 1, 1, 1], [5, 5, 5, 5]]")
    (folder / "named.json").write_text('{"x": [0, 0, 0, 9]}')
    (folder / "text.json").write_text("no")
    (folder / "shape.json").write_text("[1, 2]")
    address = f"folder:{folder}?settle_s=0&poll_s=0.02&once=1&done={done}"
    model, kept = follow("flow"), Kept()
    source = open_source(address, contract_of(model))
    counts = Flow(model, source, [Delivery("kept", kept)], outputs=True).run()
    assert (counts.predicted, counts.malformed) == (3, 3)
    assert {row["source"]: row["outputs"]["max"] for row in kept.rows} == {
        "one.npy": 4, "two.json": 5, "named.json": 9,
    }  # fmt: skip
    assert sorted(path.name for path in done.iterdir()) == ["named.json", "one.npy", "two.json"]
    assert counts.sinks["kept"].sent == 3


def test_pictures_wait_while_there_is_no_model(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    bundle = passing(tmp_path, [1, 8, 8, 3], TensorProto.UINT8)
    process.load(bundle)
    folder = tmp_path / "in"
    folder.mkdir()
    model = follow("flow")
    model._wait_s = 0
    with flowing(model, f"folder:{folder}?settle_s=0&poll_s=0.02&done=delete") as (flow, kept):
        picture(folder / "first.png", (1, 1, 1))
        wait_for(lambda: flow.counts.predicted == 1)
        process.unload("flow")
        wait_for(lambda: "sdk.withdrawn" in model.problem)
        for number in range(12):
            picture(folder / f"{number}.png", (number, 0, 0))
        wait_for(lambda: flow.counts.received > 1)
        assert flow.counts.predicted == 1
        process.load(bundle)
        wait_for(lambda: flow.counts.predicted == 13)
        wait_for(lambda: not list(folder.iterdir()))
    assert {row["outputs"]["max"] for row in kept.rows} == set(range(12))


def test_a_file_is_taken_when_it_does_not_change_any_more(tmp_path: Path) -> None:
    growing = tmp_path / "growing.json"
    growing.write_text("[1]")
    old = tmp_path / "old.json"
    old.write_text("[0]")
    address = parse_address(f"folder:{tmp_path}?settle_s=3&poll_s=0.01")
    source = FolderSource(address, tuple)
    waits = 0
    taken: list[tuple[str, int]] = []

    class Stop(threading.Event):
        """Stands for the clock: each wait is one poll; the file grows with each, for a while."""

        def wait(self, timeout: float | None = None) -> bool:
            nonlocal waits
            waits += 1
            if waits <= 400:
                growing.write_text(json.dumps(list(range(waits))))
            if waits > 1000:
                self.set()
            return self.is_set()

    source.run(lambda item: taken.append((item.name, waits)), Stop())
    names = [name for name, _ in taken]
    assert names == ["old.json", "growing.json"]
    assert 290 <= taken[0][1] <= 310
    assert taken[1][1] >= 690


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A real Mosquitto on loopback, open to everybody; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with mosquitto(tmp_path, port):
        yield port


@contextmanager
def mosquitto(directory: Path, port: int) -> Iterator[None]:
    config = directory / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    running = subprocess.Popen(
        ["/usr/sbin/mosquitto", "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listens(port))
        yield
    finally:
        running.terminate()
        running.wait(20)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def client_of(port: int, topic: str = "") -> Iterator[tuple[mqtt.Client, list[bytes]]]:
    heard: list[bytes] = []
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _c, _d, message: heard.append(bytes(message.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    if topic:
        client.subscribe(topic, 1)
        assert subscribed.wait(30)
    yield client, heard
    client.disconnect()
    client.loop_stop()


@pytest.mark.mosquitto
def test_from_topic_to_topic(
    process: InferenceProcess, follow: Follow, tmp_path: Path, broker: int
) -> None:
    process.load(passing(tmp_path, ["N", 3], TensorProto.FLOAT))
    sink = open_sink(f"mqtt://127.0.0.1:{broker}/results?qos=1")
    source = f"mqtt://127.0.0.1:{broker}/in/+?qos=1"
    with (
        client_of(broker, "results") as (client, heard),
        flowing(follow("flow"), source, sink) as (flow, _),
    ):

        def arrived() -> bool:
            client.publish("in/first", "[1, 2, 3]", 1)
            return flow.counts.received > 0

        wait_for(arrived)
        for payload in (b"[4, 5, 6]", b"\xff\xfe", b"[" * 100_000, b'{"y": 1}', b"[9, 9]", b""):
            client.publish("in/others", payload, 1)
        wait_for(lambda: flow.counts.malformed == 5)
        wait_for(lambda: any(json.loads(row)["outputs"]["max"] == 6 for row in heard))
    assert json.loads(heard[0])["source"] == "in/first"
    assert flow.counts.failed == 0


@pytest.mark.mosquitto
def test_raw_tensors_and_a_broker_that_goes_away(
    process: InferenceProcess, follow: Follow, tmp_path: Path, broker: int
) -> None:
    process.load(passing(tmp_path, ["N", 3], TensorProto.INT64))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    source = f"mqtt://127.0.0.1:{port}/raw?format=raw"
    with flowing(follow("flow"), source) as (flow, kept):
        for value in (11, 12):  # the broker comes, goes, and comes again
            with mosquitto(tmp_path, port), client_of(port) as (client, _):

                def arrived(client: mqtt.Client = client, value: int = value) -> bool:
                    client.publish("raw", np.full((2, 3), value, "<i8").tobytes())
                    client.publish("raw", b"1234567")
                    return any(row["outputs"]["max"] == value for row in kept.rows)

                wait_for(arrived)
    assert flow.counts.malformed > 0


def video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * number), np.uint8))  # BGR: ever more red
    writer.release()


def test_a_camera_stands_for_every_frame_of_a_film(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    """Channels first and floats; the V4L2 device itself is the only thing that is not here."""
    process.load(passing(tmp_path, [1, 3, 16, 16], TensorProto.FLOAT))
    film = tmp_path / "film.avi"
    video(film, 12)
    model, kept = follow("flow"), Kept()
    source = open_source(f"camera:{film}", contract_of(model))
    counts = Flow(model, source, [Delivery("kept", kept)], outputs=True).run()
    assert (counts.received, counts.predicted, counts.dropped) == (12, 12, 0)
    reds = [row["outputs"]["max"] for row in kept.rows]
    assert reds == sorted(reds)
    assert reds[11] == pytest.approx(220 / 255, abs=0.03)
    assert kept.rows[0]["source"] == "frame 1"


def test_a_camera_that_is_not_there_is_tried_again(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(passing(tmp_path, [1, 8, 8, 1], TensorProto.INT8))
    film = tmp_path / "film.avi"
    with flowing(follow("flow"), f"camera:{film}") as (flow, kept):
        wait_for(lambda: flow.counts.restarts > 1)
        video(tmp_path / "new.avi", 3)
        (tmp_path / "new.avi").rename(film)
        wait_for(lambda: flow.counts.predicted == 3)
    assert kept.rows[0]["outputs"]["min"] == -128


def test_a_serial_port_in_windows(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    """Windows of four rows of two channels, channels first, every second row."""
    process.load(passing(tmp_path, ["N", 2, 4], TensorProto.FLOAT))
    ours, theirs = os.openpty()
    port = os.ttyname(theirs)
    address = f"serial:{port}?baud=9600&window=4&step=2"
    with flowing(follow("flow"), address) as (flow, kept):

        def begun() -> bool:
            os.write(ours, b"0,0\n")
            return flow.counts.predicted > 0

        wait_for(begun)
        before = flow.counts.malformed
        for junk in (b"a,b\n", b"1\n", b"nan,1\n", b"\xff,\xff\n", b"1,2,3\n", b"9" * 9000 + b"\n"):
            os.write(ours, junk)
        wait_for(lambda: flow.counts.malformed == before + 6)
        for number in range(1, 8):  # a window ends with 6 or with 7, as many as there were before
            os.write(ours, f"{number},-{number}\r\n".encode())
        wait_for(lambda: any(row["outputs"]["max"] >= 6 for row in kept.rows))
    last = next(row for row in kept.rows if row["outputs"]["max"] >= 6)
    assert last["outputs"]["min"] == -last["outputs"]["max"]
    assert last["outputs"]["mean"] == 0
    os.close(ours)
    os.close(theirs)


def test_a_serial_port_that_is_pulled_out_is_opened_again(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(passing(tmp_path, ["N", 2], TensorProto.FLOAT))
    link = tmp_path / "tty"
    address = f"serial:{link}?separator=space"
    with flowing(follow("flow"), address) as (flow, kept):
        for value in (3, 4):
            ours, theirs = os.openpty()
            link.unlink(missing_ok=True)
            link.symlink_to(os.ttyname(theirs))

            def arrived(ours: int = ours, value: int = value) -> bool:
                os.write(ours, f"{value} {value}\n".encode())
                return any(row["outputs"]["max"] == value for row in kept.rows)

            wait_for(arrived)
            os.close(theirs)
            os.close(ours)
    assert flow.counts.restarts > 0


def sensor(root: Path) -> Path:
    device = root / "iio:device0"
    device.mkdir()
    for name, content in {
        "name": "lis3dh",
        "in_accel_x_raw": "100",
        "in_accel_y_raw": "-50",
        "in_accel_z_raw": "1000",
        "in_accel_scale": "0.01",
        "in_accel_z_scale": "0.001",
        "in_accel_x_offset": "20",
        "in_temp_raw": "7",
    }.items():
        (device / name).write_text(content + "\n")
    return device


def test_an_iio_sensor(process: InferenceProcess, follow: Follow, tmp_path: Path) -> None:
    process.load(passing(tmp_path, ["N", 5, 3], TensorProto.FLOAT))
    device = sensor(tmp_path)
    address = parse_address("iio:iio:device0?rate=500&window=5&channels=accel_x,accel_y,accel_z")
    model = follow("flow")
    source = IioSource(address, contract_of(model), tmp_path)
    address.check_known()
    with flowing(model, source) as (flow, kept):
        wait_for(lambda: flow.counts.predicted > 2)
        (device / "in_accel_x_raw").write_text("broken")
        wait_for(lambda: flow.counts.restarts > 0)
        (device / "in_accel_x_raw").write_text("200")
        wait_for(lambda: any(row["outputs"]["max"] > 2 for row in kept.rows))
    first = kept.rows[0]["outputs"]
    assert (first["max"], first["min"]) == pytest.approx((1.2, -0.5))
    with pytest.raises(UsageError, match="no channel"):
        IioSource(parse_address("iio:iio:device0?channels=../../x"), tuple, tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        IioSource(parse_address("iio:../iio:device0"), tuple, tmp_path)


def test_the_newest_wins_where_the_source_does_not_wait(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    process.load(passing(tmp_path, ["N", 1], TensorProto.FLOAT))

    class Burst:
        newest_wins = True

        def run(self, deliver: Callable[[Item], None], stop: threading.Event) -> None:
            for number in range(1000):
                deliver(Item(name=str(number), given=[float(number)]))

    model, kept = follow("flow"), Kept()
    counts = Flow(model, Burst(), [Delivery("kept", kept)], outputs=True).run()
    assert counts.received == 1000 == counts.predicted + counts.dropped
    assert kept.rows[-1]["outputs"]["max"] == 999


def test_a_picture_that_is_a_bomb_is_refused(
    process: InferenceProcess, follow: Follow, tmp_path: Path
) -> None:
    from edgectl_agent.flows.images import decode_picture
    from edgectl_agent.flows.items import Malformed

    content = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(content, "PNG")
    inputs = passing(tmp_path, [1, 8, 8, 3], TensorProto.UINT8).config.inputs
    for hostile in (content.getvalue(), b"GIF89a" + bytes(100), b"", b"x" * (33 * 1024 * 1024)):
        with pytest.raises(Malformed):
            decode_picture(hostile, inputs)
