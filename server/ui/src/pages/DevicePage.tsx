import { keepPreviousData } from "@tanstack/react-query";
import { Link, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { LatencyHistogram } from "../components/Bars";
import { Digest } from "../components/Command";
import { Evidence, usePolicy, type Seen } from "../components/Evidence";
import { Empty, ErrorPanel, Facts, Head, Loaded, Note, Older, Panel, useNewest } from "../components/Panels";
import { SlotPanel } from "../components/SlotPanel";
import { Presence, StateMarker, wordsOf } from "../components/State";
import { Time } from "../components/Time";
import { Uploads } from "../components/Uploads";
import { bytes, count, duration, share } from "../format";
import { DeviceActions, Held } from "./device/Actions";
import { Charts } from "./device/Charts";
import { DriftPanel } from "./device/DriftPanel";

type Device = Schemas["DeviceDetail"];

export function DevicePage() {
  const { id = "" } = useParams();
  useLive(`device:${id}`);
  const query = api.useQuery("get", "/api/v1/devices/{device}", { params: { path: { device: id } } }, { refetchInterval: 15_000 });
  return (
    <Loaded query={query} back={["Back to the fleet", "/fleet"]}>
      {(device) => <Inside device={device} />}
    </Loaded>
  );
}

function Inside({ device }: { device: Device }) {
  return (
    <>
      <Head
        crumbs={[["Fleet", "/fleet"]]}
        title={device.id}
        beside={<Presence device={device} />}
        under={
          <>
            Last seen <Time at={device.last_seen_at} /> · enrolled <Time at={device.enrolled_at} /> · agent{" "}
            {device.agent_version || "–"}
          </>
        }
        actions={<DeviceActions device={device} />}
      />
      <Held device={device} />
      {device.state === "enrolled" && !device.online && device.last_seen_at && (
        <Note icon="clock" tone={device.overdue ? "warn" : undefined}>
          {device.overdue && <strong>Overdue. </strong>}
          Offline since <Time at={device.last_seen_at} />. What you see is what it last reported.
        </Note>
      )}
      {device.refusal && (
        <Note tone="warn">
          <strong>{device.id} does not obey its newest order</strong>: {device.refusal.detail}
          <p className="small mono">{device.refusal.code}</p>
        </Note>
      )}
      <div className="columns">
        <div className="stack">
          {device.slots.length ? (
            device.slots.map((slot) => <SlotPanel key={slot.slot} device={device} slot={slot} />)
          ) : (
            <Panel title="Models">
              <Empty icon="model" title="No model yet">
                <p className="soft">Start a rollout that includes this device.</p>
                <Link to={`/rollouts/new?device=${device.id}`}>Start a rollout</Link>
              </Empty>
            </Panel>
          )}
          <Security id={device.id} />
          <Charts id={device.id} />
          <Timeline id={device.id} />
          <Telemetry id={device.id} />
        </div>
        <div className="stack">
          <Hardware device={device} />
          <Health device={device} />
          <DriftPanel id={device.id} />
          <Trust device={device} />
          {device.state === "enrolled" && <Uploads device={device} />}
        </div>
      </div>
    </>
  );
}

function Timeline({ id }: { id: string }) {
  const { limit, grow } = useNewest("updates");
  const query = api.useQuery(
    "get",
    "/api/v1/devices/{device}/events",
    { params: { path: { device: id }, query: { limit } } },
    { placeholderData: keepPreviousData },
  );
  return (
    <Panel title="Updates">
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} />}
      {query.data?.items.length === 0 && <p className="soft">No update has been reported yet.</p>}
      <ol className="timeline" aria-label="Update timeline">
        {query.data?.items.map((event, number) => (
          <Event key={`${event.at}${event.after}`} event={event} newest={number === 0} />
        ))}
      </ol>
      {query.data && <Older shown={query.data.items.length} total={query.data.total} grow={grow} />}
    </Panel>
  );
}

/** What the device refused, and what was said in its name and not believed. */
function Security({ id }: { id: string }) {
  const { limit, grow } = useNewest("security");
  const query = api.useQuery(
    "get",
    "/api/v1/devices/{device}/security-events",
    { params: { path: { device: id }, query: { limit } } },
    { placeholderData: keepPreviousData, refetchInterval: 15_000 },
  );
  if (!query.error && !query.data?.items.length) return null;
  return (
    <Panel title="Security events" id="security">
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      <ul className="alarms" aria-label="Security events">
        {query.data?.items.map((event) => (
          <li key={`${event.source}${event.code}${event.at}`}>
            <div className="row apart wrap" style={{ gap: "0 12px" }}>
              <span>
                <b className="mono" style={{ fontWeight: 580 }}>{event.code}</b>{" "}
                <span className="soft">
                  {event.source === "device" ? "refused by the device" : "not believed by the server"}
                  {event.order !== null && ` · order ${event.order}`}
                </span>{" "}
                {event.count > 1 && <span className="tag number">{count(event.count)} times</span>}
              </span>
              <span className="soft small">
                <Time at={event.received_at} />
              </span>
            </div>
            <p className="small breakable">{event.detail}</p>
          </li>
        ))}
      </ul>
      {query.data && <Older shown={query.data.items.length} total={query.data.total} grow={grow} />}
    </Panel>
  );
}

