// What has happened to a rollout, newest first.
import { keepPreviousData } from "@tanstack/react-query";

import { api, type Schemas } from "../api/client";
import { ErrorPanel, Older, Panel, useNewest } from "../components/Panels";
import { Time } from "../components/Time";

type Event = Schemas["RolloutEventInfo"];

export function History({ id }: { id: string }) {
  const { limit, grow } = useNewest("history");
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/events",
    { params: { path: { rollout: id }, query: { limit } } },
    { placeholderData: keepPreviousData },
  );
  return (
    <Panel title="History">
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {query.data?.items.length === 0 && <p className="soft">Nothing has happened yet.</p>}
      <ol className="timeline" aria-label="History of this rollout">
        {together(query.data?.items ?? []).map(([event, ...others]) => (
          <li key={event.revision}>
            <span className="marker">
              <span className="dot" />
            </span>
            <div className="row apart" style={{ alignItems: "baseline" }}>
              <b style={{ fontWeight: 580 }}>
                {sentence(event.kind)}
                {others.length > 0 && ` × ${others.length + 1}`}
              </b>
              <span className="soft small">
                <Time at={event.at} />
              </span>
            </div>
            <p className="soft small breakable">
              {event.actor}
              {others.length > 0
                ? ` · ${[event, ...others].map((one) => String(one.data.device)).join(", ")}`
                : details(event.data).map((text) => ` · ${text}`)}
            </p>
          </li>
        ))}
      </ol>
      {query.data && <Older shown={query.data.items.length} total={query.data.total} grow={grow} />}
    </Panel>
  );
}

/** Devices to which the same has happened one after the other, without a reason of their own. */
function together(events: Event[]): [Event, ...Event[]][] {
  const groups: [Event, ...Event[]][] = [];
  for (const event of events) {
    const last = groups.at(-1);
    const same = last?.[0].kind === event.kind && last[0].actor === event.actor && event.kind.startsWith("device_");
    if (last && same && !event.data.reason && !last[0].data.reason) last.push(event);
    else groups.push([event]);
  }
  return groups;
}

function sentence(kind: string): string {
  const words = kind.replaceAll(/[_.-]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function details(data: Record<string, unknown>): string[] {
  return Object.entries(data)
    .filter(([, value]) => value !== "" && value !== null)
    .map(([name, value]) => {
      const text = typeof value === "object" ? inWords(value as Record<string, unknown>) : String(value);
      return name === "reason" || name === "note" ? text : `${name.replaceAll("_", " ")} ${text}`;
    });
}

/** A reason as it is written elsewhere; anything else that has parts as it came. */
function inWords(value: Record<string, unknown>): string {
  const { detail, code } = value;
  return typeof detail === "string" ? `${detail} (${String(code)})` : JSON.stringify(value);
}
