"""What the fake server says: one of everything, made of the server's own schemas."""

from datetime import UTC, datetime, timedelta

from cli.fake_server import PASSWORD, TOKEN, FakeServer, problem
from edgectl_protocol import __version__
from edgectl_server import schemas as s

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold]"


def trial(**more):
    values = {
        "recipe": "static per-channel",
        "variant": "onnx-int8",
        "precision": "int8",
        "status": "accepted",
        "size_bytes": 123_456,
        "value": 0.95,
        "drop_points": 0.4,
        "latency_p50_us": 212.0,
    }
    return s.Trial(**{**values, **more})


def version(number="1", state="ready", **more):
    rejected = trial(recipe="dynamic", status="rejected", reason="loses 3 points", value=0.92)
    report = s.Report(
        metric="accuracy",
        metric_source="evaluation",
        samples=1500,
        reference=0.954,
        max_drop_points=1.0,
        opset=17,
        nodes=20,
        parameters=110_000,
        inputs=[s.TensorInfo(name="input", datatype="FP32", shape=[-1, 6, 128])],
        outputs=[s.TensorInfo(name="logits", datatype="FP32", shape=[-1, 7])],
        trials=[trial(), rejected],
        measured_on="x86-64, onnxruntime 1.32",
        processing=["output logits: FP32 [N, 7] → softmax → p: FP32 [N, 7]"],
    )
    best = s.VariantInfo(
        variant="onnx-int8",
        precision="int8",
        manifest=DIGEST,
        target="har/1/onnx-int8",
        model_bytes=123_456,
        bundle_bytes=130_000,
        rank=1,
        trial=trial(),
    )
    values = {
        "model": "har",
        "version": number,
        "state": state,
        "source": DIGEST,
        "source_bytes": 444_135,
        "created_at": AT,
        "created_by": "ana",
        "job": "J1",
        "metric": "accuracy",
        "reference": 0.954,
        "best": best,
        "source_name": "har.onnx",
        "calibration": DIGEST,
        "evaluation": DIGEST,
        "options": s.PushOptions(),
        "parent": None,
        "labels": ["walking", HOSTILE],
        "variants": [best],
        "report": report,
    }
    return s.VersionDetail(**{**values, **more})


def summary(detail):
    fields = s.VersionSummary.model_fields
    return s.VersionSummary(**{name: getattr(detail, name) for name in fields})


def job(state="succeeded", **more):
    values = {
        "id": "J1",
        "kind": "push",
        "state": state,
        "progress": s.JobProgress(stage="publish", message=HOSTILE, done=1, total=1),
        "result": None,
        "error": None,
        "attempts": 1,
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT,
        "subject": {"model": "har", "version": "1"},
    }
    return s.JobInfo(**{**values, **more})


def measurement(**more):
    values = {
        "variant": "int8",
        "manifest": DIGEST,
        "device": "pi-1",
        "device_class": "rpi4-arm64",
        "source": "benchmark",
        "verdict": "ok",
        "reason": HOSTILE,
        "at": AT,
        "load_ms": 12.5,
        "latency_p50_us": 420.0,
        "latency_p95_us": 512.0,
        "rss_bytes": 80_000_000,
        "energy_uj": 504.0,
        "golden_passed": 16,
        "golden_total": 16,
        "max_abs_diff": 0.0,
        "runs": 216,
        "threads": 1,
        "runtime": "onnxruntime 1.32.0",
        "cpu_model": HOSTILE,
    }
    return s.MeasurementInfo(**{**values, **more})


def benchmark(state="succeeded", **more):
    result = {
        "device": "pi-1",
        "device_class": "rpi4-arm64",
        "measurements": [measurement().model_dump(mode="json")],
    }
    values = {"id": "J2", "kind": "benchmark", "result": result if state == "succeeded" else None}
    return job(state, **{**values, **more})


