// What has happened in a run, step by step: when, for how long, why, and what was made.
import type { ReactNode } from "react";
import { Link } from "react-router";

import { Panel } from "../components/Panels";
import { StateMarker, wordsOf } from "../components/State";
import { Time, useNow } from "../components/Time";
import { clock, plural, span } from "../format";
import { DatasetStep, RolloutStep, TrainingStep, VersionStep } from "./Made";
import { seconds, triggerWords, type Run, type Step } from "./words";

export function Steps({ run }: { run: Run }) {
  const now = useNow();
  return (
    <Panel title="Step by step" aside={<span className="soft small mono">{run.id}</span>}>
      <ol className="timeline" aria-label="Steps of this run">
        <li>
          <span className="marker">
            <span className="dot" data-tone="bad" />
          </span>
          <Title name={triggerWords(run.trigger)} at={run.noticed_at ?? run.began_at} />
          <p className="small breakable">
            {run.trigger.detail}
            {run.trigger.kind === "drift" && (
              <>
                {" · "}
                <Link to={`/drift/${run.model}`}>what has moved</Link>
              </>
            )}
          </p>
        </li>
        {run.steps.map((step, number) => (
          <li key={`${step.state} ${step.began_at}`}>
            <StateMarker state={step.state} newest={number === run.steps.length - 1} />
            <Title
              name={wordsOf(step.state)}
              at={step.began_at}
              took={isEnd(step) ? undefined : `${span(Math.round(seconds(step.began_at, step.ended_at, now)))}${step.ended_at === null ? " so far" : ""}`}
            />
            <p className="soft small breakable">{step.why}</p>
            <Body run={run} step={step} />
            {step.notes.map((note) => noteOf(note, step)).filter(Boolean)}
          </li>
        ))}
      </ol>
    </Panel>
  );
}

function isEnd({ state }: Step): boolean {
  return state === "promoted" || state === "rejected" || state === "rolled-back";
}

function Title({ name, at, took }: { name: string; at: string; took?: string }) {
  return (
    <div className="row apart wrap" style={{ alignItems: "baseline" }}>
      <h3 className="step-title">
        {name}
        {took && <span className="tag number">{took}</span>}
      </h3>
      <span className="soft small number">
        {clock(Date.parse(at))} · <Time at={at} />
      </span>
    </div>
  );
}

/** Pauses, approvals and what went wrong meanwhile; that samples were asked for is no news. */
function noteOf(note: Step["notes"][number], step: Step): ReactNode {
  if (note.kind === step.state) return null;
  const words = String(note.data.reason ?? note.data.why ?? "");
  return (
    <p key={note.id} className="small breakable">
      <b>{note.actor}</b>: {note.kind}
      {words && `, ${words}`} <span className="soft">· {clock(Date.parse(note.at))}</span>
    </p>
  );
}

function Body({ run, step }: { run: Run; step: Step }) {
  switch (step.state) {
    case "collecting":
      return (
        <p className="small number">
          <Link to={`/labels/${run.model}`}>{plural(run.labelled, "label")}</Link>
          {run.labels_min !== null && ` of ${run.labels_min} asked for`}
          {run.samples >= run.labelled && (
            <>
              {", "}
              <Link to={`/samples?model=${run.model}`}>{plural(run.samples, "sample")}</Link>
            </>
          )}
        </p>
      );
    case "dataset":
      return run.dataset && <DatasetStep id={run.dataset} />;
    case "training":
      return run.retraining && <TrainingStep id={run.retraining} />;
    case "gated":
      return run.version && <VersionStep model={run.model} version={run.version} parent={run.parent} />;
    case "canary":
      return run.rollout && <RolloutStep id={run.rollout} />;
    default:
      return null;
  }
}
