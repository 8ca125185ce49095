// The gates between phases that the form offers. A new gate of the server is a row here; the verdicts
// of a running rollout need none: they say their name and their figures themselves.

export interface Gate {
  /** As on the command line. */
  name: string;
  operator: "<=" | ">=";
  /** Of the policy. */
  field: string;
  label: string;
  description: string;
  /** What a number of the form is multiplied by for the policy. */
  factor: number;
  suffix: string;
  min: number;
  max?: number;
  whole?: boolean;
}

/** Field of the policy → value of the policy; a field that is not there is not asked. */
export type GateChoice = Record<string, number>;

export const GATES: Gate[] = [
  {
    name: "committed",
    operator: ">=",
    field: "committed_min",
    label: "Committed devices",
    description: "At least so many; without it, one",
    factor: 1,
    suffix: "",
    min: 1,
    whole: true,
  },
  {
    name: "success",
    operator: ">=",
    field: "success_min",
    label: "Success",
    description: "Of the devices that have ended",
    factor: 0.01,
    suffix: " %",
    min: 0,
    max: 100,
  },
  {
    name: "error_rate",
    operator: "<=",
    field: "error_rate_max",
    label: "Errors in service",
    description: "Of the requests of the phase",
    factor: 0.01,
    suffix: " %",
    min: 0,
    max: 100,
  },
  {
    name: "latency_p95",
    operator: "<=",
    field: "latency_p95_us_max",
    label: "Latency p95",
    description: "In service, over all devices",
    factor: 1000,
    suffix: " ms",
    min: 0,
  },
  {
    name: "latency_ratio",
    operator: "<=",
    field: "latency_ratio_max",
    label: "Latency against others",
    description: "p95 of other versions, times",
    factor: 1,
    suffix: "×",
    min: 0,
    max: 1000,
  },
  {
    name: "class_mix",
    operator: "<=",
    field: "class_mix_max",
    label: "Class mix",
    description: "Distance to other versions, 0 to 1",
    factor: 1,
    suffix: "",
    min: 0,
    max: 0.999,
  },
  {
    name: "confidence",
    operator: "<=",
    field: "confidence_max",
    label: "Confidence",
    description: "Distance to other versions, 0 to 1",
    factor: 1,
    suffix: "",
    min: 0,
    max: 0.999,
  },
  {
    name: "disagreement",
    operator: "<=",
    field: "disagreement_max",
    label: "Other answers",
    description: "Of copied requests, in shadow",
    factor: 0.01,
    suffix: " %",
    min: 0,
    max: 100,
  },
  {
    name: "requests",
    operator: ">=",
    field: "requests_min",
    label: "Requests needed",
    description: "For what is seen in service to count; without it, 100",
    factor: 1,
    suffix: "",
    min: 1,
    whole: true,
  },
];

/** "error_rate<=0.01", in a list of its own; none where it is not chosen. */
export function gateText(gate: Gate, choice: GateChoice): string[] {
  const value = choice[gate.field];
  return value === undefined ? [] : [`${gate.name}${gate.operator}${Number(value.toFixed(6))}`];
}
