// What is in a sample: pictures as pictures, series as lines, everything else as numbers. It comes
// ready for a page and bounded; each look is in the audit log.
import { useEffect, useRef, useState } from "react";
import { Skeleton } from "@mantine/core";

import { api, asApiError, type Schemas } from "../api/client";
import { Measure } from "../components/Bars";
import { Icon } from "../components/Icon";
import { share } from "../format";
import { useRefusal } from "../session";
import { figure } from "../watch/findings";

export type Content = Schemas["SampleContent"];
type Tensor = Schemas["TensorContent"];

/** In place of what is in a sample. */
export const SEALED = "Sealed to a key that this server doesn't have";

/** A sample never changes: what was looked at is not asked for, and not audited, again. */
export const KEPT = { staleTime: Number.POSITIVE_INFINITY, gcTime: 300_000, refetchOnWindowFocus: false } as const;

export function useContent(id: string, wanted = true) {
  return api.useQuery("get", "/api/v1/samples/{sample}/content", { params: { path: { sample: id } } }, { ...KEPT, enabled: wanted });
}

/** Once it has come near the screen it stays asked for. */
function useSeen() {
  const place = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (seen || !place.current) return undefined;
    const watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && setSeen(true), { rootMargin: "200px" });
    watch.observe(place.current);
    return () => watch.disconnect();
  }, [seen]);
  return { place, seen };
}

/** The first input, small. */
export function Thumbnail({ id, sealed }: { id: string; sealed: boolean }) {
  const refusal = useRefusal("operator");
  const { place, seen } = useSeen();
  const query = useContent(id, seen && !refusal && !sealed);
  const first = query.data?.inputs[0];
  return (
    <div className="thumbnail" ref={place}>
      {sealed ? (
        <span className="soft small">
          <Icon name="key" size={18} /> {SEALED}
        </span>
      ) : refusal ? (
        <span className="soft small" title={refusal}>
          <Icon name="key" size={18} /> Only operators see what is in it
        </span>
      ) : query.error ? (
        <span className="soft small breakable">{asApiError(query.error).detail}</span>
      ) : first ? (
        <Picture tensor={first} small />
      ) : query.data ? (
        <span className="soft small">It has no input</span>
      ) : (
        <Skeleton height="100%" />
      )}
    </div>
  );
}

/** All inputs, large. */
export function Inputs({ content }: { content: Content }) {
  return (
    <div className="stack">
      {content.inputs.map((tensor) => (
        <section key={tensor.name}>
          <h3 className="part">
            <span className="mono">{tensor.name}</span>, {tensor.datatype} {tensor.shape.join(" × ")}
            {tensor.low != null && ` · ${figure(tensor.low)} to ${figure(tensor.high ?? tensor.low)}`}
            {tensor.left_out > 0 && ` · ${tensor.left_out.toLocaleString("en")} numbers are not shown`}
          </h3>
          <Picture tensor={tensor} />
        </section>
      ))}
    </div>
  );
}

export function Picture({ tensor, small }: { tensor: Tensor; small?: boolean }) {
  if (tensor.png) {
    return <img className="pixels" data-small={small} src={`data:image/png;base64,${tensor.png}`} alt={`Input ${tensor.name}, a picture of ${tensor.shape.join(" by ")}`} />;
  }
  if (tensor.channels?.length) return small ? <Lines channels={tensor.channels} name={tensor.name} /> : <Channels tensor={tensor} />;
  return <Numbers tensor={tensor} limit={small ? SMALL_VALUES : undefined} />;
}

const WIDTH = 200;
const POINTS_SMALL = 200;

type Channel = (number | null)[];

