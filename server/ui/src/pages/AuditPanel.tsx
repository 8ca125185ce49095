// Who did what, for admins: the newest rows, and whether anything outside vouches for them.
import { api, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { DataTable, useListState, type Column } from "../components/DataTable";
import { Empty, Note, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { verifyAudit } from "../cli";
import { count } from "../format";

type Entry = Schemas["AuditEntryInfo"];

const ROWS = 25;

const COLUMNS: Column<Entry>[] = [
  { key: "number", header: "No.", sort: "number", align: "right", className: "only-medium", cell: (entry) => count(entry.number) },
  { key: "at", header: "When", cell: (entry) => <Time at={entry.at} /> },
  { key: "actor", header: "Who", cell: (entry) => <span className="breakable">{entry.actor || "somebody unknown"}</span> },
  { key: "address", header: "From", className: "only-medium", cell: (entry) => <span className="mono">{entry.address || "–"}</span> },
  { key: "action", header: "What", cell: (entry) => <span className="mono breakable">{entry.action}</span> },
  { key: "object", header: "To", cell: (entry) => <span className="breakable">{entry.object || "–"}</span> },
  { key: "outcome", header: "Outcome", cell: (entry) => outcome(entry) },
];

function outcome(entry: Entry): string {
  const code = entry.details["code"];
  return typeof code === "string" && code ? `${entry.outcome}: ${code}` : entry.outcome;
}

export function AuditPanel() {
  const list = useListState();
  const query = api.useQuery("get", "/api/v1/audit", {
    params: { query: { q: list.q, sort: list.sort, offset: list.offset, limit: ROWS } },
  });
  const state = api.useQuery("get", "/api/v1/audit/state");
  return (
    <Panel flush id="audit" title="Audit log" aside={<span className="soft small">who did what, and what was refused</span>}>
      <div className="body stack" style={{ padding: "2px 18px 18px", gap: 12 }}>
        {state.data?.alarm && (
          <Note tone="bad" icon="warning">
            <p className="breakable">
              Somebody has changed the log: {state.data.alarm}. Keep the server&apos;s data folder as it is, and find out who.
            </p>
          </Note>
        )}
        {state.data && (
          <p className="soft">
            {count(state.data.number)} rows, each chained to the one before; a signed head outside of the database vouches for those up to{" "}
            {count(state.data.anchored)}.
          </p>
        )}
        <Equivalent text={verifyAudit()} />
      </div>
      <DataTable
        label="Audit log"
        columns={COLUMNS}
        rowKey={(entry) => String(entry.number)}
        query={query}
        list={list}
        defaultSort="-number"
        empty={<Empty icon="key" title="Nothing yet" />}
      />
    </Panel>
  );
}
