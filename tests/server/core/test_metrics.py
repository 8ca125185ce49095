"""Metrics: what they say, to whom, how many they may become; scraped by a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from edgectl_server.api.app import create_app
from edgectl_server.exposition.catalogue import CATALOGUE, OTHER, VALUES_MAX, capped
from edgectl_server.exposition.metrics import Live, Metrics
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AlertRow, DriftStateRow, Job
from server.core.conftest import PASSWORD, Clock
from server.fleet.fleet_helpers import new_device
from waiting import wait_for

PACKAGING = Path(__file__).parents[3] / "packaging"
LIVE = Live(
    connected=lambda: True,
    refused=lambda: 0,
    to_broker=lambda: 0,
    received=lambda: 5,
    dropped=lambda: {f"reason-{n}": n for n in range(1000)},
    to_take_in=lambda: 0,
)


def make(database: Database, clock: Clock, **options: float) -> Metrics:
    return Metrics(
        database=database, live=LIVE, overdue_s=3600, now=clock, **{"fresh_s": 0, **options}
    )


def in_order(sample) -> list[str]:
    """Return the values of labels in the catalogue's order; the text has them by name."""
    family = CATALOGUE.get(sample.name)
    return [sample.labels[label] for label in (family.labels if family else sample.labels)]


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return values by name and values of labels, as a parser of others reads them."""
    text, _ = metrics.text("text/plain")
    return {
        (sample.name, *in_order(sample)): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def fill(database: Database, clock: Clock) -> None:
    """Three devices, one of them drifting; a job, and an alert with a hostile site."""
    with database.write() as session:
        for number in range(3):
            session.add(
                new_device(
                    f"pi-{number}",
                    clock(),
                    online=number == 0,
                    last_seen_at=clock(),
                    labels={"site": 'po"r\nto\\'},
                )
            )
        session.add(
            DriftStateRow(
                manifest="m", level="device", group="pi-1", model="har", version="1",
                state="drifting", since=clock(), until=clock(), rows=1,
                findings=[{"distance": 0.25}, {"distance": 0.5}], faults=[{"kind": "clock"}],
            )
        )  # fmt: skip
        started = clock()
        clock.pass_s(90)
        session.add(
            Job(
                id="0" * 16, kind="push", state="succeeded", payload={}, progress={}, result=None,
                error=None, fence=1, attempts=1, worker=None, lease_until=None,
                cancel_requested=False, created_at=started, created_by="anna",
                started_at=started, finished_at=clock(),
            )
        )  # fmt: skip
        session.add(
            AlertRow(
                id="0" * 16, held="x", kind="drift.device", subject="pi-1", severity="warning",
                state="open", summary="s", hint="", model="har", site="", device="pi-1",
                clear_after_s=0, owner="", opened_at=clock(), seen_at=clock(), absent_since=None,
                acknowledged_at=None, acknowledged_by="", resolved_at=None, resolved_by="",
                revision=0,
            )
        )  # fmt: skip


def test_what_the_database_and_the_process_know(database: Database) -> None:
    clock = Clock()
    fill(database, clock)
    found = samples(make(database, clock))
    assert found["edgectl_devices", "online"] == 1
    assert found["edgectl_devices", "offline"] == 2
    assert found["edgectl_site_devices", 'po"r\nto\\', "offline"] == 2
    assert found["edgectl_drift_groups", "har", "device", "drifting"] == 1
    assert found["edgectl_drift_severity", "har", "device"] == 0.5
    assert found["edgectl_data_faulty_devices", "har"] == 1
    assert found["edgectl_jobs", "push", "succeeded"] == 1
    assert found["edgectl_job_duration_seconds", "push", "1"] == 90
    assert found["edgectl_alerts", "warning", "open"] == 1
    assert found["edgectl_intake_messages_total",] == 5
    assert found["edgectl_broker_connected",] == found["edgectl_database_up",] == 1
    assert found["edgectl_database_size_bytes",] > 10_000
    assert found["process_resident_memory_bytes",] > 10_000_000


def test_no_label_names_a_device_and_none_has_values_without_end(sqlite: Database) -> None:
    clock = Clock()
    with sqlite.write() as session:
        for number in range(3 * VALUES_MAX):
            session.add(new_device(f"pi-{number}", clock(), labels={"site": f"site-{number}"}))
    found = samples(make(sqlite, clock))
    assert not any("device" in family.labels for family in CATALOGUE.values())
    assert not any(value.startswith("pi-") for labels in found for value in labels[1:])
    sites = {labels[1] for labels in found if labels[0] == "edgectl_site_devices"}
    assert len(sites) == VALUES_MAX + 1
    assert found["edgectl_site_devices", OTHER, "offline"] == 2 * VALUES_MAX
    assert sum(labels[0] == "edgectl_intake_dropped_total" for labels in found) == 64


def test_the_largest_stay_and_the_others_are_added_up():
    values = {(f"s{n}", state): float(n) for n in range(5) for state in ("on", "off")}
    found = capped(values, (0,), 2)
    assert found == {
        ("s4", "on"): 4, ("s4", "off"): 4, ("s3", "on"): 3, ("s3", "off"): 3,
        (OTHER, "on"): 3, (OTHER, "off"): 3,
    }  # fmt: skip


def test_the_database_is_asked_once_for_many_scrapes(sqlite: Database) -> None:
    clock = Clock()
    metrics = make(sqlite, clock, fresh_s=600)
    samples(metrics)
    fill(sqlite, clock)
    assert samples(metrics)["edgectl_devices", "online"] == 0


def test_without_a_database_the_rest_is_told(tmp_path, caplog) -> None:
    found = samples(make(Database(f"sqlite:///{tmp_path / 'none' / 'x.sqlite'}"), Clock()))
    assert found["edgectl_database_up",] == 0
    assert found["edgectl_broker_connected",] == 1
    assert ("edgectl_devices", "online") not in found
    caplog.clear()


def test_a_token_for_metrics_reads_metrics_and_nothing_else(client, services, people):
    principal = services.auth.check_password("viewer", PASSWORD, "test")
    token = services.auth.create_token(principal, "prometheus", "viewer", None, scopes=["metrics"])
    headers = {"Authorization": f"Bearer {token.text}"}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    openmetrics = client.get("/metrics", headers=headers | wanted)
    assert openmetrics.text.endswith("# EOF\n")
    assert client.get("/api/v1/devices", headers=headers).status_code == 403
    assert client.get("/metrics").status_code == 401
    reader = services.auth.create_token(principal, "screen", "viewer", None, scopes=["read"])
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {reader.text}"})
    assert answer.json()["code"] == "auth.scope"


# ---------------------------------------------------------------- with real tools


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus)")
    return found


def test_the_rules_are_valid_and_do_what_their_tests_say():
    folder = PACKAGING / "prometheus"
    promtool = tool("promtool")
    for words in (
        ["check", "rules", "edgectl.rules.yml"],
        ["test", "rules", "edgectl.test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run(
            [promtool, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    names = re.findall(r"alert: (\w+)", (folder / "edgectl.rules.yml").read_text())
    tested = (folder / "edgectl.test.yml").read_text()
    assert [name for name in names if f"alertname: {name}" not in tested] == []


@pytest.fixture
def address(services, tmp_path) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(services, web=tmp_path / "no-web")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def test_prometheus_scrapes_it(address, services, clock, tmp_path, people):
    """Debian's own, with the configuration that we ship, but for address and token."""
    fill(services.database, clock)
    prometheus = tool("prometheus")
    (tmp_path / "token").write_text(people.viewer["Authorization"].removeprefix("Bearer "))
    shutil.copy(PACKAGING / "prometheus" / "edgectl.rules.yml", tmp_path)
    text = (PACKAGING / "prometheus" / "prometheus.yml").read_text()
    for before, after in {
        "edgectl.example:8080": address,
        "scheme: https": "scheme: http",
        "/etc/prometheus/edgectl.token": str(tmp_path / "token"),
        "scrape_interval: 30s": "scrape_interval: 1s",
    }.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "prometheus.yml").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    arguments = (
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={listen}",
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([prometheus, *arguments], stdout=log, stderr=log)
    try:

        def ask(query: str) -> list[dict[str, object]]:
            asked = urllib.parse.urlencode({"query": query})
            try:
                with urllib.request.urlopen(f"http://{listen}/api/v1/query?{asked}") as answer:
                    return json.load(answer)["data"]["result"]
            except OSError:
                return []

        wait_for(lambda: ask('up{job="edgectl"} == 1'), "the first scrape", bound_s=30)
        (online,) = ask('edgectl_devices{state="online"}')
        assert online["value"][1] == "1"
        (site,) = ask('edgectl_site_devices{state="offline"}')
        assert site["metric"]["site"] == 'po"r\nto\\'
        for name in ("edgectl_database_up", "process_resident_memory_bytes"):
            assert ask(name), name
    finally:
        process.terminate()
        process.wait(20)


def queries() -> Iterator[str]:
    dashboard = json.loads((PACKAGING / "grafana" / "edgectl.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_every_query_of_dashboard_and_rules_names_what_exists(services):
    found = samples(services.metrics)
    known = {*CATALOGUE, *(labels[0] for labels in found), "edgectl:devices_online:ratio"}
    rules = (PACKAGING / "prometheus" / "edgectl.rules.yml").read_text()
    asked = [*queries(), *re.findall(r"expr: (.*)", rules)]
    assert len(asked) > 30
    for query in asked:
        names = re.findall(r"\b((?:edgectl|process)[_:][a-z_:]+)", query)
        assert set(names) <= known, query
        for name, selected in re.findall(r"(edgectl_[a-z_]+)\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)=", selected))
            assert labels <= {*CATALOGUE[name].labels, "job", "instance"}, query


def test_every_query_of_the_dashboard_parses(tmp_path):
    promtool = tool("promtool")
    rules = [
        {"record": f"q{number}", "expr": re.sub(r"\$__rate_interval", "5m", query)}
        for number, query in enumerate(queries())
        if not query.startswith("label_values")
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_is_documented_and_no_other():
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    for name, family in CATALOGUE.items():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
        assert f"| `{name}` ({family.kind}) | {labels} | {family.help} |" in page
    assert set(re.findall(r"\| `(edgectl_\w+)`", page)) == set(CATALOGUE)