def targets():
    target = s.TargetInfo(
        name="rpi4-arm64",
        description=HOSTILE,
        machine=["aarch64"],
        cpu_model=["Raspberry Pi 4"],
        cpu_features=["asimd|neon"],
        runtimes=["onnxruntime"],
        execution_providers=["CPUExecutionProvider"],
        memory_bytes=838_860_800,
        opset=21,
        objective="latency",
        watts_per_core=1.2,
        limits=s.TargetLimits(latency_p95_us=None, rss_bytes=200_000_000),
        saturates=False,
        devices=2,
    )
    return s.TargetList(items=[target], unclassified=1)


def device(name="pi-1"):
    running = s.InstalledInfo(version="1", variant="onnx-int8", manifest=DIGEST, since=AT)
    update = s.UpdateInfo(
        order=3,
        version="1",
        variant="onnx-int8",
        state="failed",
        attempt=2,
        bytes_done=10,
        bytes_total=20,
        rollout="R1",
        reason=s.ReasonInfo(code="disk.full", detail=HOSTILE),
        trial=None,
    )
    slot = s.SlotInfo(
        slot="har",
        desired_version="1",
        desired_rollout="R1",
        running=running,
        previous=None,
        update=update,
        fault=s.ReasonInfo(code="inference.hung", detail=HOSTILE),
    )
    return s.DeviceDetail(
        id=name,
        online=True,
        last_seen_at=AT,
        enrolled_at=AT,
        state="enrolled",
        agent_version=__version__,
        machine="aarch64",
        cpu_model=HOSTILE,
        labels={"site": HOSTILE},
        assigned_labels={"site": "porto"},
        group=HOSTILE,
        slots=[slot],
        boot=4,
        certificate_expires_at=AT + timedelta(days=365),
        fingerprint="-".join(["8f2a"] * 16),
        enrolled_by=HOSTILE,
        order_counter=3,
        accepted_order_counter=3,
        refusal=s.ReasonInfo(code="order.expired", detail=HOSTILE),
        refused_order_counter=4,
        endpoint="http://127.0.0.1:8500",
        capabilities=None,
        rejected=[DIGEST],
        system=None,
    )


def device_summary():
    detail = device()
    return s.DeviceSummary(**{name: getattr(detail, name) for name in s.DeviceSummary.model_fields})


def device_event():
    return s.DeviceEventInfo(
        device="pi-1",
        at=AT,
        received_at=AT,
        slot="har",
        order=3,
        version="1",
        variant="onnx-int8",
        before="trial",
        event="ok",
        after="activating",
        rollout="R1",
        reason=s.ReasonInfo(code="none", detail=HOSTILE),
        trial=None,
    )


def rollout(state="completed", note="", **counts):
    return s.RolloutInfo(
        id="R1",
        model="har",
        version="1",
        state=state,
        selector=s.Selector(all=True),
        policy=s.RolloutPolicy(),
        counts=s.RolloutCounts(total=1, **(counts or {"committed": 1})),
        revision=5,
        created_at=AT,
        created_by="ana",
        finished_at=None,
        note=note,
    )


def saved_selector():
    return s.SavedSelectorInfo(name="pis", text=HOSTILE, devices=3, changed_at=AT, changed_by="ana")


def forecast():
    phase = s.PhaseForecastInfo(
        name="canary",
        devices=5,
        offline=1,
        blocked=1,
        variants={"onnx-int8": 5},
        fetches_bytes=1000,
        waves=2,
        soak_s=3600,
        approval=True,
        least_s=3620,
        likely_s=3700,
        slow_s=9000,
    )
    return s.RolloutForecast(
        model="har",
        version="1",
        devices=5,
        offline_devices=1,
        fetches_bytes=1000,
        whole_bytes=4000,
        phases=[phase],
        sites=[
            s.SiteForecastInfo(
                site="porto", devices=5, total=9, available=8, at_once=5, blind_s=None
            )
        ],
        pace=s.PaceInfo(samples=40, median_s=10, slow_s=20),
        unfit=[HOSTILE],
        unfit_devices=1,
        unknown=[f"pi-{number}" for number in range(100)],
        unknown_devices=3000,
        overlaps=[s.OverlapInfo(rollout="R2", devices=3)],
    )


