import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Command } from "../components/Command";
import { DataTable, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Empty, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { PUSH } from "../cli";
import { bytes, count } from "../format";
import { measured } from "../models/metrics";
import { desiredOn } from "../models/RunningPanel";

type Model = Schemas["ModelSummary"];

const COLUMNS: Column<Model>[] = [
  {
    key: "name",
    header: "Model",
    sort: "name",
    cell: (model) => (
      <Link className="name" to={`/models/${model.name}`}>
        {model.name}
      </Link>
    ),
  },
  {
    key: "latest",
    header: "Latest version",
    cell: ({ name, latest }) =>
      latest ? (
        <span className="row wrap">
          <Link to={`/models/${name}/${encodeURIComponent(latest.version)}`}>{latest.version}</Link>
          <State state={latest.state} />
        </span>
      ) : (
        "–"
      ),
  },
  {
    key: "metric",
    header: "fp32",
    className: "only-medium",
    cell: ({ latest }) =>
      latest?.reference == null ? (
        "–"
      ) : (
        <span className="nowrap">
          <span className="number">{measured(latest.metric, latest.reference)}</span> <span className="soft">{latest.metric}</span>
        </span>
      ),
  },
  {
    key: "best",
    header: "First choice",
    className: "only-medium",
    cell: ({ latest }) =>
      latest?.best ? (
        <>
          <span className="mono">{latest.best.variant}</span>{" "}
          <span className="soft number nowrap">{bytes(latest.best.model_bytes)}</span>
        </>
      ) : (
        "–"
      ),
  },
  {
    key: "versions",
    header: "Versions",
    align: "right",
    cell: (model) => (
      <Link className="number" to={`/models/${model.name}`} aria-label={`${count(model.versions)} versions of ${model.name}`}>
        {count(model.versions)}
      </Link>
    ),
  },
  {
    key: "running",
    header: "Devices",
    align: "right",
    cell: (model) => (
      <span className="number nowrap">
        <Link className="target" to={`/fleet?model=${model.name}`} title="run it">
          {count(model.devices_running)}
        </Link>{" "}
        <span className="soft">of</span>{" "}
        <Link className="target" to={desiredOn(model.name)} title="are ordered to run it">
          {count(model.devices_desired)}
        </Link>
      </span>
    ),
  },
  { key: "pushed", header: "Pushed", align: "right", className: "only-medium", cell: ({ latest }) => <Time at={latest?.created_at} /> },
];

export function ModelsPage() {
  const list = useListState();
  const query = api.useQuery(
    "get",
    "/api/v1/models",
    { params: { query: { q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 5_000 },
  );
  return (
    <>
      <Head title="Models" />
      <Panel flush title="Registry" aside={<Search list={list} label="Search models" />}>
        <DataTable
          label="Models"
          columns={COLUMNS}
          rowKey={(model) => model.name}
          query={query}
          list={list}
          defaultSort="name"
          empty={
            list.q ? (
              <Empty icon="search" title="No model matches" />
            ) : (
              <Empty icon="model" title="No model has been pushed yet">
                <p className="soft">Push one from where it was trained. It is checked, quantized, measured and signed here.</p>
                <Command text={PUSH} />
              </Empty>
            )
          }
        />
      </Panel>
    </>
  );
}
