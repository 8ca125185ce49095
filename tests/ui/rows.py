"""Rows of a small, busy factory: what the pages of the web UI have to show, good and bad.

Written straight into the server's database, because a device that misbehaves in each way that
there is would take minutes to stage. Texts that devices and people may choose contain markup.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec import to_builtins
from sqlalchemy import select

from edgectl_protocol.messages import (
    Capabilities,
    DeviceEvent,
    Installed,
    Reason,
    ReportedState,
    SlotReport,
    SystemSample,
    UpdateReport,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import TRANSITIONS, UpdateEvent, UpdateState
from edgectl_server.auth import Auth
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Base,
    BundleVariant,
    DesiredSlot,
    Device,
    DeviceEventRow,
    Job,
    Measurement,
    Model,
    ModelVersion,
    ReportedSlot,
    Rollout,
    RolloutDevice,
    RolloutEvent,
    SystemSampleRow,
    TelemetryWindow,
)
from ui.bundle_files import bundle_files, manifest_of
from ui.enrolment_rows import enrolment_rows
from ui.fleet_rows import held, history, labels_of, saved
from ui.loop_rows import loop_rows
from ui.rollout_rows import NEW as DOOR_NEW
from ui.rollout_rows import VERSION as DOOR_VERSION
from ui.rollout_rows import phased_rows
from ui.sample_rows import sample_rows
from ui.security_rows import security_events
from ui.update_rows import BREACH, POLICY, PROVED_BY, SPECIAL, evidence
from ui.upload_rows import upload_rows
from ui.watch_rows import watch

MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
ENCRYPTED = 5
"""Id of the version whose first variant is encrypted: kws 1.0."""
PASSWORD = "correct horse battery staple"
RUNNING, PAUSED = "0a11ce5000000001", "0a11ce5000000002"
REFUSED_JOB, RUNNING_JOB = "0dd50b5000000001", "0dd50b5000000002"
MANIFEST = "sha256:" + "4f" * 32
DEVICES = 30
MEASURED = 3
"""Devices that have measured har 3."""
LAST_EVENTS = 21
"""Events of the first device: three updates."""
VARIANT = "onnx-int8"
_STATES = UpdateState

REASONS = {
    _STATES.REJECTED: Reason(code="trial.golden", detail="output differs by 0.41, at most 0.05"),
    _STATES.ROLLED_BACK: Reason(code="observe.error_rate", detail=f"{BREACH} {MARKUP}"),
    _STATES.FAILED: Reason(code="download.disk", detail="no space left on the device"),
}


def fill(database: Database, blobs: BlobStore, uploads: BlobStore, now: datetime) -> None:
    """Write users, models, devices, rollouts, telemetry, samples; and the files of bundles.

    Args:
        database: of the server.
        blobs: of bundles.
        uploads: of devices.
        now: the time.
    """
    auth = Auth(database, lambda: now)
    for name in ("viewer", "operator", "admin"):
        auth.set_user(name, PASSWORD, name)  # type: ignore[arg-type]
    rows = [
        *_models(now),
        *_versions(now),
        *(row for number in range(DEVICES) for row in _device(number, now)),
        _rollout(RUNNING, "running", now),
        _rollout(PAUSED, "paused", now),
        *_rollout_rows(now),
        *enrolment_rows(now),
        *loop_rows(MARKUP, RUNNING, now),
        *upload_rows(name_of(0), MARKUP, now),
        *saved(now),
        *sample_rows(
            uploads,
            now,
            bundles={
                "har": ("3", manifest_of("har", "3", INT8)),
                "door": (DOOR_VERSION, DOOR_NEW),
                "kws": ("1.0", manifest_of("kws", "1.0", INT8)),
            },
            devices=[name_of(number) for number in range(5)],
        ),
        *phased_rows([name_of(number) for number in range(DEVICES)], REPORT, now),
    ]
    with database.write() as session:
        for table in Base.metadata.sorted_tables:  # what is referred to comes first
            session.add_all(row for row in rows if row.__table__ is table)
            session.flush()
        for bundle in session.scalars(select(BundleVariant)):
            version = session.get_one(ModelVersion, bundle.version_id)
            for content in bundle_files(version.model, version.version, bundle.trial):
                blobs.add_bytes(content)
    watched = manifest_of("har", "3", INT8)
    devices = [name_of(number) for number in range(DEVICES)]
    watch(database, blobs, now, manifest=watched, devices=devices)


# ---------------------------------------------------------------- models


def _models(now: datetime) -> list[Base]:
    return [
        Model(name=name, created_at=now - timedelta(days=30), created_by="admin")
        for name in ("har", "kws")
    ]


def _trial(recipe: str, precision: str, status: str, **measured: Any) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "variant": f"onnx-{precision}",
        "precision": precision,
        "status": status,
        **measured,
    }


FP32 = _trial(
    "fp32",
    "fp32",
    "accepted",
    size_bytes=1_284_220,
    value=0.9526,
    drop_points=0.0,
    latency_p50_us=212.0,
    latency_p95_us=297.0,
    seconds=1.0,
)
INT8 = _trial(
    "static-minmax",
    "int8",
    "accepted",
    size_bytes=338_112,
    value=0.9502,
    drop_points=0.24,
    latency_p50_us=96.2,
    latency_p95_us=135.0,
    seconds=4.1,
)
ALSO_GOOD = {**INT8, "recipe": "int8-static-percentile-per-channel-reduced", "value": 0.9499}
DYNAMIC = _trial(
    "dynamic-per-channel",
    "int8",
    "rejected",
    size_bytes=331_040,
    value=0.9381,
    drop_points=1.45,
    latency_p50_us=341.0,
    latency_p95_us=477.0,
    seconds=2.2,
    reason="1.45 points below fp32, more than the limit of 1.00",
)
BROKEN = _trial("static-s8s8", "int8", "failed", reason=f"no kernel for {MARKUP}")
REPORT = {
    "metric": "accuracy",
    "metric_source": "evaluation",
    "samples": 2947,
    "reference": 0.9526,
    "max_drop_points": 1.0,
    "opset": 17,
    "nodes": 38,
    "parameters": 318_470,
    "inputs": [{"name": "window", "datatype": "FP32", "shape": [-1, 9, 128]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 6]}],
    "trials": [FP32, INT8, ALSO_GOOD, DYNAMIC, BROKEN],
    "measured_on": "a processor, onnxruntime",
    "golden": {"confident": 10, "uncertain": 6},
    "warnings": ["The calibration set has 200 samples; 300 or more give steadier ranges."],
    "gates": [
        {"variant": "", "name": "contract", "status": "overridden", "overridden_by": "ann",
         "detail": f"output {MARKUP} is gone"},
        {"variant": "int8", "name": "size", "status": "passed", "measured": 327_680.0,
         "bound": 400_000.0, "direction": "<=", "unit": "bytes"},
        {"variant": "int8", "name": "latency_p95", "status": "failed", "measured": 6000.0,
         "bound": 5000.0, "direction": "<=", "unit": "time"},
        {"variant": "int8", "name": "own", "status": "not_enough_data", "bound": 0.5,
         "direction": ">=", "unit": "number"},
    ],
    "data_checks": [
        {"name": "range", "severity": "warning", "detail": f"3 % of {MARKUP} are outside",
         "hint": "calibrate with more"},
    ],
}  # fmt: skip
LABELS = ["walking", "walking upstairs", "walking downstairs", "sitting", "standing", MARKUP]


def _versions(now: datetime) -> list[Base]:
    def version(identity: int, model: str, name: str, state: str, **changed: Any) -> ModelVersion:
        values: dict[str, Any] = {
            "id": identity,
            "model": model,
            "version": name,
            "state": state,
            "content": f"sha256:{identity:064x}",
            "source": f"sha256:{identity:064x}",
            "source_size": 1_284_220,
            "source_name": "har_v1.onnx",
            "calibration": f"sha256:{16 + identity:064x}",
            "evaluation": f"sha256:{32 + identity:064x}",
            "options": {"labels": LABELS},
            "report": REPORT,
            "parent": None,
            "job": None,
            "created_at": now - timedelta(days=20 - identity),
            "created_by": "operator",
        }
        return ModelVersion(**{**values, **changed})

    refused = {
        "title": "Refused",
        "status": 422,
        "code": "pipeline.accuracy",
        "detail": "no int8 variant stays within 1.00 points of fp32: the best loses 2.31",
        "hint": "give more calibration data, or raise --max-drop",
    }
    jobs = [
        _job(REFUSED_JOB, "failed", "2", now, error=refused),
        _job(RUNNING_JOB, "running", "4", now, lease_until=now + timedelta(days=1)),
    ]
    versions = [
        version(1, "har", "1", "ready"),
        version(2, "har", "2", "refused", job=REFUSED_JOB),
        version(3, "har", "3", "ready", parent="1"),
        version(4, "har", "4", "processing", report=None, job=RUNNING_JOB),
        version(5, "kws", "1.0", "ready", imported=_imported(now)),
    ]
    variants = [
        BundleVariant(
            version_id=identity,
            variant=trial["variant"],
            precision=trial["precision"],
            target=f"bundles/{identity}/{trial['variant']}",
            manifest=manifest_of(model, version_name, trial),
            manifest_size=2_000,
            bundle_bytes=trial["size_bytes"] + 21_400,
            model_bytes=trial["size_bytes"],
            rank=rank,
            trial=trial,
            content_key="A" * 108 if identity == ENCRYPTED and rank == 0 else None,
        )
        for identity, model, version_name in ((1, "har", "1"), (3, "har", "3"), (5, "kws", "1.0"))
        for rank, trial in enumerate((INT8, FP32))
    ]
    return [*jobs, *versions, *variants]


def _imported(now: datetime) -> dict[str, Any]:
    return {
        "origin": "lab",
        "root": digest_of(b"root"),
        "root_version": 2,
        "file": digest_of(b"file"),
        "filename": "kws-1.0.oci",
        "pushed_by": f"vera {MARKUP}",
        "imported_at": now.isoformat(),
        "expired_for_s": 0,
    }


def _job(identity: str, state: str, version: str, now: datetime, **changed: Any) -> Job:
    values: dict[str, Any] = {
        "id": identity,
        "kind": "push",
        "state": state,
        "payload": {"subject": {"model": "har", "version": version}},
        "progress": {"stage": "quantize", "message": "static-minmax", "done": 2, "total": 7},
        "result": None,
        "error": None,
        "fence": 1,
        "attempts": 1,
        "lease_until": None,
        "cancel_requested": False,
        "created_at": now - timedelta(minutes=2),
        "created_by": "operator",
        "started_at": now - timedelta(minutes=1),
        "finished_at": now if state == "failed" else None,
    }
    return Job(**{**values, **changed})


# ---------------------------------------------------------------- devices


def name_of(number: int) -> str:
    """Return the name of a device."""
    return f"pi-{('porto', 'lyon', 'gdansk')[number % 3]}-{number // 3 + 1:02d}"


def state_of(number: int) -> UpdateState:
    """Return where the newest update of a device stands."""
    special = {
        1: _STATES.ROLLED_BACK,
        2: _STATES.REJECTED,
        3: _STATES.FAILED,
        4: _STATES.DOWNLOADING,
        5: _STATES.OBSERVING,
        **{number: state for number, (state, _) in SPECIAL.items()},
    }
    return special.get(number, _STATES.COMMITTED)


def reason_of(number: int) -> Reason | None:
    """Return why the newest update of a device stands there."""
    return SPECIAL[number][1] if number in SPECIAL else REASONS.get(state_of(number))


def _device(number: int, now: datetime) -> list[Base]:
    name, state = name_of(number), state_of(number)
    online = number % 7 != 6
    old = Installed(version="1", variant=VARIANT, manifest=MANIFEST, since=now - timedelta(days=9))
    new = Installed(version="3", variant=VARIANT, manifest=MANIFEST, since=now - timedelta(hours=2))
    runs = new if state in (_STATES.COMMITTED, _STATES.OBSERVING) else old
    update = UpdateReport(
        order=7,
        version="3",
        variant=VARIANT,
        manifest=MANIFEST,
        state=state,
        attempt=1,
        bytes_done=211_000 if state is _STATES.DOWNLOADING else 338_112,
        bytes_total=338_112,
        rollout=RUNNING,
        reason=reason_of(number),
        **evidence(state),
    )
    reported = ReportedState(
        device=name,
        boot=4,
        seq=90,
        online=online,
        sent_at=now,
        agent_version="0.1.0",
        order_counter=7,
        order_nonce="7" * 32,
        capabilities=Capabilities(
            machine="aarch64",
            cpu_model="Cortex-A72",
            cpu_features=("asimd", "crc32"),
            cores=4,
            memory_bytes=4_000_000_000,
            disk_free_bytes=11_000_000_000,
            os="Debian GNU/Linux 12",
            runtimes={"onnxruntime": "1.32.0"},
            labels={"site": name.split("-")[1], "note": MARKUP if number == 1 else "line 4"},
        ),
        endpoint="http://127.0.0.1:8500",
        slots={"har": SlotReport(running=runs, previous=old, update=update)},
        rejected=(MANIFEST,) if state is _STATES.REJECTED else (),
    )
    row = Device(
        id=name,
        state="enrolled",
        public_key_sha256=f"{number:064x}",
        certificate_serial=f"{number + 1:x}",
        certificate_pem="",
        earlier_serials=[],
        enrol_token="none",
        certificate_expires_at=now + timedelta(days=300),
        enrolled_at=now - timedelta(days=40),
        decommissioned_at=None,
        online=online,
        last_seen_at=now - timedelta(seconds=4 if online else 7_200 * number),
        boot=4,
        seq=90,
        order_counter=7,
        order=None,
        order_expires_at=None,
        reported=to_builtins(reported),
        agent_version="0.1.0",
        labels=labels_of(number, name.split("-")[1]),
        **held(number, now),
    )
    counts = _counts(name, now) if online else []
    return [
        row,
        ReportedSlot(
            device=name,
            slot="har",
            version=runs.version,
            manifest=MANIFEST,
            update_state=state.value,
        ),
        DesiredSlot(device=name, slot="har", version_id=3, rollout=RUNNING, updated_at=now),
        *([_measurement(name, now, refused=number == 1)] if number < MEASURED else []),
        *_events(number, now),
        *(row for boot in (2, 3) if number == 0 for row in _events(number, now, boot)),
        *counts,
        *(history(row, now, counts[0]) if number == 0 else []),  # type: ignore[arg-type]
        *(security_events(name, now) if number == 0 else []),
    ]


_PATHS = {
    _STATES.COMMITTED: ["ordered", "ok", "ok", "ok", "ok", "ok", "ok"],
    _STATES.OBSERVING: ["ordered", "ok", "ok", "ok", "ok", "ok"],
    _STATES.WAITING: ["ordered", "ok", "ok", "ok", "wait"],
    _STATES.SHADOWING: ["ordered", "ok", "ok", "ok", "shadow"],
    _STATES.ROLLED_BACK: ["ordered", *["ok"] * 3, "shadow", "ok", "ok", "breached", "ok"],
    _STATES.REJECTED: ["ordered", "ok", "ok", "ok", "rejected"],
    _STATES.FAILED: ["ordered", "ok", "failed"],
    _STATES.DOWNLOADING: ["ordered", "ok"],
}


def _measurement(name: str, now: datetime, *, refused: bool) -> Measurement:
    """What the trial of an update saw there; a refused variant has no figures."""
    figures = {} if refused else {
        "load_ms": 41.2, "latency_p50_us": 1210.5, "latency_p95_us": 1624.0,
        "rss_bytes": 74_300_000, "golden_passed": 16, "golden_total": 16, "max_abs_diff": 0.0002,
        "runs": 216, "threads": 1,
    }  # fmt: skip
    return Measurement(
        device=name,
        boot=4,
        seq=3,
        version_id=3,
        variant=VARIANT,
        manifest=MANIFEST,
        device_class="rpi4-arm64",
        source="trial",
        verdict="rejected" if refused else "ok",
        reason="trial.crashed" if refused else "",
        runtime="onnxruntime 1.32.0",
        cpu_model=MARKUP,
        at=now - timedelta(hours=1),
        received_at=now - timedelta(hours=1),
        **figures,
    )


def _events(number: int, now: datetime, boot: int = 4) -> list[Base]:
    name, end, reason = name_of(number), state_of(number), reason_of(number)
    rows: list[Base] = []
    before, at = _STATES.IDLE, now - timedelta(hours=2, days=4 - boot)
    carried: dict[str, Any] = {}
    for seq, word in enumerate(_PATHS[end]):
        after = TRANSITIONS[before, UpdateEvent(word)]
        at += timedelta(seconds=2)
        # As the agent does: from the end of a state on, an update carries what was seen in it.
        carried |= {name: seen for name, seen in evidence(end).items() if PROVED_BY[name] is before}
        event = DeviceEvent(
            device=name,
            boot=boot,
            seq=seq,
            at=at,
            slot="har",
            order=7,
            nonce="7" * 32,
            version="3",
            variant=VARIANT,
            manifest=MANIFEST,
            before=before,
            event=UpdateEvent(word),
            after=after,
            rollout=RUNNING,
            reason=reason if word in ("failed", "rejected", "breached", "wait") else None,
            **carried,
        )
        rows.append(
            DeviceEventRow(
                device=name,
                boot=boot,
                seq=seq,
                at=at,
                received_at=at,
                slot="har",
                rollout=RUNNING,
                event=to_builtins(event),
            )
        )
        before = after
    assert before is end
    return rows


def _counts(name: str, now: datetime) -> list[Base]:
    latency, confidence = [0] * 42, [0] * 20
    latency[9:16] = [3, 40, 220, 610, 300, 55, 6]
    confidence[12:20] = [3, 8, 20, 44, 70, 120, 260, 709]
    window = TelemetryWindow(
        device=name,
        boot=4,
        seq=80,
        number=0,
        slot="har",
        version="3",
        manifest=MANIFEST,
        start=now - timedelta(minutes=10),
        end=now - timedelta(minutes=1),
        received_at=now,
        requests=1234,
        errors=6,
        non_finite=0,
        refused=2,
        latency=latency,
        confidence=confidence,
        classes=[410, 120, 98, 300, 280, 26],
    )
    sample = SystemSample(
        at=now,
        load_1min=0.42,
        memory_available_bytes=2_900_000_000,
        disk_free_bytes=11_000_000_000,
        temperature_c=51.2,
        agent_rss_bytes=34_000_000,
        inference_rss_bytes=78_000_000,
    )
    health = SystemSampleRow(
        device=name, boot=4, seq=81, at=now, received_at=now, sample=to_builtins(sample)
    )
    return [window, health]


# ---------------------------------------------------------------- rollouts


def _rollout(identity: str, state: str, now: datetime) -> Rollout:
    paused = state == "paused"
    return Rollout(
        id=identity,
        model="kws" if paused else "har",
        version_id=5 if paused else 3,
        state=state,
        selector={"all": True, "devices": []},
        policy=POLICY,
        revision=2,
        failures_acknowledged=0,
        note=f"3 devices have failed, at most 3 {MARKUP}" if paused else "",
        due_at=None,  # the planner leaves it as it is written here
        created_at=now - timedelta(hours=2),
        created_by="operator",
        finished_at=None,
    )


def _rollout_rows(now: datetime) -> list[Base]:
    ends = dict.fromkeys(
        (_STATES.DOWNLOADING, _STATES.OBSERVING, _STATES.WAITING, _STATES.SHADOWING), "in_progress"
    )
    rows: list[Base] = []
    for number in range(DEVICES):
        state = state_of(number)
        reason = reason_of(number)
        pending = number >= DEVICES - 6
        rows.append(
            RolloutDevice(
                rollout=RUNNING,
                device=name_of(number),
                state="pending" if pending else ends.get(state, state.value.replace("-", "_")),
                previous_version_id=1,
                order_counter=7,
                reason=None if reason is None else to_builtins(reason),
                whole_bytes=None if pending else 460_000,
                predicted_bytes=None if pending else 155_000,
                fetched_bytes=155_000 if number < DEVICES // 2 else None,
                updated_at=now,
            )
        )
    for identity in (RUNNING, PAUSED):
        rows += [
            RolloutEvent(
                rollout=identity,
                revision=revision,
                at=now - timedelta(minutes=90 - revision),
                actor="operator",
                kind=kind,
                data=data,
            )
            for revision, (kind, data) in enumerate(
                [("created", {"devices": DEVICES}), ("paused", {"reason": f"look at {MARKUP}"})], 1
            )
        ]
    return rows
