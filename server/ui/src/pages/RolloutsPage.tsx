import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Bar, rolloutParts } from "../components/Bars";
import { Command } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Empty, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { startRollout, USUAL } from "../rollouts/choice";
import { count } from "../format";

type Rollout = Schemas["RolloutInfo"];

const STATES = ["running", "paused", "completed", "aborted"] as const;

const COLUMNS: Column<Rollout>[] = [
  {
    key: "id",
    header: "Rollout",
    cell: (rollout) => (
      <Link className="name mono nowrap" to={`/rollouts/${rollout.id}`}>
        {rollout.id}
      </Link>
    ),
  },
  {
    key: "version",
    header: "Version",
    sort: "model",
    cell: (rollout) => (
      <Link className="nowrap" to={`/models/${rollout.model}/${encodeURIComponent(rollout.version)}`}>
        {rollout.model} {rollout.version}
      </Link>
    ),
  },
  {
    key: "state",
    header: "State",
    sort: "state",
    cell: (rollout) => (
      <State state={rollout.state} />
    ),
  },
  {
    key: "progress",
    header: "Devices",
    cell: ({ id, counts, phase, state }) => (
      <div style={{ minWidth: 150 }}>
        <div className="number" style={{ marginBottom: 3 }}>
          <Link className="underlined" to={`/rollouts/${id}?state=committed#devices`}>
            {count(counts.committed)}
          </Link>{" "}
          <span className="soft">
            of <Link to={`/rollouts/${id}#devices`}>{count(counts.total)}</Link> committed
          </span>
          {phase && state !== "completed" && state !== "aborted" && (
            <span className="soft">
              {" "}
              · {phase.name}, {phase.number} of {phase.phases}
            </span>
          )}
        </div>
        <Bar size="small" label={`Rollout ${id}`} parts={rolloutParts(counts)} />
      </div>
    ),
  },
  { key: "by", header: "By", className: "only-wide", cell: (rollout) => rollout.created_by },
  { key: "started", header: "Started", sort: "created_at", align: "right", cell: (rollout) => <Time at={rollout.created_at} /> },
  {
    key: "ended",
    header: "Ended",
    align: "right",
    className: "only-wide",
    cell: (rollout) => <Time at={rollout.finished_at} never="–" />,
  },
];

export function RolloutsPage() {
  const list = useListState();
  const state = STATES.find((name) => name === list.get("state"));
  const model = list.get("model");
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts",
    { params: { query: { state, model, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 5_000 },
  );
  return (
    <>
      <Head
        title="Rollouts"
        actions={
          <Action needs="operator" icon="plus" to="/rollouts/new">
            Start rollout
          </Action>
        }
      />
      <Panel
        flush
        title="All rollouts"
        aside={
          <div className="filters">
            {model && <FilterChip list={list} names={["model"]} label={`Model ${model}`} />}
            <Select
              aria-label="State"
              placeholder="All states"
              w={150}
              clearable
              clearButtonProps={{ "aria-label": "All states", size: "24px" }}
              data={STATES.map((value) => ({ value, label: value.charAt(0).toUpperCase() + value.slice(1) }))}
              value={state ?? null}
              onChange={(value) => list.set({ state: value })}
            />
            <Search list={list} label="Search rollouts" />
          </div>
        }
      >
        <DataTable
          label="Rollouts"
          columns={COLUMNS}
          rowKey={(rollout) => rollout.id}
          detail={(rollout) => rollout.note}
          query={query}
          list={list}
          defaultSort="-created_at"
          empty={
            state || model || list.q ? (
              <Empty icon="search" title="No rollout matches">
                <Button variant="default" size="xs" onClick={() => list.set({ state: null, model: null, q: null })}>
                  Clear filters
                </Button>
              </Empty>
            ) : (
              <Empty icon="rollout" title="Nothing has been rolled out yet">
                <p className="soft">Choose a version that is ready, and the devices that shall run it.</p>
                <Command text={startRollout(USUAL)} />
              </Empty>
            )
          }
        />
      </Panel>
    </>
  );
}
