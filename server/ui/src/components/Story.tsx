// An update at a glance: what ran, what came, why it went back or what it waits for, what runs now.
import type { ReactNode } from "react";
import { Link } from "react-router";

import type { Schemas } from "../api/client";
import { duration, plural, share, span } from "../format";
import { Icon, type IconName } from "./Icon";
import type { Tone } from "./State";
import { Time } from "./Time";

type Slot = Schemas["SlotInfo"];
type Update = Schemas["UpdateInfo"];
type Event = Schemas["DeviceEventInfo"];
type Policy = Schemas["RolloutPolicy"];

interface Chapter {
  title: string;
  icon: IconName;
  tone?: Tone;
  body: ReactNode;
}

interface StoryProps {
  slot: Slot;
  /** Newest first. */
  events: Event[];
  policy: Policy | undefined;
  /** Bundles that the device does not try again. */
  rejected: string[];
}

export function Story({ slot, events, policy, rejected }: StoryProps) {
  const chapters = slot.update ? tell(slot, slot.update, events, policy, rejected) : [];
  if (!chapters.length) return null;
  return (
    <ol className="story" aria-label={`What happened in ${slot.slot}`}>
      {chapters.map(({ title, icon, tone, body }) => (
        <li key={title} data-tone={tone}>
          <h3>
            <Icon name={icon} size={14} />
            {title}
          </h3>
          {body}
        </li>
      ))}
    </ol>
  );
}

function tell(slot: Slot, update: Update, events: Event[], policy: Policy | undefined, rejected: string[]): Chapter[] {
  const mine = events.filter((event) => event.slot === slot.slot && event.order === update.order && event.version === update.version);
  const at = (state: string) => mine.find((event) => event.after === state)?.at;
  const ended = update.state === "rejected" || update.state === "rolled-back";
  const before: Chapter = { title: slot.running ? "Ran" : "Before", icon: "model", body: <Named slot={slot.slot} what={slot.running} none="Nothing ran." /> };
  const came: Chapter = {
    title: "Came",
    icon: "rollout",
    body: (
      <>
        <Named slot={slot.slot} what={update} />
        <p className="soft small">
          {howItCame(update, at)}
          {ended && rejected.includes(update.manifest) && " It is not tried here again."}
        </p>
      </>
    ),
  };
  const now: Chapter = {
    title: slot.running ? "Runs now" : "Now",
    icon: slot.running ? "check" : "minus",
    tone: slot.running ? "good" : "warn",
    body: <Named slot={slot.slot} what={slot.running} none="Nothing runs." />,
  };
  switch (update.state) {
    case "rolling-back":
      return [came, why("Goes back", "back", "bad", update, at("rolling-back"))];
    case "rolled-back":
      return [before, came, why("Went back", "back", "bad", update, at("rolling-back") ?? at("rolled-back")), now];
    case "rejected":
      return [came, why("Rejected", "cross", "bad", update, at("rejected")), now];
    case "failed":
      return [came, why("Failed", "cross", "bad", update, at("failed")), now];
    case "waiting":
      return [now, { ...came, title: "Ready" }, why(waitsFor(update.reason?.code), "clock", "warn", update, at("waiting"))];
    case "shadowing":
      return [now, { ...came, title: "Answers copies", icon: "busy", tone: "busy", body: <Shadowing slot={slot.slot} update={update} policy={policy} since={at("shadowing")} /> }];
    case "observing":
      return [
        { ...before, body: <Named slot={slot.slot} what={slot.previous} none="Nothing ran." /> },
        { title: "Serves, observed", icon: "busy", tone: "busy", body: <Observing slot={slot} policy={policy} since={at("observing")} /> },
      ];
    default:
      // What is being fetched has its own bar; what is committed is no story.
      return update.reason ? [came, why("Last", "warning", "warn", update, undefined), now] : [];
  }
}

/** What came of it before it ended: for how long it served, or how far it got. */
function howItCame(update: Update, at: (state: string) => string | undefined): ReactNode {
  const seen = update.observation;
  const [from, until] = [at("observing"), at("rolling-back")];
  if (seen || from) {
    const served = seen ? ` ${plural(seen.requests, "request")}` : "";
    const failed = seen?.errors ? `, ${share(seen.errors / Math.max(1, seen.requests), 1)} failed` : "";
    const long = from && until ? ` in ${duration((Date.parse(until) - Date.parse(from)) * 1000)}` : "";
    return `Passed its trial. Served${served}${long}${failed}.`;
  }
  if (update.shadow) return `Passed its trial. Answered ${plural(update.shadow.mirrored, "copied request")}, never served.`;
  if (update.trial && update.state !== "rejected") return "Passed its trial. Has not served.";
  return "Never served.";
}

function why(title: string, icon: IconName, tone: Tone, update: Update, at: string | undefined): Chapter {
  const { reason, state, attempt } = update;
  const opens = reason?.code === "update.window" ? OPENS.exec(reason.detail)?.[1] : undefined;
  return {
    title,
    icon,
    tone,
    body: (
      <>
        <p className="breakable">
          {reason?.detail ?? "The device has not said why."}
          {opens && (
            <>
              {" "}
              (<Time at={opens} />)
            </>
          )}
        </p>
        <p className="small soft breakable">
          {reason && <span className="mono">{reason.code}</span>}
          {at && (
            <>
              {" "}
              · <Time at={at} />
            </>
          )}
          {state === "failed" && attempt > 1 && ` · attempt ${attempt}`}
        </p>
      </>
    ),
  };
}

/** When a maintenance window opens, in the device's words. */
const OPENS = /opens at (\d{4}-\d\d-\d\dT[\d:]+(?:Z|[+-]\d\d:\d\d))$/;

const WAITS: Record<string, string> = {
  "update.held": "Held at the device",
  "update.window": "Waits for its window",
  "update.partners": "Waits for its partners",
};

/** What an update waits for, in a few words. */
export function waitsFor(code: string | undefined): string {
  return WAITS[code ?? ""] ?? "Waits";
}

function Shadowing({ slot, update, policy, since }: { slot: string; update: Update; policy: Policy | undefined; since: string | undefined }) {
  return (
    <>
      <Named slot={slot} what={update} />
      <p className="soft small">
        {since ? <>Since <Time at={since} /></> : "It has begun"}
        {policy && `, for ${span(policy.shadow_s)}`}. Nobody sees its answers.
      </p>
    </>
  );
}

function Observing({ slot, policy, since }: { slot: Slot; policy: Policy | undefined; since: string | undefined }) {
  const { swap } = slot.update!;
  return (
    <>
      <Named slot={slot.slot} what={slot.running} none="Nothing runs." />
      <p className="soft small">
        {since ? <>Since <Time at={since} /></> : "It has begun"}
        {policy && `, for ${span(policy.observe_s)}`}.{swap?.resident && " The model before it stays in memory."}
      </p>
    </>
  );
}

interface NamedProps {
  slot: string;
  what: { version: string; variant: string } | null;
  none?: string;
}

/** A version with its variant. */
export function Named({ slot, what, none = "none" }: NamedProps) {
  if (!what) return <p className="soft">{none}</p>;
  return (
    <p>
      <Link to={`/models/${slot}/${encodeURIComponent(what.version)}`}>version {what.version}</Link>{" "}
      <span className="tag mono">{what.variant}</span>
    </p>
  );
}
