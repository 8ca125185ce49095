"""Environments are whole or not there: two builders, a cut, no network, no wheel, no time."""

import threading
import time

import psutil
import pytest

from edgectl_server.converters import environments as module
from edgectl_server.converters.environments import Converter, Environments
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed

SMALL = "wcwidth==0.9.4\n"


@pytest.fixture
def requirements(monkeypatch):
    """A converter that installs in seconds."""
    wanted = [SMALL]
    monkeypatch.setattr(module, "_requirements", lambda _: wanted[0])
    monkeypatch.setitem(module.CONVERTERS, "sklearn", Converter("sklearn", "-", 1, ("wcwidth",)))
    return wanted


@pytest.fixture
def offline(monkeypatch):
    """No index, whatever this machine has set."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def install(environments, tell=lambda _: None, cancelled=lambda: False):
    return environments.install("sklearn", tell=tell, cancelled=cancelled)


def failure(environments, **more):
    with pytest.raises(PipelineFailed) as caught:
        install(environments, **more)
    left = [one.name for one in environments.path("sklearn").parent.iterdir()]
    assert left == [".sklearn.lock"], "nothing half-built is left"
    assert caught.value.hint
    return caught.value


def test_two_builders_make_one(tmp_path, requirements):
    place = Environments(tmp_path / "converters")
    assert place.installed("sklearn") is None
    broken = place.path("sklearn").parent / f".{place.path('sklearn').name}.building"
    broken.mkdir(parents=True)  # of a server that was killed
    (broken / "bin").mkdir()
    place.path("sklearn").mkdir()  # half of one, with the right name: not used either
    assert place.installed("sklearn") is None
    told: list[str] = []
    found: list[module.Environment] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(install(Environments(tmp_path / "converters"), told.append))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 2
    assert found[0] == found[1] == place.installed("sklearn")
    assert found[0].packages == {"wcwidth": "0.9.4"}
    assert sum(line.startswith("installing the converter") for line in told) == 1
    assert any(line.startswith("waiting for another") for line in told)
    assert sorted(one.name for one in tmp_path.joinpath("converters").iterdir()) == [
        ".sklearn.lock",
        place.path("sklearn").name,
    ]
    assert place.path("sklearn").stat().st_mode & 0o077 == 0
    started = time.monotonic()
    place.python("sklearn", tell=told.append, cancelled=lambda: False)
    assert time.monotonic() - started < 10
    assert sum(line.startswith("installing the converter") for line in told) == 1, "nothing again"


def test_other_requirements_are_another_place(tmp_path, requirements):
    place = Environments(tmp_path)
    before = place.path("sklearn")
    requirements[0] = "wcwidth==0.9.3\n"
    assert place.path("sklearn") != before


def test_an_index_that_cannot_be_reached(tmp_path, requirements, offline, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    error = failure(Environments(tmp_path / "c"))
    assert error.code == "convert.missing"
    assert "cannot be reached" in error.detail
    assert "edgectl server converters install sklearn" in error.hint


def test_a_wheel_that_does_not_exist(tmp_path, requirements, offline, monkeypatch):
    """What there is, is another version."""
    (tmp_path / "wcwidth-0.9.3-py3-none-any.whl").touch()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    error = failure(Environments(tmp_path / "c"))
    assert error.code == "convert.missing"
    assert "cannot be installed for Python 3." in error.detail
    assert "wcwidth" in error.detail


def test_cancelled_while_it_builds(tmp_path, requirements):
    place = Environments(tmp_path / "c")
    before = set(psutil.Process().children(recursive=True))
    told: list[str] = []
    with pytest.raises(PipelineCancelled):
        install(place, told.append, cancelled=lambda: bool(told))
    assert set(psutil.Process().children(recursive=True)) <= before
    assert [one.name for one in (tmp_path / "c").iterdir()] == [".sklearn.lock"]


def test_a_build_that_takes_too_long(tmp_path, requirements):
    error = failure(Environments(tmp_path / "c", build_s_max=0.0))
    assert error.code == "convert.time"


def test_a_server_that_may_not_install(tmp_path, requirements):
    place = Environments(tmp_path / "c", on_demand=False)
    with pytest.raises(PipelineFailed) as caught:
        place.python("sklearn", tell=print, cancelled=lambda: False)
    assert caught.value.code == "convert.missing"
    assert "edgectl server converters install sklearn" in caught.value.hint
    assert not (tmp_path / "c").exists()


def test_pip_gets_none_of_the_servers_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECTL_SERVER_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example.org/simple")
    passed = module._environment(tmp_path)
    assert passed["PIP_INDEX_URL"] == "https://pip.example.org/simple"
    assert "secret" not in str(passed)
