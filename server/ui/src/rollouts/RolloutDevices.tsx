// The devices of a rollout: searched, filtered and paged by the server; the filters are in the address.
import { keepPreviousData } from "@tanstack/react-query";
import { Select, Switch } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Measure } from "../components/Bars";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Evidence, hasEvidence } from "../components/Evidence";
import { Empty, Panel } from "../components/Panels";
import { Online, State, wordsOf } from "../components/State";
import { waitsFor } from "../components/Story";
import { Time } from "../components/Time";
import { bytes } from "../format";

type Rollout = Schemas["RolloutInfo"];
type RolloutDevice = Schemas["RolloutDeviceInfo"];

const DEVICE_STATES = ["pending", "in_progress", "committed", "failed", "rejected", "rolled_back", "overdue", "reverted", "cancelled"] as const;

const COLUMNS: Column<RolloutDevice>[] = [
  {
    key: "device",
    header: "Device",
    sort: "device",
    cell: (row) => (
      <Link className="name nowrap" to={`/fleet/${row.device}`}>
        {row.device}
      </Link>
    ),
  },
  { key: "online", header: "Connection", className: "only-medium", cell: (row) => <Online online={row.online} /> },
  {
    key: "state",
    header: "State",
    sort: "state",
    cell: (row) => (
      <State state={row.state} />
    ),
  },
  {
    key: "step",
    header: "Step",
    cell: (row) =>
      row.state === "in_progress" ? (
        row.step === "downloading" && row.bytes_total > 0 ? (
          <Measure
            text={`${bytes(row.bytes_done)} of ${bytes(row.bytes_total)}`}
            share={row.bytes_done / row.bytes_total}
            fill="busy"
          />
        ) : row.step === "waiting" ? (
          waitsFor(row.reason?.code)
        ) : (
          wordsOf(row.step) || <span className="soft">waits for the device</span>
        )
      ) : (
        <span className="soft">–</span>
      ),
  },
  {
    key: "bytes",
    header: "Saved",
    align: "right",
    className: "only-wide",
    cell: (row) => (
      <span className="number nowrap" title={row.bytes ? `${bytes(row.bytes.predicted)} of ${bytes(row.bytes.whole)} expected` : undefined}>
        {row.bytes?.fetched ? bytes(row.bytes.saved) : "–"}
      </span>
    ),
  },
  { key: "variant", header: "Variant", className: "only-medium", cell: (row) => <span className="mono nowrap">{row.variant || "–"}</span> },
  { key: "updated", header: "Changed", sort: "updated_at", align: "right", cell: (row) => <Time at={row.updated_at} /> },
];

export function RolloutDevices({ rollout }: { rollout: Rollout }) {
  const { id, policy } = rollout;
  const list = useListState();
  const figures = list.get("figures") === "true";
  const state = DEVICE_STATES.find((name) => name === list.get("state"));
  const reason = list.get("reason");
  const phase = Number(list.get("phase")) || undefined;
  const phaseName = phase && (policy.phases[phase - 1]?.name ?? String(phase));
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/devices",
    { params: { path: { rollout: id }, query: { state, reason, phase, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 10_000 },
  );
  return (
    <Panel
      flush
      id="devices"
      title="Devices"
      aside={
        <div className="filters">
          {phase !== undefined && <FilterChip list={list} names={["phase"]} label={`Phase ${phaseName}`} />}
          {reason && <FilterChip list={list} names={["reason"]} label={reason} />}
          <Select
            aria-label="State"
            placeholder="All states"
            w={140}
            clearable
            clearButtonProps={{ "aria-label": "All states", size: "24px" }}
            data={DEVICE_STATES.map((value) => ({ value, label: wordsOf(value) }))}
            value={state ?? null}
            onChange={(value) => list.set({ state: value })}
          />
          <Search list={list} label="Search devices" />
          <Switch label="Figures" checked={figures} onChange={(event) => list.set({ figures: event.currentTarget.checked ? "true" : null })} />
        </div>
      }
    >
      <DataTable
        label="Devices of this rollout"
        columns={COLUMNS}
        rowKey={(row) => row.device}
        detail={(row) =>
          (row.reason || (figures && hasEvidence(row))) && (
            <>
              {row.reason && (
                <>
                  {row.reason.detail} <span className="mono">({row.reason.code})</span>
                </>
              )}
              {figures && <Evidence seen={row} policy={policy} />}
            </>
          )
        }
        query={query}
        list={list}
        defaultSort="device"
        empty={<Empty icon="search" title="No device matches" />}
      />
    </Panel>
  );
}
