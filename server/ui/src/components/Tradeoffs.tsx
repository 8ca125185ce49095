// What each variant costs and loses: two pictures with one vertical axis, and the sensitive layers.
// The pages that are kept and sent draw the same (edgectl_server/report_page).
import type { ReactNode } from "react";

import type { Schemas } from "../api/client";
import { bytes, count, duration, points } from "../format";
import { Measure } from "./Bars";
import { Panel } from "./Panels";

type ReportInfo = Schemas["Report"];
type Trial = Schemas["Trial"];
type Shape = "published" | "accepted" | "rejected" | "reference";

const WIDTH = 440;
const HEIGHT = 250;
const LEFT = 56;
const RIGHT = 24;
const TOP = 16;
const BOTTOM = 40;
/** How far down the picture goes, in budgets and at least in points. */
const BUDGETS_SHOWN = 4;
const POINTS_SHOWN_MIN = 2;

const WORDS: Record<Shape, string> = {
  published: "published",
  accepted: "accepted",
  rejected: "rejected",
  reference: "fp32, the reference",
};

interface Point {
  trial: Trial;
  number: number;
  shape: Shape;
  change: number;
}

export function Tradeoffs({ report, bundles }: { report: ReportInfo; bundles: Schemas["VariantInfo"][] }) {
  const published = new Set(bundles.map((bundle) => bundle.trial.recipe));
  const shown: Point[] = report.trials.flatMap((trial, index) =>
    trial.drop_points == null || !trial.size_bytes
      ? []
      : [{ trial, number: index + 1, shape: shapeOf(trial, published), change: -trial.drop_points }],
  );
  if (shown.length < 2) return null;
  const budget = report.max_drop_points;
  const floor = -Math.max(POINTS_SHOWN_MIN, BUDGETS_SHOWN * budget);
  const low = Math.max(Math.min(-budget, ...shown.map((one) => one.change)), floor);
  const high = Math.max(0, ...shown.map((one) => one.change));
  const shapes = (Object.keys(WORDS) as Shape[]).filter((shape) => shown.some((one) => one.shape === shape));
  const axes = { points: shown, low, high, budget, metric: report.metric ?? "value" };
  return (
    <Panel title="Size, speed and accuracy" aside={<span className="soft small">numbers are rows of the report</span>}>
      <div className="plots">
        <Picture {...axes} title="File size" value={(trial) => trial.size_bytes} text={bytes} />
        <Picture {...axes} title="Latency on the server, median" value={(trial) => trial.latency_p50_us} text={duration} />
      </div>
      <div className="legend" style={{ marginTop: 8 }}>
        {shapes.map((shape) => (
          <span key={shape} className="entry">
            <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
              <Mark x={8} y={8} shape={shape} />
            </svg>
            {WORDS[shape]}
          </span>
        ))}
      </div>
    </Panel>
  );
}

function shapeOf(trial: Trial, published: Set<string>): Shape {
  if (trial.precision === "fp32") return "reference";
  if (trial.status !== "accepted") return "rejected";
  return published.has(trial.recipe) ? "published" : "accepted";
}

interface PictureProps {
  points: Point[];
  low: number;
  high: number;
  budget: number;
  metric: string;
  title: string;
  /** Null is not in the picture: the latency of what is rejected is mostly not measured. */
  value: (trial: Trial) => number | null | undefined;
  text: (value: number) => string;
}

function Picture({ points: all, low, high, budget, metric, title, value, text }: PictureProps) {
  const shown = all.flatMap((one) => {
    const at = value(one.trial);
    return at ? [{ ...one, at }] : [];
  });
  if (!shown.length) return null;
  const room = 0.12 * (high - low || 1);
  const right = Math.max(...shown.map((one) => one.at)) * 1.08;
  const x = (at: number) => LEFT + (at / right) * (WIDTH - LEFT - RIGHT);
  const y = (at: number) => TOP + ((high + room - at) / (high - low + 2 * room)) * (HEIGHT - TOP - BOTTOM);
  const bottom = HEIGHT - BOTTOM;
  const inOrder = [...shown].sort((a, b) => Number(a.shape === "published") - Number(b.shape === "published"));
  return (
    <svg className="tradeoffs" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`Points of ${metric} over ${title.toLowerCase()} of ${count(shown.length)} variants; the report has the numbers`}>
      {ticks(low - room, high + room).map((at) => (
        <g key={at}>
          <line className="grid" x1={LEFT} x2={WIDTH - RIGHT} y1={y(at)} y2={y(at)} />
          <text x={LEFT - 7} y={y(at) + 4} textAnchor="end">
            {at === 0 ? "0" : at > 0 ? `+${at}` : `−${-at}`}
          </text>
        </g>
      ))}
      {ticks(0, right).map((at) => (
        <g key={at}>
          <line className="axis" x1={x(at)} x2={x(at)} y1={bottom} y2={bottom + 4} />
          <text x={x(at)} y={bottom + 17} textAnchor="middle">
            {at === 0 ? "0" : text(at).replace(/\.0+ /, " ")}
          </text>
        </g>
      ))}
      <line className="axis" x1={LEFT} x2={WIDTH - RIGHT} y1={bottom} y2={bottom} />
      <text x={(LEFT + WIDTH - RIGHT) / 2} y={HEIGHT - 5} textAnchor="middle">
        {title}
      </text>
      <text transform={`translate(11 ${(TOP + bottom) / 2}) rotate(-90)`} textAnchor="middle">
        points of {metric}
      </text>
      <Across at={y(0)} words="as fp32" />
      {budget > 0 && <Across at={y(-budget)} words={`budget ${points(budget)}`} budget />}
      {inOrder.map((one) => (
        <g key={one.number}>
          <title>{`${one.number} ${one.trial.recipe}: ${text(one.at)}, ${points(one.trial.drop_points)} points`}</title>
          <Mark x={x(one.at)} y={y(Math.max(one.change, low))} shape={one.shape} below={one.change < low} />
        </g>
      ))}
      <Numbers placed={shown.map((one) => [x(one.at), y(Math.max(one.change, low)), one.number])} />
    </svg>
  );
}

