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

    def device_uploads(self, device: str) -> types.Page[types.DeviceUploadInfo]:
        """List what a device has uploaded, newest first."""
        return self._get(f"/devices/{_segment(device)}/uploads", types.Page[types.DeviceUploadInfo])

    def device_upload(self, device: str, digest: str) -> bytes:
        """Return what a device has uploaded, as it came."""
        return self._connection.content(f"/devices/{_segment(device)}/uploads/{_segment(digest)}")

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
        return self._connection.request(
            "POST", f"/devices/{_segment(device)}/actions/decommission", types.DeviceDetail
        )

    def revoke_device(self, device: str) -> types.DeviceDetail:
        """Shut a lost device out, until somebody lets it enrol again."""
        return self._connection.request(
            "POST", f"/devices/{_segment(device)}/actions/revoke", types.DeviceDetail
        )

    # ------------------------------------------------------------ enrolment

    def authority(self) -> types.AuthorityInfo:
        """Return by what a device without a token knows the server."""
        return self._get("/enrolment/authority", types.AuthorityInfo)

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

    # ------------------------------------------------------------ telemetry

    def telemetry(self, model: str, since_s: int = 3600) -> list[types.TelemetrySummary]:
        """Return counts by device and digest over the last `since_s` seconds."""
        query = [("model", model), ("since_s", str(since_s))]
        return self._connection.request(
            "GET", "/telemetry", list[types.TelemetrySummary], params=query
        )

    def pulls(self) -> list[types.PullInfo]:
        """Return who has pulled how much over HTTP since the server was started."""
        return self._get("/pulls", list[types.PullInfo])

    # ------------------------------------------------------------ inside

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
