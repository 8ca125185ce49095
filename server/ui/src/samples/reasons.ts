// Why samples are taken, in words.
import type { Schemas } from "../api/client";

export type Sample = Schemas["SampleInfo"];
export type Reason = Sample["reason"];

export const REASONS: { value: Reason; label: string; means: string }[] = [
  { value: "uncertain", label: "Uncertain", means: "the least confident answer of an interval, below 0.8" },
  { value: "random", label: "Random control", means: "whatever was answered, to compare with" },
  { value: "out-of-reference", label: "Out of reference", means: "the input or answer furthest outside of the signed reference" },
  { value: "disagreeing", label: "Disagreeing", means: "a new version in shadow answers it differently" },
  { value: "diverse", label: "Diverse", means: "the one most unlike those taken lately, of models with a reference" },
  { value: "asked", label: "Asked for", means: "the first that an application asks to keep" },
];

export function reasonWords(reason: string): string {
  return REASONS.find((one) => one.value === reason)?.label ?? reason;
}
