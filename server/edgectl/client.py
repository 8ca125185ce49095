"""The typed, synchronous client of the REST API.

One method a route, named after it; what can go wrong is in `edgectl.errors`. Example::

    with Client("http://127.0.0.1:8080", token) as client:
        file = client.upload(Path("har.onnx"))
        accepted = client.push("har", PushRequest(model=file.sha256, filename="har.onnx"))
        job = client.wait_job(accepted.job)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from types import NoneType
from typing import Self, TypeVar, cast
from urllib.parse import quote

import msgspec

from edgectl import types
from edgectl.events import Event, events
from edgectl.transport import Connection, RetryPolicy
from edgectl.uploads import LocalFile, Progress, hash_file, upload
from edgectl.user_changes import UserChanges
from edgectl_protocol.audit import LINE_BYTES_MAX

__all__ = ["PAGE_ITEMS", "Client"]

PAGE_ITEMS = 200
"""The most that the server gives at once."""

_NOT_READY = 503

Item = TypeVar("Item")
Query = Sequence[tuple[str, str]]


class Client:
    """Everything that an operator can ask of a server.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        token: an API token, ``edgectl_<id>_<secret>``; empty for the routes that need no login.
        timeout_s: of one request.
        retry: how long a lost connection is waited for, by uploads, events and waiting.
        login_hint: the next step when the server does not take the token.
        authority: in PEM, the only one that is believed for HTTPS; empty: those of this machine.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
        login_hint: str = "",
        authority: str = "",
    ) -> None:
        self._connection = Connection(
            url,
            token,
            timeout_s=timeout_s,
            retry=retry,
            login_hint=login_hint,
            authority=authority,
        )
        self.url = self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        self._connection.close()

    def patiently(self, attempt: Callable[[], Item]) -> Item:
        """Call `attempt` again while the server restarts, within the retry policy."""
        return self._connection.patiently(attempt)

    # ------------------------------------------------------------ system

    def version(self) -> types.VersionInfo:
        """Return the server's version (no login)."""
        return self._get("/version", types.VersionInfo)

    def ready(self) -> types.ReadyInfo:
        """Return the checks of the server's parts (no login), also when it is not ready."""
        return self._connection.request(
            "GET", "/health/ready", types.ReadyInfo, accept={_NOT_READY}
        )

    def date(self) -> str:
        """Return the ``Date`` header of an answer, empty when there is none."""
        return self._connection.date()

    # ------------------------------------------------------------ people

    def login(
        self, username: str, password: str, *, name: str, expires_in_s: int | None = None
    ) -> types.TokenCreated:
        """Exchange a password for a token."""
        query = [("name", name)]
        if expires_in_s is not None:
            query.append(("expires_in_s", str(expires_in_s)))
        body = {"username": username, "password": password}
        return self._connection.request(
            "POST", "/tokens:login", types.TokenCreated, params=query, body=body
        )

    def take_login(
        self, code: str, verifier: str, *, name: str, expires_in_s: int | None = None
    ) -> types.TokenCreated:
        """Exchange the code that a browser shows for a token (no login)."""
        body = {"code": code, "verifier": verifier, "name": name, "expires_in_s": expires_in_s}
        return self._connection.request("POST", "/tokens:handover", types.TokenCreated, body=body)

    def me(self) -> types.Me:
        """Return whose token this is."""
        return self._get("/me", types.Me)

    def create_token(
        self,
        name: str,
        role: str | None,
        expires_in_s: int | None,
        scopes: Sequence[str] | None = None,
    ) -> types.TokenCreated:
        """Create a token with at most the own role and scopes; None: as the server decides."""
        body = {"name": name, "role": role, "expires_in_s": expires_in_s, "scopes": scopes}
        return self._connection.request("POST", "/tokens", types.TokenCreated, body=body)

    def tokens(self, query: Query = (), limit: int = 100) -> types.Page[types.TokenInfo]:
        """List the own tokens; an admin's list holds everybody's."""
        return self._pages("/tokens", types.TokenInfo, query, limit)

    def delete_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self._connection.request("DELETE", f"/tokens/{_segment(token_id)}", NoneType)

    def users(self, query: Query = (), limit: int = 100) -> types.Page[types.UserInfo]:
        """List who may log in (admin)."""
        return self._pages("/users", types.UserInfo, query, limit)

    def proved(self, password: str) -> UserChanges:
        """Show to be the owner of the token by the own password; return what that allows."""
        return UserChanges(self._connection, {"password": password})

    def proved_by_browser(self, code: str, verifier: str) -> UserChanges:
        """Show it by a code of a browser that has logged in again at the provider."""
        handover = {"code": code, "verifier": verifier}
        return UserChanges(self._connection, {"handover": handover})

    def audit(self, query: Query = (), limit: int = 100) -> types.Page[types.AuditEntryInfo]:
        """List what was done, the newest first (admin)."""
        return self._pages("/audit", types.AuditEntryInfo, query, limit)

    def audit_state(self) -> types.AuditState:
        """Say how far the audit log goes, and how far it is vouched for (admin)."""
        return self._get("/audit/state", types.AuditState)

    def audit_export(self) -> Generator[bytes, None, None]:
        """Yield the lines of the whole audit log (admin); see `edgectl_protocol.audit`."""
        with self._connection.stream("GET", "/audit/export", read_timeout_s=60.0) as response:
            rest = b""
            for piece in response.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
                if len(rest) > LINE_BYTES_MAX:
                    break
            if rest:
                yield rest  # cut off, or too long: who decodes it says so

    # ------------------------------------------------------------ trust

    def trust(self) -> types.TrustInfo:
        """Return who signs what, what waits for signatures, and what needs attention."""
        return self._get("/trust", types.TrustInfo)

    def staged(self, role: str) -> bytes:
        """Return the document of a role that waits for signatures."""
        return self._connection.content(f"/trust/staged/{_segment(role)}")

    def published(self, role: str) -> bytes:
        """Return the document of a role that devices have."""
        return self._connection.content(f"/trust/published/{_segment(role)}")

    def submit_staged(self, role: str, document: bytes) -> types.SubmitResult:
        """Bring the signatures of a staged document."""
        path = f"/trust/staged/{_segment(role)}"
        return self._connection.request(
            "POST", path, types.SubmitResult, body=msgspec.Raw(document)
        )

    # ------------------------------------------------------------ models

    def upload(self, file: Path | LocalFile, progress: Progress | None = None) -> LocalFile:
        """Bring a file to the server, resuming what is there; return it with its digest."""
        known = file if isinstance(file, LocalFile) else hash_file(file)
        upload(self._connection, known, progress)
        return known

    def push(self, name: str, request: types.PushRequest) -> types.PushAccepted:
        """Make a version of uploaded files."""
        path = f"/models/{_segment(name)}/versions"
        return self._connection.request("POST", path, types.PushAccepted, body=request)

    def models(self, query: Query = (), limit: int = 100) -> types.Page[types.ModelSummary]:
        """List models."""
        return self._pages("/models", types.ModelSummary, query, limit)

    def model(self, name: str) -> types.ModelSummary:
        """Return a model."""
        return self._get(f"/models/{_segment(name)}", types.ModelSummary)

    def versions(self, name: str, limit: int = 100) -> types.Page[types.VersionSummary]:
        """List the versions of a model, newest first."""
        return self._pages(f"/models/{_segment(name)}/versions", types.VersionSummary, (), limit)

    def get_version(self, name: str, version: str) -> types.VersionDetail:
        """Return a version with its report."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}"
        return self._get(path, types.VersionDetail)

    def report_page(self, name: str, version: str) -> bytes:
        """Return the report of a version as an HTML page."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}/report.html"
        return self._connection.content(path)

    def document(self, name: str, version: str, variant: str, file: str) -> bytes:
        """Return a document of a bundle: ``model-card.md`` or ``sbom.cdx.json``."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}"
        path += f"/variants/{_segment(variant)}/documents/{_segment(file)}"
        return self._connection.content(path)

    def export(
        self, name: str, version: str, query: Query = ()
    ) -> Generator[tuple[bytes, int], None, None]:
        """Yield a version as one file, piece by piece, each with the length of the whole.

        Args:
            name: of the model.
            version: of the model.
            query: ``variant`` or ``device_class``.
        """
        path = f"/models/{_segment(name)}/versions/{_segment(version)}/export"
        with self._connection.stream("GET", path, params=query, read_timeout_s=60.0) as response:
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdigit() else 0
            for piece in response.iter_bytes():
                yield piece, total

    def lineage(self, name: str, version: str) -> types.LineageInfo:
        """Return where a version comes from."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}/lineage"
        return self._get(path, types.LineageInfo)

    def running(self, name: str) -> list[types.RunningInfo]:
        """Count the devices that run a model, by version and digest."""
        return self._get(f"/models/{_segment(name)}/running", list[types.RunningInfo])

    def compare(self, name: str, left: str, right: str) -> types.VersionComparison:
        """Return two versions of a model side by side."""
        path = f"/models/{_segment(name)}/compare"
        params = [("left", left), ("right", right)]
        return self._connection.request("GET", path, types.VersionComparison, params=params)

    def policy(self, name: str) -> types.PolicyInfo:
        """Return what every push of a model must keep."""
        return self._get(f"/models/{_segment(name)}/policy", types.PolicyInfo)

    def put_policy(self, name: str, policy: types.ModelPolicy) -> types.PolicyInfo:
        """Replace what every push of a model must keep (admin)."""
        path = f"/models/{_segment(name)}/policy"
        return self._connection.request("PUT", path, types.PolicyInfo, body=policy)

    def targets(self) -> types.TargetList:
        """List the device classes."""
        return self._get("/targets", types.TargetList)

    def measurements(
        self, name: str, version: str, query: Query = (), limit: int = 100
    ) -> types.Page[types.MeasurementInfo]:
        """List what devices have measured of a version, newest first."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}/measurements"
        return self._pages(path, types.MeasurementInfo, query, limit)

    def start_benchmark(
        self, name: str, version: str, asked: types.BenchmarkStart
    ) -> types.JobInfo:
        """Have a device measure variants of a version."""
        path = f"/models/{_segment(name)}/versions/{_segment(version)}/benchmarks"
        return self._connection.request("POST", path, types.JobInfo, body=asked)

    # ------------------------------------------------------------ uploads of devices

    def start_logs(self, device: str, asked: types.LogsStart) -> types.JobInfo:
        """Have a device upload its logs."""
        path = f"/devices/{_segment(device)}/logs"
        return self._connection.request("POST", path, types.JobInfo, body=asked)

    def follow_logs(self, device: str) -> types.LogFollowInfo:
        """Have a device send its log lines as they come, while `followed_logs` is called."""
        path = f"/devices/{_segment(device)}/logs/follow"
        return self._connection.request("POST", path, types.LogFollowInfo)

    def followed_logs(self, device: str, follow: str, after: int) -> types.LogFollowPage:
        """Return the lines that have come since `after`, which the last page has given."""
        path = f"/devices/{_segment(device)}/logs/follow/{_segment(follow)}"
        return self._connection.request(
            "GET", path, types.LogFollowPage, params=[("after", str(after))]
        )

    def device_uploads(self, device: str) -> types.Page[types.DeviceUploadInfo]:
        """List what a device has uploaded, newest first."""
        return self._get(f"/devices/{_segment(device)}/uploads", types.Page[types.DeviceUploadInfo])

    def device_upload(self, device: str, digest: str) -> bytes:
        """Return what a device has uploaded, as it came."""
        return self._connection.content(f"/devices/{_segment(device)}/uploads/{_segment(digest)}")

    # ------------------------------------------------------------ samples

    def samples(self, query: Query = (), limit: int = 100) -> types.Page[types.SampleInfo]:
        """List samples of inputs and answers, the newest first."""
        return self._pages("/samples", types.SampleInfo, query, limit)

    def sample(self, sample: str) -> bytes:
        """Return the file of a sample (operator)."""
        return self._connection.content(f"/samples/{_segment(sample)}")

    def delete_sample(self, sample: str) -> None:
        """Delete a sample (operator)."""
        self._connection.request("DELETE", f"/samples/{_segment(sample)}", NoneType)

    def sample_policy(self, model: str) -> types.SamplePolicyInfo:
        """Return what of a model's inputs and answers may leave devices."""
        return self._get(f"/models/{_segment(model)}/samples", types.SamplePolicyInfo)

    def put_sample_policy(
        self, model: str, policy: types.SamplePolicyChange
    ) -> types.SamplePolicyInfo:
        """Replace what of a model's inputs and answers may leave devices (admin)."""
        path = f"/models/{_segment(model)}/samples"
        return self._connection.request("PUT", path, types.SamplePolicyInfo, body=policy)

    def sample_keys(self) -> list[types.SampleKeyInfo]:
        """Return the keys that samples are, or were, sealed to, the newest first."""
        return self._get("/sample-keys", list[types.SampleKeyInfo])

    def rotate_sample_key(self) -> types.SampleKeyInfo:
        """Have the server make a new key of its own (admin)."""
        return self._connection.request("POST", "/sample-keys", types.SampleKeyInfo)

    def sample_content(self, sample: str) -> types.SampleContent:
        """Return what is in a sample, ready to be shown (operator)."""
        return self._get(f"/samples/{_segment(sample)}/content", types.SampleContent)

    # ------------------------------------------------------------ labels of samples

    def annotations(self, query: Query = (), limit: int = 100) -> types.Page[types.AnnotationInfo]:
        """List what is said of samples, the newest first."""
        return self._pages("/annotations", types.AnnotationInfo, query, limit)

    def import_annotations(self, asked: types.AnnotationImport) -> types.AnnotationImportResult:
        """Take in what others have said (operator)."""
        path, kind = "/annotations", types.AnnotationImportResult
        return self._connection.request("POST", path, kind, body=asked)

    def annotations_of(self, sample: str) -> types.LabelledSample:
        """Return a sample with all that is said of it."""
        return self._get(f"/samples/{_segment(sample)}/annotations", types.LabelledSample)

    def put_annotation(self, sample: str, asked: types.AnnotationRequest) -> types.LabelledSample:
        """Say what a sample is (operator)."""
        path = f"/samples/{_segment(sample)}/annotation"
        return self._connection.request("PUT", path, types.LabelledSample, body=asked)

    def delete_annotation(self, sample: str) -> types.LabelledSample:
        """Take back what you have said of a sample (operator)."""
        path = f"/samples/{_segment(sample)}/annotation"
        return self._connection.request("DELETE", path, types.LabelledSample)

    def labelling(self, model: str) -> types.LabellingSummary:
        """Return how far the labelling of a model's samples is."""
        return self._get(f"/models/{_segment(model)}/labelling", types.LabellingSummary)

    # ------------------------------------------------------------ retraining

    def trainers(self) -> list[types.TrainerInfo]:
        """Return the trainers that can be named."""
        return self._get("/trainers", list[types.TrainerInfo])

    def retrain(self, model: str, asked: types.RetrainRequest) -> types.RetrainingInfo:
        """Train a candidate from a dataset (operator)."""
        path = f"/models/{_segment(model)}/retrainings"
        return self._connection.request("POST", path, types.RetrainingInfo, body=asked)

    def retrainings(self, query: Query = (), limit: int = 100) -> types.Page[types.RetrainingInfo]:
        """List retrainings, the newest first."""
        return self._pages("/retrainings", types.RetrainingInfo, query, limit)

    def retraining(self, retraining: str) -> types.RetrainingDetail:
        """Return a retraining with its figures."""
        return self._get(f"/retrainings/{_segment(retraining)}", types.RetrainingDetail)

    # ------------------------------------------------------------ loops

    def loops(self, limit: int = 100) -> types.Page[types.LoopInfo]:
        """List the loops, by model."""
        return self._pages("/loops", types.LoopInfo, (), limit)

    def loop(self, model: str) -> types.LoopInfo:
        """Return the loop of a model."""
        return self._get(f"/models/{_segment(model)}/loop", types.LoopInfo)

    def put_loop(self, model: str, policy: types.LoopPolicySpec) -> types.LoopInfo:
        """Replace the policy of a model's loop (admin)."""
        path = f"/models/{_segment(model)}/loop"
        return self._connection.request("PUT", path, types.LoopInfo, body=policy)

    def loop_events(self, model: str, limit: int = 100) -> types.Page[types.LoopEventInfo]:
        """List the steps of a model's loop, the newest first."""
        return self._pages(f"/models/{_segment(model)}/loop/events", types.LoopEventInfo, (), limit)

    def loop_runs(self, model: str, limit: int = 100) -> types.Page[types.LoopRunInfo]:
        """List the runs of a model's loop, the newest first."""
        return self._pages(f"/models/{_segment(model)}/loop/runs", types.LoopRunInfo, (), limit)

    def loop_run(self, model: str, run: str) -> types.LoopRunDetail:
        """Return a run with its steps and figures."""
        path = f"/models/{_segment(model)}/loop/runs/{_segment(run)}"
        return self._get(path, types.LoopRunDetail)

    def act_on_loop(self, model: str, action: str, reason: str = "") -> types.LoopInfo:
        """Begin a run, pause, resume or stop (operator)."""
        return self._act_on_loop(model, action, types.LoopAction(reason=reason))

    def approve_loop(self, model: str, run: str, approval: str, reason: str = "") -> types.LoopInfo:
        """Let a run go on to its training or its rollout, and no further (operator)."""
        body = types.LoopAction(reason=reason, run=run, approval=approval)
        return self._act_on_loop(model, "approve", body)

    def _act_on_loop(self, model: str, action: str, body: types.LoopAction) -> types.LoopInfo:
        path = f"/models/{_segment(model)}/loop/actions/{_segment(action)}"
        return self._connection.request("POST", path, types.LoopInfo, body=body)

    # ------------------------------------------------------------ datasets

    def datasets(self, query: Query = (), limit: int = 100) -> types.Page[types.DatasetInfo]:
        """List datasets, the newest first."""
        return self._pages("/datasets", types.DatasetInfo, query, limit)

    def create_dataset(self, asked: types.DatasetRequest) -> types.DatasetInfo:
        """Make a dataset of samples (operator)."""
        return self._connection.request("POST", "/datasets", types.DatasetInfo, body=asked)

    def dataset(self, name: str) -> types.DatasetDetail:
        """Return a dataset by its name or id."""
        return self._get(f"/datasets/{_segment(name)}", types.DatasetDetail)

    def dataset_checks(self, name: str, query: Query = ()) -> types.DataCheckReport:
        """Return what the rules for data find in a dataset."""
        path = f"/datasets/{_segment(name)}/checks"
        return self._connection.request("GET", path, types.DataCheckReport, params=query)

    def dataset_archive(self, name: str) -> Generator[bytes, None, None]:
        """Yield a dataset as a tar file, piece by piece (operator)."""
        path = f"/datasets/{_segment(name)}/archive"
        with self._connection.stream("GET", path, read_timeout_s=60.0) as response:
            yield from response.iter_bytes()

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset (operator)."""
        self._connection.request("DELETE", f"/datasets/{_segment(name)}", NoneType)

    # ------------------------------------------------------------ other servers

    def import_version(self, request: types.ImportRequest) -> types.ImportAccepted:
        """Begin to import an exported version from a file that was uploaded."""
        return self._connection.request("POST", "/imports", types.ImportAccepted, body=request)

    def origins(self) -> types.Page[types.OriginInfo]:
        """List the servers whose exported versions are believed."""
        return self._get("/origins", types.Page[types.OriginInfo])

    def forget_origin(self, name: str) -> None:
        """Forget one of them; what came from it stays."""
        self._connection.request("DELETE", f"/origins/{_segment(name)}", NoneType)

    # ------------------------------------------------------------ jobs

    def jobs(self, query: Query = (), limit: int = 100) -> types.Page[types.JobInfo]:
        """List jobs."""
        return self._pages("/jobs", types.JobInfo, query, limit)

    def job(self, job_id: str) -> types.JobInfo:
        """Return a job."""
        return self._get(f"/jobs/{_segment(job_id)}", types.JobInfo)

    def cancel_job(self, job_id: str) -> types.JobInfo:
        """Ask a job to stop."""
        return self._connection.request(
            "POST", f"/jobs/{_segment(job_id)}/actions/cancel", types.JobInfo
        )

    def wait_job(
        self, job_id: str, progress: Callable[[types.JobInfo], None] | None = None
    ) -> types.JobInfo:
        """Return a job when it has ended, through restarts of the server."""
        report = progress or (lambda _job: None)
        job = self.patiently(lambda: self.job(job_id))
        report(job)
        if job.ended:
            return job
        with closing(self.events([f"job:{job_id}"])) as stream:
            for event in stream:
                job = event.read(types.JobInfo)
                report(job)
                if job.ended:
                    return job
        raise AssertionError("the stream of events has ended")

    def events(self, topics: Sequence[str]) -> Generator[Event]:
        """Yield live snapshots, such as of ``fleet`` or ``rollout:<id>``; see `edgectl.events`."""
        return events(self._connection, topics)

    # ------------------------------------------------------------ devices

    def fleet(self) -> types.FleetSummary:
        """Return the fleet in numbers."""
        return self._get("/fleet", types.FleetSummary)

    def sites(self, query: Query = (), limit: int = 100) -> types.Page[types.SiteInfo]:
        """List the sites of the fleet, the largest first."""
        return self._pages("/fleet/sites", types.SiteInfo, query, limit)

    def devices(self, query: Query = (), limit: int = 100) -> types.Page[types.DeviceSummary]:
        """List devices."""
        return self._pages("/devices", types.DeviceSummary, query, limit)

    def device(self, device: str) -> types.DeviceDetail:
        """Return a device."""
        return self._get(f"/devices/{_segment(device)}", types.DeviceDetail)

    def label_devices(self, request: types.LabelRequest) -> types.LabelResult:
        """Set and remove labels."""
        return self._connection.request("POST", "/devices/labels", types.LabelResult, body=request)

    def selectors(self, limit: int = 100) -> types.Page[types.SavedSelectorInfo]:
        """List the saved selectors."""
        return self._pages("/selectors", types.SavedSelectorInfo, (), limit)

    def put_selector(self, name: str, text: str) -> types.SavedSelectorInfo:
        """Keep a selector under a name."""
        path = f"/selectors/{_segment(name)}"
        return self._connection.request("PUT", path, types.SavedSelectorInfo, body={"text": text})

    def selector_overlaps(self, name: str) -> list[types.SelectorOverlap]:
        """Return what shares devices with a saved selector, and how many."""
        return self._get(f"/selectors/{_segment(name)}/overlaps", list[types.SelectorOverlap])

    def delete_selector(self, name: str) -> None:
        """Delete a saved selector."""
        self._connection.request("DELETE", f"/selectors/{_segment(name)}", NoneType)

    def device_events(self, device: str, limit: int = 25) -> types.Page[types.DeviceEventInfo]:
        """List what a device has reported, newest first."""
        path = f"/devices/{_segment(device)}/events"
        return self._pages(path, types.DeviceEventInfo, (), limit)

    def security_events(
        self, device: str | None = None, limit: int = 25
    ) -> types.Page[types.SecurityEventInfo]:
        """List what attackers may have done to a device, or to any, newest first."""
        path = "/security-events"
        if device is not None:
            path = f"/devices/{_segment(device)}{path}"
        return self._pages(path, types.SecurityEventInfo, (), limit)

    def decommission(self, device: str) -> types.DeviceDetail:
        """Revoke a device's certificate."""
        return self._act(device, "decommission")

    def revoke_device(self, device: str) -> types.DeviceDetail:
        """Shut a lost device out, until somebody lets it enrol again."""
        return self._act(device, "revoke")

    def hold_device(self, device: str, reason: str = "") -> types.DeviceDetail:
        """Let no rollout begin on a device."""
        return self._act(device, "hold", {"reason": reason})

    def release_device(self, device: str) -> types.DeviceDetail:
        """Let rollouts go on with a device that was held."""
        return self._act(device, "release")

    def roll_back_device(
        self, device: str, slot: str, version: str | None = None
    ) -> types.DeviceDetail:
        """Order a device to run the version before; with `version`, only if it is that."""
        return self._act(device, "rollback", {"slot": slot, "version": version})

    # ------------------------------------------------------------ enrolment

    def authority(self) -> types.AuthorityInfo:
        """Return by what a device without a token knows the server."""
        return self._get("/enrolment/authority", types.AuthorityInfo)

    def image_snippet(
        self, *, server: str, prefix: str, package: str, form: str
    ) -> types.ImageSnippet:
        """Return what an image does at first boot; a token belongs where its placeholder stands."""
        query = [("server", server), ("prefix", prefix), ("package", package), ("form", form)]
        return self._connection.request(
            "GET", "/enrolment/image-snippet", types.ImageSnippet, params=query
        )

    def create_enrol_token(
        self, *, uses: int, expires_in_s: int, group: str = ""
    ) -> types.EnrolTokenCreated:
        """Create a token with which devices may enrol, into a group."""
        body = {"uses": uses, "expires_in_s": expires_in_s, "group": group}
        return self._connection.request(
            "POST", "/enrolment/tokens", types.EnrolTokenCreated, body=body
        )

    def enrol_tokens(self, limit: int = 100) -> types.Page[types.EnrolTokenInfo]:
        """List the tokens that are good for something, without their secrets."""
        return self._pages("/enrolment/tokens", types.EnrolTokenInfo, (), limit)

    def revoke_enrol_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self._connection.request("DELETE", f"/enrolment/tokens/{_segment(token_id)}", NoneType)

    def preauthorise(self, entries: Sequence[types.PreauthorisedEntry]) -> types.PreauthoriseResult:
        """Put keys on the list of those that may enrol, at most 1000 at once."""
        return self._connection.request(
            "POST",
            "/enrolment/preauthorised",
            types.PreauthoriseResult,
            body={"entries": list(entries)},
        )

    def preauthorised(
        self, query: Query = (), limit: int = 100
    ) -> types.Page[types.PreauthorisedInfo]:
        """List the keys that may enrol and have not yet."""
        return self._pages("/enrolment/preauthorised", types.PreauthorisedInfo, query, limit)

    def forget_preauthorised(self, device: str) -> None:
        """Take a key off the list."""
        path = f"/enrolment/preauthorised/{_segment(device)}"
        self._connection.request("DELETE", path, NoneType)

    def enrol_requests(self, limit: int = 100) -> types.Page[types.EnrolRequestInfo]:
        """List the devices that ask to be let in."""
        return self._pages("/enrolment/requests", types.EnrolRequestInfo, (), limit)

    def approve_device(
        self, device: str, fingerprint: str, group: str = ""
    ) -> types.PreauthorisedEntry:
        """Let a device in that asks."""
        path = f"/enrolment/requests/{_segment(device)}/actions/approve"
        body = {"fingerprint": fingerprint, "group": group}
        return self._connection.request("POST", path, types.PreauthorisedEntry, body=body)

    def reject_device(self, device: str, fingerprint: str) -> types.EnrolRequestInfo:
        """Turn a device down that asks."""
        path = f"/enrolment/requests/{_segment(device)}/actions/reject"
        body = {"fingerprint": fingerprint}
        return self._connection.request("POST", path, types.EnrolRequestInfo, body=body)

    # ------------------------------------------------------------ rollouts

    def start_rollout(self, request: types.RolloutRequest) -> types.RolloutInfo:
        """Start a rollout."""
        return self._connection.request("POST", "/rollouts", types.RolloutInfo, body=request)

    def plan_rollout(self, request: types.RolloutRequest) -> types.RolloutForecast:
        """Return what a rollout would do; nothing is started."""
        path = "/rollouts/plan"
        return self._connection.request("POST", path, types.RolloutForecast, body=request)

    def apply_rollout(
        self, request: types.RolloutRequest, *, dry_run: bool = False
    ) -> types.RolloutApplied:
        """Start a rollout, or change the one that was started so; the same again does nothing."""
        query = [("dry_run", "true")] if dry_run else []
        return self._connection.request(
            "POST", "/rollouts/apply", types.RolloutApplied, params=query, body=request
        )

    def rollouts(self, query: Query = (), limit: int = 25) -> types.Page[types.RolloutInfo]:
        """List rollouts, newest first."""
        return self._pages("/rollouts", types.RolloutInfo, query, limit)

    def rollout(self, rollout_id: str) -> types.RolloutInfo:
        """Return a rollout."""
        return self._get(f"/rollouts/{_segment(rollout_id)}", types.RolloutInfo)

    def rollout_devices(
        self, rollout_id: str, query: Query = (), limit: int = 100
    ) -> types.Page[types.RolloutDeviceInfo]:
        """List the devices of a rollout."""
        path = f"/rollouts/{_segment(rollout_id)}/devices"
        return self._pages(path, types.RolloutDeviceInfo, query, limit)

    def rollout_phases(self, rollout_id: str) -> list[types.PhaseInfo]:
        """Return the phases of a rollout, with what has become of their devices."""
        return self._get(f"/rollouts/{_segment(rollout_id)}/phases", list[types.PhaseInfo])

    def rollout_reasons(self, rollout_id: str) -> list[types.ReasonGroup]:
        """Count the devices of a rollout by why they have ended as they have."""
        return self._get(f"/rollouts/{_segment(rollout_id)}/reasons", list[types.ReasonGroup])

    def rollout_service(self, rollout_id: str) -> types.ServiceComparison:
        """Compare the new version in service with the others of its model."""
        return self._get(f"/rollouts/{_segment(rollout_id)}/service", types.ServiceComparison)

    def rollout_events(
        self, rollout_id: str, limit: int = 25
    ) -> types.Page[types.RolloutEventInfo]:
        """List what has happened to a rollout, newest first."""
        path = f"/rollouts/{_segment(rollout_id)}/events"
        return self._pages(path, types.RolloutEventInfo, (), limit)

    def rollout_action(
        self, rollout_id: str, action: str, reason: str = "", *, revert: bool = False
    ) -> types.RolloutInfo:
        """``pause``, ``resume``, ``approve`` or ``abort`` a rollout."""
        path = f"/rollouts/{_segment(rollout_id)}/actions/{_segment(action)}"
        body = {"reason": reason, **({"revert": True} if revert else {})}
        return self._connection.request("POST", path, types.RolloutInfo, body=body)

    # ------------------------------------------------------------ webhooks

    def webhooks(self, query: Query = (), limit: int = 100) -> types.Page[types.WebhookInfo]:
        """List the webhooks (admin)."""
        return self._pages("/webhooks", types.WebhookInfo, query, limit)

    def create_webhook(self, request: types.WebhookRequest) -> types.WebhookCreated:
        """Add a webhook (admin)."""
        return self._connection.request("POST", "/webhooks", types.WebhookCreated, body=request)

    def change_webhook(self, webhook: str, change: types.WebhookChange) -> types.WebhookInfo:
        """Change a webhook (admin)."""
        path = f"/webhooks/{_segment(webhook)}"
        return self._connection.request("PATCH", path, types.WebhookInfo, body=change)

    def delete_webhook(self, webhook: str) -> None:
        """Delete a webhook, and what was on its way to it (admin)."""
        self._connection.request("DELETE", f"/webhooks/{_segment(webhook)}", NoneType)

    def test_webhook(self, webhook: str) -> types.WebhookDeliveryInfo:
        """Send a webhook a test now, once (admin)."""
        path = f"/webhooks/{_segment(webhook)}/test"
        return self._connection.request("POST", path, types.WebhookDeliveryInfo)

    def webhook_deliveries(
        self, webhook: str, query: Query = (), limit: int = 100
    ) -> types.Page[types.WebhookDeliveryInfo]:
        """List what a webhook was sent, newest first (admin)."""
        path = f"/webhooks/{_segment(webhook)}/deliveries"
        return self._pages(path, types.WebhookDeliveryInfo, query, limit)

    # ------------------------------------------------------------ alerts

    def alerts(self, query: Query = (), limit: int = 100) -> types.Page[types.RaisedAlert]:
        """List alerts, the most severe first."""
        return self._pages("/alerts", types.RaisedAlert, query, limit)

    def alert(self, alert: str) -> types.AlertDetail:
        """Return an alert and what has happened to it."""
        return self._get(f"/alerts/{_segment(alert)}", types.AlertDetail)

    def alert_action(self, alert: str, action: str, **body: str) -> types.RaisedAlert:
        """``acknowledge``, ``assign`` or ``resolve`` an alert."""
        path = f"/alerts/{_segment(alert)}/{_segment(action)}"
        return self._connection.request("POST", path, types.RaisedAlert, body=body)

    def silences(self, query: Query = (), limit: int = 100) -> types.Page[types.SilenceInfo]:
        """List the silences in force."""
        return self._pages("/alert-silences", types.SilenceInfo, query, limit)

    def create_silence(self, request: types.SilenceRequest) -> types.SilenceInfo:
        """Have nobody told of some alerts for a while."""
        return self._connection.request("POST", "/alert-silences", types.SilenceInfo, body=request)

    def end_silence(self, silence: str) -> None:
        """End a silence now."""
        self._connection.request("DELETE", f"/alert-silences/{_segment(silence)}", NoneType)

    def alert_routes(self, query: Query = (), limit: int = 100) -> types.Page[types.AlertRouteInfo]:
        """List whom alerts are told (admin)."""
        return self._pages("/alert-routes", types.AlertRouteInfo, query, limit)

    def create_alert_route(self, request: types.AlertRouteRequest) -> types.AlertRouteInfo:
        """Add a route (admin)."""
        return self._connection.request("POST", "/alert-routes", types.AlertRouteInfo, body=request)

    def change_alert_route(
        self, route: str, change: types.AlertRouteChange
    ) -> types.AlertRouteInfo:
        """Change a route (admin)."""
        path = f"/alert-routes/{_segment(route)}"
        return self._connection.request("PATCH", path, types.AlertRouteInfo, body=change)

    def delete_alert_route(self, route: str) -> None:
        """Delete a route (admin)."""
        self._connection.request("DELETE", f"/alert-routes/{_segment(route)}", NoneType)

    def test_alert_route(self, route: str) -> types.AlertNoticeInfo:
        """Send a test by e-mail or MQTT now, once (admin)."""
        path = f"/alert-routes/{_segment(route)}/test"
        return self._connection.request("POST", path, types.AlertNoticeInfo)

    def alert_notices(
        self, route: str, query: Query = (), limit: int = 100
    ) -> types.Page[types.AlertNoticeInfo]:
        """List what a route has sent by e-mail or MQTT, newest first (admin)."""
        path = f"/alert-routes/{_segment(route)}/notices"
        return self._pages(path, types.AlertNoticeInfo, query, limit)

    # ------------------------------------------------------------ telemetry

    def telemetry(self, model: str, since_s: int = 3600) -> list[types.TelemetrySummary]:
        """Return counts by device and digest over the last `since_s` seconds."""
        query = [("model", model), ("since_s", str(since_s))]
        return self._connection.request(
            "GET", "/telemetry", list[types.TelemetrySummary], params=query
        )

    def device_telemetry(self, device: str, since_s: int = 3600) -> list[types.TelemetrySummary]:
        """Return what one device has counted over the last `since_s`."""
        return self._connection.request(
            "GET",
            f"/devices/{_segment(device)}/telemetry",
            list[types.TelemetrySummary],
            params=[("since_s", str(since_s))],
        )

    def device_series(
        self, device: str, since_s: int = 3600, points: int = 12
    ) -> types.DeviceSeries:
        """Return what one device has sent as it has gone over time, in equal steps."""
        return self._connection.request(
            "GET",
            f"/devices/{_segment(device)}/telemetry/series",
            types.DeviceSeries,
            params=[("since_s", str(since_s)), ("points", str(points))],
        )

    def device_receipts(self, device: str) -> types.DeviceReceipts:
        """Say what has come of a device, twice or not at all."""
        path = f"/devices/{_segment(device)}/telemetry/receipts"
        return self._get(path, types.DeviceReceipts)

    def drift(self, query: Query = (), limit: int = 100) -> types.Page[types.DriftGroup]:
        """List where each fleet, site and device stands."""
        return self._pages("/drift", types.DriftGroup, query, limit)

    def drift_summary(self, query: Query = (), limit: int = 100) -> types.Page[types.DriftSummary]:
        """List the bundles that were judged, with the counts of their sites and devices."""
        return self._pages("/drift-summary", types.DriftSummary, query, limit)

    def drift_history(self, model: str, query: Query = ()) -> types.DriftHistory:
        """Tell how far a fleet, a site or a device was from its reference, step by step."""
        path = f"/models/{_segment(model)}/drift/history"
        return self._connection.request("GET", path, types.DriftHistory, params=list(query))

    def drift_detail(self, model: str, query: Query = ()) -> types.DriftDetail:
        """Say why a fleet, a site or a device is where it is."""
        path = f"/models/{_segment(model)}/drift"
        return self._connection.request("GET", path, types.DriftDetail, params=list(query))

    def usual_days(self, model: str) -> types.UsualDays:
        """Say which days were usual for a model."""
        return self._get(f"/models/{_segment(model)}/drift/usual", types.UsualDays)

    def set_usual_days(self, model: str, change: types.UsualDaysChange) -> types.UsualDays:
        """Say which days were usual: what these hours of the day saw then is no drift."""
        path = f"/models/{_segment(model)}/drift/usual"
        return self._connection.request("PUT", path, types.UsualDays, body=change)

    def delete_usual_days(self, model: str) -> None:
        """Compare a model with its reference alone again."""
        self._connection.request("DELETE", f"/models/{_segment(model)}/drift/usual", NoneType)

    def drift_events(self, query: Query = (), limit: int = 100) -> types.Page[types.DriftEventInfo]:
        """List drift and faults of data that have begun and ended, newest first."""
        return self._pages("/drift-events", types.DriftEventInfo, query, limit)

    def accuracy(self, query: Query = (), limit: int = 100) -> types.Page[types.AccuracyGroup]:
        """List how often the model of each fleet, site and device is right, as estimated."""
        return self._pages("/accuracy", types.AccuracyGroup, query, limit)

    def accuracy_detail(self, model: str, query: Query = ()) -> types.AccuracyDetail:
        """Say from what an accuracy was estimated."""
        path = f"/models/{_segment(model)}/accuracy"
        return self._connection.request("GET", path, types.AccuracyDetail, params=list(query))

    def answers(self, query: Query, limit: int = 100) -> types.Page[types.AnswerInfo]:
        """List which devices have answered with which digest, and when.

        Args:
            query: ``digest``, ``model``, ``version``, ``device``, ``from`` and ``to``.
            limit: of the list.
        """
        return self._pages("/answers", types.AnswerInfo, query, limit)

    def pulls(self) -> list[types.PullInfo]:
        """Return who has pulled how much over HTTP since the server was started."""
        return self._get("/pulls", list[types.PullInfo])

    # ------------------------------------------------------------ inside

    def _act(
        self, device: str, action: str, body: dict[str, str | None] | None = None
    ) -> types.DeviceDetail:
        path = f"/devices/{_segment(device)}/actions/{action}"
        return self._connection.request("POST", path, types.DeviceDetail, body=body)

    def _get(self, path: str, kind: type[Item]) -> Item:
        return self._connection.request("GET", path, kind)

    def _pages(self, path: str, kind: type[Item], query: Query, limit: int) -> types.Page[Item]:
        """Read as many pages as `limit` items need."""
        page_type = cast("type[types.Page[Item]]", types.Page[kind])  # type: ignore[valid-type]
        items: list[Item] = []
        while True:
            count = min(PAGE_ITEMS, limit - len(items))
            asked = [*query, ("offset", str(len(items))), ("limit", str(count))]
            page = self._connection.request("GET", path, page_type, params=asked)
            items += page.items
            if len(items) >= min(limit, page.total) or not page.items:
                return types.Page(items[:limit], page.total)


def _segment(text: str) -> str:
    return quote(text, safe="")
