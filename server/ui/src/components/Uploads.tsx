// What a device has uploaded: its logs, when somebody asks for them.
import { useState } from "react";

import { api, fetchClient, type Schemas } from "../api/client";
import { refresh } from "../api/refresh";
import { deviceLogs } from "../cli";
import { bytes, count } from "../format";
import { useRefusal } from "../session";
import { LogTail } from "../pages/device/LogTail";
import { Action } from "./Action";
import { Confirm } from "./Confirm";
import { Empty, ErrorPanel, Panel } from "./Panels";
import { State } from "./State";
import { Time } from "./Time";

type Upload = Schemas["DeviceUploadInfo"];

const SHOWN = 10;

export function Uploads({ device }: { device: Schemas["DeviceDetail"] }) {
  const [open, setOpen] = useState(false);
  const [follows, setFollows] = useState(false);
  const named = { params: { path: { device: device.id } } };
  const query = api.useQuery("get", "/api/v1/devices/{device}/uploads", named, { refetchInterval: 5_000 });
  const uploads = query.data?.items ?? [];
  return (
    <Panel
      title="Logs"
      aside={
        <span className="row wrap" style={{ gap: 8 }}>
          <Action
            needs="operator"
            icon="play"
            size="xs"
            variant="default"
            blocked={(!device.online && "The device is not connected.") || (follows && "You follow it already.")}
            onClick={() => setFollows(true)}
          >
            Follow
          </Action>
          <Action
            needs="operator"
            size="xs"
            variant="default"
            blocked={!device.online && "The device is not connected."}
            onClick={() => setOpen(true)}
          >
            Ask for its logs
          </Action>
        </span>
      }
    >
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`Logs of ${device.id}`}
        action="Ask"
        command={() => deviceLogs(device.id)}
        confirm={async () => {
          await fetchClient.POST("/api/v1/devices/{device}/logs", { ...named, body: { since_s: 3600 } });
          await refresh("/api/v1/devices/{device}/uploads");
        }}
      >
        <p>It uploads what its agent has logged in the last hour, without secrets. The file stays here for two weeks.</p>
      </Confirm>
      {follows && <LogTail device={device.id} close={() => setFollows(false)} />}
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {query.data && uploads.length === 0 && !follows && (
        <Empty icon="clock" title="Nothing was asked for">
          <p className="soft">The device keeps its newest log lines. It uploads them when somebody asks, and sends new ones while somebody follows.</p>
        </Empty>
      )}
      <ul className="alarms" aria-label="Uploads">
        {uploads.slice(0, SHOWN).map((upload) => (
          <Row key={upload.digest} device={device.id} upload={upload} />
        ))}
      </ul>
    </Panel>
  );
}

function Row({ device, upload }: { device: string; upload: Upload }) {
  const refusal = useRefusal("operator");
  const path = `/api/v1/devices/${encodeURIComponent(device)}/uploads/${encodeURIComponent(upload.digest)}`;
  const moving = upload.state === "receiving" || upload.state === "waiting";
  return (
    <li>
      <div className="row apart wrap" style={{ gap: "0 12px" }}>
        <span>
          <State state={upload.state} />{" "}
          <span className="soft number">
            {moving ? `${count(upload.chunks_done)} of ${count(upload.chunks_total)} chunks of ` : ""}
            {bytes(upload.length)}
          </span>
        </span>
        <span className="soft small">
          <Time at={upload.created_at} />
        </span>
      </div>
      {upload.state === "complete" && (
        <p className="small">
          {refusal ? (
            <span className="soft">{refusal}</span>
          ) : (
            <a href={path} download={`${device}-logs.jsonl.gz`}>
              Download
            </a>
          )}{" "}
          <span className="soft">
            gone <Time at={upload.expires_at} />
          </span>
        </p>
      )}
      {upload.reason && (
        <p className="small breakable">
          <span className="mono">{upload.reason_code}</span> {upload.reason}
        </p>
      )}
    </li>
  );
}
