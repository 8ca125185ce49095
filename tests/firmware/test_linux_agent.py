"""The agent in C for Linux: libmosquitto, libsodium, onnxruntime; real brokers, a real server."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.conftest import TestAuthority
from e2e.conftest import ACTIVITY
from e2e.falsified import add_falsified_version
from e2e.fleet import Server, stopping
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.manifest import CONFIG_FILE, GOLDEN_FILE
from firmware.linux_agent import MODEL, CAgent, Release, UnixStage, build_agent
from firmware.networked import opened, provision, write_identity
from firmware.programs import ROOT, Programs
from waiting import wait_for

DEVICE = "pi-c"
KILLS = int(os.environ.get("EDGECTL_TEST_KILLS", "6"))
"""`make sweep-linux-agent` has more of them."""
ONE, TWO = Release("1"), Release("2")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent with sanitizers."""
    return build_agent(tmp_path_factory.mktemp("c-agent"))


@pytest.fixture(params=["embedded"])
def stage(
    request: pytest.FixtureRequest,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> Iterator[UnixStage]:
    """A broker with nothing on it, and the server's side of it."""
    with opened(
        UnixStage, request.param, authorities[0], tmp_path / "broker", device=DEVICE, slot=MODEL
    ) as one:
        yield one


Device = Callable[..., CAgent]


@pytest.fixture
def device(
    program: Path,
    stage: UnixStage,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> Iterator[Device]:
    """Make a device with an identity and nothing else."""
    made: list[CAgent] = []

    def make(authority: TestAuthority = authorities[0], server: str = "127.0.0.1") -> CAgent:
        name = f"device-{len(made)}"
        agent = CAgent(program, tmp_path / name)
        write_identity(
            stage, authority.path, agent.state / "identity", tmp_path / f"{name}-enrolled", server,
            options=("--file", "--address", "127.0.0.1"),
        )  # fmt: skip
        made.append(agent)
        return agent

    yield make
    for one in made:
        one.stop()


def reason(state: Any) -> str | None:
    """Return why the update of a state has ended badly."""
    update = state.slots[MODEL].update
    return None if update.reason is None else str(update.reason.code)


@pytest.mark.parametrize(
    "stage", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)], indirect=True
)
def test_updates_a_rollback_and_the_way_back(stage: UnixStage, device: Device) -> None:
    agent = device()
    agent.start()
    first = stage.roll_out(ONE)
    agent.wait_served("1")
    assert np.allclose(agent.answers(ONE.inputs), ONE.outputs, rtol=1e-3, atol=1e-4)
    state = stage.states[-1]
    assert state.capabilities is not None
    assert set(state.capabilities.runtimes) == {"onnxruntime"}
    assert state.capabilities.machine == os.uname().machine
    slot = state.slots[MODEL]
    assert slot.update is not None
    assert slot.update.trial is not None
    assert (slot.update.trial.golden_passed, slot.update.trial.golden_total) == (6, 6)
    assert slot.update.bytes_total == sum(len(one) for one in ONE.files.values())

    stage.roll_out(TWO)
    agent.wait_served("2")
    assert np.allclose(agent.answers(TWO.inputs), TWO.outputs, rtol=1e-3, atol=1e-4)
    previous = stage.states[-1].slots[MODEL].previous
    assert previous is not None
    assert previous.version == "1"

    bad = stage.publish_release(Release("3", wrong=True))
    number = stage.order(bad, version="3")
    state = stage.wait_state("its answers are wrong", state="rejected", order=number)
    assert reason(state) == "trial.golden"
    assert state.rejected == (bad,)
    running = state.slots[MODEL].running
    assert running is not None
    assert running.version == "2"
    assert agent.served() == "2", "what ran before goes on"

    number = stage.order(first, version="1")
    stage.wait_state("the way back", state="committed", order=number)
    agent.wait_served("1")
    assert stage.seeds == [], "everything was there"


def test_the_other_slot_is_the_way_back_without_a_network(stage: UnixStage, device: Device) -> None:
    """An order takes the model back that it had brought: what ran before runs again, and stays."""
    agent = device()
    agent.start()
    stage.roll_out(ONE)
    stage.roll_out(TWO)
    number = stage.order(version="2", slots={}, withdrawn=(MODEL,))
    state = stage.wait_state("it is taken back", state="rolled-back")
    assert reason(state) == "update.withdrawn"
    assert state.order_counter == number
    agent.wait_served("1")
    number = stage.order(version="2", slots={}, withdrawn=(MODEL,))
    wait_for(lambda: stage.states[-1].order_counter == number, "the order again")
    agent.stop()
    agent.start()
    agent.wait_served("1")


