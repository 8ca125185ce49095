// States in words, with a sign and a colour that say the same.
import type { ReactNode } from "react";

import { Icon, type IconName } from "./Icon";

export type Tone = "good" | "warn" | "bad" | "busy" | "idle";

const STATES: Record<string, [tone: Tone, icon: IconName, words: string]> = {
  // rollouts
  running: ["busy", "play", "Running"],
  paused: ["warn", "pause", "Paused"],
  completed: ["good", "check", "Completed"],
  aborted: ["bad", "stop", "Aborted"],
  // devices of a rollout
  pending: ["idle", "clock", "Pending"],
  in_progress: ["busy", "busy", "In progress"],
  committed: ["good", "check", "Committed"],
  failed: ["bad", "cross", "Failed"],
  rejected: ["bad", "cross", "Rejected"],
  rolled_back: ["bad", "back", "Rolled back"],
  cancelled: ["idle", "minus", "Cancelled"],
  overdue: ["warn", "clock", "Overdue"],
  reverted: ["idle", "back", "Reverted"],
  // updates on a device
  idle: ["idle", "minus", "Idle"],
  refreshing: ["busy", "busy", "Refreshing"],
  downloading: ["busy", "busy", "Downloading"],
  verifying: ["busy", "busy", "Verifying"],
  trial: ["busy", "busy", "Trial"],
  shadowing: ["busy", "busy", "Shadowing"],
  activating: ["busy", "busy", "Activating"],
  observing: ["busy", "busy", "Observing"],
  "rolling-back": ["warn", "back", "Rolling back"],
  "rolled-back": ["bad", "back", "Rolled back"],
  // versions and trials
  processing: ["busy", "busy", "Processing"],
  unsigned: ["warn", "key", "Unsigned"],
  ready: ["good", "check", "Ready"],
  refused: ["bad", "cross", "Refused"],
  accepted: ["idle", "check", "Accepted"],
  published: ["good", "check", "Published"],
  skipped: ["idle", "minus", "Skipped"],
  // gates and data checks
  passed: ["good", "check", "Passed"],
  not_enough_data: ["idle", "minus", "Not enough data"],
  overridden: ["warn", "minus", "Overridden"],
  error: ["bad", "cross", "Error"],
  warning: ["warn", "minus", "Warning"],
  info: ["idle", "minus", "Info"],
  // jobs
  queued: ["idle", "clock", "Queued"],
  succeeded: ["good", "check", "Succeeded"],
  // webhooks
  delivered: ["good", "check", "Delivered"],
  off: ["idle", "pause", "Off"],
  // alerts
  critical: ["bad", "warning", "Critical"],
  open: ["warn", "clock", "Open"],
  acknowledged: ["busy", "check", "Acknowledged"],
  resolved: ["idle", "check", "Ended"],
  // accuracy
  good: ["good", "check", "As at the push"],
  low: ["bad", "warning", "Low"],
  // drift
  unknown: ["idle", "clock", "Not yet judged"],
  quiet: ["good", "check", "As the reference"],
  suspected: ["busy", "search", "Suspected"],
  drifting: ["bad", "wave", "Drifting"],
  recovering: ["warn", "back", "Recovering"],
  // loops
  watching: ["idle", "search", "Watching"],
  collecting: ["busy", "tag", "Collects labels"],
  dataset: ["busy", "list", "Dataset made"],
  training: ["busy", "busy", "Trains"],
  gated: ["busy", "shield", "Gates passed"],
  canary: ["busy", "rollout", "Canary"],
  rollout: ["busy", "rollout", "Rolls out"],
  promoted: ["good", "check", "Promoted"],
  not_asked: ["idle", "minus", "Not asked"],
  // rows of the audit log
  done: ["good", "check", "Done"],
  // uploads of devices
  receiving: ["busy", "busy", "Receiving"],
  received: ["busy", "busy", "Received"],
  complete: ["good", "check", "Complete"],
  // devices
  enrolled: ["good", "check", "Enrolled"],
  waiting: ["warn", "clock", "Waiting"],
  revoked: ["warn", "minus", "Lost"],
  decommissioned: ["idle", "minus", "Decommissioned"],
};

export function wordsOf(state: string): string {
  return STATES[state]?.[2] ?? state;
}

export function State({ state, more }: { state: string; more?: ReactNode }) {
  const [tone, icon, words] = STATES[state] ?? ["idle", "minus", state];
  return (
    <span className="state" data-tone={tone}>
      <Icon name={icon} size={13} />
      <span>
        {words}
        {more != null && <> {more}</>}
      </span>
    </span>
  );
}

export function StateMarker({ state, newest }: { state: string; newest: boolean }) {
  const [tone, icon] = STATES[state] ?? ["idle", "minus", state];
  // A step that was passed is a dot; only what it has come to stands out.
  if (!newest && (tone === "busy" || tone === "idle")) {
    return (
      <span className="marker">
        <span className="dot" />
      </span>
    );
  }
  return (
    <span className="marker" style={{ color: `var(--${tone})` }}>
      <Icon name={icon} size={15} />
    </span>
  );
}

export function Online({ online }: { online: boolean }) {
  return (
    <span className="plain-state">
      <span className="dot" data-tone={online ? "good" : undefined} data-hollow={online ? undefined : true} />
      {online ? "Online" : "Offline"}
    </span>
  );
}

/** Whether a device is there, in one word: how it left, or how it is connected. */
export function Presence({ device }: { device: { state: string; online: boolean; overdue?: boolean } }) {
  if (device.state !== "enrolled") return <State state={device.state} />;
  if (device.overdue) return <State state="overdue" />;
  return <Online online={device.online} />;
}
