// The quantization report: every recipe that was tried, what it cost and why it was kept or not.
import type { Schemas } from "../api/client";
import { bytes, count, duration, points, share } from "../format";
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

const METRICS: Record<string, string> = {
  accuracy: "accuracy",
  agreement: "agreement with fp32",
  auc: "area under the ROC curve",
  f1: "mean F1",
  map: "mean average precision",
  own: "metric.py",
  rmse: "root mean squared error",
  top5: "top-5 accuracy",
};
const SHARES = new Set(["accuracy", "agreement", "top5"]);

function measured(metric: string | null, value: number): string {
  return metric != null && SHARES.has(metric) ? share(value) : Number(value.toPrecision(4)).toString();
}

function heading(metric: string | null): string {
  const words = metric == null ? "accuracy" : metric === "agreement" ? "agreement" : (METRICS[metric] ?? metric);
  return words.charAt(0).toUpperCase() + words.slice(1);
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
            <th scope="col">{heading(report.metric)}</th>
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