def rollout_device(state="committed"):
    return s.RolloutDeviceInfo(
        device="pi-1",
        online=True,
        state=state,
        step="committed",
        bytes_done=20,
        bytes_total=20,
        variant="onnx-int8",
        reason=s.ReasonInfo(code="none", detail=HOSTILE),
        updated_at=AT,
    )


def phase():
    return s.PhaseInfo(
        number=1,
        name=HOSTILE,
        standing="current",
        soak_s=60,
        approval=False,
        began_at=AT,
        ended_at=None,
        counts=s.RolloutCounts(total=3, rolled_back=2, pending=1),
    )


def reason_group():
    return s.ReasonGroup(
        state="rolled_back", code="observe.latency", devices=2, newest_at=AT, example=HOSTILE
    )


def service():
    side = s.ServiceSide(
        devices=2,
        requests=300,
        errors=1,
        latency_p50_us=90,
        latency_p95_us=2500,
        latency_p99_us=None,
        latency=[],
    )
    point = s.ServicePoint(
        at=AT,
        new_requests=10,
        new_errors=0,
        new_p95_us=90,
        other_requests=0,
        other_errors=0,
        other_p95_us=None,
    )
    return s.ServiceComparison(
        since=AT,
        until=AT,
        step_s=60,
        complete=False,
        latency_edges_us=[],
        new=side,
        others=side,
        points=[point],
    )


def comparison():
    left = version()
    gate = s.GateInfo(variant="", name="size", status="passed", measured=1e6, unit="bytes")
    return s.VersionComparison(
        left=summary(left),
        right=summary(version("2", parent="1")),
        ancestor="1",
        contract=[
            s.ContractDifference(part="labels", name="0", left=HOSTILE, right=None),
        ],
        variants=[s.VariantDifference(variant="onnx-int8", left=left.best, right=None)],
        gates=[s.GateDifference(name="size", variant="", left=gate, right=None)],
    )


def running():
    return s.RunningInfo(version=HOSTILE, manifest=DIGEST, variant=None, devices=2, online=1)


def rollout_event():
    return s.RolloutEventInfo(
        revision=3,
        at=AT,
        actor="server",
        kind="device_rolled_back",
        data={"device": "pi-1", "reason": {"code": "trial.latency", "detail": HOSTILE}},
    )


def security_event():
    return s.SecurityEventInfo(
        device="pi-1",
        source="server",
        at=AT,
        until=AT,
        received_at=AT,
        code="report.signature",
        detail=HOSTILE,
        count=4,
        order=None,
    )


def telemetry():
    return s.TelemetrySummary(
        device="pi-1",
        slot="har",
        version="1",
        manifest=DIGEST,
        windows=2,
        first=AT,
        last=AT,
        requests=40,
        errors=0,
        non_finite=0,
        refused=77,
        latency_p50_us=180.0,
        latency_p95_us=1800.0,
        latency=[0, 40],
        confidence=[40],
        classes=[38, 2],
    )


def series():
    slot = s.SlotSeries(
        slot=HOSTILE,
        requests=[0, 40],
        errors=[0, 1],
        latency_p50_us=[None, 180.0],
        latency_p95_us=[None, 1800.0],
    )
    health = {"temperature_c": [None, 51.6], HOSTILE: [1.0, 2.0]}
    return s.DeviceSeries(step_s=1800.0, times=[AT, AT], slots=[slot], health=health)


def receipts():
    gap = s.MissingMessages(first=3, last=9, noticed_at=AT, state="partly lost")
    boot = s.BootReceipt(
        boot=7,
        first_at=AT,
        last_at=AT,
        last=20,
        received=13,
        duplicates=4,
        gaps=[gap] * 20,
        forgotten=2,
    )
    jump = s.ClockJump(at=AT, model=HOSTILE, seconds=-3600)
    return s.DeviceReceipts(
        device="pi-1", windows=3, feature_windows=1, dropped=5, boots=[boot], clock_jumps=[jump]
    )


