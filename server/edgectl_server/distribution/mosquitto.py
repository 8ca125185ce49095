"""A private Mosquitto: started, watched, told of revocations, and stopped.

One thread starts the process and waits for it; when it ends by itself it is started again, after
a growing pause. It dies with us: the kernel sends it SIGTERM when that thread ends (setpriv
--pdeathsig, where util-linux is installed), so that it still saves its state.

Ending one connection: Mosquitto has no command for it, and on the devices' listener nobody can take
another's client id over. So there is a second listener on a Unix socket in a folder that only this
user can enter; it takes a client id over and thereby ends the connection and its session.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgectl_server.clock import now
from edgectl_server.distribution.addresses import local_address
from edgectl_server.distribution.interface import IdentityFiles
from edgectl_server.distribution.mosquitto_files import (
    check_revocation_list,
    configuration,
    write_files,
)
from edgectl_server.errors import Unavailable
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["MosquittoBroker", "find_mosquitto"]

_logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 5.0
_RESTART_PAUSE_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
_STABLE_S = 60.0
_LOG_BYTES_MAX = 16 * 1024 * 1024
_SOCKET_PATH_BYTES_MAX = 100  # the kernel takes 107


def find_mosquitto() -> str | None:
    """Return the path of the installed Mosquitto, or None; Debian keeps it out of users' PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _free_port(host: str) -> int:
    with contextlib.closing(socket.create_server((host, 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


class MosquittoBroker:
    """A `RunningBroker` in a process of its own."""

    def __init__(
        self,
        command: list[str],
        *,
        host: str,
        port: int,
        state: Path,
        kick_socket: Path,
        authority: Path,
        crl_pem: Callable[[], bytes],
    ) -> None:
        self.host = local_address(host)
        self.port = port
        self._command = command
        self._state = state
        self._kick_socket = kick_socket
        self._authority = authority
        self._crl_pem = crl_pem
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="mosquitto", daemon=True)

    @classmethod
    def start(
        cls,
        *,
        host: str,
        port: int,
        identity: IdentityFiles,
        state: Path,
        crl_pem: Callable[[], bytes],
    ) -> MosquittoBroker:
        """Start it and wait until it listens; arguments and errors as of `open_broker`."""
        binary = find_mosquitto()
        if binary is None:
            raise Unavailable(
                "broker.mosquitto",
                "mosquitto is not installed",
                hint="install it (Debian: apt install mosquitto), or set broker to embedded",
            )
        state = make_private_directory(state).resolve()
        kick_socket = state / "kick.sock"
        if len(bytes(kick_socket)) > _SOCKET_PATH_BYTES_MAX or " " in str(kick_socket):
            kick_socket = Path(tempfile.mkdtemp(prefix="edgectl-broker-")) / "kick.sock"
        chosen = port or _free_port(host)
        text = configuration(
            host=host, port=chosen, identity=identity, state=state, kick_socket=kick_socket
        )
        revocations = check_revocation_list(crl_pem(), identity.authority.read_bytes(), now())
        write_files(state, configuration=text, revocations=revocations)
        setpriv = shutil.which("setpriv")
        dying = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        broker = cls(
            [*dying, binary, "-c", str(state / "mosquitto.conf")],
            host=host,
            port=chosen,
            state=state,
            kick_socket=kick_socket,
            authority=identity.authority,
            crl_pem=crl_pem,
        )
        broker._watcher.start()
        try:
            broker._wait_until_listening()
        except BaseException:
            broker.stop()
            raise
        return broker

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id; only while it is alive."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop it; it saves its state. Idempotent."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        self._watcher.join(_STOP_TIMEOUT_S)
        if self._watcher.is_alive():
            self._signal(signal.SIGKILL)
            self._watcher.join(_STOP_TIMEOUT_S)
        self._kick_socket.unlink(missing_ok=True)
        if self._kick_socket.parent != self._state:
            with contextlib.suppress(OSError):
                self._kick_socket.parent.rmdir()

    def kick(self, name: str) -> bool:
        """End the connection of `name` and its session, with the messages that wait for it."""
        return self._visit(name)

    def reload_revocations(self) -> bool:
        """Write the current revocation list and have it read.

        Raises:
            Unavailable: ``broker.revocations``: the list must not be given to Mosquitto.
        """
        authority = self._authority.read_bytes()
        content = check_revocation_list(self._crl_pem(), authority, now())
        write_durably(self._state / "revoked.pem", content)
        self._signal(signal.SIGHUP)
        # The signal is handled once per turn of its loop; a visit takes several turns.
        return self._visit("operator")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _visit(self, client_id: str) -> bool:
        """Connect to the private listener as `client_id`, make one exchange, and leave."""
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            transport="unix",
        )
        answered = threading.Event()
        client.on_connect = lambda one, *_: one.subscribe("edgectl/v1/meta/head", qos=1)
        client.on_subscribe = lambda *_: answered.set()
        try:
            client.connect(str(self._kick_socket), clean_start=True)
            client.loop_start()
            if answered.wait(_ANSWER_TIMEOUT_S):
                return True
        except OSError:
            _logger.exception("mosquitto cannot be reached to end the connection of %s", client_id)
        finally:
            client.disconnect()
            client.loop_stop()
        return False

    # --- the watching thread ---------------------------------------------------------------------

    def _watch(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            self._rotate_log()
            try:
                self._run_once()
            except OSError:
                _logger.exception("mosquitto cannot be started")
            self._started.set()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - begun > _STABLE_S else failures + 1
            pause_s = _RESTART_PAUSE_S[min(failures, len(_RESTART_PAUSE_S) - 1)]
            _logger.error("mosquitto has ended; see mosquitto.log; again in %.1f s", pause_s)
            self._stopping.wait(pause_s)

    def _run_once(self) -> None:
        self._kick_socket.unlink(missing_ok=True)
        with (self._state / "mosquitto.err").open("wb") as errors:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        self._process = process
        self._started.set()
        if self._stopping.is_set():  # stop() came before there was a process to signal
            process.terminate()
        while True:
            try:
                process.wait(_STABLE_S)
            except subprocess.TimeoutExpired:
                if self._rotate_log():
                    self._signal(signal.SIGHUP)
            else:
                return

    def _rotate_log(self) -> bool:
        """Put a log that has grown long aside, in place of the one before; say whether."""
        log = self._state / "mosquitto.log"
        with contextlib.suppress(OSError):
            if log.stat().st_size > _LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))
                return True
        return False

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        self._started.wait(_START_TIMEOUT_S)
        while time.monotonic() < deadline and self.alive:
            with contextlib.suppress(OSError):
                # It opens its listeners in order, this one last. (Whoever answers on the TCP port
                # may be somebody else, who has it already.)
                with socket.socket(socket.AF_UNIX) as visitor:
                    visitor.connect(str(self._kick_socket))
                return
            self._stopping.wait(0.05)
        raise Unavailable(
            "broker.mosquitto",
            f"mosquitto does not listen on {self.host}:{self.port}: {self._last_words()}",
            hint=f"see {self._state / 'mosquitto.log'}",
        )

    def _last_words(self) -> str:
        for name in ("mosquitto.err", "mosquitto.log"):
            with contextlib.suppress(OSError):
                lines = (self._state / name).read_text(errors="replace")[-2000:].splitlines()
                wrong = [line for line in lines if "Error" in line]
                if wrong:
                    return wrong[-1]
        return "no reason in its log"
