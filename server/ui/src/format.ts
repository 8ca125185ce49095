// How quantities are written. Numbers are in the reader's locale only where a locale is a matter of
// taste; units are always the same.

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

/** 1284220 → "1.28 MB" (powers of 1000, three digits). */
export function bytes(count: number | null | undefined): string {
  if (count == null) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

/** Microseconds → "96 µs", "1.21 ms", "2.4 s". */
export function duration(microseconds: number | null | undefined): string {
  if (microseconds == null) return "–";
  if (microseconds < 1_000) return `${significant(microseconds)} µs`;
  if (microseconds < 1_000_000) return `${significant(microseconds / 1_000)} ms`;
  return `${significant(microseconds / 1_000_000)} s`;
}

/** Milliseconds, as `duration` writes them. */
export function milliseconds(value: number | null | undefined): string {
  return duration(value == null ? null : value * 1_000);
}

/** How long something takes, in seconds: "10 s", "10 min", "1.5 h", "7 d". */
export function span(seconds: number): string {
  const [size, name] = seconds < 90 ? [1, "s"] : seconds < 5400 ? [60, "min"] : seconds < 36 * 3600 ? [3600, "h"] : [86_400, "d"];
  return `${Number((seconds / size).toFixed(1))}\u00a0${name}`;
}

function significant(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function count(value: number | null | undefined): string {
  return value == null ? "–" : value.toLocaleString("en");
}

/** 0.9502 → "95.02 %". */
export function share(value: number | null | undefined, digits = 2): string {
  return value == null ? "–" : `${(value * 100).toFixed(digits)} %`;
}

export function points(value: number | null | undefined): string {
  if (value == null) return "–";
  return value > 0 ? `−${value.toFixed(2)}` : value < 0 ? `+${(-value).toFixed(2)}` : "0.00";
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** "sha256:4f2a…" with enough digits to tell apart. */
export function digest(text: string, digits = 12): string {
  return text.replace(/^sha256:/, "").slice(0, digits);
}

const STEPS: [limit: number, seconds: number, name: string][] = [
  [90, 1, "s"],
  [90 * 60, 60, "min"],
  [36 * 3600, 3600, "h"],
  [60 * 86400, 86400, "d"],
  [Number.POSITIVE_INFINITY, 30.44 * 86400, "months"],
];

/** "3 min ago", "in 4 h". */
export function relative(moment: number, now: number): string {
  const seconds = Math.round((now - moment) / 1000);
  const size = Math.abs(seconds);
  if (size < 5) return "just now";
  const [, unit, name] = STEPS.find(([limit]) => size < limit)!;
  const text = `${Math.round(size / unit)} ${name}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

export function absolute(moment: number): string {
  const date = new Date(moment);
  const local = date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
  return `${local} (${date.toISOString()})`;
}

/** A number of what a device measured in a trial; null where it did not measure it. */
export function trialNumber(trial: Record<string, unknown> | null | undefined, name: string): number | null {
  const value = trial?.[name];
  return typeof value === "number" ? value : null;
}

/** The middle one; null of nothing. */
export function median(values: number[]): number | null {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? null;
}

export function clock(moment: number): string {
  return new Date(moment).toLocaleTimeString("en-GB");
}
