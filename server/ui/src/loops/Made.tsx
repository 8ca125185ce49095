// What a run has made: dataset, candidate with its gates, version, rollout. Each is asked for where it stands.
import { Link } from "react-router";

import { api, asApiError, type Schemas } from "../api/client";
import { Bar, rolloutParts } from "../components/Bars";
import { Command } from "../components/Command";
import { ErrorPanel } from "../components/Panels";
import { State } from "../components/State";
import { retrainingLog, showDataset } from "../cli";
import { bytes, count, plural, share } from "../format";
import { gateName } from "../rollouts/Phases";
import { compareAddress } from "../pages/ComparePage";
import { rate } from "./words";

const SLOW_MS = 15_000;
const LIVE_MS = 2_000;

export function DatasetStep({ id }: { id: string }) {
  const { data, error } = api.useQuery("get", "/api/v1/datasets/{dataset}", { params: { path: { dataset: id } } });
  if (error) return asApiError(error).status === 404 ? <p className="soft small">Deleted since.</p> : <ErrorPanel error={error} />;
  if (!data) return null;
  const { info } = data;
  const splits = ["train", "validation", "test"].filter((name) => info.splits[name]).map((name) => `${count(info.splits[name])} ${name}`);
  return (
    <div className="made">
      <p className="small number breakable">
        <Link to={`/datasets/${info.name}`}>
          <b>{info.name}</b>
        </Link>
        : {plural(info.rows, "row")} ({splits.join(", ")}), {bytes(info.bytes)}, split by {info.split_by}
      </p>
      <Command text={showDataset(info.name)} />
    </div>
  );
}

export function TrainingStep({ id }: { id: string }) {
  const { data, error } = api.useQuery("get", "/api/v1/retrainings/{retraining}", { params: { path: { retraining: id } } }, {
    refetchInterval: (query) => (atWork(query.state.data?.state) ? LIVE_MS : SLOW_MS),
  });
  if (error) return <ErrorPanel error={error} />;
  if (!data) return null;
  const { progress } = data;
  const runs = atWork(data.state);
  const metrics = Object.entries(data.metrics);
  return (
    <div className="made">
      <p className="small number breakable">
        <State state={data.state} /> trainer <b>{data.trainer}</b>, from version {data.parent}
        {runs && ` · ${[progress.stage, progress.message].filter(Boolean).join(": ")}`}
        {runs && progress.total ? ` · ${count(progress.done)} of ${count(progress.total)}` : ""}
      </p>
      {runs && !!progress.total && (
        <Bar
          size="small"
          label="Training"
          parts={[
            { name: "Done", value: progress.done ?? 0, fill: "busy" },
            { name: "To do", value: Math.max(0, progress.total - (progress.done ?? 0)), fill: "none" },
          ]}
        />
      )}
      {data.error && (
        <p className="small breakable">
          {data.error.detail} <span className="mono soft">{data.error.code}</span>
        </p>
      )}
      {data.verdicts.length > 0 && <Gates of={data} />}
      {metrics.length > 0 && (
        <details open={runs}>
          <summary className="small soft">{plural(metrics.length, "figure")} of the trainer</summary>
          <dl className="facts small" style={{ marginTop: 6 }}>
            {metrics.map(([name, value]) => (
              <div key={name} style={{ display: "contents" }}>
                <dt className="breakable">{name}</dt>
                <dd className="number">{Number(value.toPrecision(5))}</dd>
              </div>
            ))}
          </dl>
        </details>
      )}
      {data.log && (
        <details open={runs}>
          <summary className="small soft">Log</summary>
          <pre className="log" tabIndex={0} aria-label="Log of the trainer">
            {data.log}
          </pre>
        </details>
      )}
      {data.tracking && <Tracked of={data.tracking} />}
      <Command text={retrainingLog(id)} />
    </div>
  );
}

function atWork(state?: string) {
  return state === "running" || state === "queued";
}

