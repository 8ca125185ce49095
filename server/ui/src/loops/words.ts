// Loops in words: their states in their order, what set them off, and what a person may do now.
import type { Schemas } from "../api/client";

/** The client of queries does not know how many ratios there are. */
export type Spec = Omit<Schemas["LoopPolicySpec"], "ratios"> & { ratios: number[] };
export type Loop = Omit<Schemas["LoopInfo"], "policy"> & { policy: Spec | null };
export type Run = Schemas["LoopRunDetail"];
export type Step = Schemas["LoopStep"];
export type StateName = Step["state"];

/** As a run goes through them; it ends in the last one or in another end. */
export const WAY: { state: StateName; words: string; means: string }[] = [
  { state: "collecting", words: "Labels", means: "devices send samples, people label them" },
  { state: "dataset", words: "Dataset", means: "labelled samples become a dataset" },
  { state: "training", words: "Training", means: "a candidate is trained, and compared with what serves" },
  { state: "gated", words: "Push", means: "what has passed its gates is quantized, checked and signed" },
  { state: "canary", words: "Canary", means: "the first devices get it" },
  { state: "rollout", words: "Rollout", means: "the others get it" },
  { state: "promoted", words: "Promoted", means: "it serves" },
];

const TRIGGERS: Record<string, string> = {
  drift: "Drift",
  accuracy: "Accuracy fell",
  schedule: "Its time had come",
  labels: "New labels",
  hand: "By hand",
};

/** What it waits for, without the command that the page has a button for. */
export function waits({ why }: Loop): string {
  const words = why.replace(/(: waits for)? ?`edgectl loop [a-z]+`/, "").replace(/[:,] *$/, "");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** How many labels, and of how many samples where those are still here. */
export function labelled(run: Run): string {
  return run.samples >= run.labelled ? `${run.labelled} of ${run.samples} samples` : String(run.labelled);
}

export function triggerWords(trigger: Record<string, string>): string {
  return TRIGGERS[trigger.kind ?? ""] ?? trigger.kind ?? "";
}

/** What the loop shows as its state: paused and no loop at all are states to a reader. */
export function standing(loop: Loop): string {
  if (!loop.policy) return "off";
  return loop.paused && loop.state !== "canary" && loop.state !== "rollout" ? "paused" : loop.state;
}

export function seconds(from: string, until: string | null, now: number): number {
  return Math.max(0, ((until === null ? now : Date.parse(until)) - Date.parse(from)) / 1000);
}

/** 0.913 of 240 → "91.3 %". */
export function rate(right: number, rows: number): number | null {
  return rows ? right / rows : null;
}
