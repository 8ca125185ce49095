// What has begun and ended: drift, and faults of the data.
import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Older, Panel, useNewest } from "../components/Panels";
import { StateMarker } from "../components/State";
import { Time } from "../components/Time";
import { driftEvents, type DriftPlace } from "../cli";
import { share } from "../format";
import { faultWords, whereOf, whyOf } from "./findings";

export type DriftEvent = Schemas["DriftEventInfo"];

const WORDS: Record<DriftEvent["kind"], [state: string, words: string]> = {
  "drift.began": ["drifting", "Drift began"],
  "drift.ended": ["quiet", "Drift ended"],
  "accuracy.fell": ["failed", "Accuracy fell"],
  "accuracy.recovered": ["quiet", "Accuracy recovered"],
  "data.began": ["failed", "Faults of the data began"],
  "data.ended": ["quiet", "Faults of the data ended"],
};

export function eventWords(event: DriftEvent): string {
  // Nothing has recovered: the version is gone from the devices.
  return event.replaced ? "Ended with its version" : WORDS[event.kind][1];
}

export function useDriftEvents(asked: DriftPlace & { limit: number }) {
  return api.useQuery(
    "get",
    "/api/v1/drift-events",
    { params: { query: asked } },
    { placeholderData: keepPreviousData, refetchInterval: 60_000 },
  );
}

function reasonOf(event: DriftEvent): string {
  if (event.accuracy) return `${share(event.accuracy.accuracy, 1)} estimated, ${share(event.accuracy.reference, 1)} on the data of the push`;
  return event.kind.startsWith("data") ? event.faults.map(faultWords).join("; ") : event.findings.map((one) => one.feature).join(", ");
}

export function Events({ of }: { of: DriftPlace }) {
  const { limit, grow } = useNewest("events");
  const query = useDriftEvents({ ...of, limit });
  return (
    <Panel title="What began and ended">
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {query.data?.items.length === 0 && <p className="soft">Neither drift nor a fault of the data so far.</p>}
      <ol className="timeline" aria-label="What began and ended">
        {query.data?.items.map((event) => (
          <li key={event.id}>
            <StateMarker state={WORDS[event.kind][0]} newest />
            <div className="row apart wrap" style={{ gap: "0 12px" }}>
              <span>
                <b style={{ fontWeight: 580 }}>{eventWords(event)}</b>, <Link className="underlined" to={whyOf(event)}>{whereOf(event)}</Link>{" "}
                <span className="soft">
                  {event.model} {event.version}
                </span>
              </span>
              <span className="soft small">
                <Time at={event.at} />
              </span>
            </div>
            <p className="small soft breakable">
              {reasonOf(event)}
            </p>
          </li>
        ))}
      </ol>
      {query.data && <Older shown={query.data.items.length} total={query.data.total} grow={grow} />}
      <div style={{ marginTop: 14 }}>
        <Equivalent text={driftEvents(of)} />
      </div>
    </Panel>
  );
}
