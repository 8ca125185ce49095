// Who runs which bundle of a model; every number leads to the devices.
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Measure } from "../components/Bars";
import { Digest } from "../components/Command";
import { ErrorPanel, Panel } from "../components/Panels";
import { count } from "../format";

type Running = Schemas["RunningInfo"];

/** The fleet, of it the devices that run a bundle. */
export function runsBundle(model: string, manifest: string): string {
  return `/fleet?where=${encodeURIComponent(`runs=${model}@${manifest}`)}`;
}

/** The fleet, of it the devices that are ordered to run a model. */
export function desiredOn(model: string): string {
  return `/fleet?where=${encodeURIComponent(`desired=${model}`)}`;
}

export function useRunning(model: string) {
  return api.useQuery("get", "/api/v1/models/{name}/running", { params: { path: { name: model } } }, { refetchInterval: 15_000 });
}

export function RunningPanel({ model }: { model: string }) {
  const query = useRunning(model);
  const rows = query.data ?? [];
  const most = Math.max(1, ...rows.map((row) => row.devices));
  return (
    <Panel flush title="Who runs it" aside={<span className="soft small">as devices report it, by digest</span>}>
      {Boolean(query.error) && (
        <div style={{ padding: "0 14px 14px" }}>
          <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />
        </div>
      )}
      {query.data && rows.length === 0 && (
        <p className="soft small" style={{ padding: "0 18px 16px" }}>
          No device runs it yet.
        </p>
      )}
      {rows.length > 0 && (
        <div className="table-scroll" tabIndex={0} role="region" aria-label="Who runs it">
          <table className="table">
            <thead>
              <tr>
                <th scope="col">Version</th>
                <th scope="col">Variant</th>
                <th scope="col">Manifest</th>
                <th scope="col">Devices</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((row) => (
                <RunningRow key={`${row.version} ${row.manifest}`} model={model} row={row} most={most} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function RunningRow({ model, row, most }: { model: string; row: Running; most: number }) {
  const offline = row.devices - row.online;
  return (
    <tr>
      <td>
        <Link className="name" to={`/models/${model}/${encodeURIComponent(row.version)}`}>
          {row.version}
        </Link>
      </td>
      <td>{row.variant ? <span className="mono">{row.variant}</span> : <span className="soft">not made here</span>}</td>
      <td>
        <Digest value={row.manifest} />
      </td>
      <td>
        <Measure
          text={
            <>
              <Link className="underlined target" to={runsBundle(model, row.manifest)}>
                {count(row.devices)}
              </Link>
              {offline > 0 && (
                <Link className="soft small underlined target" style={{ marginLeft: 6 }} to={`${runsBundle(model, row.manifest)}&online=false`}>
                  {count(offline)} offline
                </Link>
              )}
            </>
          }
          share={row.devices / most}
        />
      </td>
    </tr>
  );
}