def accuracy():
    found = s.AccuracyFound(
        reference=0.9,
        reference_rows=500,
        accuracy=0.7,
        low=0.65,
        high=0.75,
        by_classes=0.6,
        unseen=0.01,
        unknown="",
        cause="classes",
        confidence=[1] * 20,
    )
    return s.AccuracyGroup(
        model="har",
        version="1",
        manifest=DIGEST,
        level="site",
        group=HOSTILE,
        state="low",
        since=AT,
        until=AT,
        rows=900,
        found=found,
    )


def accuracy_detail():
    one = accuracy()
    bins = [s.AccuracyBin(low=0.5, high=0.55, reference_rows=9, right=6, share=0.66, rows=3)]
    true = s.TrueAccuracyInfo(
        rows=50, right=40, accuracy=0.8, low=0.67, high=0.89, chosen=9, chosen_right=3
    )
    point = s.AccuracyPoint(until=AT, rows=900, found=one.found, true=true)
    return s.AccuracyDetail(
        group=one, start=AT, bins=bins, true=true, points=[point] * 2, low=[one] * 20
    )


def accuracy_event():
    one = accuracy()
    return s.DriftEventInfo(
        id=1,
        at=AT,
        kind="accuracy.fell",
        model="har",
        version="1",
        manifest=DIGEST,
        level="site",
        group=HOSTILE,
        findings=[],
        faults=[],
        accuracy=one.found,
    )


def page(*items):
    return {"items": [item.model_dump(mode="json") for item in items], "total": len(items)}


def token_created():
    info = s.TokenInfo(
        id="0123456789abcdef",
        name="edgectl",
        user="ana",
        role="operator",
        scopes=["read", "models:write"],
        made_by=None,
        created_at=AT,
        expires_at=None,
        last_used_at=None,
    )
    return s.TokenCreated(token=TOKEN, info=info)


def _login(request):
    if request.json() == {"username": "ana", "password": PASSWORD}:
        return 200, token_created()
    return problem(401, "auth.required", "user or password is wrong")


def _me(request):
    if request.headers["Authorization"] == f"Bearer {TOKEN}":
        return 200, s.Me(user="ana", role="operator", scopes=["read", "tokens"])
    return problem(401, "auth.required", "this token is not known")


def trust():
    key = s.TrustKey(keyid="ab" * 32, name=HOSTILE, scheme="ed25519", online=False)
    role = s.TrustRole(
        name="vision",
        version=1,
        expires=AT,
        threshold=1,
        keys=[key],
        online=False,
        patterns=["models/vision-*/*/*"],
        targets=3,
    )
    staged = s.StagedInfo(
        role="vision",
        version=2,
        expires=AT,
        summary=[HOSTILE],
        signed_by=[],
        unsigned=[key],
        missing=1,
        threshold=1,
    )
    alert = s.AlertInfo(code="trust.unsigned", severity="warning", detail=HOSTILE, hint=HOSTILE)
    return s.TrustInfo(roles=[role], staged=[staged], alerts=[alert])


