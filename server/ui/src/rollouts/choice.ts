// What is chosen in the form that starts a rollout: from the address and back, as a request, and as
// the command line says it. Names in the address are those of the command's options.
import type { Schemas } from "../api/client";
import { quoted } from "../cli";
import { experimentRequest, experimentText, readExperiment, type ExperimentChoice } from "./experiment";
import { seconds } from "./durations";
import { GATES, gateText, type GateChoice } from "./gates";

export type Target = "all" | "group" | "where" | "devices";

export interface PhaseChoice {
  name: string;
  amount: number;
  /** What the amount is of; or those that a selector means. */
  unit: "devices" | "share" | "where";
  where: string;
  /** Its own; empty: what is said for all. */
  soak: string;
  approval: boolean;
  experiment: ExperimentChoice | null;
  /** In place of those for all, by field; null: none of its own. */
  gates: GateChoice | null;
}

/** How a device goes about it; null is no limit. */
export interface Safety {
  shadowSeconds: number;
  windows: string;
  errorRateMax: number;
  latencyRatioMax: number | null;
  classShiftMax: number | null;
  disagreementMax: number | null;
  /** "name@version" */
  goesWith: string[];
  /** Devices that remember the version as bad try it once more. */
  forgive: boolean;
}

export interface RolloutChoice {
  model: string;
  version: string;
  target: Target;
  group: string;
  where: string;
  devices: string[];
  phases: PhaseChoice[];
  /** Durations are as typed: "90", "10m", "2h". */
  soak: string;
  gates: GateChoice;
  deadline: string;
  onDeadline: "leave" | "fail";
  /** "2" or "50%"; empty: no budget. */
  available: string;
  priority: number;
  maxInProgress: number;
  failuresMax: number;
  observeSeconds: number;
  safety: Safety;
}

/** What the server and the command line take where nothing is said. */
export const USUAL: RolloutChoice = {
  model: "",
  version: "",
  target: "all",
  group: "",
  where: "",
  devices: [],
  phases: [],
  soak: "",
  gates: {},
  deadline: "",
  onDeadline: "leave",
  available: "",
  priority: 0,
  maxInProgress: 100,
  failuresMax: 1,
  observeSeconds: 10,
  safety: {
    shadowSeconds: 0,
    windows: "",
    errorRateMax: 0.05,
    latencyRatioMax: 5,
    classShiftMax: 0.5,
    disagreementMax: 0.5,
    goesWith: [],
    forgive: false,
  },
};

export const PHASES_MAX = 9; // the last one, of all devices, is added
const TARGETS: Target[] = ["all", "group", "where", "devices"];

// ---------------------------------------------------------------- phases as text

const PHASE = /^(?:([a-z0-9][a-z0-9_-]{0,31}):)?(?:(\d{1,6}(?:\.\d{1,3})?)(%?)|where=(.*))$/s;

export function phaseName(phase: PhaseChoice, index: number): string {
  return phase.name || String(index + 1);
}

export function phasesText(phases: PhaseChoice[]): string {
  const size = ({ unit, amount, where }: PhaseChoice) => (unit === "where" ? `where=${where.trim()}` : `${amount}${unit === "share" ? "%" : ""}`);
  return phases.map((phase) => `${phase.name && `${phase.name}:`}${size(phase)}`).join(",");
}

/** At commas that stand neither in parentheses nor in double quotes: those belong to a selector. */
function splitPhases(text: string): string[] {
  const parts = [""];
  let [depth, quotes] = [0, false];
  for (const sign of text) {
    if (sign === '"') quotes = !quotes;
    else if (!quotes && sign === "(") depth += 1;
    else if (!quotes && sign === ")") depth -= 1;
    if (sign === "," && depth <= 0 && !quotes) parts.push("");
    else parts[parts.length - 1] += sign;
  }
  return parts;
}

function readPhases(text: string, approve: string[], soaks: string[], experiments: string[], gates: string[]): PhaseChoice[] {
  const found = splitPhases(text).flatMap((part): PhaseChoice[] => {
    const [matched, name = "", amount, share, where] = PHASE.exec(part.trim()) ?? [];
    if (matched === undefined) return [];
    const unit = where === undefined ? (share ? "share" : "devices") : "where";
    return [{ name, amount: Number(amount ?? 5), unit, where: where ?? "", soak: "", approval: false, experiment: null, gates: null }];
  });
  const tested = new Map(experiments.flatMap((one) => readExperiment(one) ?? []).map(({ phase, experiment }) => [phase, experiment]));
  return found.slice(0, PHASES_MAX).map((phase, index) => {
    const name = phaseName(phase, index);
    const own = gates.filter((one) => one.startsWith(`${name}:`)).map((one) => one.slice(name.length + 1));
    return {
      ...phase,
      gates: own.length ? readGates(own) : null,
      soak: soaks.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1) ?? "",
      approval: approve.includes("all") || approve.includes(name),
      experiment: tested.get(name) ?? null,
    };
  });
}

function approvals(phases: PhaseChoice[]): string[] {
  const asked = phases.map((phase, index) => phaseName(phase, index)).filter((_, index) => phases[index]!.approval);
  return asked.length > 1 && asked.length === phases.length ? ["all"] : asked;
}

