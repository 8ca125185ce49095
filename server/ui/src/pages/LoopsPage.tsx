// All loops: which models learn by themselves, where each stands, and which wait for a person.
import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api } from "../api/client";
import { useLive } from "../api/live";
import { Command, Equivalent } from "../components/Command";
import { DataTable, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Empty, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { LIST_LOOPS, loopFile } from "../cli";
import { standing, triggerWords, waits, type Loop } from "../loops/words";

export function LoopsPage() {
  const list = useListState();
  useLive("loops");
  const query = api.useQuery(
    "get",
    "/api/v1/loops",
    { params: { query: { q: list.q, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 15_000 },
  );
  return (
    <>
      <Head title="Loops" under="Models that learn by themselves: from drift to labels, a retraining and a rollout." />
      <Panel flush title="Models with a loop" aside={<Search list={list} label="Search models" />}>
        <DataTable
          label="Loops"
          columns={COLUMNS}
          rowKey={(loop) => loop.model}
          query={query}
          list={list}
          empty={
            list.q ? (
              <Empty icon="search" title="No loop matches" />
            ) : (
              <Empty icon="loop" title="No model learns by itself yet">
                <p className="soft">
                  Give a model's loop a policy on its page under <Link to="/models">Models</Link>, or on the command line.
                </p>
                <Command text={loopFile("MODEL")} />
              </Empty>
            )
          }
        />
        {!!query.data?.total && (
          <div style={{ padding: "10px 18px 18px" }}>
            <Equivalent text={LIST_LOOPS} />
          </div>
        )}
      </Panel>
    </>
  );
}

const COLUMNS: Column<Loop>[] = [
  {
    key: "model",
    header: "Model",
    cell: (loop) => (
      <Link className="name breakable" to={`/loop/${loop.model}`}>
        {loop.model}
      </Link>
    ),
  },
  { key: "state", header: "State", cell: (loop) => <State state={standing(loop)} /> },
  {
    key: "why",
    header: "Waits for",
    cell: (loop) => (
      <span className="breakable">
        {loop.approval && <b>A person, before the {loop.approval}. </b>}
        {loop.trouble || waits(loop)}
      </span>
    ),
  },
  {
    key: "run",
    header: "Last run",
    cell: ({ model, run }) =>
      run ? (
        <span className="row wrap" style={{ gap: 6 }}>
          <Link className="nowrap" to={`/loop/${model}?run=${run.id}`}>
            {triggerWords(run.trigger)}
          </Link>
          {run.ended_at && <State state={run.state} />}
        </span>
      ) : (
        <span className="soft">none yet</span>
      ),
  },
  { key: "since", header: "Since", align: "right", className: "only-wide", cell: ({ run, changed_at }) => <Time at={run?.since ?? changed_at} /> },
];
