"""Providers for the tests: a real one (oidc-provider on Node.js), and one that lies on demand."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey, KeySet, RSAKey

from e2e.fleet import Process

FOLDER = Path(__file__).parent
CLIENT = "edgectl"
SECRET = "a secret: with + and % in it"


def _run():
    spec = importlib.util.spec_from_file_location(
        "edgectl_ui_run_for_openid", FOLDER.parents[2] / "server/ui/run.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RealProvider:
    """oidc-provider in a process; a start makes new signing keys and forgets all sessions."""

    def __init__(self, folder: Path, redirect_uris: list[str], after_logout: list[str]) -> None:
        self._accounts = folder / "accounts.json"
        self._log = folder / "provider.log"
        self._redirect_uris = redirect_uris
        self._after_logout = after_logout
        self._process: Process | None = None
        self.issuer = ""
        self._accounts.write_text("{}")

    def account(self, login: str, **claims: Any) -> None:
        """Say what the provider knows of somebody; their subject is `login`."""
        known = json.loads(self._accounts.read_text())
        self._accounts.write_text(json.dumps({**known, login: claims}))

    def start(self) -> None:
        """Start it, the second time on the same port."""
        run = _run()
        run.install_folder(FOLDER)
        given = {
            "port": int(self.issuer.rsplit(":", 1)[1]) if self.issuer else 0,
            "accounts": str(self._accounts),
            "client_secret": SECRET,
            "redirect_uris": self._redirect_uris,
            "post_logout_redirect_uris": self._after_logout,
        }
        command = [str(run.node_program()), str(FOLDER / "provider.mjs"), json.dumps(given)]
        self._process = Process(command, self._log)
        since = self._log.stat().st_size if self._log.exists() else 0
        self._process.start()
        ready = self._process.wait_line("the OpenID provider", "ready", value=True, since=since)
        self.issuer = ready["issuer"]

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def log_in(self, address: str, login: str, redirect_uri: str) -> str:
        """Be somebody's browser at the provider; return where it is sent with the answer."""
        with httpx2.Client(trust_env=False, timeout=60) as browser:
            answer = browser.get(address)
            for _ in range(12):
                if answer.is_redirect:
                    there = urljoin(str(answer.url), answer.headers["location"])
                    if there.startswith(redirect_uri):
                        return there
                    answer = browser.get(there)
                    continue
                assert answer.status_code == 200, answer.text
                action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)[1]
                prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)[1]
                form = {"prompt": prompt}
                if prompt == "login":
                    form |= {"login": login, "password": "any"}
                answer = browser.post(urljoin(str(answer.url), action), data=form)
        raise AssertionError(f"no end at {answer.url}")


@cache
def _key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


def by_hand(header: dict[str, Any], content: str, sign: Callable[[bytes], bytes]) -> str:
    """Make a compact JWS that no library would make."""
    parts = [_base64(json.dumps(header).encode()), _base64(content.encode())]
    return ".".join([*parts, _base64(sign(".".join(parts).encode()))])


def _base64(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


class LyingProvider:
    """A provider that answers what it is told: every field of every answer can be made wrong."""

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now
        self.key = _key()
        self.published = [self.key]
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any], dict[str, Any]], str] = self.honestly
        self.token_answer: Callable[[Any], Any] = lambda answer: answer
        self.user_info: dict[str, Any] | None = None
        self.raw: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def taken(self) -> int:
        """Bytes of an endless answer that were read to its end."""
        return getattr(self._server, "taken", 0)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def honestly(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """Sign as a provider should, whatever the claims are."""
        signed = {"alg": "RS256", "kid": self.key.kid, **header}
        content = json.dumps(claims)
        return by_hand(
            signed, content, lambda text: self.key.raw_value.sign(text, PKCS1v15(), SHA256())
        )

    def answer_to(self, address: str, **more: str | None) -> str:
        """Return where a browser would be sent back to, and prepare the ID token."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        at = int(self._now().timestamp())
        claims = {
            "iss": self.issuer,
            "sub": "person-1",
            "aud": CLIENT,
            "exp": at + 300,
            "iat": at,
            "nonce": asked["nonce"],
            "preferred_username": "ana",
            "groups": ["ops"],
        } | self.claims
        self._next = {name: value for name, value in claims.items() if value is not None}
        query = {"code": "a-code", "state": asked["state"], "iss": self.issuer} | more
        given = {name: value for name, value in query.items() if value is not None}
        return f"{asked['redirect_uri']}?{urlencode(given)}"

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth?kept=1",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/me",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        } | self.metadata

    def _answers(self) -> dict[str, Any]:
        return {
            "/.well-known/openid-configuration": self._discovery,
            "/jwks": lambda: KeySet(self.published).as_dict(private=False),
            "/token": lambda: self.token_answer(
                {
                    "id_token": self.sign(dict(self.header), self._next),
                    "access_token": "an-access-token",
                    "token_type": "Bearer",
                }
            ),
            "/me": lambda: self.user_info or {},
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                self._answer({name: values[0] for name, values in parse_qs(body).items()})

            def do_GET(self) -> None:
                self._answer({})

            def _answer(self, form: dict[str, str]) -> None:
                path = urlsplit(self.path).path
                provider.asked.append((path, dict(self.headers), form))
                if path in provider.raw:
                    provider.raw[path](self)
                    return
                content = json.dumps(provider._answers()[path]()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def elliptic_key(kid: str) -> ECKey:
    """A signing key of another kind."""
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})