/** Later events carry what was seen before too; it belongs to the one with which that ended. */
function ended(event: Schemas["DeviceEventInfo"]): Seen {
  return {
    transfer: event.before === "downloading" ? event.transfer : null,
    trial: event.before === "trial" ? event.trial : null,
    shadow: event.before === "shadowing" ? event.shadow : null,
    swap: event.before === "activating" ? event.swap : null,
    observation: event.before === "observing" ? event.observation : null,
    reason: event.reason,
  };
}

function Event({ event, newest }: { event: Schemas["DeviceEventInfo"]; newest: boolean }) {
  const policy = usePolicy(event.rollout);
  return (
    <li>
      <StateMarker state={event.after} newest={newest} />
      <div className="row apart wrap" style={{ gap: "0 12px" }}>
        <span>
          <b style={{ fontWeight: 580 }}>{wordsOf(event.after)}</b>{" "}
          <span className="soft">
            from {wordsOf(event.before).toLowerCase()} · {event.slot} {event.version}
          </span>{" "}
          <span className="tag mono">{event.variant}</span>
        </span>
        <span className="soft small">
          <Time at={event.at} />
        </span>
      </div>
      {event.reason && (
        <p className="small breakable" style={{ color: event.after === "waiting" ? "var(--warn)" : "var(--bad)" }}>
          {event.reason.detail} <span className="mono">({event.reason.code})</span>
        </p>
      )}
      <Evidence seen={ended(event)} policy={policy} />
    </li>
  );
}

const HOUR_S = 3600;

function Telemetry({ id }: { id: string }) {
  const query = api.useQuery(
    "get",
    "/api/v1/devices/{device}/telemetry",
    { params: { path: { device: id }, query: { since_s: HOUR_S } } },
    { refetchInterval: 15_000 },
  );
  return (
    <Panel title="Telemetry" aside={<span className="soft small">last hour</span>}>
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {query.data?.length === 0 && (
        <p className="soft">No inference has been counted in the last hour. Counts arrive when applications use the endpoint.</p>
      )}
      <div className="stack" style={{ gap: 26 }}>
        {query.data?.map((summary) => <Counts key={`${summary.slot}${summary.manifest}`} summary={summary} />)}
      </div>
    </Panel>
  );
}

function Counts({ summary }: { summary: Schemas["TelemetrySummary"] }) {
  const version = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions/{version}",
    { params: { path: { name: summary.slot, version: summary.version } } },
    { staleTime: 60_000, retry: false },
  );
  const labels = version.data?.labels ?? [];
  const predictions = summary.classes.reduce((sum, value) => sum + value, 0);
  const most = Math.max(1, ...summary.classes);
  return (
    <div className="stack" style={{ gap: 14 }}>
      <div className="figures">
        <Figure name={`${summary.slot} ${summary.version}`} value={count(summary.requests)} note="requests" />
        <Figure name="Errors" value={count(summary.errors)} note={summary.requests ? share(summary.errors / summary.requests, 1) : ""} />
        <Figure name="Refused" value={count(summary.refused)} note="" />
        <Figure name="NaN or infinite" value={count(summary.non_finite)} note="" />
        <Figure name="p50" value={duration(summary.latency_p50_us)} note="" />
        <Figure name="p95" value={duration(summary.latency_p95_us)} note="" />
      </div>
      <div className="halves" style={{ gap: 28 }}>
        <div>
          <h3 className="part">Predictions by class</h3>
          {predictions === 0 && <p className="soft">none</p>}
          <dl className="classes">
            {summary.classes.slice(0, 20).map((value, number) => (
              <div key={number} style={{ display: "contents" }}>
                <dt className="breakable">{labels[number] ?? `class ${number}`}</dt>
                <dd className="measure-track" aria-hidden="true">
                  <span data-fill="accent" style={{ width: `${(value / most) * 100}%` }} />
                </dd>
                <dd className="number">{count(value)}</dd>
              </div>
            ))}
          </dl>
          {summary.classes.length > 20 && <p className="soft small">and {summary.classes.length - 20} more classes</p>}
        </div>
        <div>
          <h3 className="part">Latency</h3>
          <LatencyHistogram counts={summary.latency} />
        </div>
      </div>
    </div>
  );
}

