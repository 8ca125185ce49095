// All datasets: what labelled samples have become, to train and to measure.
import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Command, Equivalent } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Empty, Head, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { createDataset, listDatasets } from "../cli";
import { bytes, count } from "../format";

type Dataset = Schemas["DatasetInfo"];

export function DatasetsPage() {
  const list = useListState();
  const model = list.get("model");
  const query = api.useQuery(
    "get",
    "/api/v1/datasets",
    { params: { query: { model, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 15_000 },
  );
  return (
    <>
      <Head title="Datasets" under="Labelled samples as they were at one moment: they never change, and say what a model was trained on." />
      <Panel flush title="All datasets" aside={<Search list={list} label="Search datasets" />}>
        {model && (
          <div className="above-table">
            <div className="filters">
              <FilterChip list={list} names={["model"]} label={`Model ${model}`} />
            </div>
          </div>
        )}
        <DataTable
          label="Datasets"
          columns={COLUMNS}
          rowKey={(one) => one.id}
          query={query}
          list={list}
          defaultSort="-created_at"
          empty={
            list.q || model ? (
              <Empty icon="search" title="No dataset matches" />
            ) : (
              <Empty icon="data" title="No dataset has been made yet">
                <p className="soft">
                  They are made of <Link to="/labels">labelled samples</Link>: by a <Link to="/loop">loop</Link>, or on the command line.
                </p>
              </Empty>
            )
          }
        />
        <div style={{ padding: "10px 18px 18px" }} className="stack">
          {query.data?.total === 0 && <Command text={createDataset(model ?? "MODEL")} />}
          {!!query.data?.total && <Equivalent text={listDatasets(model)} />}
        </div>
      </Panel>
    </>
  );
}

const COLUMNS: Column<Dataset>[] = [
  {
    key: "name",
    header: "Dataset",
    sort: "name",
    cell: (one) => (
      <Link className="name breakable" to={`/datasets/${one.name}`}>
        {one.name}
      </Link>
    ),
  },
  { key: "model", header: "Model", cell: (one) => <Link to={`/models/${one.model}`}>{one.model}</Link> },
  { key: "rows", header: "Rows", sort: "rows", align: "right", cell: (one) => <span className="number">{count(one.rows)}</span> },
  {
    key: "splits",
    header: "Train, validation, test",
    className: "only-wide",
    cell: (one) => <span className="number nowrap">{["train", "validation", "test"].map((split) => count(one.splits[split] ?? 0)).join(", ")}</span>,
  },
  { key: "bytes", header: "Size", align: "right", className: "only-wide", cell: (one) => <span className="number nowrap">{bytes(one.bytes)}</span> },
  { key: "by", header: "By", className: "only-wide", cell: (one) => one.created_by },
  { key: "made", header: "Made", sort: "created_at", align: "right", cell: (one) => <Time at={one.created_at} /> },
];
