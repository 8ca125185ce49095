// The new version in service beside the others of its model, since the rollout began.
// Both pictures are drawn here, not by LineChart: one is a histogram, which it has not, the other goes
// with it, in its colours and on a logarithmic scale; and this page needs no ECharts, half a megabyte.
import { keepPreviousData } from "@tanstack/react-query";

import { api, type Schemas } from "../api/client";
import { ErrorPanel, Panel } from "../components/Panels";
import { absolute, count, duration, share, span } from "../format";

type Comparison = Schemas["ServiceComparison"];
type Side = Schemas["ServiceSide"];

export function Service({ id, version, ended }: { id: string; version: string; ended: boolean }) {
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/service",
    { params: { path: { rollout: id } } },
    { placeholderData: keepPreviousData, refetchInterval: ended ? false : 15_000 },
  );
  const seen = query.data;
  return (
    <Panel title="In service" aside={<span className="soft small">{seen && !seen.complete ? "the newest telemetry" : "since it began"}</span>}>
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!seen} />}
      {seen && seen.new.requests + seen.others.requests === 0 && (
        <p className="soft small">No telemetry has come since it began. Latency and errors appear here when devices answer requests.</p>
      )}
      {seen && seen.new.requests + seen.others.requests > 0 && (
        <div className="stack" style={{ gap: 14 }}>
          <Numbers seen={seen} version={version} />
          <Distribution seen={seen} />
          {seen.points.length > 1 && <Course seen={seen} />}
        </div>
      )}
    </Panel>
  );
}

function Numbers({ seen, version }: { seen: Comparison; version: string }) {
  const rows: [name: string, value: (side: Side) => string][] = [
    ["Devices", (side) => count(side.devices)],
    ["Requests", (side) => count(side.requests)],
    ["Errors", (side) => (side.requests ? `${count(side.errors)} (${share(side.errors / side.requests)})` : "–")],
    ["p50", (side) => duration(side.latency_p50_us)],
    ["p95", (side) => duration(side.latency_p95_us)],
    ["p99", (side) => duration(side.latency_p99_us)],
  ];
  return (
    <table className="figures-table">
      <thead>
        <tr>
          <td />
          <th scope="col">
            <span className="swatch" data-line="new" /> {version}
          </th>
          <th scope="col">
            <span className="swatch" data-line="others" /> others
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td className="number">{value(seen.new)}</td>
            <td className="number soft">{value(seen.others)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** About as wide as it is shown, so that its letters are as large as others. */
const WIDTH = 290;
const HEIGHT = 112;
const BOTTOM = 18;

/** Both histograms as shares of their requests, so that few can be laid over many. */
function Distribution({ seen }: { seen: Comparison }) {
  const sides = [seen.others.latency, seen.new.latency];
  const used = sides.flatMap((counts) => counts.flatMap((value, bin) => (value > 0 ? [bin] : [])));
  if (!used.length) return null;
  const first = Math.max(0, Math.min(...used) - 1);
  const last = Math.max(...used) + 1;
  const shares = sides.map((counts) => {
    const total = counts.reduce((sum, value) => sum + value, 0);
    return Array.from({ length: last - first + 1 }, (_, index) => (total ? (counts[first + index] ?? 0) / total : 0));
  });
  const highest = Math.max(...shares.flat());
  const x = (index: number) => (index / (last - first + 1)) * WIDTH;
  const y = (value: number) => HEIGHT - BOTTOM - (value / highest) * (HEIGHT - BOTTOM - 6);
  const outline = (values: number[]) =>
    `M0 ${y(0)}` + values.map((value, index) => `V${y(value).toFixed(1)}H${x(index + 1).toFixed(1)}`).join("") + `V${y(0)}`;
  const edge = (bin: number) => duration(seen.latency_edges_us[Math.min(bin, seen.latency_edges_us.length - 1)]);
  return (
    <figure className="chart">
      <figcaption className="soft small">Latency, share of requests</figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={`Latency of requests: p95 ${duration(seen.new.latency_p95_us)} with the new version, ${duration(seen.others.latency_p95_us)} with others`}
      >
        <path d={outline(shares[0]!)} data-line="others" data-area />
        <path d={outline(shares[1]!)} data-line="new" data-area />
        <line className="axis" x1={0} x2={WIDTH} y1={HEIGHT - BOTTOM} y2={HEIGHT - BOTTOM} />
        <text x={0} y={HEIGHT - 4}>
          {edge(first)}
        </text>
        <text x={WIDTH / 2} y={HEIGHT - 4} textAnchor="middle">
          {edge(Math.round((first + last) / 2))}
        </text>
        <text x={WIDTH} y={HEIGHT - 4} textAnchor="end">
          {edge(last)}
        </text>
      </svg>
    </figure>
  );
}

/** The p95 of both over time; latencies are read on a logarithmic scale. */
function Course({ seen }: { seen: Comparison }) {
  const { points, step_s } = seen;
  const values = points.flatMap((point) => [point.new_p95_us, point.other_p95_us]).filter((value) => value !== null);
  if (!values.length) return null;
  const low = Math.log(Math.min(...values) / 1.5);
  const high = Math.log(Math.max(...values) * 1.5);
  const begin = Date.parse(points[0]!.at);
  const end = Date.parse(points.at(-1)!.at) + step_s * 1000;
  const left = 46;
  const x = (at: string) => left + ((Date.parse(at) + step_s * 500 - begin) / (end - begin)) * (WIDTH - left);
  const y = (value: number) => 6 + ((high - Math.log(value)) / (high - low)) * (HEIGHT - BOTTOM - 6);
  const line = (pick: (point: Schemas["ServicePoint"]) => number | null) =>
    points
      .flatMap((point) => {
        const value = pick(point);
        return value === null ? [] : [`${x(point.at).toFixed(1)} ${y(value).toFixed(1)}`];
      })
      .join("L");
  const marks = [Math.min(...values), Math.max(...values)];
  return (
    <figure className="chart">
      <figcaption className="soft small">p95 over time, {span(step_s)} a point</figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={`p95 over time, ${count(points.length)} points from ${absolute(begin)}; between ${duration(marks[0])} and ${duration(marks[1])}`}
      >
        {[...new Set(marks)].map((value) => (
          <g key={value}>
            <line className="grid" x1={left} x2={WIDTH} y1={y(value)} y2={y(value)} />
            <text x={left - 5} y={y(value) + 4} textAnchor="end">
              {duration(value)}
            </text>
          </g>
        ))}
        {(["others", "new"] as const).map((side) => {
          const pick = (point: Schemas["ServicePoint"]) => (side === "new" ? point.new_p95_us : point.other_p95_us);
          const path = line(pick);
          return path ? (
            <g key={side}>
              <path d={`M${path}`} data-line={side} />
              {points.map((point) => {
                const value = pick(point);
                return value === null ? null : (
                  <circle key={point.at} cx={x(point.at)} cy={y(value)} r={2.5} data-line={side}>
                    <title>{`${absolute(Date.parse(point.at))}: ${duration(value)}`}</title>
                  </circle>
                );
              })}
            </g>
          ) : null;
        })}
        <line className="axis" x1={left} x2={WIDTH} y1={HEIGHT - BOTTOM} y2={HEIGHT - BOTTOM} />
        <text x={left} y={HEIGHT - 4}>
          {new Date(begin).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}
        </text>
        <text x={WIDTH} y={HEIGHT - 4} textAnchor="end">
          {new Date(end).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}
        </text>
      </svg>
    </figure>
  );
}