def test_the_next_candidate_takes_the_place_of_one_that_is_bad(
    stage: UnixStage, device: Device
) -> None:
    agent = device()
    agent.start()
    broken = Release("1", files={"model.onnx": bytes(5000)})
    manifests = [stage.publish_release(one) for one in (broken, Release("1", wrong=True), ONE)]
    number = stage.order(*manifests, version="1")
    state = stage.wait_state("the third", state="committed", order=number)
    assert state.rejected == tuple(manifests[:2])
    running = state.slots[MODEL].running
    assert running is not None
    assert running.manifest == manifests[2]
    assert {"trial.load", "trial.golden"} <= {
        update.reason.code
        for one in stage.states
        if (update := one.slots[MODEL].update) is not None and update.reason is not None
    } | set(_codes(agent))


def _codes(agent: CAgent) -> Iterator[str]:
    """Yield the events that an agent has printed."""
    for line in agent.said().splitlines():
        if line.startswith('{"event": "'):
            yield line.split('"')[3]


def test_a_contract_that_is_another_or_too_much_is_refused(
    stage: UnixStage, device: Device
) -> None:
    config = msgspec.json.decode(ONE.files[CONFIG_FILE])
    free = config | {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]}
    large = config | {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2**31 - 1, 1024]}]}
    other = config | {"version": "7"}
    encrypted = io.BytesIO()
    np.savez_compressed(encrypted, **{"input.x": ONE.inputs, "output.y": ONE.outputs})
    agent = device()
    agent.start()
    for files, code in (
        ({CONFIG_FILE: msgspec.json.encode(free)}, "trial.load"),
        ({CONFIG_FILE: msgspec.json.encode(large)}, "trial.load"),
        ({CONFIG_FILE: msgspec.json.encode(other)}, "trial.load"),
        ({CONFIG_FILE: b"{" * 200_000}, "trial.load"),
        ({GOLDEN_FILE: encrypted.getvalue()}, "trial.golden_malformed"),
        ({"model.onnx": b""}, "bundle.malformed"),
    ):
        manifest = stage.publish_release(Release("1", files=files))
        number = stage.order(manifest, version="1")
        state = stage.wait_state(code, state="rejected", order=number)
        assert reason(state) == code, files
        assert state.rejected[-1] == manifest
    assert agent.served() is None


@pytest.mark.parametrize(("authority", "server"), [(1, "127.0.0.1"), (0, "10.0.0.1")])
def test_a_broker_of_another_authority_or_name_is_refused(
    authority: int,
    server: str,
    stage: UnixStage,
    device: Device,
    authorities: tuple[TestAuthority, TestAuthority],
) -> None:
    agent = device(authorities[authority], server)
    stage.order(stage.publish_release(ONE), version="1")
    agent.start()
    wait_for(lambda: "disconnected" in agent.said(), "refused")
    assert "connected" not in set(_codes(agent))
    assert stage.states == []


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Give a port where nobody refuses and nobody answers: what is accepted there is full."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        contextlib.ExitStack() as held,
    ):
        address = listener.getsockname()
        for _ in range(4):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(address)
        yield address[1]


def test_a_host_that_is_silent_keeps_nobody_waiting(
    stage: UnixStage,
    device: Device,
    authorities: tuple[TestAuthority, TestAuthority],
    tmp_path: Path,
) -> None:
    agent = device()
    agent.start()
    stage.roll_out(ONE)
    agent.wait_served("1")
    agent.stop()
    agent.log.unlink()
    with silent_port() as stage.port:
        write_identity(
            stage, authorities[0].path, agent.state / "identity", tmp_path / "silent",
            options=("--file", "--address", "127.0.0.1"),
        )  # fmt: skip
        agent.start()
        wait_for(lambda: agent.served() == "1", "what runs is served meanwhile", bound_s=30)
        wait_for(lambda: agent.said().count("disconnected") > 1, "tried again", bound_s=40)
        agent.stop()