function Across({ at, words, budget }: { at: number; words: string; budget?: boolean }) {
  return (
    <g className={budget ? "budget" : "zero"}>
      <line x1={LEFT} x2={WIDTH - RIGHT} y1={at} y2={at} />
      <text x={LEFT + 5} y={budget ? at + 14 : at - 5}>
        {words}
      </text>
    </g>
  );
}

/** Shape says the same as colour. */
function Mark({ x, y, shape, below }: { x: number; y: number; shape: Shape; below?: boolean }) {
  const paths: Record<Shape, ReactNode> = {
    published: <path d={`M${x} ${y - 8}l8 8l-8 8l-8 -8Z`} />,
    accepted: <circle cx={x} cy={y} r={6} />,
    rejected: <path d={`M${x - 5} ${y - 5}l10 10m0 -10l-10 10`} />,
    reference: <rect x={x - 6} y={y - 6} width={12} height={12} />,
  };
  return (
    <g className="mark" data-shape={shape}>
      {paths[shape]}
      {below && <path className="arrow" d={`M${x} ${y + 15}l-4 -6h8Z`} />}
    </g>
  );
}

const PLACES = [[14, 0], [0, -13], [-14, 0], [0, 15], [24, 0], [0, -24], [-24, 0], [20, -18], [-20, -18]] as const;

/** The number of each mark beside it, where it hides nothing; too crowded, the report has it. */
function Numbers({ placed }: { placed: [x: number, y: number, number: number][] }) {
  const taken: [number, number][] = placed.map(([x, y]) => [x, y]);
  return placed.map(([x, y, number]) => {
    const spot = PLACES.map(([dx, dy]): [number, number] => [x + dx, y + dy]).find(
      ([px, py]) =>
        px > LEFT + 6 && px < WIDTH - 6 && py > 4 && py < HEIGHT - BOTTOM + 4 &&
        taken.every(([tx, ty]) => Math.abs(px - tx) >= 13 || Math.abs(py - ty) >= 11),
    );
    if (!spot) return null;
    taken.push(spot);
    return (
      <text key={number} className="label" x={spot[0]} y={spot[1] + 4} textAnchor="middle">
        {number}
      </text>
    );
  });
}

/** About five numbers, apart by 1, 2, 2.5 or 5 times a power of ten. */
function ticks(low: number, high: number): number[] {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => power * factor >= raw * 0.999)!;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

const ROWS_SHOWN = 12;

/** What each layer loses when it alone is quantized, the worst first. */
export function Sensitivity({ report }: { report: ReportInfo }) {
  const rows = report.sensitivity ?? [];
  if (!rows.length) return null;
  const worst = Math.max(1e-12, ...rows.map((row) => row.loss));
  return (
    <Panel flush title="Sensitive layers" aside={<span className="soft small">share of the outputs' variance that is lost when only this is quantized</span>}>
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Sensitive layers">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Node</th>
              <th scope="col">Operator</th>
              <th scope="col">Loss</th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, ROWS_SHOWN).map((row) => (
              <tr key={row.node}>
                <td className="mono breakable">{row.node}</td>
                <td>{row.operator}</td>
                <td>
                  <Measure text={row.loss.toPrecision(3)} share={row.loss / worst} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {rows.length > ROWS_SHOWN && <p className="soft small" style={{ padding: "10px 18px", margin: 0 }}>and {count(rows.length - ROWS_SHOWN)} that lose less, on the report page</p>}
    </Panel>
  );
}
