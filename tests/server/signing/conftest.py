"""A SoftHSM token for all tests of one run: the library reads its configuration once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pkcs11
import pkcs11.util.ec
import pytest

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = b"1234"


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A token with ECDSA keys under the ids 2 and 3; gives a URI without its id."""
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        patch.setenv("PYKCS11LIB", LIBRARY)
        pin = PIN.decode()
        subprocess.run(
            f"softhsm2-util --init-token --free --label edgectl --pin {pin} --so-pin 5678".split(),
            check=True,
            timeout=30,
            capture_output=True,
            env=dict(os.environ),
        )
        found = pkcs11.lib(LIBRARY).get_token(token_label="edgectl")
        with found.open(user_pin=pin, rw=True) as session:
            curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
            for identifier in (2, 3):
                session.create_domain_parameters(
                    pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
                ).generate_keypair(id=bytes([identifier]), store=True, label=f"key {identifier}")
        yield "hsm:%d?label=edgectl"
