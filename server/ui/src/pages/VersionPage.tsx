import { useState, type ReactNode } from "react";
import { Button } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api, fetchClient, type Schemas } from "../api/client";
import { refresh } from "../api/refresh";
import { useLive } from "../api/live";
import { Action } from "../components/Action";
import { Confirm } from "../components/Confirm";
import { Command, Digest } from "../components/Command";
import { Measurements } from "../components/Measurements";
import { Empty, Facts, Head, Loaded, Note, Panel } from "../components/Panels";
import { Findings } from "../components/Findings";
import { Report } from "../components/Report";
import { State } from "../components/State";
import { Sensitivity, Tradeoffs } from "../components/Tradeoffs";
import { Time } from "../components/Time";
import { cancelJob, signStaged } from "../cli";
import { bytes, count, duration, median, plural, points, share, trialNumber } from "../format";
import { measured, metricHeading } from "../models/metrics";
import { MakingPanel, ProofPanel, useLineage } from "../models/ProofPanel";
import { runsBundle, useRunning } from "../models/RunningPanel";
import { compareAddress } from "./ComparePage";

type Version = Schemas["VersionDetail"];

export function VersionPage() {
  const { name = "", version = "" } = useParams();
  const query = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions/{version}",
    { params: { path: { name, version } } },
    { refetchInterval: (state) => (state.state.data?.state === "processing" ? 3_000 : 30_000) },
  );
  // A signature may come from anywhere.
  useLive(query.data?.state === "unsigned" && `version:${name}@${version}`);
  return (
    <Loaded query={query} back={[`All versions of ${name}`, `/models/${name}`]}>
      {(found) => <Inside version={found} />}
    </Loaded>
  );
}

const NOT_READY: Record<string, string> = {
  unsigned: "The version waits for signatures.",
  processing: "The version is still being processed.",
  refused: "The version was refused; push a better one.",
  failed: "Processing has failed; push it again.",
};

function Inside({ version }: { version: Version }) {
  const lineage = useLineage(version.model, version.version, version.variants.length > 0);
  const named = `model=${version.model}&version=${encodeURIComponent(version.version)}`;
  return (
    <>
      <Head
        crumbs={[
          ["Models", "/models"],
          [version.model, `/models/${version.model}`],
        ]}
        title={`Version ${version.version}`}
        beside={<State state={version.state} />}
        under={
          <>
            Pushed <Time at={version.created_at} /> by {version.created_by} ·{" "}
            <Link to={`/fleet?${named}`}>running on {plural(version.devices_running, "device")}</Link>
          </>
        }
        actions={
          <>
          {version.parent && (
            <Button component={Link} variant="default" to={compareAddress(version.model, version.parent, version.version)}>
              Compare with {version.parent}
            </Button>
          )}
          {version.report && (
            <Button component="a" variant="default" href={reportPage(version)} target="_blank" rel="noreferrer">
              Report page
            </Button>
          )}
          <Action needs="operator" icon="rollout" to={`/rollouts/new?${named}`} blocked={NOT_READY[version.state]}>
            Start rollout
          </Action>
          </>
        }
      />
      {version.error && version.state !== "processing" && (
        <Note tone="bad" alert>
          <strong>{version.error.detail}</strong>
          {version.error.hint && <p>{version.error.hint}</p>}
          <p className="small mono">{version.error.code}</p>
        </Note>
      )}
      {version.waits_for && <Unsigned wait={version.waits_for} />}
      {version.state === "processing" && version.job && <Job id={version.job} />}
      {version.best && <Outcome version={version} />}
      {version.report ? (
        <>
          <Tradeoffs report={version.report} bundles={version.variants} />
          <Report report={version.report} bundles={version.variants} />
          <Findings report={version.report} />
          <Sensitivity report={version.report} />
        </>
      ) : (
        <Panel title="Quantization report">
          <Empty icon="clock" title={version.state === "processing" ? "Not there yet" : "There is no report"}>
            <p className="soft">
              {version.state === "processing"
                ? "It appears here when the work is done."
                : "The work ended before anything could be measured."}
            </p>
          </Empty>
        </Panel>
      )}
      {version.variants.length > 0 && <Bundles version={version} />}
      {version.variants.length > 0 && <ProofPanel query={lineage} chosen={version.report?.golden ?? {}} />}
      {version.state === "ready" && <Measurements model={version.model} version={version.version} />}
      <Background version={version} lineage={lineage.data} />
    </>
  );
}

/** The report as a page that can be kept and sent. */
function reportPage({ model, version }: Version): string {
  return `/api/v1/models/${model}/versions/${encodeURIComponent(version)}/report.html`;
}

function Unsigned({ wait }: { wait: Schemas["SignatureWait"] }) {
  const words = wait.missing
    ? `Waits for ${wait.missing} of ${plural(wait.threshold, "signature")} of ${wait.role}.`
    : `Is signed by ${wait.role}, and waits for other staged changes.`;
  return (
    <Note tone="warn" icon="key">
      <div className="row apart wrap">
        <strong className="breakable">{words}</strong>
        <Link to="/trust#staged">How to sign</Link>
      </div>
      <p>No device installs it before. It becomes ready by itself.</p>
      {wait.missing > 0 && <Command text={signStaged(wait.role)} />}
    </Note>
  );
}