function bounds(values: Channel): [low: number, high: number] {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (value == null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : [0, 0];
}

/** Gaps stay gaps: what is no number begins a new line. */
function path(values: Channel, [low, high]: [number, number], height: number, points: number): string {
  const step = Math.max(1, Math.ceil(values.length / points));
  const scale = high > low ? (height - 4) / (high - low) : 0;
  let text = "";
  let pen = "M";
  for (let number = 0; number < values.length; number += step) {
    const value = values[number];
    if (value == null) {
      pen = "M";
      continue;
    }
    const [x, y] = [(number / Math.max(1, values.length - 1)) * WIDTH, height - 2 - (value - low) * scale];
    text += `${pen}${x.toFixed(1)} ${(scale ? y : height / 2).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

/** All channels over one another, on one scale. */
function Lines({ channels, name }: { channels: Channel[]; name: string }) {
  const all = bounds(channels.flat());
  const height = 120;
  const label = `Input ${name}, a series of ${channels.length} channels, ${channels[0]?.length ?? 0} points, from ${figure(all[0])} to ${figure(all[1])}`;
  return (
    <svg className="lines" viewBox={`0 0 ${WIDTH} ${height}`} preserveAspectRatio="none" role="img" aria-label={label}>
      {channels.map((values, number) => (
        <path key={number} data-line={number % 3} d={path(values, all, height, POINTS_SMALL)} vectorEffect="non-scaling-stroke" />
      ))}
    </svg>
  );
}

/** Each channel by itself, on its own scale. */
function Channels({ tensor }: { tensor: Tensor }) {
  const height = 48;
  return (
    <div className="channels">
      {(tensor.channels ?? []).map((values, number) => {
        const [low, high] = bounds(values);
        return (
          <div key={number} className="channel">
            <span className="small soft number">{number}</span>
            <svg
              className="lines"
              viewBox={`0 0 ${WIDTH} ${height}`}
              preserveAspectRatio="none"
              role="img"
              aria-label={`Channel ${number} of ${tensor.name}, ${values.length} points, from ${figure(low)} to ${figure(high)}`}
            >
              <path data-line={number % 3} d={path(values, [low, high], height, values.length)} vectorEffect="non-scaling-stroke" />
            </svg>
            <span className="small soft number">
              {figure(high)}
              <br />
              {figure(low)}
            </span>
          </div>
        );
      })}
    </div>
  );
}

const SMALL_VALUES = 6;

function Numbers({ tensor, limit }: { tensor: Tensor; limit?: number | undefined }) {
  const values = tensor.values ?? [];
  const shown = values.slice(0, limit);
  return (
    <dl className="values">
      {shown.map((value, number) => (
        <div key={number}>
          <dt className="soft">{tensor.names?.[number] ?? number}</dt>
          <dd className="number">{value == null ? "no number" : figure(value)}</dd>
        </div>
      ))}
      {values.length > shown.length && <div className="soft">and {values.length - shown.length} more</div>}
    </dl>
  );
}

const ANSWERS = 8;

/** What the model has said: its scores, the largest first; else its numbers. */
export function Answer({ content }: { content: Content }) {
  return (
    <div className="stack">
      {content.outputs.map((tensor) => (
        <section key={tensor.name}>
          <h3 className="part">
            <span className="mono">{tensor.name}</span>
          </h3>
          {tensor.names && tensor.values ? <Scores names={tensor.names} values={tensor.values} /> : <Numbers tensor={tensor} />}
        </section>
      ))}
    </div>
  );
}

function Scores({ names, values }: { names: string[]; values: Channel }) {
  const probable = isDistribution(values);
  const scores = names.map((name, number) => ({ name, value: values[number] ?? null })).sort((one, other) => (other.value ?? -Infinity) - (one.value ?? -Infinity));
  const [low, high] = bounds(values);
  return (
    <div className="classes">
      {scores.slice(0, ANSWERS).map(({ name, value }) => (
        <div key={name} style={{ display: "contents" }}>
          <span className="breakable">{name}</span>
          <Measure text="" share={value == null ? null : probable ? value : (value - low) / Math.max(1e-9, high - low)} />
          <span className="number">{value == null ? "–" : probable ? share(value, 1) : figure(value)}</span>
        </div>
      ))}
      {scores.length > ANSWERS && <span className="soft small">and {scores.length - ANSWERS} more</span>}
    </div>
  );
}

/** Probabilities are written as shares, other scores as they are. */
function isDistribution(values: Channel): boolean {
  const sum = values.reduce<number>((total, value) => total + (value ?? 0), 0);
  return Math.abs(sum - 1) < 0.02 && values.every((value) => value == null || value >= 0);
}
