import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Bar } from "../components/Bars";
import { Command } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column, type ListState } from "../components/DataTable";
import { Empty, ErrorPanel, Head, Panel } from "../components/Panels";
import { Online, State } from "../components/State";
import { Time } from "../components/Time";
import { createEnrolToken } from "../cli";
import { count } from "../format";

type Device = Schemas["DeviceSummary"];
type Fleet = Schemas["FleetSummary"];

const FILTERS = ["group", "state", "online", "updating", "failing", "security", "model", "version"];

export function FleetPage() {
  const list = useListState();
  const summary = api.useQuery("get", "/api/v1/fleet");
  return (
    <>
      <Head
        title="Fleet"
        actions={
          <EnrolButton />
        }
      />
      <div className="stack">
        {Boolean(summary.error) && <ErrorPanel error={summary.error} retry={() => void summary.refetch()} stale={!!summary.data} />}
        <Tiles fleet={summary.data} list={list} />
        {!!summary.data?.versions.length && <Versions fleet={summary.data} />}
        <Devices list={list} fleet={summary.data} />
      </div>
    </>
  );
}

/** Says how many devices wait for somebody to approve them. */
function EnrolButton() {
  const asking = api.useQuery("get", "/api/v1/enrolment/requests", { params: { query: { limit: 200 } } }, { refetchInterval: 15_000 });
  const waiting = asking.data?.items.filter((one) => one.state === "waiting").length ?? 0;
  return (
    <Action needs="viewer" icon="plus" variant="default" to="/enrol">
      Enrol devices{waiting > 0 && ` (${count(waiting)} ${waiting === 1 ? "asks" : "ask"})`}
    </Action>
  );
}

function Tiles({ fleet, list }: { fleet: Fleet | undefined; list: ListState }) {
  const none = FILTERS.every((name) => !list.get(name));
  return (
    <div className="tiles">
      <Tile name="Devices" value={fleet?.devices} to="/fleet" current={none} />
      <Tile name="Online" value={fleet?.online} to="/fleet?online=true" dot="good" current={list.get("online") === "true"} />
      <Tile name="Offline" value={fleet?.offline} to="/fleet?online=false" dot="none" current={list.get("online") === "false"} />
      <Tile
        name="Updating"
        value={fleet?.updating}
        to="/fleet?updating=true"
        dot={fleet?.updating ? "busy" : undefined}
        current={list.get("updating") === "true"}
      />
      <Tile
        name="Failing"
        value={fleet?.failing}
        to="/fleet?failing=true"
        dot={fleet?.failing ? "bad" : undefined}
        current={list.get("failing") === "true"}
        note="newest update"
      />
      <Tile
        name="Security"
        value={fleet?.security}
        to="/fleet?security=true"
        dot={fleet?.security ? "bad" : undefined}
        current={list.get("security") === "true"}
        note="last day"
      />
    </div>
  );
}

interface TileProps {
  name: string;
  value: number | undefined;
  to: string;
  dot?: "good" | "busy" | "bad" | "none";
  note?: string;
  current?: boolean;
}

function Tile({ name, value, to, dot, note, current }: TileProps) {
  return (
    <Link className="tile" to={to} aria-current={current ? "true" : undefined}>
      <span className="tile-name">
        {dot && <span className="dot" data-tone={dot} data-hollow={dot === "none" ? true : undefined} />}
        {name}
      </span>
      <span className="row" style={{ alignItems: "baseline" }}>
        <span className="tile-value">{value === undefined ? "–" : count(value)}</span>
        {note && <span className="tile-note only-medium">{note}</span>}
      </span>
    </Link>
  );
}

const SHADES = ["accent", "busy", "warn", "idle"] as const;

/** Which versions run: a line for each model, newest first. */
function Versions({ fleet }: { fleet: Fleet }) {
  const models = [...new Set(fleet.versions.map((share) => share.model))];
  return (
    <Panel title="Running versions">
      <div className="stack" style={{ gap: 12 }}>
        {models.map((model) => {
          const shares = fleet.versions
            .filter((share) => share.model === model)
            .sort((left, right) => right.devices - left.devices);
          const parts = shares.map((share, number) => ({
            name: `version ${share.version}`,
            value: share.devices,
            fill: SHADES[Math.min(number, SHADES.length - 1)]!,
            to: `/fleet?model=${model}&version=${encodeURIComponent(share.version)}`,
          }));
          return (
            <div key={model} className="version-share">
              <Link to={`/models/${model}`} className="name breakable">
                {model}
              </Link>
              <Bar label={`Devices that run ${model}`} parts={parts} />
              <div className="legend">
                {parts.map((part) => (
                  <Link key={part.name} to={part.to}>
                    <span className="swatch" data-fill={part.fill} />
                    {part.name} <b>{count(part.value)}</b>
                  </Link>
                ))}
              </div>
            </div>
          );
        })}
      </div>
    </Panel>
  );
}

