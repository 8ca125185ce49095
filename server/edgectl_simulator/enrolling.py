"""How simulated devices get their identities: by the exchange of real ones, some at a time.

With a token the answer proves itself by a MAC. What a fleet that has enrolled before needs of the
server - where the broker is, which keys sign orders - it asks as its first device does that has
lost its answer: without a token, and believes it by the authority that the folder remembers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Callable, Sequence

import httpx2
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from edgectl_protocol.enrolment import (
    Enrolment,
    EnrolReply,
    EnrolRequest,
    key_of,
    parse_token,
    reply_mac,
    reply_text,
    request_proof,
    request_text,
)
from edgectl_protocol.errors import MalformedMessage
from edgectl_simulator.errors import Misused, SimulatorError, Unreachable
from edgectl_simulator.identities import Folder, signing_request

__all__ = ["Door"]

_AT_ONCE = 8
_ANSWER_BYTES_MAX = 512 * 1024
_ASK_S = 60.0
_ATTEMPTS = 5
_AGAIN_S = 2.0
_OK = 200
_SERVER_ERROR = 500


class Door:
    """The server's HTTP side, as devices see it; close it in the end."""

    def __init__(self, server: str) -> None:
        # HTTPS is not checked, as devices do not: what is exchanged proves itself.
        self._http = httpx2.AsyncClient(
            verify=False,
            timeout=_ASK_S,
            trust_env=False,
            limits=httpx2.Limits(max_connections=_AT_ONCE),
        )
        self._url = f"{server.rstrip('/')}/api/v1/enrol"

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def admit(
        self,
        folder: Folder,
        names: Sequence[str],
        token: str,
        told: Callable[[int], None],
    ) -> None:
        """Enrol devices that are new.

        Args:
            folder: keeps who they are.
            names: of them.
            token: for so many uses.
            told: called with each one that is in.

        Raises:
            Misused: ``simulate.token``: there is none, or it is no token.
            SimulatorError: ``simulate.enrol``.
            Unreachable: ``simulate.unreachable``.
        """
        if not names:
            return
        try:
            parsed = parse_token(token)
        except MalformedMessage as error:
            raise Misused(
                "simulate.token",
                f"{len(names)} devices are new, and need an enrolment token",
                hint="log in, so that one is made; or: edgectl devices token create --uses "
                f"{len(names)}, then --token-file",
            ) from error
        key, waiting, done = key_of(parsed.secret), iter(names), 0

        async def work() -> None:
            nonlocal done
            for name in waiting:  # shared: each takes the next
                enrolment = await self._admit_one(folder, name, parsed.id, key)
                folder.fleet.authority_pem = enrolment.authority_pem
                done += 1
                told(done)

        workers = [asyncio.ensure_future(work()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*workers, return_exceptions=True)

    async def _admit_one(self, folder: Folder, name: str, token_id: str, key: bytes) -> Enrolment:
        own = folder.key(name)
        nonce = secrets.token_hex(16)
        said = {"nonce": nonce, "device": name, "csr_pem": signing_request(own, name)}
        proof = request_proof(key, **said)
        reply = await self._ask(EnrolRequest(token_id=token_id, proof=proof, **said))
        mac = reply_mac(key, nonce=nonce, enrolment=reply.enrolment)
        if not hmac.compare_digest(mac, reply.mac):
            raise _foreign("the answer was not made by who made the token")
        enrolment = _opened(reply, name)
        folder.keep(name, own, enrolment.certificate_pem)
        return enrolment

    async def ask_again(self, folder: Folder, name: str) -> Enrolment:
        """Ask as an enrolled device that has lost its answer; believed by its signature.

        Raises:
            SimulatorError: ``simulate.foreign``: it is not enrolled there; ``simulate.enrol``.
            Unreachable: ``simulate.unreachable``.
        """
        _, own = folder.identity(name)
        nonce = secrets.token_hex(16)
        said = {"nonce": nonce, "device": name, "csr_pem": signing_request(own, name)}
        proof = own.sign(request_text(**said), ec.ECDSA(SHA256())).hex()
        reply = await self._ask(EnrolRequest(proof=proof, **said))
        authority = x509.load_pem_x509_certificate(folder.fleet.authority_pem.encode())
        public = authority.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)  # it came with a good MAC
        text = reply_text(nonce=nonce, enrolment=reply.enrolment)
        try:
            public.verify(bytes.fromhex(reply.signature), text, ec.ECDSA(SHA256()))
        except InvalidSignature as error:
            raise _foreign("the answer was signed by another authority") from error
        return _opened(reply, name)

    async def _ask(self, request: EnrolRequest) -> EnrolReply:
        content = msgspec.json.encode(request)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = await self._http.post(
                    self._url, content=content, headers={"Content-Type": "application/json"}
                )
            except (httpx2.HTTPError, OSError) as error:
                if attempt == _ATTEMPTS:
                    raise Unreachable(
                        "simulate.unreachable",
                        f"{self._url} does not answer: {str(error) or type(error).__name__}",
                        hint="check that the server is running, and its address",
                    ) from error
                await asyncio.sleep(_AGAIN_S)
                continue
            if answer.status_code < _SERVER_ERROR or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(_AGAIN_S)
        if answer.status_code != _OK:
            raise _refused(answer.status_code, answer.content, request)
        try:
            return msgspec.json.decode(answer.content[:_ANSWER_BYTES_MAX], type=EnrolReply)
        except msgspec.MsgspecError as error:
            raise _foreign("the answer is not that of an edgectl server") from error


def _opened(reply: EnrolReply, name: str) -> Enrolment:
    try:
        enrolment = msgspec.json.decode(reply.enrolment, type=Enrolment)
    except msgspec.MsgspecError as error:
        raise _foreign("the answer is not that of an edgectl server") from error
    if enrolment.device != name:
        raise _foreign(f"the answer is for {enrolment.device}")
    return enrolment


def _foreign(why: str) -> SimulatorError:
    return SimulatorError(
        "simulate.foreign",
        f"this is not the server of the fleet: {why}",
        hint="use the server that the fleet has enrolled at, or another folder with --folder",
    )


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""
    hint: str = ""


def _refused(status: int, content: bytes, request: EnrolRequest) -> SimulatorError:
    """Say what the server has answered: its own words, bounded."""
    try:
        problem = msgspec.json.decode(content[:_ANSWER_BYTES_MAX], type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    if not request.token_id:
        return _foreign(f"{request.device} is not enrolled there ({status} {problem.code[:64]})")
    return SimulatorError(
        "simulate.enrol",
        f"{request.device} is not let in ({status} {problem.code[:64]}): {problem.detail[:500]}",
        hint=problem.hint[:500] or "check --token-file, or take another --prefix",
    )
