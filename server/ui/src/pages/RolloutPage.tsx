import { Link, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { Head, Loaded, Note } from "../components/Panels";
import { useStaleSince } from "../components/Stale";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { clock } from "../format";
import { Actions } from "../rollouts/Actions";
import { History } from "../rollouts/History";
import { Phases } from "../rollouts/Phases";
import { PolicyPanel } from "../rollouts/PolicyPanel";
import { Reasons } from "../rollouts/Reasons";
import { RolloutDevices } from "../rollouts/RolloutDevices";
import { Service } from "../rollouts/Service";

type Rollout = Schemas["RolloutInfo"];

export function RolloutPage() {
  const { id = "" } = useParams();
  useLive(`rollout:${id}`);
  const query = api.useQuery("get", "/api/v1/rollouts/{rollout}", { params: { path: { rollout: id } } }, { refetchInterval: 15_000 });
  return (
    <Loaded query={query} back={["All rollouts", "/rollouts"]}>
      {(rollout) => <Inside rollout={rollout} />}
    </Loaded>
  );
}

function Inside({ rollout }: { rollout: Rollout }) {
  const version = `${rollout.model} ${rollout.version}`;
  return (
    <>
      <Head
        crumbs={[["Rollouts", "/rollouts"]]}
        title={
          <Link to={`/models/${rollout.model}/${encodeURIComponent(rollout.version)}`} style={{ color: "inherit" }}>
            {version}
          </Link>
        }
        beside={
          <>
            <State state={rollout.state} />
            <span className="soft mono">{rollout.id}</span>
          </>
        }
        under={
          <>
            Started <Time at={rollout.created_at} /> by {rollout.created_by}
            {rollout.finished_at && (
              <>
                {" "}
                · ended <Time at={rollout.finished_at} />
              </>
            )}
          </>
        }
        actions={<Actions rollout={rollout} />}
      />
      <StaleNote />
      {rollout.note && !(rollout.state === "running" && rollout.note.startsWith("phase ")) && (
        <Note tone={rollout.state === "paused" ? "warn" : rollout.state === "aborted" ? "bad" : undefined}>{rollout.note}</Note>
      )}
      <Phases rollout={rollout} />
      <div className="columns">
        <div className="stack">
          <Reasons id={rollout.id} total={rollout.counts.total} />
          <RolloutDevices rollout={rollout} />
        </div>
        <div className="stack">
          <Service id={rollout.id} version={rollout.version} ended={rollout.finished_at !== null} />
          <PolicyPanel rollout={rollout} />
          <History id={rollout.id} />
        </div>
      </div>
    </>
  );
}

function StaleNote() {
  const since = useStaleSince();
  if (since === null) return null;
  return (
    <Note tone="warn" alert>
      <strong>Stale since {clock(since)}.</strong> The server sends no changes: numbers below may be old. The page goes on by itself when it answers again.
    </Note>
  );
}
