// Who did what, for admins: asked of the server by person, action, object and time.
import { useEffect, useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select, TextInput } from "@mantine/core";

import { api, type Schemas } from "../api/client";
import { Command, Equivalent } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column, type ListState } from "../components/DataTable";
import { Icon } from "../components/Icon";
import { Empty, Facts, Head, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { EXPORT_AUDIT, listAudit, verifyAudit } from "../cli";
import { count } from "../format";
import { useRefusal } from "../session";

type Entry = Schemas["AuditEntryInfo"];

const FILTERS = ["actor", "action", "object", "outcome", "since"];
const DAY_S = 86_400;
const SINCE = [
  { value: "1h", label: "Last hour", seconds: 3600 },
  { value: "1d", label: "Last day", seconds: DAY_S },
  { value: "7d", label: "Last 7 days", seconds: 7 * DAY_S },
  { value: "30d", label: "Last 30 days", seconds: 30 * DAY_S },
];
const OUTCOMES: { value: Entry["outcome"]; label: string }[] = [
  { value: "done", label: "Done" },
  { value: "refused", label: "Refused" },
  { value: "failed", label: "Failed" },
];

export function AuditPage() {
  const refusal = useRefusal("admin");
  return (
    <>
      <Head title="Audit log" under="Who did what, and what was refused. Each row is chained to the one before." />
      {refusal ? (
        <Panel>
          <Empty icon="key" title="The audit log is for admins">
            <p className="soft">{refusal}</p>
          </Empty>
        </Panel>
      ) : (
        <div className="stack">
          <Chain />
          <Entries />
        </div>
      )}
    </>
  );
}

/** Whether the log can be believed, and how anybody checks that. */
function Chain() {
  const state = api.useQuery("get", "/api/v1/audit/state", {}, { refetchInterval: 30_000 });
  return (
    <Panel
      title="Chain"
      aside={
        <Button
          component="a"
          href="/api/v1/audit/export"
          download="edgectl-audit.jsonl"
          size="xs"
          variant="default"
          leftSection={<Icon name="down" size={14} />}
        >
          Export everything
        </Button>
      }
    >
      <div className="stack" style={{ gap: 12 }}>
        {state.data?.alarm && (
          <Note tone="bad" icon="warning" alert>
            <p className="breakable">
              Somebody has changed the log: {state.data.alarm}. Keep the server&apos;s data folder as it is, and find out who.
            </p>
          </Note>
        )}
        <div className="halves">
          <Facts
            rows={[
              ["State", state.data ? <State key="s" state={state.data.alarm ? "failed" : "passed"} /> : "–"],
              ["Rows", <span key="n" className="number">{count(state.data?.number)}</span>],
              ["Vouched for", <>up to row <span className="number">{count(state.data?.anchored)}</span>, by a signed head outside of the database</>],
              ["Signed with", <span key="k" className="mono small breakable">{state.data?.key ?? "–"}</span>],
            ]}
          />
          <div className="stack" style={{ gap: 8 }}>
            <p className="soft small">Checked from anywhere, and kept where this server cannot reach it:</p>
            <Command text={verifyAudit()} />
            <Command text={EXPORT_AUDIT} />
          </div>
        </div>
      </div>
    </Panel>
  );
}

/** The beginning of a time that ends now; kept for a while, so that the question stays the same. */
function useSince(list: ListState): string | undefined {
  const chosen = SINCE.find((one) => one.value === list.get("since"));
  const begin = (seconds: number) => new Date(Date.now() - seconds * 1000).toISOString();
  const [at, setAt] = useState({ value: chosen?.value, text: chosen && begin(chosen.seconds) });
  if (at.value !== chosen?.value) setAt({ value: chosen?.value, text: chosen && begin(chosen.seconds) });
  return at.value === chosen?.value ? at.text : undefined;
}

function Entries() {
  const list = useListState();
  const outcome = OUTCOMES.find((one) => one.value === list.get("outcome"))?.value;
  const asked = { q: list.q, actor: list.get("actor"), action: list.get("action"), object: list.get("object"), outcome };
  const since = useSince(list);
  const query = api.useQuery(
    "get",
    "/api/v1/audit",
    { params: { query: { ...asked, since, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 30_000 },
  );
  const filtered = Boolean(list.q || FILTERS.some((name) => list.get(name)));
  return (
    <Panel
      flush
      title="Rows"
      aside={
        <div className="filters">
          <Select
            aria-label="Time"
            placeholder="Any time"
            w={140}
            clearable
            clearButtonProps={{ "aria-label": "Any time", size: "24px" }}
            data={SINCE.map(({ value, label }) => ({ value, label }))}
            value={list.get("since") ?? null}
            onChange={(value) => list.set({ since: value })}
          />
          <Select
            aria-label="Outcome"
            placeholder="Any outcome"
            w={140}
            clearable
            clearButtonProps={{ "aria-label": "Any outcome", size: "24px" }}
            data={OUTCOMES}
            value={outcome ?? null}
            onChange={(value) => list.set({ outcome: value })}
          />
          <Search list={list} label="Search the log" />
        </div>
      }
    >
      <div className="above-table">
        <div className="filters">
          <Word list={list} name="actor" label="Who" />
          <Word list={list} name="action" label="What" />
          <Word list={list} name="object" label="To" />
          {(["actor", "action", "object"] as const).map(
            (name) => list.get(name) && <FilterChip key={name} list={list} names={[name]} label={`${NAMES[name]} ${list.get(name)}`} />,
          )}
        </div>
      </div>
      <DataTable
        label="Audit log"
        columns={columnsOf(list)}
        rowKey={(entry) => String(entry.number)}
        detail={details}
        query={query}
        list={list}
        defaultSort="-number"
        empty={
          <Empty icon={filtered ? "search" : "list"} title={filtered ? "No row matches" : "Nothing yet"}>
            {filtered && (
              <Button variant="default" size="xs" onClick={() => list.set(Object.fromEntries(["q", ...FILTERS].map((name) => [name, null])))}>
                Clear filters
              </Button>
            )}
          </Empty>
        }
      />
      <div style={{ padding: "10px 18px 18px" }}>
        <Equivalent text={listAudit({ ...asked, since: list.get("since") })} />
      </div>
    </Panel>
  );
}

const NAMES = { actor: "By", action: "Action", object: "To" } as const;

/** A filter that is typed: the address follows when it is complete. */
function Word({ list, name, label }: { list: ListState; name: string; label: string }) {
  const value = list.get(name) ?? "";
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const apply = () => text.trim() !== value && list.set({ [name]: text.trim() || null });
  return (
    <TextInput
      aria-label={label}
      placeholder={label}
      w={150}
      maxLength={128}
      spellCheck={false}
      value={text}
      onChange={(event) => setText(event.currentTarget.value)}
      onBlur={apply}
      onKeyDown={(event) => event.key === "Enter" && apply()}
    />
  );
}

/** A value that can be asked for by itself. */
function Asks({ list, name, value, words }: { list: ListState; name: string; value: string; words?: string }) {
  if (!value) return <span className="soft">{words ?? "–"}</span>;
  return (
    <button type="button" className="ask breakable" title={`Only ${value}`} onClick={() => list.set({ [name]: value })}>
      {value}
    </button>
  );
}

function columnsOf(list: ListState): Column<Entry>[] {
  return [
    { key: "number", header: "No.", sort: "number", align: "right", className: "only-medium", cell: (entry) => <span className="number">{count(entry.number)}</span> },
    { key: "at", header: "When", cell: (entry) => <Time at={entry.at} /> },
    { key: "actor", header: "Who", cell: (entry) => <Asks list={list} name="actor" value={entry.actor} words="somebody unknown" /> },
    { key: "address", header: "From", className: "only-medium", cell: (entry) => <span className="mono">{entry.address || "–"}</span> },
    { key: "action", header: "What", cell: (entry) => <span className="mono"><Asks list={list} name="action" value={entry.action} /></span> },
    { key: "object", header: "To", cell: (entry) => <Asks list={list} name="object" value={entry.object} /> },
    { key: "outcome", header: "Outcome", cell: (entry) => <State state={entry.outcome} more={codeOf(entry)} /> },
  ];
}

function codeOf(entry: Entry): string | null {
  const code = entry.details["code"];
  return typeof code === "string" && code ? code : null;
}

/** What the row says besides, as it was written. */
function details(entry: Entry) {
  const rest = Object.entries(entry.details).filter(([name]) => name !== "code" && name !== "status");
  if (!rest.length) return null;
  return (
    <span className="mono">
      {rest.map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(" · ")}
    </span>
  );
}