def test_what_is_not_signed_or_altered_changes_nothing(stage: UnixStage, device: Device) -> None:
    agent = device()
    agent.start()
    manifest = stage.publish_release(ONE, altered={1: bytes(CHUNK_BYTES), 2: b"short"})
    stage.order(manifest, version="1", key=Ed25519PrivateKey.generate())

    def refusal() -> Any:
        newest = stage.states[-1].refusal if stage.states else None
        return None if newest is None else newest.code

    wait_for(lambda: refusal() == "order.signature", "a forged order is refused")
    stage.order(manifest, version="1", device="pi-2")
    wait_for(lambda: refusal() == "order.device", "an order for another device")

    number = stage.order(manifest, version="1")
    wait_for(lambda: any(set(one.chunks) == {1, 2} for one in stage.seeds), "asked for by name")
    assert stage.publish_release(ONE) == manifest
    stage.wait_state("the right content", state="committed", order=number)
    agent.stop()
    newest = stage.states[-1].order_counter
    stage._counter = 0  # the server does not do that; a broker that replays does
    agent.start()
    stage.order(stage.publish_release(TWO), version="2")
    wait_for(lambda: refusal() == "order.replayed", "an old order, after a new start")
    assert stage.states[-1].order_counter == newest
    agent.wait_served("1")


def test_a_file_that_has_rotted_is_not_run_but_fetched_again(
    stage: UnixStage, device: Device
) -> None:
    agent = device()
    agent.start()
    stage.roll_out(ONE)
    agent.wait_served("1")
    agent.stop()
    (model,) = agent.state.glob("slot-*/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    since = len(stage.states)
    agent.start()
    wait_for(
        lambda: any(one.slots[MODEL].running is None for one in stage.states[since:] if one.slots),
        "it is not run",
    )
    agent.wait_served("1")
    assert np.allclose(agent.answers(ONE.inputs), ONE.outputs, rtol=1e-3, atol=1e-4)


def test_only_what_differs_comes_over_the_network(stage: UnixStage, device: Device) -> None:
    """A version with the same model: its chunks are not on the broker any more."""
    agent = device()
    agent.start()
    stage.roll_out(ONE)
    config = msgspec.json.decode(ONE.files[CONFIG_FILE]) | {"version": "2"}
    same = Release("1", files={CONFIG_FILE: msgspec.json.encode(config)})
    same.version = "2"
    manifest = stage.publish_release(same, altered=dict.fromkeys(range(4), b"gone"))
    number = stage.order(manifest, version="2")
    stage.wait_state("the same model", state="committed", order=number)
    assert stage.seeds == []


def test_an_identity_that_others_may_read_and_a_second_agent_are_refused(
    stage: UnixStage, device: Device
) -> None:
    agent = device()
    (agent.state / "identity").chmod(0o644)
    command = [agent.program, "run", agent.state, MODEL]

    def refused() -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 1
        return done.stderr

    assert "chmod 600" in refused()
    (agent.state / "identity").chmod(0o600)
    agent.start()
    stage.roll_out(ONE)
    assert "another agent" in refused()
    (agent.state / "identity").write_bytes(b"EMI1" + b"\xff" * 40)
    agent.stop()
    assert "damaged" in refused()


def test_requests_that_break_the_rules(stage: UnixStage, device: Device) -> None:
    agent = device()
    agent.start()
    stage.roll_out(ONE)
    agent.wait_served("1")
    mode = (agent.state / "infer.sock").stat().st_mode
    assert mode & 0o777 == 0o600
    kind, text = agent.ask(b"short")
    assert (kind, b"length" in text) == (2, True)
    given = ONE.inputs[0].tobytes()
    commands = subprocess.run(
        [agent.program, "infer", agent.state], input=given, capture_output=True, check=True
    )
    assert np.allclose(np.frombuffer(commands.stdout, np.float32), ONE.outputs[0], rtol=1e-3)
    shown = subprocess.run(
        [agent.program, "show", agent.state], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-2:] == ["input x FP32 1 4", "output y FP32 1 3"]
    usage = subprocess.run([agent.program, "fly"], capture_output=True, check=False)
    assert usage.returncode == 2


def test_killed_at_any_moment_it_runs_what_has_proved_itself(
    stage: UnixStage, device: Device
) -> None:
    """kill -9 between two versions, again and again: what answers is one of both, and right."""
    agent = device()
    releases = {one.version: one for one in (ONE, TWO)}
    manifests = {version: stage.publish_release(one) for version, one in releases.items()}
    agent.start()
    stage.order(manifests["1"], version="1")
    agent.wait_served("1")
    seeded, served, midway = random.Random(9), "1", 0
    for kill in range(KILLS):
        wanted = "2" if served == "1" else "1"
        number = stage.order(manifests[wanted], version=wanted)
        if agent.process is None:
            agent.start()
        threading.Event().wait(seeded.uniform(0.0, 0.6))
        midway += agent.served() != wanted
        agent.kill()
        assert agent.served() is None, "its workers have ended with it"
        agent.start()
        found = wait_for(agent.served, "something answers")
        assert found in releases
        sample = releases[found].inputs[:1]
        # It may switch between two questions: then the answer is that of the other one.
        answer = agent.answers(sample)
        rights = [one.answers(sample) for one in releases.values()]
        assert any(np.allclose(answer, right, rtol=1e-3, atol=1e-4) for right in rights)
        if kill % 3 == 0:
            agent.kill()  # and before it has got any further
            continue
        stage.wait_state(f"after kill {kill}", state="committed", order=number)
        agent.wait_served(wanted)
        served = wanted
    assert midway > 0, "some kills came before the end of an update"
    number = stage.order(manifests["1"], version="1")
    if agent.process is None:
        agent.start()
    stage.wait_state("at the end", state="committed", order=number)
    agent.wait_served("1")
    assert np.allclose(agent.answers(ONE.inputs), ONE.outputs, rtol=1e-3, atol=1e-4)
    assert all(one.slots[MODEL].update is None or not one.rejected for one in stage.states)


@pytest.mark.parametrize("fuzzer", ["fuzz_golden", "fuzz_contract"])
def test_damaged_files_are_refused(
    fuzzer: str, build: Callable[..., Programs], tmp_path: Path
) -> None:
    programs = build("gcc", "fuzz_golden_corpus", "fuzz_contract_corpus")
    golden = io.BytesIO()
    values = np.ones((3, 4), np.float32)
    np.savez(golden, **{"input.x": values, "output.y": values[:, :3]})
    config = ONE.files[CONFIG_FILE].replace(b'"tiny"', b'"m"')
    whole = golden.getvalue() if fuzzer == "fuzz_golden" else config
    chosen, files = random.Random(5), []
    for number in range(400):
        content = bytearray(whole)
        for _ in range(chosen.randint(0, 3)):
            content[chosen.randrange(len(content))] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, 0x30))
        files.append(tmp_path / str(number))
        files[-1].write_bytes(content[: chosen.choice((len(content), chosen.randrange(200, 900)))])
    assert programs.run(f"{fuzzer}_corpus", *files).stdout == "400 files\n"