/** What MLflow was told of it. */
function Tracked({ of }: { of: NonNullable<Schemas["RetrainingDetail"]["tracking"]> }) {
  return (
    <p className="small breakable">
      MLflow:{" "}
      {of.state === "told" ? (
        <a href={of.address} rel="noreferrer" target="_blank">
          run <span className="mono">{of.run.slice(0, 8)}</span>
        </a>
      ) : (
        <span className="soft">{of.state === "failed" ? `given up: ${of.error}` : `not yet told${of.error && `: ${of.error}`}`}</span>
      )}
    </p>
  );
}

/** The candidate beside the version in service, on both kinds of data, and what the gates make of it. */
function Gates({ of }: { of: Schemas["RetrainingDetail"] }) {
  const pairs = [
    ["New data, the test split", of.new],
    ["Old data, of its push", of.old],
  ] as const;
  return (
    <div className="halves gates">
      <ul className="plain-list verdicts" aria-label="Gates">
        {of.verdicts.map((one) => (
          <li key={one.gate} className="small">
            <State state={one.verdict} /> <b>{gateName(one.gate)}</b> <span className="soft breakable number">{one.detail}</span>
          </li>
        ))}
      </ul>
      <div className="table-scroll" tabIndex={0} role="region" aria-label="In service and candidate">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Right answers</th>
              <th scope="col" data-align="right">
                {of.parent}
              </th>
              <th scope="col" data-align="right">
                Candidate
              </th>
            </tr>
          </thead>
          <tbody>
            {pairs.map(
              ([name, pair]) =>
                pair && (
                  <tr key={name}>
                    <td>
                      {name} <span className="soft small number nowrap">{plural(pair.rows, "row")}</span>
                    </td>
                    <td data-align="right" className="number">
                      {share(rate(pair.champion, pair.rows), 1)}
                    </td>
                    <td data-align="right" className="number">
                      <b>{share(rate(pair.challenger, pair.rows), 1)}</b>
                    </td>
                  </tr>
                ),
            )}
          </tbody>
        </table>
      </div>
    </div>
  );
}

export function VersionStep({ model, version, parent }: { model: string; version: string; parent: string | null }) {
  const { data, error } = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions/{version}",
    { params: { path: { name: model, version } } },
    { refetchInterval: SLOW_MS },
  );
  if (error) return <ErrorPanel error={error} />;
  if (!data) return null;
  return (
    <p className="small number">
      <State state={data.state} /> <Link to={`/models/${model}/${encodeURIComponent(version)}`}>{`${model} ${version}`}</Link>
      {data.reference != null && `, ${share(data.reference, 1)} at its push`}
      {parent && data.state === "ready" && (
        <>
          {" · "}
          <Link to={compareAddress(model, parent, version)}>compared with {parent}</Link>
        </>
      )}
    </p>
  );
}

export function RolloutStep({ id }: { id: string }) {
  const { data, error } = api.useQuery("get", "/api/v1/rollouts/{rollout}", { params: { path: { rollout: id } } });
  const { data: phases } = api.useQuery("get", "/api/v1/rollouts/{rollout}/phases", { params: { path: { rollout: id } } });
  if (error) return <ErrorPanel error={error} />;
  if (!data) return null;
  const verdicts = data.phase?.verdicts ?? [];
  return (
    <div className="made">
      <p className="small number breakable">
        <State state={data.state} /> <Link to={`/rollouts/${id}`}>rollout {id}</Link>: {count(data.counts.committed)} of {plural(data.counts.total, "device")} committed
        {data.policy.shadow_s > 0 && `, each shadowed for ${data.policy.shadow_s} s first`}
      </p>
      <Bar size="small" label="Devices of the rollout" parts={rolloutParts(data.counts)} />
      {!!phases?.length && (
        <p className="soft small number">
          {phases.map((phase) => `${phase.name}: ${phase.standing === "next" ? "not begun" : `${count(phase.counts.committed)} committed`}`).join(" · ")}
        </p>
      )}
      {verdicts.length > 0 && (
        <ul className="plain-list verdicts" aria-label="Gates of the phase">
          {verdicts.map((one) => (
            <li key={one.gate} className="small">
              <State state={one.verdict} /> <b>{gateName(one.gate)}</b> <span className="soft breakable number">{one.detail}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