def install_answers(fake: FakeServer) -> None:
    """Give `fake` one of everything."""
    har = s.ModelSummary(
        name="har",
        created_at=AT,
        versions=1,
        latest=summary(version()),
        devices_running=1,
        devices_desired=1,
    )
    enrol = s.EnrolTokenCreated(token="ee_x_y", id="x", uses=1, expires_at=AT, group="")
    shares = [s.VersionShare(model="har", version="1", devices=1)]
    fleet = s.FleetSummary(devices=1, online=1, offline=0, updating=0, failing=0, versions=shares)
    fake.routes |= {
        ("GET", "/version"): (200, s.VersionInfo(version=__version__, ui=False)),
        ("GET", "/health/ready"): (200, s.ReadyInfo(ready=True, checks={"broker": "ok"})),
        ("POST", "/tokens:login"): _login,
        ("DELETE", "/tokens/0123456789abcdef"): (204, b""),
        ("GET", "/me"): _me,
        ("GET", "/fleet"): (200, fleet),
        ("GET", "/models"): (200, page(har)),
        ("GET", "/models/har"): (200, har),
        ("GET", "/models/har/versions"): (200, page(summary(version()))),
        ("GET", "/models/har/versions/1"): (200, version()),
        ("POST", "/models/har/versions"): (
            202,
            s.PushAccepted(model="har", version="1", job="J1", created=True),
        ),
        ("GET", "/jobs"): (200, page(job())),
        ("GET", "/jobs/J1"): (200, job()),
        ("POST", "/jobs/J1/actions/cancel"): (200, job("cancelled")),
        ("GET", "/devices"): (200, page(device_summary())),
        ("GET", "/devices/pi-1"): (200, device()),
        ("GET", "/devices/pi-1/events"): (200, page(device_event())),
        ("GET", "/devices/pi-1/security-events"): (200, page(security_event())),
        ("GET", "/security-events"): (200, page(security_event())),
        ("POST", "/enrolment/tokens"): (201, enrol),
        ("GET", "/enrolment/image-snippet"): (
            200,
            s.ImageSnippet(
                form="cloud-init", text="#cloud-config\n@TOKEN@\n", placeholder="@TOKEN@"
            ),
        ),
        ("POST", "/devices/pi-1/actions/decommission"): (200, device()),
        ("GET", "/rollouts"): (200, page(rollout())),
        ("POST", "/rollouts"): (201, rollout("running")),
        ("GET", "/rollouts/R1"): (200, rollout()),
        ("GET", "/rollouts/R1/devices"): (200, page(rollout_device())),
        ("GET", "/rollouts/R1/events"): (200, page(rollout_event())),
        ("GET", "/rollouts/R1/phases"): (200, [phase()]),
        ("GET", "/rollouts/R1/reasons"): (200, [reason_group()]),
        ("GET", "/rollouts/R1/service"): (200, service()),
        ("GET", "/models/har/running"): (200, [running()]),
        ("GET", "/models/har/compare"): (200, comparison()),
        ("GET", "/tokens"): (200, page(token_created().info)),
        ("POST", "/tokens"): (201, token_created()),
        ("DELETE", "/tokens/fedcba9876543210"): (204, b""),
        ("GET", "/telemetry"): (200, [telemetry()]),
        ("GET", "/devices/pi-1/telemetry"): (200, [telemetry()]),
        ("GET", "/devices/pi-1/telemetry/series"): (200, series()),
        ("GET", "/devices/pi-1/telemetry/receipts"): (200, receipts()),
        ("GET", "/accuracy"): (200, page(accuracy())),
        ("GET", "/models/har/accuracy"): (200, accuracy_detail()),
        ("GET", "/drift-events"): (200, page(accuracy_event())),
        ("GET", "/trust"): (200, trust()),
        ("GET", "/targets"): (200, targets()),
        ("POST", "/models/har/versions/1/benchmarks"): (
            202,
            benchmark("queued", finished_at=None),
        ),
        ("GET", "/jobs/J2"): (200, benchmark()),
    }
    fake.routes["POST", "/rollouts/plan"] = (200, forecast())
    fake.routes["POST", "/devices/labels"] = (200, s.LabelResult(matched=1, changed=1))
    fake.routes["GET", "/selectors"] = (200, page(saved_selector()))
    fake.routes["GET", "/selectors/pis/overlaps"] = (
        200,
        [s.SelectorOverlap(kind="group", name="porto", devices=2, of=3)],
    )
    fake.routes["PUT", "/selectors/pis"] = (200, saved_selector())
    fake.routes["DELETE", "/selectors/pis"] = (204, None)
    for action in ("pause", "resume", "approve", "abort"):
        fake.routes["POST", f"/rollouts/R1/actions/{action}"] = (200, rollout("paused"))