const STAGES = [
  "fetch",
  "convert",
  "check",
  "clean",
  "evaluate",
  "quantize",
  "sensitivity",
  "latency",
  "release",
  "golden",
  "publish",
];

function Job({ id }: { id: string }) {
  useLive(`job:${id}`);
  const query = api.useQuery("get", "/api/v1/jobs/{job_id}", { params: { path: { job_id: id } } }, { refetchInterval: 5_000 });
  const [open, setOpen] = useState(false);
  const job = query.data;
  if (!job) return null;
  const { stage, message, done, total } = job.progress;
  const ended = job.finished_at !== null;
  return (
    <Panel
      title={
        <span className="row">
          Processing <State state={job.state} />
        </span>
      }
      aside={
        <Action needs="operator" size="xs" variant="default" blocked={ended && "It has ended."} onClick={() => setOpen(true)}>
          Cancel
        </Action>
      }
    >
      <div className="stack" style={{ gap: 12 }} aria-live="polite">
        <ol className="stages">
          {STAGES.map((name) => (
            <li key={name} aria-current={name === stage ? "step" : undefined}>
              {name}
            </li>
          ))}
        </ol>
        <div
          className="measure-track"
          role="progressbar"
          aria-label="Progress of this stage"
          aria-valuemin={0}
          aria-valuemax={total || undefined}
          aria-valuenow={total ? done : undefined}
          style={{ height: 6 }}
        >
          <span data-fill="busy" style={{ width: total ? `${(done / total) * 100}%` : "0%" }} />
        </div>
        <p className="soft small number breakable">
          {job.state === "queued" ? "Waits for its turn" : message || stage || "Starts"}
          {total > 0 && ` · ${count(done)} of ${count(total)}`}
          {job.attempts > 1 && ` · attempt ${job.attempts}`} · job <span className="mono">{job.id}</span>
        </p>
      </div>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="Cancel the work on this version"
        action="Cancel the work"
        danger
        command={() => cancelJob(id)}
        confirm={async () => {
          await fetchClient.POST("/api/v1/jobs/{job_id}/actions/cancel", { params: { path: { job_id: id } } });
          await refresh("/api/v1/jobs/{job_id}", "/api/v1/models/{name}/versions/{version}", "/api/v1/models/{name}/versions", "/api/v1/models");
        }}
      >
        <p>Nothing is published. The version can be pushed again.</p>
      </Confirm>
    </Panel>
  );
}

const DEVICES_ASKED = 200;

/** The p50 in µs that devices have measured in the trial of this variant, on their own hardware. */
function useDeviceLatencies({ model, version, devices_running }: Version, variant: string): number[] {
  const query = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { model, version, limit: DEVICES_ASKED } } },
    { enabled: devices_running > 0, refetchInterval: 30_000 },
  );
  const updates = (query.data?.items ?? []).flatMap((device) =>
    device.slots.filter((slot) => slot.slot === model).map((slot) => slot.update),
  );
  return updates
    .filter((update) => update?.version === version && update.variant === variant)
    .map((update) => trialNumber(update?.trial, "latency_p50_us"))
    .filter((value) => value !== null);
}

/** The result in one line: what devices get first, against what was pushed. */
function Outcome({ version }: { version: Version }) {
  const best = version.best!;
  const onDevices = useDeviceLatencies(version, best.variant);
  const saved = 1 - best.model_bytes / version.source_bytes;
  const fp32 = version.report?.trials.find((trial) => trial.precision === "fp32")?.latency_p50_us;
  const tiles: [string, string, string][] = [
    ["First choice", best.variant, best.trial.recipe === best.variant ? "" : best.trial.recipe],
    ["Size", bytes(best.model_bytes), saved > 0 ? `${share(saved, 0)} smaller` : `of ${bytes(version.source_bytes)}`],
    [
      version.metric === "agreement" ? "Agreement with fp32" : metricHeading(version.metric),
      measured(version.metric, best.trial.value),
      best.trial.drop_points == null ? "" : `${points(best.trial.drop_points)} points`,
    ],
    [
      "Latency, server",
      duration(best.trial.latency_p50_us),
      fp32 && best.precision !== "fp32" ? `p50, of fp32 ${duration(fp32)}` : "p50",
    ],
  ];
  if (onDevices.length) {
    tiles.push(["Latency, devices", duration(median(onDevices)), `p50, median of ${plural(onDevices.length, "trial")}`]);
  }
  return (
    <div className="tiles">
      {tiles.map(([name, value, note]) => (
        <div key={name} className="tile">
          <div className="tile-name">{name}</div>
          <div className={name === "First choice" ? "tile-value tile-code" : "tile-value breakable"}>
            {value}
          </div>
          <div className="tile-note breakable">{note}</div>
        </div>
      ))}
    </div>
  );
}