function Figure({ name, value, note }: { name: string; value: string; note: string }) {
  return (
    <div>
      <div className="soft small">{name}</div>
      <div className="number">
        <span className="figure">{value}</span> <span className="soft small">{note}</span>
      </div>
    </div>
  );
}

function Hardware({ device }: { device: Device }) {
  const known = device.capabilities as Partial<{
    cores: number;
    memory_bytes: number;
    cpu_features: string[];
    os: string;
    runtimes: Record<string, string>;
  }> | null;
  return (
    <Panel title="Hardware">
      <Facts
        rows={[
          ["Processor", device.cpu_model || "–"],
          ["Architecture", device.machine || "–"],
          [
            "Class",
            <span key="c" title={device.device_class_reason}>
              {device.device_class || "none"}
            </span>,
          ],
          ["Cores", known?.cores ?? "–"],
          ["Memory", bytes(known?.memory_bytes)],
          ["System", known?.os || "–"],
          [
            "Runtimes",
            Object.entries(known?.runtimes ?? {})
              .map(([name, version]) => `${name} ${version}`)
              .join(", ") || "–",
          ],
          ["Features", <Tags key="f" values={known?.cpu_features ?? []} />],
          ["Given labels", <Tags key="g" values={Object.entries(device.assigned_labels).map(([name, value]) => `${name}: ${value}`)} />],
          ["Labels", <Tags key="l" values={Object.entries(device.labels).map(([name, value]) => `${name}: ${value}`)} />],
        ]}
      />
    </Panel>
  );
}

function Tags({ values }: { values: string[] }) {
  if (!values.length) return <span className="soft">none</span>;
  return (
    <span className="tags">
      {values.map((value) => (
        <span key={value} className="tag">
          {value}
        </span>
      ))}
    </span>
  );
}

function Health({ device }: { device: Device }) {
  const sample = device.system as Partial<Record<string, number | string>> | null;
  if (!sample) return null;
  const number = (name: string) => (typeof sample[name] === "number" ? sample[name] : null);
  const temperature = number("temperature_c");
  const bad = Object.entries((device.system?.bad_pieces ?? {}) as Record<string, number>);
  const samples = Object.entries((device.system?.samples ?? {}) as Record<string, number>);
  return (
    <Panel title="Health" aside={<span className="soft small"><Time at={String(sample.at ?? "")} /></span>}>
      <Facts
        rows={[
          ["Load", number("load_1min")?.toFixed(2) ?? "–"],
          ["Temperature", temperature === null ? "–" : `${temperature.toFixed(0)} °C`],
          ["Memory free", bytes(number("memory_available_bytes"))],
          ["Disk free", bytes(number("disk_free_bytes"))],
          ["Agent", bytes(number("agent_rss_bytes"))],
          ["Inference", bytes(number("inference_rss_bytes"))],
          ...(bad.length
            ? [["Bad pieces", bad.map(([kind, count]) => `${count} ${kind}`).join(", ")] as [string, string]]
            : []),
          ...(samples.length
            ? [["Samples", samples.map(([code, count]) => `${count} ${code}`).join(", ")] as [string, string]]
            : []),
        ]}
      />
    </Panel>
  );
}

/** Which model's newest update a bundle was of; nothing where it was of an older one. */
function updateOf(device: Device, manifest: string): string {
  const slot = device.slots.find(({ update }) => update?.manifest === manifest);
  return slot ? `${slot.slot} ${slot.update!.version}` : "";
}

function Trust({ device }: { device: Device }) {
  const waiting = device.order_counter !== device.accepted_order_counter;
  return (
    <Panel title="Identity">
      <Facts
        rows={[
          ["Group", device.group || <span className="soft">none</span>],
          ["Enrolled by", device.enrolled_by || "–"],
          ["Key", <code key="k" className="mono breakable small">{device.fingerprint}</code>],
          ["Certificate", <>expires <Time key="c" at={device.certificate_expires_at} /></>],
          ["Orders", `${device.accepted_order_counter} accepted${waiting ? `, ${device.order_counter} issued` : ""}`],
          ["Boots", device.boot],
          [
            "Rejected",
            device.rejected.length ? (
              <div key="x">
                {device.rejected.map((value) => (
                  <div key={value}>
                    <Digest value={value} /> <span className="soft small">{updateOf(device, value)}</span>
                  </div>
                ))}
              </div>
            ) : (
              <span className="soft">none</span>
            ),
          ],
        ]}
      />
    </Panel>
  );
}
