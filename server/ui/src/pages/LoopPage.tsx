// The loop of a model: where it stands and what it waits for, and the whole story of a run.
import { keepPreviousData } from "@tanstack/react-query";
import { Button } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { Measure } from "../components/Bars";
import { Equivalent } from "../components/Command";
import { DataTable, FilterChip, useListState, type Column, type ListState } from "../components/DataTable";
import { Empty, Head, Loaded, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time, useNow } from "../components/Time";
import { explainLoop, loopFile, loopRuns } from "../cli";
import { span } from "../format";
import { Actions } from "../loops/Actions";
import { Figures } from "../loops/Figures";
import { EditPolicy, PolicyPanel } from "../loops/Policy";
import { Steps } from "../loops/Steps";
import { Track } from "../loops/Track";
import { seconds, standing, triggerWords, waits, type Loop, type Run } from "../loops/words";

const RUNS_SHOWN = 10;
const LOOK_MS = 15_000;

export function LoopPage() {
  const { name = "" } = useParams();
  useLive("loops", "samples");
  const query = api.useQuery("get", "/api/v1/models/{name}/loop", { params: { path: { name } } }, { refetchInterval: LOOK_MS });
  return (
    <Loaded query={query} back={["All loops", "/loop"]}>
      {(loop) => <Inside loop={loop} />}
    </Loaded>
  );
}

function Inside({ loop }: { loop: Loop }) {
  const list = useListState();
  const asked = list.get("run");
  const earlier = asked !== undefined && asked !== loop.run?.id;
  const run = asked ?? loop.run?.id;
  return (
    <>
      <Head
        crumbs={[["Loops", "/loop"]]}
        title={`The loop of ${loop.model}`}
        beside={<State state={standing(loop)} />}
        under={
          <>
            <Link to={`/models/${loop.model}`}>the model</Link> · <Link to={`/drift/${loop.model}`}>its drift</Link> · <Link to={`/labels/${loop.model}`}>label</Link>
          </>
        }
        actions={loop.policy && <Actions loop={loop} />}
      />
      <div className="stack">
        {!loop.policy && <NoPolicy loop={loop} />}
        {loop.policy && <Now loop={loop} />}
        {earlier && (
          <div className="filters">
            <FilterChip list={list} names={["run"]} label={`Run ${asked}`} />
          </div>
        )}
        {run && <Told model={loop.model} id={run} />}
        {loop.policy && <PolicyPanel loop={loop} />}
        <Runs model={loop.model} list={list} />
      </div>
    </>
  );
}

function NoPolicy({ loop }: { loop: Loop }) {
  return (
    <Panel>
      <Empty icon="loop" title={`${loop.model} does not learn by itself`}>
        <p className="soft">With a policy, drift sets off samples, labels, a retraining and a rollout; as far as the policy lets it go without a person.</p>
        <EditPolicy loop={loop} />
        <Equivalent text={loopFile(loop.model)} />
      </Empty>
    </Panel>
  );
}

/** What it waits for, in one sentence, and who can do something about it. */
function Now({ loop }: { loop: Loop }) {
  const tone = loop.approval || loop.paused ? "warn" : loop.state === "watching" ? undefined : "busy";
  if (loop.trouble) {
    return (
      <Note tone="bad" alert>
        <strong>What it tried has failed; it tries again</strong>
        <p className="breakable">{loop.trouble}</p>
      </Note>
    );
  }
  return (
    <Note tone={tone} icon={loop.approval || loop.paused ? "people" : loop.state === "watching" ? "search" : "clock"}>
      <div role="status">
        <strong>{loop.approval ? `It waits for a person before the ${loop.approval}` : loop.paused ? "A person has paused it" : "Now"}</strong>
        <p className="breakable">{waits(loop)}.</p>
      </div>
    </Note>
  );
}

function sentence(why: string): string {
  return why.charAt(0).toUpperCase() + why.slice(1);
}

