// What was asked of a version before it was signed, and what is remarkable about its data.
import type { Schemas } from "../api/client";
import { bytes, duration } from "../format";
import { Panel } from "./Panels";
import { State } from "./State";

type ReportInfo = Schemas["Report"];
type Gate = Schemas["GateInfo"];

export function Findings({ report }: { report: ReportInfo }) {
  return (
    <>
      {!!report.gates?.length && <Gates gates={report.gates} />}
      {!!report.data_checks?.length && <DataChecks rows={report.data_checks} />}
    </>
  );
}

function Gates({ gates }: { gates: Gate[] }) {
  return (
    <Panel flush title="Gates" aside={<span className="soft small">signed into each bundle</span>}>
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Gates">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Gate</th>
              <th scope="col">Variant</th>
              <th scope="col">Verdict</th>
              <th scope="col">Measured</th>
              <th scope="col">Bound</th>
              <th scope="col">More</th>
            </tr>
          </thead>
          <tbody>
            {gates.map((gate) => (
              <tr key={`${gate.variant} ${gate.name} ${gate.direction}`}>
                <td className="mono">{gate.name}</td>
                <td>{gate.variant ? <span className="mono">{gate.variant}</span> : <span className="soft">all</span>}</td>
                <td>
                  <State state={gate.status} more={gate.overridden_by ? `by ${gate.overridden_by}` : undefined} />
                </td>
                <td className="number nowrap">{gateValue(gate.measured, gate.unit)}</td>
                <td className="number nowrap">
                  {gate.bound == null ? <span className="soft">–</span> : `${gate.direction === ">=" ? "≥" : "≤"} ${gateValue(gate.bound, gate.unit)}`}
                </td>
                <td className="soft small breakable">{gate.detail}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function DataChecks({ rows }: { rows: Schemas["DataCheckInfo"][] }) {
  return (
    <Panel flush title="Data checks">
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Data checks">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Check</th>
              <th scope="col">Severity</th>
              <th scope="col">Found</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={`${row.name} ${row.detail}`}>
                <td className="mono">{row.name}</td>
                <td>
                  <State state={row.severity} />
                </td>
                <td className="breakable">
                  {row.detail}
                  {row.hint && <div className="soft small">{row.hint}</div>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

/** As the unit wants it. */
export function gateValue(number: number | null | undefined, unit: Gate["unit"]): string {
  if (number == null) return "–";
  if (unit === "bytes") return bytes(number);
  if (unit === "time") return duration(number);
  return Number(number.toPrecision(4)).toString();
}
