// Small pictures of numbers. Each says its numbers in words too.
import type { ReactNode } from "react";
import { Link } from "react-router";

import type { Schemas } from "../api/client";
import { count, duration } from "../format";

export type Fill = "good" | "warn" | "bad" | "deep" | "busy" | "idle" | "accent" | "none";

export interface Part {
  name: string;
  value: number;
  fill: Fill;
  to?: string;
}

interface BarProps {
  label: string;
  parts: Part[];
  size?: "small" | "large";
}

export function Bar({ label, parts, size }: BarProps) {
  const present = parts.filter((part) => part.value > 0);
  const words = present.map((part) => `${count(part.value)} ${part.name.toLowerCase()}`).join(", ");
  return (
    <div className="bar" data-size={size} role="img" aria-label={`${label}: ${words || "none"}`}>
      {present.map((part) => (
        <span
          key={part.name}
          data-fill={part.fill}
          style={{ flexGrow: part.value, flexBasis: 0 }}
          title={`${part.name}: ${count(part.value)}`}
        />
      ))}
    </div>
  );
}

export function Legend({ parts }: { parts: Part[] }) {
  return (
    <div className="legend">
      {parts.map((part) => {
        const inside: ReactNode = (
          <>
            <span className="swatch" data-fill={part.fill} />
            {part.name} <b>{count(part.value)}</b>
          </>
        );
        return part.to ? (
          <Link key={part.name} to={part.to} replace preventScrollReset={!part.to.includes("#")} data-zero={part.value === 0 || undefined}>
            {inside}
          </Link>
        ) : (
          <span key={part.name} className="entry">
            {inside}
          </span>
        );
      })}
    </div>
  );
}

/** The devices of a rollout by state, worst news last. */
export function rolloutParts(counts: Schemas["RolloutCounts"], to?: (state: string) => string | undefined): Part[] {
  const part = (name: string, state: keyof Schemas["RolloutCounts"], fill: Fill): Part => ({
    name,
    value: counts[state],
    fill,
    to: to?.(state),
  });
  return [
    part("Committed", "committed", "good"),
    part("In progress", "in_progress", "busy"),
    part("Pending", "pending", "idle"),
    part("Failed", "failed", "warn"),
    part("Rejected", "rejected", "bad"),
    part("Rolled back", "rolled_back", "deep"),
    part("Overdue", "overdue", "none"),
    part("Reverted", "reverted", "none"),
    part("Cancelled", "cancelled", "none"),
  ];
}

interface MeasureProps {
  text: ReactNode;
  /** 0 to 1 of the longest. */
  share: number | null | undefined;
  fill?: Fill;
  /** Where on the track a limit stands, 0 to 1. */
  limit?: number;
}

/** A number with a bar under it, to compare down a column. */
export function Measure({ text, share, fill = "accent", limit }: MeasureProps) {
  if (share == null) return <span className="soft">–</span>;
  return (
    <div className="measure">
      <span className="number nowrap">{text}</span>
      <span className="measure-track" aria-hidden="true">
        <span data-fill={fill} style={{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }} />
        {limit !== undefined && <i style={{ left: `calc(${Math.min(1, limit) * 100}% - 1px)` }} />}
      </span>
    </div>
  );
}

/** Upper edges of the latency bins in µs: powers of √2 from 16 µs; the last bin has none. */
const LATENCY_EDGES_US = Array.from({ length: 41 }, (_, step) => 16 * 2 ** (step / 2));

export function LatencyHistogram({ counts }: { counts: number[] }) {
  const first = counts.findIndex((value) => value > 0);
  if (first < 0) return null;
  const from = Math.max(0, first - 1);
  const to = Math.min(counts.length - 1, counts.findLastIndex((value) => value > 0) + 1);
  const shown = counts.slice(from, to + 1);
  const highest = Math.max(...shown);
  const width = 100 / shown.length;
  const edge = (bin: number) => duration(LATENCY_EDGES_US[Math.min(bin, LATENCY_EDGES_US.length - 1)]);
  const range = (bin: number) =>
    bin === 0 ? `under ${edge(0)}` : bin > 40 ? `over ${edge(40)}` : `${edge(bin - 1)} to ${edge(bin)}`;
  return (
    <figure style={{ margin: 0 }}>
      <svg
        className="histogram"
        viewBox="0 0 100 100"
        preserveAspectRatio="none"
        role="img"
        aria-label={`Latency: ${count(shown.reduce((sum, value) => sum + value, 0))} requests between ${edge(from)} and ${edge(to)}`}
      >
        {shown.map((value, number) => (
          <rect
            key={number}
            x={number * width + 0.4}
            width={Math.max(0.5, width - 0.8)}
            y={100 - (value / highest) * 96}
            height={(value / highest) * 96}
            style={{ fill: "light-dark(#1f9ca7, #2fa6b1)" }}
          >
            <title>{`${range(from + number)}: ${count(value)}`}</title>
          </rect>
        ))}
        <line x1="0" x2="100" y1="99.6" y2="99.6" style={{ stroke: "var(--line-strong)" }} vectorEffect="non-scaling-stroke" />
      </svg>
      <figcaption className="row apart small soft number">
        <span>{edge(from)}</span>
        <span>{edge(to)}</span>
      </figcaption>
    </figure>
  );
}
