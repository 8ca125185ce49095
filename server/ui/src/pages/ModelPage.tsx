import { keepPreviousData } from "@tanstack/react-query";
import { Button } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Equivalent } from "../components/Command";
import { DataTable, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Empty, Head, Loaded, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { pushVersion } from "../cli";
import { bytes, count, plural, points } from "../format";
import { LineageGraph } from "../models/LineageGraph";
import { measured } from "../models/metrics";
import { desiredOn, RunningPanel } from "../models/RunningPanel";
import { compareAddress } from "./ComparePage";

type Version = Schemas["VersionSummary"];

/** Versions that are drawn, the newest. */
const FAMILY_MAX = 200;

const COLUMNS: Column<Version>[] = [
  {
    key: "version",
    header: "Version",
    sort: "version",
    cell: (row) => (
      <Link className="name" to={`/models/${row.model}/${encodeURIComponent(row.version)}`}>
        {row.version}
      </Link>
    ),
  },
  { key: "state", header: "State", sort: "state", cell: (row) => <State state={row.state} /> },
  {
    key: "metric",
    header: "fp32",
    align: "right",
    cell: ({ metric, reference }) =>
      reference == null ? (
        "–"
      ) : (
        <>
          <span className="number nowrap">{measured(metric, reference)}</span>
          <div className="soft small">{metric}</div>
        </>
      ),
  },
  {
    key: "best",
    header: "First choice",
    cell: ({ best }) => (best ? <span className="mono">{best.variant}</span> : <span className="soft">–</span>),
  },
  {
    key: "size",
    header: "Size",
    align: "right",
    cell: ({ best, source_bytes }) => (
      <span className="number nowrap">
        {best ? bytes(best.model_bytes) : "–"} <span className="soft only-wide">of {bytes(source_bytes)}</span>
      </span>
    ),
  },
  {
    key: "change",
    header: "Points",
    align: "right",
    cell: ({ best }) => <span className="number nowrap">{points(best?.trial.drop_points)}</span>,
  },
  {
    key: "running",
    header: "Running on",
    align: "right",
    cell: (row) => (
      <Link className="number" to={`/fleet?model=${row.model}&version=${encodeURIComponent(row.version)}`}>
        {count(row.devices_running)}
      </Link>
    ),
  },
  {
    key: "compare",
    header: "Compare",
    className: "only-wide",
    cell: (row) =>
      row.parent ? (
        <Link className="nowrap" to={compareAddress(row.model, row.parent, row.version)}>
          with {row.parent}
        </Link>
      ) : (
        <span className="soft">–</span>
      ),
  },
  { key: "by", header: "By", className: "only-wide", cell: (row) => row.created_by },
  { key: "pushed", header: "Pushed", sort: "created_at", align: "right", cell: (row) => <Time at={row.created_at} /> },
];

export function ModelPage() {
  const { name = "" } = useParams();
  const list = useListState();
  const model = api.useQuery("get", "/api/v1/models/{name}", { params: { path: { name } } });
  const versions = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions",
    { params: { path: { name }, query: { q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 5_000, enabled: model.data !== undefined },
  );
  const family = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions",
    { params: { path: { name }, query: { limit: FAMILY_MAX } } },
    { refetchInterval: 30_000, enabled: model.data !== undefined },
  );
  const [newest, before] = family.data?.items.filter((version) => version.best) ?? [];
  return (
    <Loaded query={model} back={["All models", "/models"]}>
      {(found) => (
        <>
          <Head
            crumbs={[["Models", "/models"]]}
            title={found.name}
            under={
              <>
                {plural(found.versions, "version")} ·{" "}
                <Link to={`/fleet?model=${found.name}`}>running on {plural(found.devices_running, "device")}</Link>,{" "}
                <Link to={desiredOn(found.name)}>desired on {count(found.devices_desired)}</Link>
              </>
            }
            actions={
              <>
              {newest && before && (
                <Button component={Link} variant="default" to={compareAddress(found.name, before.version, newest.version)}>
                  Compare versions
                </Button>
              )}
              <Button component={Link} variant="default" to={`/loop/${found.name}`}>
                Loop
              </Button>
              <Action needs="operator" icon="rollout" to={`/rollouts/new?model=${found.name}`}>
                Start rollout
              </Action>
              </>
            }
          />
          <div className="stack">
            {family.data && <LineageGraph versions={family.data.items} total={family.data.total} />}
            <Panel flush title="Versions" aside={<Search list={list} label="Search versions" />}>
              <DataTable
                label="Versions"
                columns={COLUMNS}
                rowKey={(row) => row.version}
                query={versions}
                list={list}
                defaultSort="-created_at"
                empty={<Empty icon={list.q ? "search" : "model"} title={list.q ? "No version matches" : "No version yet"} />}
              />
            </Panel>
            <RunningPanel model={found.name} />
            <Panel title="Push the next version">
              <Equivalent text={pushVersion(found.name)} />
            </Panel>
          </div>
        </>
      )}
    </Loaded>
  );
}