function Bundles({ version }: { version: Version }) {
  const running = useRunning(version.model);
  const devices = (manifest: string) => running.data?.find((one) => one.manifest === manifest)?.devices ?? 0;
  return (
    <Panel flush title="Published bundles" aside={<span className="soft small">in the order in which devices try them</span>}>
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Published bundles">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Variant</th>
              <th scope="col">Recipe</th>
              <th scope="col" data-align="right">
                Model
              </th>
              <th scope="col" data-align="right">
                A device fetches
              </th>
              <th scope="col" data-align="right">
                Running on
              </th>
              <th scope="col">Manifest</th>
            </tr>
          </thead>
          <tbody>
            {[...version.variants]
              .sort((left, right) => left.rank - right.rank)
              .map((variant) => (
                <tr key={variant.variant}>
                  <td className="nowrap">
                    <span className="mono">{variant.variant}</span>
                    {variant.encrypted && (
                      <span className="soft small" title="Only devices that are ordered to run it can read the model">
                        {" "}
                        encrypted
                      </span>
                    )}
                  </td>
                  <td className="recipe">{variant.trial.recipe}</td>
                  <td data-align="right" className="number nowrap">
                    {bytes(variant.model_bytes)}
                  </td>
                  <td data-align="right" className="number nowrap">
                    {bytes(variant.bundle_bytes)}
                  </td>
                  <td data-align="right" className="number">
                    {running.data ? (
                      <Link className="underlined" to={runsBundle(version.model, variant.manifest)}>
                        {count(devices(variant.manifest))}
                      </Link>
                    ) : (
                      "–"
                    )}
                  </td>
                  <td title={variant.target}>
                    <Digest value={variant.manifest} />
                  </td>
                </tr>
              ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

/** What it was made of, and what it looks like from outside. */
function Background({ version, lineage }: { version: Version; lineage: Schemas["LineageInfo"] | undefined }) {
  const { report, labels } = version;
  return (
    <div className="side-by-side">
      {report && (
        <Panel title="Input and output">
          <div className="stack" style={{ gap: 12 }}>
            {[...report.inputs.map((tensor) => ["in", tensor] as const), ...report.outputs.map((tensor) => ["out", tensor] as const)].map(
              ([direction, tensor]) => (
                <div key={`${direction}${tensor.name}`} className="row" style={{ alignItems: "baseline" }}>
                  <span className="tag">{direction}</span>
                  <span className="grow">
                    <span className="mono breakable">{tensor.name}</span>
                    <br />
                    <span className="soft small mono">
                      {tensor.datatype} [{tensor.shape.map((size) => (size < 0 ? "N" : size)).join(", ")}]
                    </span>
                  </span>
                </div>
              ),
            )}
            {!!report.processing?.length && (
              <div>
                <h3 className="part">Steps that are part of the model</h3>
                <ul className="soft small breakable">
                  {report.processing.map((line, number) => (
                    <li key={number}>{line}</li>
                  ))}
                </ul>
              </div>
            )}
            {labels.length > 0 && (
              <div>
                <h3 className="part">{plural(labels.length, "label")}</h3>
                <ol className="tags">
                  {labels.slice(0, 40).map((label, number) => (
                    <li key={number} className="tag">
                      {number} {label}
                    </li>
                  ))}
                  {labels.length > 40 && <li className="soft small">and {labels.length - 40} more</li>}
                </ol>
              </div>
            )}
          </div>
        </Panel>
      )}
      <Panel title="Lineage">
        <Facts
          rows={[
            ["File", <span key="f" className="mono breakable">{version.source_name}</span>],
            ["Source", <Digest key="s" value={version.source} />],
            ["Size", bytes(version.source_bytes)],
            ["Calibration", <Digest key="c" value={version.calibration} />],
            ["Evaluation", <Digest key="e" value={version.evaluation} />],
            [
              "Parent",
              version.parent ? (
                <Link to={`/models/${version.model}/${encodeURIComponent(version.parent)}`}>version {version.parent}</Link>
              ) : (
                <span className="soft">none</span>
              ),
            ],
            ...(version.imported
              ? ([
                  ["Imported from", `${version.imported.origin}, where ${version.imported.pushed_by || "somebody"} pushed it`],
                  ["Its root", <Digest key="r" value={version.imported.root} />],
                ] as [string, ReactNode][])
              : []),
            ["Children", <Children key="ch" version={version} lineage={lineage} />],
            ["Job", version.job ? <span className="mono">{version.job}</span> : "–"],
          ]}
        />
      </Panel>
      <MakingPanel lineage={lineage} />
      {report && (
        <Panel title="Network">
          <Facts
            rows={[
              ["Parameters", count(report.parameters)],
              ["Nodes", count(report.nodes)],
              ["Opset", report.opset || "–"],
              ["Measured on", report.measured_on || "–"],
            ]}
          />
        </Panel>
      )}
    </div>
  );
}

function Children({ version, lineage }: { version: Version; lineage: Schemas["LineageInfo"] | undefined }) {
  if (!lineage?.children.length) return <span className="soft">none</span>;
  return lineage.children.map((child, number) => (
    <span key={child}>
      {number > 0 && ", "}
      <Link to={`/models/${version.model}/${encodeURIComponent(child)}`}>version {child}</Link>
    </span>
  ));
}
