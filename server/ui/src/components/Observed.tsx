import type { Schemas } from "../api/client";
import { count, duration, share } from "../format";

type Observation = Schemas["ObservationInfo"];
type Swap = Schemas["SwapInfo"];

/** What a device has measured of a model after its trial. */
export interface Seen {
  shadow?: Observation | null;
  observation?: Observation | null;
  swap?: Swap | null;
}

/** A line for the shadow, the swap and the observation each, where they are known. */
export function Observed({ seen }: { seen: Seen }) {
  return (
    <div className="stack" style={{ gap: 4 }}>
      {seen.shadow && <Line title="Shadow" facts={[...copies(seen.shadow), ...behaviour(seen.shadow)]} />}
      {seen.swap && <Line title="Swap" facts={swapped(seen.swap)} />}
      {seen.observation && (
        <Line
          title="Observed"
          facts={[
            ["requests", count(seen.observation.requests)],
            ...behaviour(seen.observation),
            ...(seen.observation.mirrored ? copies(seen.observation) : []),
          ]}
        />
      )}
    </div>
  );
}

type Fact = [string, string];

function swapped(swap: Swap): Fact[] {
  return [
    ["load", swap.load_ms ? duration(swap.load_ms * 1000) : "was in memory"],
    ["gap", swap.gap_ms ? duration(swap.gap_ms * 1000) : "none"],
    ["model before", swap.resident ? "kept in memory" : "not in memory"],
  ];
}

function copies(seen: Observation): Fact[] {
  return [
    ["copies", count(seen.mirrored)],
    ["agree", seen.mirrored ? share(seen.agreed / seen.mirrored, 0) : "–"],
    ...(seen.skipped ? [["skipped", count(seen.skipped)] as Fact] : []),
  ];
}

function behaviour(seen: Observation): Fact[] {
  const facts: Fact[] = [["errors", count(seen.errors)]];
  if (seen.non_finite) facts.push(["NaN or infinity", count(seen.non_finite)]);
  if (seen.latency_p95_us != null) {
    const before = seen.reference_p95_us != null ? `, ${duration(seen.reference_p95_us)} before` : "";
    facts.push(["p95", duration(seen.latency_p95_us) + before]);
  }
  if (seen.class_shift != null) facts.push(["classes shifted", seen.class_shift.toFixed(2)]);
  return facts;
}

function Line({ title, facts }: { title: string; facts: Fact[] }) {
  return (
    <div className="trial">
      <span className="soft small">{title}</span>
      {facts.map(([name, value]) => (
        <span key={name} className="small nowrap">
          <span className="soft">{name}</span> <b className="number">{value}</b>
        </span>
      ))}
    </div>
  );
}
