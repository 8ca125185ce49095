// A feature as it was in the reference and as it is now, on the same bins: wide bars behind, narrow
// ones in front, so that neither colour nor a pointer is needed to tell them apart.
import type { Schemas } from "../api/client";
import { share } from "../format";
import { figure } from "./findings";

type Feature = Schemas["DriftFeature"];

/** More bars than that are no picture; classes beyond are those that changed least. */
const BINS_SHOWN = 40;
const HEIGHT = 96;

interface Bin {
  name: string;
  before: number;
  now: number;
}

export function binsOf(feature: Feature): Bin[] {
  const [before, now] = [sum(feature.reference), sum(feature.counts)];
  const bins = feature.reference.map((value, number) => ({
    name: nameOf(feature, number),
    before: before ? value / before : 0,
    now: now ? (feature.counts[number] ?? 0) / now : 0,
  }));
  if (bins.length <= BINS_SHOWN) return bins;
  return bins.sort((left, right) => apart(right) - apart(left)).slice(0, BINS_SHOWN);
}

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
const apart = (bin: Bin) => Math.abs(bin.now - bin.before);

function nameOf({ edges, labels }: Feature, number: number): string {
  if (!edges.length) return labels[number] ?? `class ${number}`;
  if (number === 0) return `under ${figure(edges[0]!)}`;
  if (number === edges.length) return `from ${figure(edges.at(-1)!)}`;
  return `${figure(edges[number - 1]!)} to ${figure(edges[number]!)}`;
}

/** The picture in words: where the two differ most. */
function summary(feature: Feature, bins: Bin[]): string {
  const most = bins.reduce((best, bin) => (apart(bin) > apart(best) ? bin : best), bins[0]!);
  return (
    `${feature.feature}, reference and now over ${bins.length} bins. Most different: ${most.name}, ` +
    `${share(most.before, 1)} of the reference and ${share(most.now, 1)} now.`
  );
}

export function Histograms({ feature }: { feature: Feature }) {
  const bins = binsOf(feature);
  if (!bins.length) return null;
  const highest = Math.max(...bins.flatMap((bin) => [bin.before, bin.now]), 1e-9);
  const width = 100 / bins.length;
  const high = (value: number) => (value / highest) * (HEIGHT - 4);
  return (
    <figure className="histograms">
      <svg viewBox={`0 0 100 ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={summary(feature, bins)}>
        {bins.map((bin, number) => (
          <g key={bin.name}>
            <title>{`${bin.name}: reference ${share(bin.before, 1)}, now ${share(bin.now, 1)}`}</title>
            <rect x={number * width} width={width} y={0} height={HEIGHT} fill="transparent" />
            <rect data-of="reference" x={(number + 0.06) * width} width={width * 0.88} y={HEIGHT - high(bin.before)} height={high(bin.before)} />
            <rect data-of="now" x={(number + 0.3) * width} width={width * 0.4} y={HEIGHT - high(bin.now)} height={high(bin.now)} />
          </g>
        ))}
        <line x1="0" x2="100" y1={HEIGHT - 0.4} y2={HEIGHT - 0.4} vectorEffect="non-scaling-stroke" />
      </svg>
      <figcaption className="row apart small soft number" aria-hidden="true">
        <span className="clip">{bins[0]!.name}</span>
        <span className="clip">{bins.at(-1)!.name}</span>
      </figcaption>
      <details className="as-table">
        <summary className="small soft">As a table</summary>
        <div className="table-scroll inset" tabIndex={0} role="region" aria-label={`${feature.feature}, as a table`} style={{ maxHeight: 220, overflowY: "auto" }}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">{feature.edges.length ? "Values" : "Class"}</th>
                <th scope="col" data-align="right">
                  Reference
                </th>
                <th scope="col" data-align="right">
                  Now
                </th>
              </tr>
            </thead>
            <tbody>
              {bins.map((bin) => (
                <tr key={bin.name}>
                  <td className="breakable">{bin.name}</td>
                  <td data-align="right" className="number">
                    {share(bin.before, 1)}
                  </td>
                  <td data-align="right" className="number">
                    {share(bin.now, 1)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

export function HistogramLegend() {
  return (
    <div className="legend">
      <span className="entry">
        <span className="swatch" data-of="reference" /> reference, wide
      </span>
      <span className="entry">
        <span className="swatch" data-of="now" /> now, narrow
      </span>
    </div>
  );
}
