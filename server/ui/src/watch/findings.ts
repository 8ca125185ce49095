// How far a group has left its reference, in words: what the server found, and where it leads.
import type { Schemas } from "../api/client";
import type { Fill } from "../components/Bars";

export type Group = Schemas["DriftGroup"];
export type Finding = Schemas["DriftFinding"];

/** As large as that of the server's own order: the spread is about twice a distance. */
export function sizeOf(one: { distance: number; spread: number }): number {
  return Math.max(one.distance, one.spread / 2);
}

export interface Severity {
  size: number;
  word: string;
  fill: Fill;
}

/** Sizes by Cohen: a spread of 0.1 is small, 0.3 medium, 0.5 large. */
const MEDIUM = 0.1;
const LARGE = 0.25;

export function severityOf(size: number): Severity {
  if (size >= LARGE) return { size, word: "large", fill: "bad" };
  return size >= MEDIUM ? { size, word: "medium", fill: "warn" } : { size, word: "small", fill: "idle" };
}

/** Of the feature that has moved farthest; null where none has. */
export function worstOf(findings: Finding[]): Severity | null {
  return findings.length ? severityOf(Math.max(...findings.map(sizeOf))) : null;
}

/** What a shift says: how often a new value is above an old one. */
export function directionOf(shift: number): string {
  const often = `${Math.round((0.5 + Math.abs(shift)) * 100)} %`;
  if (Math.abs(shift) < 0.02) return "no higher and no lower";
  return shift > 0 ? `higher, in ${often} of pairs` : `lower, in ${often} of pairs`;
}

export function whereOf(group: { level: string; group: string }): string {
  if (group.level === "fleet") return "the fleet";
  return group.level === "site" ? (group.group ? `site ${group.group}` : "no site") : group.group;
}

interface Place {
  model: string;
  manifest?: string;
  level?: string;
  group?: string;
}

/** The page that says why. */
export function whyOf({ model, manifest, level, group = "" }: Place): string {
  const query = new URLSearchParams();
  if (manifest) query.set("manifest", manifest);
  if (level === "site" || level === "device") query.set(level, group);
  return `/drift/${model}${query.size ? `?${query}` : ""}`;
}

/** The list that a number counts. */
export function listOf(asked: Record<string, string>): string {
  return `/drift?${new URLSearchParams(asked)}#groups`;
}

export const KINDS: Record<Schemas["DataFault"]["kind"], string> = {
  missing: "no numbers",
  constant: "stuck at one value",
  saturated: "piles up at its end",
  outside: "beyond all of the reference",
  clock: "clock was set",
};

export function faultWords(fault: Schemas["DataFault"]): string {
  if (fault.kind === "clock") return `${KINDS.clock} by ${fault.share.toFixed(0)} s`;
  return `${fault.feature} ${KINDS[fault.kind]}, ${(fault.share * 100).toFixed(0)} % of rows`;
}

/** A number of a feature, with as many digits as tell something. */
export function figure(value: number): string {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** What is rarer is all the same to everybody. */
export const CHANCE_MIN = 1e-12;
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** 0.012 as it is, 3e-7 as "3·10⁻⁷": one way of writing, in words and on axes. */
export function chance(value: number): string {
  if (value >= 0.001) return String(Number(value.toPrecision(2)));
  const [digit = "1", exponent = "0"] = Math.max(CHANCE_MIN, value).toExponential(0).split("e-");
  const power = `10⁻${[...exponent].map((one) => RAISED[Number(one)]).join("")}`;
  return value <= CHANCE_MIN ? `≤ ${power}` : digit === "1" ? power : `${digit}·${power}`;
}
