"""Images that stand in for those of other people in the Compose file, under the same names.

No registry of images is needed: Mosquitto, PostgreSQL and nginx are Debian's, the S3 store is the
one of the other tests (nanio, which is no SeaweedFS; it takes its place and its settings, and is
given the condition that it does not know). Programs, users, variables and folders are those that
the Compose file counts on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from installation.engine import Engine

__all__ = ["IMAGES", "make_archive", "make_stand_ins"]

_ARCHIVE = "stand-ins.tar"
_INCLUDED = "mosquitto,nginx-light,postgresql-15,python3,wget"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_POSTGRESQL = """\
#!/bin/sh
set -eu
as="setpriv --reuid=postgres --regid=postgres --clear-groups --no-new-privs"
mkdir -p "$PGDATA" && chown postgres: "$PGDATA" && chmod 700 "$PGDATA"
install -d -o postgres /var/run/postgresql
if ! test -e "$PGDATA/PG_VERSION"; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    chown postgres: /tmp/password
    $as initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile /tmp/password \\
        --encoding UTF8 --locale C.UTF-8 --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | $as postgres --single -D "$PGDATA" postgres
fi
exec $as postgres -D "$PGDATA" -c listen_addresses='*'
"""
_STORE = '''\
#!/usr/bin/python3
"""Take the settings of SeaweedFS's `mini`, and serve a folder as S3."""

import os
import sys
from pathlib import Path

import uvicorn

assert sys.argv[1] == "mini"
options = dict(one.lstrip("-").split("=", 1) for one in sys.argv[2:])
os.environ |= {
    "NANIO_ACCESS_KEY": os.environ["AWS_ACCESS_KEY_ID"],
    "NANIO_SECRET_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
    "NANIO_DATA_DIR": options["dir"],
}
Path(options["dir"], options["bucket"]).mkdir(exist_ok=True)

from nanio.app import build_app

store = build_app()


async def app(scope, receive, send):
    """Answer for the health, and for a condition that nanio does not know."""
    path = scope.get("path", "/")
    once = (b"if-none-match", b"*") in scope.get("headers", ())
    if path == "/healthz":
        status = 200
    elif once and Path(options["dir"], path.lstrip("/")).exists():
        while (await receive()).get("more_body"):
            pass
        status = 412
    else:
        await store(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


uvicorn.run(app, host="0.0.0.0", port=8333)
'''
_CHANGES = {
    "docker.io/library/eclipse-mosquitto:2.0": [],
    "docker.io/library/nginx:1.28": ['CMD ["nginx", "-g", "daemon off;"]'],
    "docker.io/library/postgres:17": [
        f"ENV PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/15/bin:{_PATH}",
        'ENTRYPOINT ["/stand-in/postgresql"]',
    ],
    "docker.io/chrislusf/seaweedfs:4.48": [
        "ENV PYTHONPATH=/stand-in/packages",
        'ENTRYPOINT ["/stand-in/store"]',
    ],
}
IMAGES = frozenset(_CHANGES)
"""Names that are stood in for."""


def make_stand_ins(engine: Engine) -> None:
    """Make the images from an archive that `make_archive` has put into the engine's folder."""
    engine.docker("import", f"/engine/{_ARCHIVE}", "stand-in")
    container = engine.value("create", "stand-in", "true")
    for name, lines in _CHANGES.items():
        changes = [word for line in lines for word in ("--change", line)]
        engine.docker("commit", *changes, container, name)
    engine.docker("rm", container)
    (engine.root / "engine" / _ARCHIVE).unlink()


def make_archive(root: Path) -> None:
    """Put the file system of all of them into the folder of an engine; needs the network."""
    archive = root / "engine" / _ARCHIVE
    with tempfile.TemporaryDirectory() as folder:
        programs = Path(folder) / "stand-in"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"),
                *("--implementation", "cp", "--python-version", "3.11"),
                *("--target", str(programs / "packages"), "nanio"),
            ],
            check=True,
            timeout=300,
        )
        for name, text in (("postgresql", _POSTGRESQL), ("store", _STORE)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=apt", f"--include={_INCLUDED}"),
                *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
                *("--dpkgopt=force-unsafe-io", f"--customize-hook=copy-in {programs} /"),
                *("bookworm", str(archive)),
            ],
            check=True,
            timeout=900,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
