// What an alert is about, and where that is looked into.
import type { Schemas } from "../api/client";

export type Alert = Schemas["RaisedAlert"];

/** The page that shows the cause; null: there is none. */
export function causeOf(alert: Alert): [words: string, to: string] | null {
  const [group] = alert.kind.split(".");
  if (group === "drift" || group === "data") {
    if (!alert.model) return ["Drift", "/drift"];
    const query = alert.device ? `?device=${alert.device}` : alert.site ? `?site=${encodeURIComponent(alert.site)}` : "";
    return ["Why", `/drift/${alert.model}${query}`];
  }
  if (group === "rollout") return ["Rollouts", alert.model ? `/rollouts?model=${alert.model}` : "/rollouts"];
  if (group === "trust" || group === "certificate") return ["Keys", "/trust"];
  if (alert.kind === "devices.overdue") return ["Overdue devices", alert.site ? `/fleet?overdue=true&site=${encodeURIComponent(alert.site)}` : "/fleet?overdue=true"];
  if (alert.device) return [alert.device, `/fleet/${alert.device}`];
  return alert.model ? [alert.model, `/models/${alert.model}`] : null;
}

export const SEVERITIES = [
  { value: "critical", label: "Critical" },
  { value: "warning", label: "Warning" },
  { value: "info", label: "Info" },
] as const;

export const STATES = [
  { value: "open", label: "Open" },
  { value: "acknowledged", label: "Acknowledged" },
  { value: "resolved", label: "Resolved" },
] as const;

export const TIMES = [
  { value: "3600", label: "1 hour", text: "1h" },
  { value: "14400", label: "4 hours", text: "4h" },
  { value: "86400", label: "1 day", text: "1d" },
  { value: "604800", label: "7 days", text: "7d" },
];
