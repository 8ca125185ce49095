// What devices have measured of a version's variants, each in its own trial process.
import { api, type Schemas } from "../api/client";
import { benchmark } from "../cli";
import { bytes, count, duration } from "../format";
import { Command } from "./Command";
import { Empty, Older, Panel, useNewest } from "./Panels";
import { State } from "./State";
import { Time } from "./Time";

export function Measurements({ model, version }: { model: string; version: string }) {
  const { limit, grow } = useNewest("measured");
  const query = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions/{version}/measurements",
    { params: { path: { name: model, version }, query: { limit } } },
    { refetchInterval: 10_000 },
  );
  const page = query.data;
  if (!page) return null;
  return (
    <Panel
      flush={page.total > 0}
      title="Measured on devices"
      aside={<span className="soft small">the median of a class decides what its devices get next</span>}
    >
      {page.total === 0 ? (
        <Empty icon="clock" title="Nothing yet">
          <p className="soft">Every update measures. Or ask a device that is connected:</p>
          <Command text={benchmark(`${model}@${version}`)} />
        </Empty>
      ) : (
        <>
          <Rows rows={page.items} />
          <Older shown={page.items.length} total={page.total} grow={grow} />
        </>
      )}
    </Panel>
  );
}

function Rows({ rows }: { rows: Schemas["MeasurementInfo"][] }) {
  return (
    <div className="table-scroll" tabIndex={0} role="region" aria-label="Measured on devices">
      <table className="table">
        <thead>
          <tr>
            <th scope="col">Variant</th>
            <th scope="col">Device and its class</th>
            <th scope="col">Verdict, golden inputs</th>
            <th scope="col" data-align="right">
              p50, p95
            </th>
            <th scope="col" data-align="right">
              Memory
            </th>
            <th scope="col">When</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={`${row.device} ${row.manifest} ${row.at} ${row.source}`}>
              <td className="mono nowrap">{row.variant}</td>
              <td title={`${row.cpu_model} ${row.runtime}, by ${row.source}`} className="breakable">
                {row.device}
                <br />
                <span className="soft small">{row.device_class || "no class"}</span>
              </td>
              <td title={row.reason}>
                <State state={row.verdict === "ok" ? "accepted" : row.verdict} />
                {row.golden_total != null && (
                  <span className="soft small number">
                    {" "}
                    {count(row.golden_passed)} of {count(row.golden_total)}
                  </span>
                )}
              </td>
              <td data-align="right" className="number nowrap">
                {duration(row.latency_p50_us)}
                <br />
                <span className="soft small">{duration(row.latency_p95_us)}</span>
              </td>
              <td data-align="right" className="number nowrap">
                {bytes(row.rss_bytes)}
              </td>
              <td>
                <Time at={row.at} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
