// The quantization report: every recipe that was tried, what it cost and why it was kept or not.
import type { Schemas } from "../api/client";
import { bytes, count, duration, points } from "../format";
import { measured, METRICS, metricHeading } from "../models/metrics";
import { Measure } from "./Bars";
import { Detail } from "./DataTable";
import { Note, Panel } from "./Panels";
import { State } from "./State";

type ReportInfo = Schemas["Report"];
type Trial = Schemas["Trial"];
type Bundle = Schemas["VariantInfo"];

export function Report({ report, bundles }: { report: ReportInfo; bundles: Bundle[] }) {
  return (
    <Panel
      flush
      title="Quantization report"
      aside={<span className="soft small">{basis(report)}</span>}
    >
      {!!report.warnings?.length && (
        <div style={{ padding: "0 18px 14px" }}>
          <Note tone="warn">
            {report.warnings.map((warning) => (
              <p key={warning}>{warning}</p>
            ))}
          </Note>
        </div>
      )}
      <Trials report={report} bundles={bundles} />
    </Panel>
  );
}

function basis(report: ReportInfo): string {
  if (!report.metric) return "no data to measure on: nothing is known about accuracy";
  const data = report.metric_source === "evaluation" ? "evaluation" : "calibration";
  const metric = METRICS[report.metric] ?? report.metric;
  return `${metric} on ${count(report.samples)} ${data} samples, at most ${report.max_drop_points.toFixed(2)} points lost`;
}

function Trials({ report, bundles }: { report: ReportInfo; bundles: Bundle[] }) {
  const { trials } = report;
  const largest = Math.max(1, ...trials.map((trial) => trial.size_bytes ?? 0));
  const slowest = Math.max(1, ...trials.map((trial) => trial.latency_p50_us ?? 0));
  const widest = Math.max(report.max_drop_points * 2, 0.5);
  return (
    <div className="table-scroll" tabIndex={0} role="region" aria-label="Recipes that were tried">
      <table className="table">
        <thead>
          <tr>
            <th scope="col">Recipe</th>
            <th scope="col">Verdict</th>
            <th scope="col">Size</th>
            <th scope="col">{metricHeading(report.metric)}</th>
            <th scope="col">Points, limit {report.max_drop_points.toFixed(2)}</th>
            <th scope="col">Latency p50, p95</th>
          </tr>
        </thead>
        <tbody>
          {trials.map((trial, index) => (
            <TrialRow
              number={index + 1}
              key={`${trial.recipe} ${trial.variant}`}
              trial={trial}
              published={bundles.some((bundle) => bundle.variant === trial.variant && bundle.trial.recipe === trial.recipe)}
              largest={largest}
              slowest={slowest}
              widest={widest}
              limit={report.max_drop_points}
              metric={report.metric}
            />
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface TrialRowProps {
  /** As in the pictures of `Tradeoffs`. */
  number: number;
  trial: Trial;
  published: boolean;
  largest: number;
  slowest: number;
  widest: number;
  limit: number;
  metric: string | null;
}

function TrialRow({ number, trial, published, largest, slowest, widest, limit, metric }: TrialRowProps) {
  const drop = trial.drop_points;
  return (
    <>
    <tr>
      <td className="recipe">
        <span className="soft number">{number}</span> <span className="name">{trial.recipe}</span>
        {trial.precision !== trial.recipe && <div className="soft small">{trial.precision}</div>}
      </td>
      <td className="verdict">
        {published ? (
          <State
            state="published"
            more={
              <>
                as <span className="mono">{trial.variant}</span>
              </>
            }
          />
        ) : (
          <State state={trial.status} />
        )}
      </td>
      <td>
        <Measure text={bytes(trial.size_bytes)} share={trial.size_bytes == null ? null : trial.size_bytes / largest} />
      </td>
      <td className="number nowrap">{trial.value == null ? <span className="soft">–</span> : measured(metric, trial.value)}</td>
      <td>
        <Measure
          text={points(drop)}
          share={drop == null ? null : Math.max(0, drop) / widest}
          fill={drop != null && drop > limit ? "bad" : "good"}
          limit={drop == null ? undefined : limit / widest}
        />
      </td>
      <td>
        <Measure
          text={
            <>
              {duration(trial.latency_p50_us)} <span className="soft">{duration(trial.latency_p95_us)}</span>
            </>
          }
          share={trial.latency_p50_us == null ? null : trial.latency_p50_us / slowest}
        />
      </td>
    </tr>
    <Detail columns={6}>{trial.reason}</Detail>
    </>
  );
}
