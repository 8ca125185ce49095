// The list of devices: what the address says is what is asked, of 25 or of 100,000.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select } from "@mantine/core";
import { Link } from "react-router";

import { api, asApiError, type Schemas } from "../../api/client";
import { Action } from "../../components/Action";
import { Command, Equivalent } from "../../components/Command";
import { DataTable, FilterChip, Search, type Column, type ListState } from "../../components/DataTable";
import { Empty, Panel } from "../../components/Panels";
import { Presence, State } from "../../components/State";
import { Time } from "../../components/Time";
import { createEnrolToken, listDevices } from "../../cli";
import { count } from "../../format";
import { FILTERS, queryOf, selectorOf, stateOf, STATES, WORDS } from "./filters";
import { Labelling } from "./Labelling";
import { SelectorInput } from "./SelectorInput";

type Device = Schemas["DeviceSummary"];

export function Devices({ list, fleet }: { list: ListState; fleet: Schemas["FleetSummary"] | undefined }) {
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const asked = queryOf(list);
  const query = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: asked } },
    { placeholderData: keepPreviousData, refetchInterval: 10_000 },
  );
  const error = query.error ? asApiError(query.error) : null;
  const ofSelector = error?.code.startsWith("selector.") ? error : null;
  const filtered = Boolean(list.q || FILTERS.some((name) => list.has(name)));
  const choose = (keys: string[], wanted: boolean) =>
    setChosen((before) => {
      const after = new Set(before);
      for (const key of keys) {
        if (wanted) after.add(key);
        else after.delete(key);
      }
      return after;
    });
  return (
    <Panel flush title="Devices" aside={<Filters list={list} fleet={fleet} />}>
      <div className="above-table">
        <SelectorInput list={list} error={ofSelector} />
        <Chips list={list} />
        <Labelling chosen={[...chosen]} clear={() => setChosen(new Set())} total={query.data?.total ?? 0} selector={selectorOf(list)} />
      </div>
      <DataTable
        label="Devices"
        columns={COLUMNS}
        rowKey={(device) => device.id}
        detail={reasons}
        query={query}
        saidElsewhere={ofSelector !== null}
        list={list}
        defaultSort="id"
        selection={stateOf(list) === "enrolled" ? { chosen, choose } : undefined}
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
      {filtered && !ofSelector && (
        <div style={{ padding: "10px 18px 18px" }}>
          <Equivalent text={listDevices(asked)} />
        </div>
      )}
    </Panel>
  );
}

function Filters({ list, fleet }: { list: ListState; fleet: Schemas["FleetSummary"] | undefined }) {
  const model = list.get("model");
  const models = [...new Set((fleet?.versions ?? []).map((share) => share.model))];
  return (
    <div className="filters">
      <Select
        aria-label="State"
        w={168}
        allowDeselect={false}
        data={STATES}
        value={stateOf(list)}
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
  );
}

function Chips({ list }: { list: ListState }) {
  const [group, version, deviceClass] = ["group", "version", "device_class"].map((name) => list.get(name));
  const switches = Object.entries(WORDS).filter(([name]) => list.get(name) !== undefined);
  if (!switches.length && !group && !version && !deviceClass && !list.has("site")) return null;
  return (
    <div className="filters">
      {switches.map(([name, [when, whenNot]]) => (
        <FilterChip key={name} list={list} names={[name]} label={list.get(name) === "true" ? when : whenNot} />
      ))}
      {list.has("site") && <FilterChip list={list} names={["site"]} label={list.get("site") ? `Site ${list.get("site")}` : "No site"} />}
      {group && <FilterChip list={list} names={["group"]} label={`Group ${group}`} />}
      {deviceClass && <FilterChip list={list} names={["device_class"]} label={`Class ${deviceClass}`} />}
      {version && <FilterChip list={list} names={["version"]} label={`Version ${version}`} />}
    </div>
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
        {device.hold && (
          <span className="tag" data-tone="warn" title={`by ${device.hold.by}${device.hold.reason ? `: ${device.hold.reason}` : ""}`}>
            held
          </span>
        )}
      </>
    ),
  },
  { key: "online", header: "Connection", cell: (device) => <Presence device={device} /> },
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
  { key: "labels", header: "Labels", sort: "group", className: "only-wide", cell: (device) => <Labels device={device} /> },
  {
    key: "seen",
    header: "Last seen",
    sort: "last_seen_at",
    align: "right",
    cell: (device) => <Time at={device.last_seen_at} />,
  },
];

/** Labels that the map shows. */
const PLACE = new Set(["lat", "lon"]);

/** People's labels, which selectors go by, before what a device says of itself. */
function Labels({ device }: { device: Device }) {
  const given = Object.entries(device.assigned_labels).filter(([name]) => !PLACE.has(name));
  const said = Object.entries(device.labels).filter(([name, value]) => device.assigned_labels[name] !== value);
  return (
    <span className="tags">
      {device.group && (
        <Link className="tag" to={`/fleet?group=${device.group}`}>
          group: {device.group}
        </Link>
      )}
      {given.map(([name, value]) => (
        <Link key={name} className="tag" to={`/fleet?where=${encodeURIComponent(`${name}="${value}"`)}`}>
          {name}: {value}
        </Link>
      ))}
      {said.map(([name, value]) => (
        <span key={`reported.${name}`} className="tag" data-hollow title={`reported.${name}: the device says so`}>
          {name}: {value}
        </span>
      ))}
    </span>
  );
}

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