// ---------------------------------------------------------------- the address

const LIMITS = [
  ["error-rate-max", "errorRateMax"],
  ["latency-ratio-max", "latencyRatioMax"],
  ["class-shift-max", "classShiftMax"],
  ["disagreement-max", "disagreementMax"],
] as const;

export function readChoice(from: URLSearchParams): RolloutChoice {
  const text = (name: string, usual = "") => from.get(name) ?? usual;
  const number = (name: string, usual: number, least: number) => {
    const value = Number(from.get(name) ?? Number.NaN);
    return Number.isFinite(value) ? Math.max(least, value) : usual;
  };
  const devices = from.getAll("device");
  const target = TARGETS.find((one) => one === from.get("to"));
  const limits = Object.fromEntries(
    LIMITS.map(([name, key]) => {
      const value = from.get(name);
      return [key, value === "none" && key !== "errorRateMax" ? null : number(name, USUAL.safety[key]!, 0)];
    }),
  );
  return {
    model: text("model"),
    version: text("version"),
    target: target ?? (devices.length ? "devices" : from.get("where") ? "where" : from.get("group") ? "group" : "all"),
    group: text("group"),
    where: text("where"),
    devices,
    phases: readPhases(text("phases"), from.getAll("approve-after"), from.getAll("soak"), from.getAll("experiment"), from.getAll("gate")),
    soak: from.getAll("soak").find((one) => !one.includes("=")) ?? "",
    gates: readGates(from.getAll("gate")),
    deadline: text("deadline"),
    onDeadline: from.get("on-deadline") === "fail" ? "fail" : "leave",
    available: text("min-available"),
    priority: number("priority", USUAL.priority, -100),
    maxInProgress: number("max-in-progress", USUAL.maxInProgress, 1),
    failuresMax: number("failures-max", USUAL.failuresMax, 1),
    observeSeconds: number("observe", USUAL.observeSeconds, 0),
    safety: {
      ...USUAL.safety,
      ...limits,
      shadowSeconds: number("shadow", 0, 0),
      windows: text("window"),
      goesWith: from.getAll("with"),
      forgive: from.get("forgive") === "true",
    },
  };
}

function readGates(texts: string[]): GateChoice {
  const found: GateChoice = {};
  for (const text of texts) {
    const gate = GATES.find((one) => text.startsWith(one.name + one.operator));
    const number = Number.parseFloat(gate ? text.slice(gate.name.length + gate.operator.length) : "");
    if (gate && Number.isFinite(number)) found[gate.field] = number;
  }
  return found;
}

/** "error_rate<=0.01" for all phases that do not say otherwise, "canary:success>=0.8" for one. */
function gateTexts({ phases, gates }: RolloutChoice): string[] {
  const texts = (chosen: GateChoice | null) => (chosen ? GATES.flatMap((gate) => gateText(gate, chosen)) : []);
  if (!phases.length) return [];
  return [...texts(gates), ...phases.flatMap((phase, index) => texts(phase.gates).map((text) => `${phaseName(phase, index)}:${text}`))];
}

/** Name and value of everything that is not as usual, in the order of the command's options. */
function said(choice: RolloutChoice): [name: string, value: string][] {
  const { safety } = choice;
  const differs = (name: string, value: number | string, usual: number | string): [string, string][] =>
    value === usual ? [] : [[name, String(value)]];
  return [
    ...differs("phases", phasesText(choice.phases), ""),
    ...(choice.phases.length ? differs("soak", choice.soak, "") : []),
    ...choice.phases.flatMap((phase, index) => (phase.soak ? differs("soak", `${phaseName(phase, index)}=${phase.soak}`, "") : [])),
    ...approvals(choice.phases).map((name): [string, string] => ["approve-after", name]),
    ...choice.phases.flatMap((phase, index) =>
      phase.experiment ? differs("experiment", experimentText(phaseName(phase, index), phase.experiment), "") : [],
    ),
    ...gateTexts(choice).map((text): [string, string] => ["gate", text]),
    ...differs("deadline", choice.deadline, ""),
    ...(choice.deadline ? differs("on-deadline", choice.onDeadline, USUAL.onDeadline) : []),
    ...differs("min-available", choice.available, ""),
    ...differs("priority", choice.priority, USUAL.priority),
    ...differs("shadow", safety.shadowSeconds, 0),
    ...differs("window", safety.windows, ""),
    ...LIMITS.flatMap(([name, key]) => differs(name, safety[key] ?? "none", USUAL.safety[key] ?? "none")),
    ...safety.goesWith.map((name): [string, string] => ["with", name]),
  ];
}