const COLUMNS: Column<Device>[] = [
  {
    key: "id",
    header: "Device",
    sort: "id",
    cell: (device) => (
      <>
        <Link to={`/fleet/${device.id}`} className="name nowrap">
          {device.id}
        </Link>
        {device.security_events > 0 && (
          <Link to={`/fleet/${device.id}#security`} className="tag" data-tone="bad" title="Security events of the last day">
            {count(device.security_events)} security
          </Link>
        )}
      </>
    ),
  },
  { key: "online", header: "Connection", cell: (device) => (device.state !== "enrolled" ? <State state={device.state} /> : <Online online={device.online} />) },
  { key: "versions", header: "Running → desired", cell: (device) => <Slots device={device} /> },
  { key: "update", header: "Newest update", cell: (device) => <Updates device={device} /> },
  {
    key: "hardware",
    header: "Hardware",
    className: "only-wide",
    cell: (device) => (
      <span className="clip" title={`${device.cpu_model} ${device.machine}`}>
        {device.cpu_model || "–"} <span className="soft">{device.machine}</span>
      </span>
    ),
  },
  {
    key: "labels",
    header: "Labels",
    className: "only-wide",
    cell: (device) => (
      <span className="tags">
        {device.group && (
          <Link className="tag" to={`/fleet?group=${device.group}`}>
            group: {device.group}
          </Link>
        )}
        {Object.entries(device.labels).map(([name, value]) => (
          <span key={name} className="tag">
            {name}: {value}
          </span>
        ))}
      </span>
    ),
  },
  {
    key: "seen",
    header: "Last seen",
    sort: "last_seen_at",
    align: "right",
    cell: (device) => <Time at={device.last_seen_at} />,
  },
];

function Slots({ device }: { device: Device }) {
  if (!device.slots.length) return <span className="soft">no model yet</span>;
  return device.slots.map((slot) => {
    const running = slot.running?.version;
    const differs = slot.desired_version && slot.desired_version !== running;
    return (
      <div key={slot.slot} className="nowrap">
        {slot.slot} <span className="number">{running ?? "–"}</span>
        {differs && (
          <span className="number" style={{ fontWeight: 560 }}>
            <span className="soft"> → </span>
            <span className="hidden">, desired </span>
            {slot.desired_version}
          </span>
        )}
      </div>
    );
  });
}

function Updates({ device }: { device: Device }) {
  const updates = device.slots.filter((slot) => slot.update);
  if (!updates.length) return <span className="soft">–</span>;
  return updates.map(({ slot, update }) => (
    <div key={slot}>
      <State state={update!.state} />
    </div>
  ));
}

function reasons(device: Device) {
  const failed = device.slots.filter((slot) => slot.update?.reason);
  if (!failed.length) return null;
  return failed.map(({ slot, update }) => (
    <div key={slot}>
      {slot} {update!.version}: {update!.reason!.detail} <span className="mono">({update!.reason!.code})</span>
    </div>
  ));
}

const STATES: { value: Device["state"]; label: string }[] = [
  { value: "enrolled", label: "Enrolled" },
  { value: "revoked", label: "Lost" },
  { value: "decommissioned", label: "Decommissioned" },
];

function Devices({ list, fleet }: { list: ListState; fleet: Fleet | undefined }) {
  const [group, state, online, updating, failing, security, model, version] = FILTERS.map((name) => list.get(name));
  const kept = STATES.find((one) => one.value === state)?.value ?? "enrolled";
  const query = api.useQuery(
    "get",
    "/api/v1/devices",
    {
      params: {
        query: {
          q: list.q,
          sort: list.sort,
          offset: list.offset,
          limit: PAGE_ROWS,
          state: kept === "enrolled" ? undefined : kept,
          group,
          online: online === undefined ? undefined : online === "true",
          updating: updating === "true" || undefined,
          failing: failing === "true" || undefined,
          security: security === "true" || undefined,
          model,
          version,
        },
      },
    },
    { placeholderData: keepPreviousData, refetchInterval: 10_000 },
  );
  const filtered = Boolean(list.q || FILTERS.some((name) => list.get(name)));
  const models = [...new Set((fleet?.versions ?? []).map((share) => share.model))];
  return (
    <Panel
      flush
      title="Devices"
      aside={
        <div className="filters">
          {online && (
            <FilterChip list={list} names={["online"]} label={online === "true" ? "Online" : "Offline"} />
          )}
          {updating && <FilterChip list={list} names={["updating"]} label="Updating" />}
          {failing && <FilterChip list={list} names={["failing"]} label="Failing" />}
          {security && <FilterChip list={list} names={["security"]} label="Security events" />}
          {group && <FilterChip list={list} names={["group"]} label={`Group ${group}`} />}
          {version && <FilterChip list={list} names={["version"]} label={`Version ${version}`} />}
          <Select
            aria-label="State"
            w={168}
            allowDeselect={false}
            data={STATES}
            value={kept}
            onChange={(value) => list.set({ state: value === "enrolled" ? null : value })}
          />
          <Select
            aria-label="Model"
            placeholder="All models"
            w={150}
            clearable
            clearButtonProps={{ "aria-label": "All models", size: "24px" }}
            data={model && !models.includes(model) ? [...models, model] : models}
            value={model ?? null}
            onChange={(value) => list.set({ model: value, version: null })}
          />
          <Search list={list} label="Search devices" />
        </div>
      }
    >
      <DataTable
        label="Devices"
        columns={COLUMNS}
        rowKey={(device) => device.id}
        detail={reasons}
        query={query}
        list={list}
        defaultSort="id"
        empty={
          filtered ? (
            <Empty icon="search" title="No device matches">
              <Button variant="default" size="xs" onClick={() => list.set(Object.fromEntries(["q", ...FILTERS].map((name) => [name, null])))}>
                Clear filters
              </Button>
            </Empty>
          ) : (
            <Empty icon="fleet" title="No device has enrolled yet">
              <p className="soft">Make an enrol token, then start the agent on a device with it.</p>
              <Action needs="operator" to="/enrol" icon="key">
                Enrol devices
              </Action>
              <Command text={createEnrolToken(1, 3600, "")} />
            </Empty>
          )
        }
      />
    </Panel>
  );
}

