// The phases as bars: what has become of the devices of each, where it stands now, what its gates say.
import { useEffect, useState } from "react";
import { Skeleton } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Bar, Legend, rolloutParts } from "../components/Bars";
import { ErrorPanel, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { bytes, count, plural, share, span } from "../format";

type Rollout = Schemas["RolloutInfo"];
type Phase = Schemas["PhaseInfo"];

export function Phases({ rollout }: { rollout: Rollout }) {
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/phases",
    { params: { path: { rollout: rollout.id } } },
    { refetchInterval: 15_000 },
  );
  return (
    <Panel>
      <Whole rollout={rollout} />
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {!query.data && !query.error && <Skeleton height={70} mt="md" />}
      {query.data && query.data.length > 1 && (
        <ol className="phases" aria-label="Phases">
          {query.data.map((phase) => (
            <PhaseRow key={phase.number} phase={phase} rollout={rollout} last={phase.number === query.data.length} />
          ))}
        </ol>
      )}
    </Panel>
  );
}

function Whole({ rollout }: { rollout: Rollout }) {
  const { counts } = rollout;
  const parts = rolloutParts(counts, (state) => `?state=${state}#devices`);
  return (
    <>
      <div className="row apart wrap" style={{ alignItems: "baseline", marginBottom: 10 }}>
        <span>
          <span className="tile-value">{share(counts.total ? counts.committed / counts.total : 0, 0)}</span>{" "}
          <span className="soft number">
            <Link to="?state=committed#devices" replace>
              {count(counts.committed)}
            </Link>{" "}
            of{" "}
            <Link to="?#devices" replace>
              {plural(counts.total, "device")}
            </Link>{" "}
            committed
          </span>
        </span>
        <Transfer of={rollout.bytes} />
      </div>
      <Bar size="large" label={`Rollout ${rollout.id}, ${plural(counts.total, "device")}`} parts={parts} />
      <div style={{ marginTop: 12 }}>
        <Legend parts={parts} />
      </div>
    </>
  );
}

/** What fetching was expected to cost, and what it has saved. */
function Transfer({ of }: { of: Rollout["bytes"] }) {
  if (!of.whole) return null;
  return (
    <span className="soft number">
      {bytes(of.predicted)} of {bytes(of.whole)} expected to be fetched
      {of.fetched > 0 && (
        <>
          {" · "}
          {bytes(of.fetched)} fetched, <b>{bytes(of.saved)} saved</b>
        </>
      )}
    </span>
  );
}

function PhaseRow({ phase, rollout, last }: { phase: Phase; rollout: Rollout; last: boolean }) {
  const parts = rolloutParts(phase.counts, (state) =>
    state === "pending" ? undefined : `?phase=${phase.number}&state=${state}#devices`,
  )
    // Who waits belongs to no phase yet: what a phase has left is places, not devices.
    .map((part) => (part.to ? part : { ...part, name: "Open places" }))
    .filter((part) => part.value > 0);
  const current = phase.standing === "current";
  const never = phase.standing === "next" && rollout.finished_at !== null;
  return (
    <li aria-current={current ? "step" : undefined} data-standing={phase.standing}>
      <div className="row apart wrap" style={{ alignItems: "baseline" }}>
        <h2>
          {phase.name}
          {phase.standing === "past" && rollout.state !== "aborted" && <span className="hidden"> (passed)</span>}
        </h2>
        <span className="soft small">
          {never ? "never came to it" : current ? <Step rollout={rollout} last={last} /> : phase.standing === "past" ? <Took phase={phase} /> : <Plan phase={phase} last={last} />}
        </span>
      </div>
      {parts.length > 0 && <Bar label={`Phase ${phase.name}`} parts={parts} />}
      {parts.length > 0 && <Legend parts={parts} />}
      {current && !!rollout.phase?.verdicts.length && <Verdicts verdicts={rollout.phase.verdicts} />}
    </li>
  );
}

function Took({ phase }: { phase: Phase }) {
  if (!phase.began_at || !phase.ended_at) return null;
  const took = (Date.parse(phase.ended_at) - Date.parse(phase.began_at)) / 1000;
  return (
    <>
      took {span(Math.round(took))}, ended <Time at={phase.ended_at} />
    </>
  );
}

function Plan({ phase, last }: { phase: Phase; last: boolean }) {
  const parts = last ? [] : [phase.soak_s > 0 && `soaks ${span(phase.soak_s)}`, phase.approval && "asks for approval"].filter(Boolean);
  return <>{["not begun", ...parts].join(", ")}</>;
}

/** What the phase that is on waits for. */
function Step({ rollout, last }: { rollout: Rollout; last: boolean }) {
  const { phase, state } = rollout;
  if (!phase || state === "paused") return <>paused</>;
  if (phase.step === "soaking" && phase.soaks_until) {
    return (
      <>
        <b>soaks</b> for another <Countdown until={phase.soaks_until} />
      </>
    );
  }
  if (phase.step === "gates") return <b>waits for its gates</b>;
  if (phase.step === "approval") return <b>waits for your approval</b>;
  return (
    <>
      {count(phase.admitted)} of {plural(phase.target, "device")} {last ? "in all" : "so far"} had their turn
    </>
  );
}

function Countdown({ until }: { until: string }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  const left = Math.max(0, Math.round((Date.parse(until) - now) / 1000));
  const [hours, minutes, rest] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60];
  const padded = (value: number) => String(value).padStart(2, "0");
  return (
    <time dateTime={`PT${left}S`} role="timer" className="number">
      {hours > 0 ? `${hours}:${padded(minutes)}:${padded(rest)}` : `${minutes}:${padded(rest)}`}
    </time>
  );
}

/** Whatever gates there are: each says its name, its verdict and its figures. */
function Verdicts({ verdicts }: { verdicts: Schemas["VerdictInfo"][] }) {
  return (
    <ul className="plain-list verdicts" aria-label="Gates of this phase">
      {verdicts.map((one) => (
        <li key={one.gate}>
          <State state={one.verdict} /> <b>{gateName(one.gate)}</b> <span className="soft breakable number">{one.detail}</span>
        </li>
      ))}
    </ul>
  );
}

export function gateName(gate: string): string {
  const words = gate.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