/** The address of the form as it is filled in; what is not chosen is not in it. */
export function choiceAddress(choice: RolloutChoice): URLSearchParams {
  const address = new URLSearchParams();
  const put = (name: string, value: string | number, usual: string | number = "") => {
    if (value !== usual) address.append(name, String(value));
  };
  put("model", choice.model);
  put("version", choice.version);
  put("to", choice.target, "all");
  if (choice.target === "group") put("group", choice.group);
  if (choice.target === "where") put("where", choice.where);
  if (choice.target === "devices") for (const device of choice.devices) put("device", device);
  put("max-in-progress", choice.maxInProgress, USUAL.maxInProgress);
  put("failures-max", choice.failuresMax, USUAL.failuresMax);
  put("observe", choice.observeSeconds, USUAL.observeSeconds);
  for (const [name, value] of said(choice)) address.append(name, value);
  if (choice.safety.forgive) address.append("forgive", "true");
  return address;
}

// ---------------------------------------------------------------- the command line

export function startRollout(choice: RolloutChoice, action = "start"): string {
  const where = {
    all: ["--all"],
    group: [`--group ${quoted(choice.group || "GROUP")}`],
    where: [`--where ${quoted(choice.where || "SELECTOR")}`],
    devices: choice.devices.map((device) => `--device ${quoted(device)}`),
  }[choice.target];
  return [
    `edgectl rollout ${action}`,
    quoted(`${choice.model || "MODEL"}@${choice.version || "VERSION"}`),
    ...where,
    `--max-in-progress ${choice.maxInProgress}`,
    `--failures-max ${choice.failuresMax}`,
    `--observe ${choice.observeSeconds}`,
    ...said(choice).map(([name, value]) => `--${name} ${quoted(value)}`),
    ...(choice.safety.forgive ? ["--forgive"] : []),
  ].join(" ");
}

// ---------------------------------------------------------------- the request

/** What keeps it from being sent, by field; empty: nothing that can be seen here. */
export function faults(choice: RolloutChoice): Partial<Record<keyof RolloutChoice, string>> {
  const found: Partial<Record<keyof RolloutChoice, string>> = {};
  if (choice.soak && seconds(choice.soak) === null) found.soak = "Write 90, 10m, 2h or 1d.";
  if (choice.deadline && seconds(choice.deadline) === null) found.deadline = "Write 90, 10m, 2h or 1d.";
  if (choice.available && !/^(?:[1-9]\d{0,4}|[1-9]\d?%|100%)$/.test(choice.available)) found.available = "Write 2, or 50%.";
  const names = choice.phases.map(phaseName);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice) found.phases = `Two phases are named ${twice}.`;
  if (choice.phases.some(({ soak }) => soak && seconds(soak) === null)) found.phases = "Write the soak of a phase as 90, 10m, 2h or 1d.";
  const limit = choice.phases.find(({ experiment }) => experiment && !((seconds(experiment.limit) ?? 0) >= 60));
  if (limit) found.phases = "Write the limit of the experiment as 10m, 2h or 1d: a minute or more.";
  if (choice.phases.some(({ unit, where }) => unit === "where" && !where.trim())) found.phases = "Write the selector of the phase.";
  return found;
}

/** The first thing that is still to be chosen. */
export function missing(choice: RolloutChoice): string | null {
  if (!choice.model) return "Choose a model.";
  if (!choice.version) return "Choose a version.";
  if (choice.target === "group" && !choice.group) return "Name a group.";
  if (choice.target === "where" && !choice.where.trim()) return "Write a selector.";
  if (choice.target === "devices" && !choice.devices.length) return "Choose at least one device.";
  return Object.values(faults(choice))[0] ?? null;
}

export function request(choice: RolloutChoice): Schemas["RolloutRequest"] {
  const { safety, target, available } = choice;
  const share = available.endsWith("%");
  return {
    model: choice.model,
    version: choice.version,
    selector: {
      all: target === "all",
      devices: target === "devices" ? choice.devices : [],
      group: target === "group" ? choice.group : "",
      where: target === "where" ? choice.where.trim() : "",
    },
    policy: {
      max_in_progress: choice.maxInProgress,
      failures_max: choice.failuresMax,
      observe_s: choice.observeSeconds,
      shadow_s: safety.shadowSeconds,
      windows: safety.windows,
      error_rate_max: safety.errorRateMax,
      latency_ratio_max: safety.latencyRatioMax,
      class_shift_max: safety.classShiftMax,
      disagreement_max: safety.disagreementMax,
      goes_with: safety.goesWith,
      forgive: safety.forgive,
      phases: choice.phases.map((phase) => ({
        name: phase.name,
        devices: phase.unit === "devices" ? phase.amount : null,
        percent: phase.unit === "share" ? phase.amount : null,
        where: phase.unit === "where" ? phase.where.trim() : "",
        soak_s: seconds(phase.soak || choice.soak) ?? 0,
        approval: phase.approval,
        experiment: phase.experiment && experimentRequest(phase.experiment),
        gates: (phase.gates && Object.keys(phase.gates).length ? { ...choice.gates, ...phase.gates } : null) as Schemas["GatePolicy"] | null,
      })),
      // What is not chosen, the server knows.
      gates: (choice.phases.length ? choice.gates : {}) as Schemas["GatePolicy"],
      deadline_s: seconds(choice.deadline),
      on_deadline: choice.onDeadline,
      available_min: available && !share ? Number(available) : null,
      available_percent: share ? Number(available.slice(0, -1)) : null,
      priority: choice.priority,
    },
  };
}
