// One model slot of a device: the story of its newest update, the evidence, and what is ordered.
import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { bytes } from "../format";
import { Measure } from "./Bars";
import { Digest } from "./Command";
import { Evidence, provider, usePolicy } from "./Evidence";
import { Facts, FIRST_ROWS, Note, Panel } from "./Panels";
import { State } from "./State";
import { Named, Story } from "./Story";
import { Time } from "./Time";

interface SlotPanelProps {
  device: Schemas["DeviceDetail"];
  slot: Schemas["SlotInfo"];
}

export function SlotPanel({ device, slot }: SlotPanelProps) {
  const { running, previous, update } = slot;
  const policy = usePolicy(update?.rollout);
  // The timeline's own first page: asked once for both.
  const events = api.useQuery(
    "get",
    "/api/v1/devices/{device}/events",
    { params: { path: { device: device.id }, query: { limit: FIRST_ROWS } } },
    { placeholderData: keepPreviousData },
  );
  return (
    <Panel
      title={
        <Link to={`/models/${slot.slot}`} style={{ color: "inherit" }}>
          {slot.slot}
        </Link>
      }
      aside={update && <State state={update.state} />}
    >
      <div className="stack" style={{ gap: 14 }}>
        <Story slot={slot} events={events.data?.items ?? []} policy={policy} rejected={device.rejected} />
        {slot.fault && (
          <Note tone="bad">
            <strong>What runs misbehaved</strong>: {slot.fault.detail}
            <p className="small mono">{slot.fault.code}</p>
          </Note>
        )}
        {update?.state === "downloading" && update.bytes_total > 0 && (
          <Measure
            text={`${bytes(update.bytes_done)} of ${bytes(update.bytes_total)}`}
            share={update.bytes_done / update.bytes_total}
            fill="busy"
          />
        )}
        {update && <Evidence seen={update} policy={policy} />}
        <div className="halves" style={{ gap: "14px 32px" }}>
          <Facts
            rows={[
              ["Running", <Running key="r" slot={slot.slot} installed={running} />],
              ["Bundle", <Digest key="b" value={running?.manifest} />],
              ["Since", <Time key="s" at={running?.since} never="–" />],
              ["Runs by", running ? execution(running) : "–"],
              ["Rollback to", <Running key="p" slot={slot.slot} installed={previous} />],
            ]}
          />
          <Facts
            rows={[
              ["Desired", slot.desired_version ?? <span className="soft">nothing ordered</span>],
              [
                "Rollout",
                slot.desired_rollout ? (
                  <Link to={`/rollouts/${slot.desired_rollout}`}>{slot.desired_rollout}</Link>
                ) : (
                  <span className="soft">none</span>
                ),
              ],
              ["Order", update ? `${update.order}${update.attempt > 1 ? `, attempt ${update.attempt}` : ""}` : "–"],
              ["Endpoint", device.endpoint ? <span className="mono">{device.endpoint}</span> : "–"],
            ]}
          />
        </div>
      </div>
    </Panel>
  );
}

function Running({ slot, installed }: { slot: string; installed: Schemas["InstalledInfo"] | null }) {
  return installed ? <Named slot={slot} what={installed} /> : <span className="soft">none</span>;
}

function execution(running: Schemas["InstalledInfo"]): string {
  const threads = running.threads ? `${running.threads} ${running.threads === 1 ? "thread" : "threads"}` : "threads by the model's size";
  return running.provider ? `${provider(running.provider)}, ${threads}` : threads;
}