@pytest.mark.e2e
def test_a_real_server_rolls_a_model_out_to_it(program: Path, tmp_path: Path) -> None:
    """Enrolled by a token, pushed, rolled out, committed; what lies is rolled back; seen by all."""
    server = Server(tmp_path / "server")
    agent, enrolled = CAgent(program, tmp_path / DEVICE), tmp_path / "enrolled"
    agent.model = "har"
    with stopping(server):
        server.start()
        job = server.push("har", ACTIVITY / "har_v1.onnx", "1", precisions=["fp32"])
        assert job.state == "succeeded", job.error
        server.stop()
        add_falsified_version(server.data, "har", "1", "2", falsified="fp32")
        server.start()
        subprocess.run(
            [sys.executable, "-m", "edgectl_agent", "enrol", "--server", server.url,
             "--device", DEVICE, "--state", enrolled],
            env={**os.environ, "EDGECTL_AGENT_TOKEN": server.enrol_token()}, check=True,
        )  # fmt: skip
        provision(enrolled, agent.state / "identity", ("--file",))
        agent.start()
        try:
            wait_for(lambda: server.client.device(DEVICE).online, "it is online")
            server.wait_rollout(server.roll_out("har", "1", DEVICE))
            agent.wait_served("1")
            with np.load(ACTIVITY / "eval.npz") as data:
                windows, labels = data["input"][:100], data["label"][:100]
            right = agent.answers(windows).argmax(axis=1) == labels
            assert right.mean() > 0.9

            rollout = server.roll_out("har", "2", DEVICE)

            def rejected() -> bool:
                (row,) = server.client.rollout_devices(rollout).items
                return (row.device, row.state) == (DEVICE, "rejected")

            wait_for(rejected, "the server hears that it is bad")
            (slot,) = server.client.device(DEVICE).slots
            assert slot.running is not None
            assert (slot.slot, slot.running.version) == ("har", "1")
            assert agent.served() == "1"
            agent.kill()
            wait_for(lambda: not server.client.device(DEVICE).online, "its last will is heard")
        finally:
            agent.kill()
    assert "Sanitizer" not in agent.said()


def test_the_readme_names_every_file() -> None:
    folder = ROOT / "firmware-examples/linux-c-agent"
    text = (folder / "README.md").read_text()
    missing = [one.stem for one in folder.glob("*.c") if f"`{one.name}`" not in text]
    assert missing == []


def test_it_builds_with_clang_too(tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("needs clang (Debian package of that name)")
    program = build_agent(tmp_path, sanitize="", compiler="clang")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert "onnxruntime 1." in done.stdout