function Told({ model, id }: { model: string; id: string }) {
  const query = api.useQuery(
    "get",
    "/api/v1/models/{name}/loop/runs/{run}",
    { params: { path: { name: model, run: id } } },
    { placeholderData: keepPreviousData, refetchInterval: LOOK_MS },
  );
  const run = query.data;
  useLive(run?.retraining && `job:${run.retraining}`, run?.rollout && `rollout:${run.rollout}`, run?.version && `version:${model}@${run.version}`);
  return (
    <Loaded query={query} back={["The loop now", `/loop/${model}`]}>
      {(found) => (
        <>
          <Panel
            title={found.ended_at ? "The last run" : "The run under way"}
            aside={
              <span className="row" style={{ gap: 8 }}>
                <State state={found.state} />
                <span className="soft small">
                  since <Time at={found.since} />
                </span>
              </span>
            }
          >
            <Track run={found} />
            <Collecting run={found} />
            {found.ended_at && <p className="breakable" style={{ marginTop: 10 }}>{sentence(found.note)}</p>}
            <div style={{ marginTop: 14 }}>
              <Equivalent text={explainLoop(model, id)} />
            </div>
          </Panel>
          <Figures run={found} />
          <Steps run={found} />
        </>
      )}
    </Loaded>
  );
}

/** While it collects: how many labels there are, and where more are made. */
function Collecting({ run }: { run: Run }) {
  const now = useNow();
  if (run.collect_until === null || run.labels_min === null) return null;
  const left = Math.max(0, (Date.parse(run.collect_until) - now) / 1000);
  return (
    <div className="row apart wrap" style={{ marginTop: 14 }}>
      <div className="grow" style={{ maxWidth: 420 }}>
        <Measure text={`${run.labelled} of ${run.labels_min} labels, ${run.samples} samples`} share={run.labelled / run.labels_min} />
        <p className="soft small">It gives up in {span(Math.round(left))}, if they have not come by then.</p>
      </div>
      <Button component={Link} to={`/labels/${run.model}`}>
        Label samples
      </Button>
    </div>
  );
}

type RunRow = Schemas["LoopRunInfo"];

function Runs({ model, list }: { model: string; list: ListState }) {
  const query = api.useQuery(
    "get",
    "/api/v1/models/{name}/loop/runs",
    { params: { path: { name: model }, query: { offset: list.offset, limit: RUNS_SHOWN } } },
    { placeholderData: keepPreviousData },
  );
  if (query.data?.total === 0 && !query.error) return null;
  return (
    <Panel flush title="All runs">
      <DataTable label="All runs" columns={COLUMNS} rowKey={(run) => run.id} query={query} list={list} empty={<Empty icon="search" title="No run on this page" />} />
      <div style={{ padding: "10px 18px 18px" }}>
        <Equivalent text={loopRuns(model)} />
      </div>
    </Panel>
  );
}

const COLUMNS: Column<RunRow>[] = [
  {
    key: "run",
    header: "Run",
    cell: (run) => (
      <Link className="mono" to={`/loop/${run.model}?run=${run.id}`}>
        {run.id.slice(0, 8)}
      </Link>
    ),
  },
  { key: "state", header: "State", cell: (run) => <State state={run.state} /> },
  { key: "trigger", header: "Set off by", cell: (run) => triggerWords(run.trigger) },
  {
    key: "version",
    header: "Version",
    cell: (run) => (run.version ? <Link to={`/models/${run.model}/${encodeURIComponent(run.version)}`}>{run.version}</Link> : <span className="soft">none</span>),
  },
  { key: "note", header: "How it ended", className: "only-wide", cell: (run) => <span className="breakable">{run.ended_at ? run.note : "under way"}</span> },
  { key: "took", header: "Took", align: "right", className: "only-wide", cell: (run) => <Took run={run} /> },
  { key: "began", header: "Begun", align: "right", cell: (run) => <Time at={run.began_at} /> },
];

function Took({ run }: { run: RunRow }) {
  const now = useNow();
  return <span className="number nowrap">{span(Math.round(seconds(run.began_at, run.ended_at, now)))}</span>;
}
