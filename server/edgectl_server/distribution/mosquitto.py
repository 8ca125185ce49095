"""A private Mosquitto: started, watched, told of revocations, and stopped.

One thread starts the process and waits for it; when it ends by itself it is started again, after
a growing pause. It dies with us: the kernel sends it SIGTERM when that thread ends (setpriv
--pdeathsig, where util-linux is installed), so that it still saves its state.

SIGHUP makes it read the revocation list and its certificate again. It goes on without a word when
it cannot, so a list counts as read when the newest canary is refused, and is looked after from then
on. The listener for ending connections is a Unix socket in a folder that only this user can enter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgectl_server.clock import now
from edgectl_server.distribution.addresses import local_address
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.canary import Canary, MakeCanary
from edgectl_server.distribution.interface import IdentityFiles
from edgectl_server.distribution.mosquitto_files import (
    NO_ACCESS,
    MosquittoLayout,
    access_rules,
    check_revocation_list,
    configuration,
)
from edgectl_server.distribution.takeover import take_over
from edgectl_server.errors import Unavailable
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["MosquittoBroker", "find_mosquitto"]

_logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 20.0
_RESTART_PAUSE_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
_STABLE_S = 60.0
_LOG_BYTES_MAX = 16 * 1024 * 1024
_SOCKET_PATH_BYTES_MAX = 100  # the kernel takes 107
_CHECK_S = 600.0
_SPARE_FILES = 256


def find_mosquitto() -> str | None:
    """Return the path of the installed Mosquitto, or None; Debian keeps it out of users' PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _free_port(host: str) -> int:
    with contextlib.closing(socket.create_server((host, 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def _launcher(bounds: BrokerBounds) -> list[str]:
    """Return what runs before it: it is to die with us, and to have a file for each connection."""
    command: list[str] = []
    if setpriv := shutil.which("setpriv"):
        command += [setpriv, "--pdeathsig", "TERM", "--"]
    wanted = bounds.connections_max + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        _logger.warning("only %d files may be open: too few for %d connections", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and wanted > soft and (prlimit := shutil.which("prlimit")):
        command += [prlimit, f"--nofile={wanted}:{wanted}", "--"]
    return command


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
        identity: IdentityFiles,
        crl_pem: Callable[[], bytes],
        make_canary: MakeCanary,
        canary: Canary,
    ) -> None:
        self.host = local_address(host)
        self.port = port
        self._command = command
        self._state = state
        self._kick_socket = kick_socket
        self._identity = identity
        self._crl_pem = crl_pem
        self._make_canary = make_canary
        self._canary = canary
        self._check_due = 0.0
        self._revoking = threading.Lock()
        self._problem = ""
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
        make_canary: MakeCanary,
        bounds: BrokerBounds,
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
        layout = MosquittoLayout(
            host=host,
            port=chosen,
            directory=state,
            certificate=identity.certificate,
            key=identity.key,
            authority=identity.authority,
            state=state,
            log=f"file {state}/mosquitto.log",
            user="root" if os.geteuid() == 0 else "",
            ending=(f"listener 0 {kick_socket}", "allow_anonymous true"),
        )
        text = configuration(layout, bounds)
        canary = make_canary()
        revocations = check_revocation_list(crl_pem(), identity.authority.read_bytes(), now())
        write_durably(state / "mosquitto.conf", text.encode())
        write_durably(state / "access", access_rules().encode())
        write_durably(state / "nothing", NO_ACCESS.encode())
        write_durably(state / "revoked.pem", revocations)
        broker = cls(
            [*_launcher(bounds), binary, "-c", str(state / "mosquitto.conf")],
            host=host,
            port=chosen,
            state=state,
            kick_socket=kick_socket,
            identity=identity,
            crl_pem=crl_pem,
            make_canary=make_canary,
            canary=canary,
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
        return take_over(name, self._kick_socket)

    @property
    def revocation_problem(self) -> str:
        """Why revoked certificates may be let in; empty when they are not, as far as we know."""
        return self._problem

    def reload_revocations(self) -> bool:
        """Write the current revocation list, have it read, and see that it was.

        Raises:
            Unavailable: ``broker.revocations``: the list must not be given to Mosquitto, or it does
                not follow it.
        """
        with self._revoking:  # else an older list could be written over a newer one
            try:
                followed = self._follow_new_list()
            except Unavailable as error:
                self._problem = error.detail
                raise
            self._problem = ""
            return followed

    def _follow_new_list(self) -> bool:
        canary = self._make_canary()
        authority = self._identity.authority.read_bytes()
        content = check_revocation_list(self._crl_pem(), authority, now())
        write_durably(self._state / "revoked.pem", content)
        self._canary = canary
        if not self._reload():
            return False  # it is away; when it comes back it reads the list by itself
        if canary.ask(self.host, self.port) != "refused":
            raise Unavailable(
                "broker.revocations",
                "mosquitto was given the new revocation list, and does not follow it",
                hint=f"see {self._state / 'mosquitto.log'}; restarting the server starts it anew",
            )
        return True

    def check_revocations(self) -> None:
        """See every ten minutes, or as long as something is wrong, that the list is followed.

        Raises:
            Unavailable: ``broker.revocations``.
        """
        if not self.alive or (time.monotonic() < self._check_due and not self._problem):
            return
        if self._canary.expires_at <= now():
            self.reload_revocations()
        verdict = self._canary.ask(self.host, self.port)
        if verdict == "refused":
            self._problem = ""
        elif verdict == "accepted" or self._problem:
            self.reload_revocations()
        if verdict != "unknown":
            self._check_due = time.monotonic() + _CHECK_S

    def reload_certificate(self) -> None:
        """Have the certificate read again; open connections stay.

        Raises:
            Unavailable: ``broker.certificate``: Mosquitto would go on with none at all.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._identity.certificate, self._identity.key)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(
                "broker.certificate",
                "the broker keeps its old certificate: the new one cannot be used",
                hint="restart the server",
            ) from error
        self._reload()

    def _reload(self) -> bool:
        self._signal(signal.SIGHUP)
        # The signal is handled once per turn of its loop; a visit takes several turns.
        return take_over("operator", self._kick_socket)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

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
