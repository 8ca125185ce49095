// Champion and challenger in a phase: as it is chosen, as the command line and the address say it, and
// its stop rule in words. docs/rollouts.md says the same at length.
import type { Schemas } from "../api/client";
import { count, span } from "../format";
import { seconds } from "./durations";

export interface ExperimentChoice {
  rate: "error_rate" | "low_confidence";
  /** By how much the rate may be higher: a difference. */
  margin: number;
  alpha: number;
  below: number;
  unit: "device" | "site";
  /** As typed. */
  limit: string;
  requests: number | null;
}

/** What the server takes where nothing is said. */
export const EXPERIMENT: ExperimentChoice = {
  rate: "error_rate",
  margin: 0.01,
  alpha: 0.05,
  below: 0.5,
  unit: "device",
  limit: "1d",
  requests: null,
};

/** The server asks for so many devices (or sites) of each side, and requests of each of them. */
export const UNITS_MIN = 5;
const REQUESTS_MIN = 20;

export const RATES = [
  { value: "error_rate", label: "errors" },
  { value: "low_confidence", label: "unsure answers" },
];

/** "canary:error_rate margin=0.02"; what is as usual is left out. */
export function experimentText(phase: string, { rate, ...chosen }: ExperimentChoice): string {
  const { rate: _, ...usual } = EXPERIMENT;
  const settings = (Object.keys(usual) as (keyof typeof usual)[])
    .filter((name) => chosen[name] !== usual[name] && chosen[name] !== null && (name !== "below" || rate === "low_confidence"))
    .map((name) => ` ${name}=${chosen[name]}`);
  return `${phase}:${rate}${settings.join("")}`;
}

const TEXT = /^([a-z0-9][a-z0-9_-]{0,31}):(error_rate|low_confidence)((?:\s+[a-z]{1,16}=[a-z0-9.]{1,16})*)$/;

export function readExperiment(text: string): { phase: string; experiment: ExperimentChoice } | null {
  const [, phase, rate, settings = ""] = TEXT.exec(text.trim()) ?? [];
  if (!phase) return null;
  const given = Object.fromEntries(settings.trim().split(/\s+/).map((one) => one.split("=")));
  const number = (name: string, least: number, most: number, usual: number) => {
    const value = Number(given[name] ?? Number.NaN);
    return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : usual;
  };
  return {
    phase,
    experiment: {
      rate: rate as ExperimentChoice["rate"],
      margin: number("margin", 0.0001, 0.9, EXPERIMENT.margin),
      alpha: number("alpha", 0.0001, 0.2, EXPERIMENT.alpha),
      below: number("below", 0.05, 0.95, EXPERIMENT.below),
      unit: given.unit === "site" ? "site" : "device",
      limit: given.limit ?? EXPERIMENT.limit,
      requests: given.requests ? number("requests", 1000, 1e12, 1000) : null,
    },
  };
}

export function experimentRequest(choice: ExperimentChoice): Schemas["ExperimentSpec"] {
  return {
    rate: choice.rate,
    margin: choice.margin,
    alpha: choice.alpha,
    confidence_below: choice.below,
    unit: choice.unit,
    limit_s: seconds(choice.limit) ?? 86_400,
    requests_max: choice.requests,
  };
}

/** 0.01 → "1". */
const hundredths = (value: number) => Number((value * 100).toPrecision(6));

/** When the experiment ends, and how. */
export function stopRule(choice: ExperimentChoice): { title: string; ends: [how: string, when: string][]; sure: string } {
  const rate = choice.rate === "error_rate" ? "requests that fail" : `answers less sure than ${choice.below}`;
  const margin = `${hundredths(choice.margin)} in 100`;
  const limit = seconds(choice.limit);
  const last = [
    ...(limit === null ? [] : [`${span(limit)} after the phase has settled`]),
    ...(choice.requests === null ? [] : [`after ${count(choice.requests)} requests of both sides`]),
  ];
  const units = choice.unit === "site" ? "sites" : "devices";
  return {
    title: `compares ${rate}: devices with the new version against those that still run the old one`,
    ends: [
      ["Passes", `as soon as it is sure that the new version has fewer than ${margin} more of them.`],
      ["Fails", `as soon as it is sure that it has more: the rollout pauses at once, soak or not.`],
      ["Ends without an answer", `${last.join(", or ")}, whatever comes first: “not enough data” is no pass, a person decides.`],
    ],
    sure:
      `Sure: each of the two wrong answers has a probability of ${hundredths(choice.alpha)} % at most, however often it is looked at. ` +
      `One observation is ${choice.unit === "site" ? "a site" : "a device"}; at least ${UNITS_MIN} ${units} of each side with ${REQUESTS_MIN} requests each are needed.`,
  };
}
