"""Encrypted models from push to prediction, and what thieves of the parts get: real processes."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from e2e.conftest import dense_model
from e2e.fleet import SOCKETS
from edgectl_protocol.encryption import ENCRYPTION_ANNOTATION
from waiting import wait_for

pytestmark = pytest.mark.e2e

WINDOW = np.random.default_rng(7).standard_normal((1, 1024)).astype(np.float32)
PLAIN = {"precisions": ["fp32"]}
SECRET = {"precisions": ["fp32"], "encrypt": ["fp32"]}


def marks_of(model: Path) -> list[bytes]:
    """Runs of weights; they are in the pushed file as in the variant that is made of it."""
    content = model.read_bytes()
    return [content[at : at + 48] for at in range(65536, len(content) - 48, 99_991)]


def found_in(folder: Path, marks: list[bytes]) -> list[str]:
    """Return the files below `folder` that hold any of the marks."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if any(mark in file.read_bytes() for mark in marks)]


def outputs_of(model: Path) -> np.ndarray:
    """What the model says to `WINDOW`, by the runtime here."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": WINDOW})[0].ravel()


def assert_serves(agent, version: str, expected: np.ndarray) -> None:
    answer = agent.infer("secret", WINDOW)
    assert answer["model_version"] == version
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected, rtol=1e-5, atol=1e-7)


def test_an_encrypted_model_is_read_by_its_device_alone(start, tmp_path):
    first = dense_model(tmp_path / "first.onnx", layers=1, seed=11)
    second = dense_model(tmp_path / "second.onnx", layers=1, seed=12)
    marks, says_first, says_second = marks_of(second), outputs_of(first), outputs_of(second)
    assert not np.allclose(says_first, says_second)
    keys = tmp_path / "stick"
    server = start.server()
    agent = start.agent(server, "pi-1", key_directory=str(keys))
    assert (keys / "encryption.pem").stat().st_mode & 0o777 == 0o600
    assert not (agent.state / "identity" / "encryption.pem").exists()

    # From plain to encrypted.
    assert server.push("secret", first, "1", **PLAIN).state == "succeeded"
    server.wait_rollout(server.roll_out("secret", "1", observe_s=0.2))
    assert server.push("secret", second, "2", **SECRET).state == "succeeded"
    (variant,) = server.client.get_version("secret", "2").variants
    assert variant.encrypted
    server.wait_rollout(server.roll_out("secret", "2", observe_s=0.2))
    assert_serves(agent, "2", says_second)

    # Neither the server's folder with blobs, database and broker, nor the device's state have it.
    assert found_in(server.data, marks) == []
    assert found_in(agent.state, marks) == []
    assert ENCRYPTION_ANNOTATION.encode() in b"".join(
        file.read_bytes() for file in (agent.state / "blobs").rglob("*") if file.is_file()
    )

    # Without any network it still serves after a power cut.
    server.stop()
    agent.kill()
    agent.token = ""
    agent.start()
    assert_serves(agent, "2", says_second)

    # A thief of the card, without the stick, starts the very same agent on it.
    agent.stop()
    hidden = tmp_path / "elsewhere"
    keys.rename(hidden)
    stolen = tmp_path / "stolen"
    shutil.copytree(agent.state, stolen, ignore=SOCKETS)
    agent.start()
    assert agent.served("secret") is None
    assert found_in(agent.state, marks) == []
    assert found_in(stolen, marks) == []

    # With the stick back it serves by itself, and nothing had to be fetched again; until then it
    # says why it does not.
    server.start()
    wait_for(
        lambda: (
            (fault := next(iter(server.client.device("pi-1").slots)).fault)
            and fault.code == "key.device"
        ),
        "the fault reported",
    )
    hidden.rename(keys)
    wait_for(lambda: agent.served("secret") == "2", "it serving again", bound_s=60)
    assert_serves(agent, "2", says_second)

    # Back from encrypted to plain, of the same model: the search does find what is there.
    assert server.push("secret", second, "3", **PLAIN).state == "succeeded"
    server.wait_rollout(server.roll_out("secret", "3", observe_s=0.2))
    assert_serves(agent, "3", says_second)
    assert found_in(server.data / "blobs", marks)
    assert found_in(agent.state, marks)


def test_rolling_back_between_plain_and_encrypted(start, tmp_path):
    first = dense_model(tmp_path / "first.onnx", layers=1, seed=11)
    second = dense_model(tmp_path / "second.onnx", layers=1, seed=12)
    says = {"1": outputs_of(first), "2": outputs_of(second)}
    server = start.server()
    token = server.enrol_token(uses=2)
    agents = [start.agent(server, f"pi-{number}", token=token) for number in (1, 2)]
    assert server.push("secret", first, "1", **PLAIN).state == "succeeded"
    assert server.push("secret", second, "2", **SECRET).state == "succeeded"
    for old, new in (("1", "2"), ("2", "1")):
        server.wait_rollout(server.roll_out("secret", old, observe_s=0.2))
        rollout = server.roll_out("secret", new, observe_s=60.0)
        for agent in agents:
            wait_for(
                lambda agent=agent, new=new: agent.served("secret") == new,
                f"{new} under observation",
            )
            assert_serves(agent, new, says[new])
        server.client.rollout_action(rollout, "abort", reason="the wrong one")
        for agent in agents:
            wait_for(lambda agent=agent, old=old: agent.served("secret") == old, f"{old} back")
            assert_serves(agent, old, says[old])
        server.wait_rollout(rollout, "aborted")
    # Each device has the key sealed to itself: what the other one has is another text.
    sealed = [
        {file.name: file.read_bytes() for file in (agent.state / "sealed").iterdir()}
        for agent in agents
    ]
    assert sealed[0].keys() == sealed[1].keys() != set()
    assert not set(sealed[0].values()) & set(sealed[1].values())
