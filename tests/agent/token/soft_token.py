"""A token in software (SoftHSM), in a folder of its own.

The library reads its configuration once in a process, and other tests use it too. So each of these
tokens has a copy of the library, which the process takes for another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pkcs11
import pkcs11.util.ec
from pkcs11 import Attribute, KeyType, ObjectClass

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "271828"
LABEL = "edgectl device"


class SoftToken:
    """One initialised token with a user PIN."""

    def __init__(self, folder: Path) -> None:
        self.module = folder / "libtoken.so"
        shutil.copy(LIBRARY, self.module)
        (folder / "tokens").mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n"
        )
        self.environment = {"SOFTHSM2_CONF": str(self.configuration)}
        self.pin_file = folder / "pin"
        self.pin_file.write_text(PIN + "\n")
        self.pin_file.chmod(0o600)
        subprocess.run(
            [
                *("softhsm2-util", "--init-token", "--free", "--label", LABEL),
                *("--pin", PIN, "--so-pin", "31415926"),
            ],
            check=True,
            timeout=30,
            capture_output=True,
            env={**os.environ, **self.environment},
        )
        self.tokens = folder / "tokens"

    def uri(self, name: str = "device", *, pin: Path | None = None) -> str:
        label = LABEL.replace(" ", "%20")
        pin = pin or self.pin_file
        return f"pkcs11:token={label};object={name}?module-path={self.module}&pin-source=file:{pin}"

    def session(self) -> Any:
        """A session of ours, for what an operator or a thief does with the token."""
        token = pkcs11.lib(str(self.module)).get_token(token_label=LABEL)
        try:
            return token.open(user_pin=PIN, rw=True)
        except pkcs11.UserAlreadyLoggedIn:  # by the key under test, in this process
            return token.open(rw=True)

    def make(self, name: str, curve: str = "secp256r1", **private: Any) -> None:
        """Make a key pair as somebody else might."""
        with self.session() as session:
            session.create_domain_parameters(
                KeyType.EC,
                {Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters(curve)},
                local=True,
            ).generate_keypair(
                label=name,
                id=name.encode(),
                store=True,
                private_template={Attribute[key]: value for key, value in private.items()},
            )

    def private_keys(self, name: str = "device") -> list[Any]:
        """Return what the token tells of its private keys of a name."""
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: name}
        told = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.NEVER_EXTRACTABLE)
        with self.session() as session:
            return [[key[one] for one in told] for key in session.get_objects(wanted)]

    def read_secret(self, name: str = "device") -> bytes:
        """Try to read the private key out of the token."""
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: name}
        with self.session() as session:
            (key,) = session.get_objects(wanted)
            return bytes(key[Attribute.VALUE])
