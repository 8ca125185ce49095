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
