// How a rollout goes about it, as it was started.
import type { ReactNode } from "react";
import { Link } from "react-router";

import type { Schemas } from "../api/client";
import { Facts, Panel } from "../components/Panels";
import { count, plural, span } from "../format";
import { gateName } from "./Phases";

type Rollout = Schemas["RolloutInfo"];

export function PolicyPanel({ rollout }: { rollout: Rollout }) {
  const { policy, selector } = rollout;
  return (
    <Panel title="Policy">
      <Facts
        rows={[
          ["Devices", where(selector)],
          ...(policy.phases.length ? [["Phases", policy.phases.map(phaseText).join(", ")] as [string, string]] : []),
          ...(policy.phases.length ? [["Gates", gates(policy.gates)] as [string, ReactNode]] : []),
          ...policy.phases.flatMap((phase): [string, ReactNode][] => (phase.gates ? [[`Gates of ${phase.name}`, gates(phase.gates)]] : [])),
          ...(policy.deadline_s ? [["Deadline", `${span(policy.deadline_s)}, then ${policy.on_deadline === "fail" ? "failed" : "left behind"}`] as [string, string]] : []),
          ...(budget(policy) ? [["Stay available", budget(policy)] as [string, string]] : []),
          ...(policy.priority ? [["Priority", String(policy.priority)] as [string, string]] : []),
          ["In progress", `at most ${count(policy.max_in_progress)}`],
          ["Pauses after", plural(policy.failures_max ?? 1, "failure")],
          ["Shadow", policy.shadow_s ? `answers copies for ${span(policy.shadow_s)}` : <span className="soft">none</span>],
          ["Switches", policy.windows || <span className="soft">at any time</span>],
          ["Goes with", policy.goes_with.length ? <Partners names={policy.goes_with} /> : <span className="soft">nothing else</span>],
          ...(policy.forgive ? [["Found bad before", "tried once more"] as [string, string]] : []),
          ["Observed for", span(policy.observe_s)],
          ["Errors", `at most ${Number((policy.error_rate_max * 100).toFixed(2))} %`],
          ["Latency", limit(policy.latency_ratio_max, (most) => `${most}× the model before`)],
          ["Class shift", limit(policy.class_shift_max, String)],
          ["Other answers", limit(policy.disagreement_max, (most) => `${Number((most * 100).toFixed(2))} % of copies`)],
        ]}
      />
    </Panel>
  );
}

type Policy = Rollout["policy"];

function phaseText({ name, devices, percent, where: selector }: Schemas["PhaseSpec"]): string {
  return `${name}: ${selector ? selector : devices ? plural(devices, "device") : percent && percent < 100 ? `${percent}\u00a0%` : "all"}`;
}

/** Whatever gates the policy has: its fields say what they are. */
function gates(policy: Policy["gates"]): ReactNode {
  const asked = Object.entries(policy).filter(([, value]) => value !== null && value !== undefined);
  return asked.map(([field, value], index) => (
    <div key={field} className={index ? "breakable" : undefined}>
      {gateName(field.replace(/_(min|max)$/, ""))} {field.endsWith("_max") ? "≤ " : field.endsWith("_min") ? "≥ " : ""}
      <span className="number">{typeof value === "object" ? JSON.stringify(value) : String(value)}</span>
    </div>
  ));
}

function budget(policy: Policy): string {
  const parts = [policy.available_min && plural(policy.available_min, "device"), policy.available_percent && `${policy.available_percent} %`];
  const found = parts.filter(Boolean).join(", ");
  return found && `${found} of each site`;
}

function where({ all, group, where: selector, devices }: Schemas["Selector"]): string {
  if (all) return "all that are enrolled";
  if (selector) return selector;
  return group ? `group ${group}` : plural(devices.length, "chosen device");
}

function limit(most: number | null | undefined, words: (most: number) => string): ReactNode {
  return most == null ? <span className="soft">no limit</span> : `at most ${words(most)}`;
}

function Partners({ names }: { names: string[] }) {
  return names.map((name, number) => {
    const [model, version] = name.split("@");
    return (
      <span key={name}>
        {number > 0 && ", "}
        <Link to={`/models/${model}/${encodeURIComponent(version ?? "")}`}>{name}</Link>
      </span>
    );
  });
}
