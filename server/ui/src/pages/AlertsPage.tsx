// What is wrong now, who sees to it, and for how long nobody wants to hear of it.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Button } from "@mantine/core";
import { Link } from "react-router";

import { api, fetchClient, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Confirm } from "../components/Confirm";
import { Equivalent } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, pageOf, Pager, Search, useListState, type Column, type ListState } from "../components/DataTable";
import { Empty, ErrorPanel, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { endSilence, listAlerts } from "../cli";
import { count } from "../format";
import { AlertActions, refetchAlerts, useAlertCounts } from "../alerts/Actions";
import { causeOf, SEVERITIES, STATES, type Alert } from "../alerts/words";
import { useMe } from "../session";
import { Choice } from "./DriftPage";

const FILTERS = ["q", "state", "severity", "kind", "model", "site", "device", "owner", "ended"];
const CHIPS: [name: string, words: string][] = [
  ["kind", "Kind"],
  ["model", "Model"],
  ["site", "Site"],
  ["device", "Device"],
  ["owner", "Owner"],
];

export function AlertsPage() {
  return (
    <>
      <Head title="Alerts" under="What is wrong now, who sees to it, and for how long nobody wants to hear of it." />
      <div className="stack">
        <Tiles />
        <Alerts />
        <Silences />
      </div>
    </>
  );
}

function Tiles() {
  const { data } = useAlertCounts();
  const list = useListState();
  const tiles: [name: string, value: number | undefined, query: string, dot: string | undefined][] = [
    ["Open", data?.open, "state=open", data?.open ? "bad" : undefined],
    ["Acknowledged", data?.acknowledged, "state=acknowledged", undefined],
    ["Critical", data?.critical, "severity=critical", data?.critical ? "bad" : undefined],
    ["Warning", data?.warning, "severity=warning", data?.warning ? "warn" : undefined],
    ["Info", data?.info, "severity=info", undefined],
  ];
  return (
    <div className="tiles">
      {tiles.map(([name, value, query, dot]) => {
        const [key = "", wanted] = query.split("=");
        return (
          <Link key={name} className="tile" to={`/alerts?${query}`} aria-current={list.get(key) === wanted ? "true" : undefined}>
            <span className="tile-name">
              {dot && <span className="dot" data-tone={dot} />}
              {name}
            </span>
            <span className="tile-value">{count(value)}</span>
          </Link>
        );
      })}
    </div>
  );
}

function askedOf(list: ListState) {
  return {
    state: STATES.find((one) => one.value === list.get("state"))?.value,
    severity: SEVERITIES.find((one) => one.value === list.get("severity"))?.value,
    kind: list.get("kind"),
    model: list.get("model"),
    site: list.get("site"),
    device: list.get("device"),
    owner: list.get("owner"),
  };
}

function Alerts() {
  const list = useListState();
  const me = useMe();
  const asked = askedOf(list);
  const query = api.useQuery(
    "get",
    "/api/v1/alerts",
    { params: { query: { ...asked, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 30_000 },
  );
  const filtered = FILTERS.some((name) => list.get(name));
  const chips = CHIPS.filter(([name]) => list.get(name));
  return (
    <Panel
      flush
      title="All alerts"
      aside={
        <div className="filters">
          {asked.owner !== me.user && (
            <Button size="xs" variant="default" onClick={() => list.set({ owner: me.user })}>
              Mine
            </Button>
          )}
          <Choice list={list} name="state" label="State" all="Not ended" data={[...STATES]} />
          <Choice list={list} name="severity" label="Severity" all="All severities" data={[...SEVERITIES]} />
          <Search list={list} label="Search alerts" />
        </div>
      }
    >
      {chips.length > 0 && (
        <div className="above-table">
          <div className="filters">
            {chips.map(([name, words]) => (
              <FilterChip key={name} list={list} names={[name]} label={`${words} ${list.get(name)}`} />
            ))}
          </div>
        </div>
      )}
      <DataTable
        label="Alerts"
        columns={columnsOf(list)}
        rowKey={(alert) => alert.id}
        detail={(alert) => <Below alert={alert} />}
        query={query}
        list={list}
        empty={
          <Empty icon={filtered ? "search" : "check"} title={filtered ? "No alert matches" : "Nothing is wrong"}>
            {filtered ? (
              <Button variant="default" size="xs" onClick={() => list.set(Object.fromEntries(FILTERS.map((name) => [name, null])))}>
                Clear filters
              </Button>
            ) : (
              <p className="soft">Drift, faults of data, overdue devices, rollouts and keys are looked at all the time.</p>
            )}
          </Empty>
        }
      />
      <div style={{ padding: "10px 18px 18px" }}>
        <Equivalent text={listAlerts(asked)} />
      </div>
    </Panel>
  );
}

function Below({ alert }: { alert: Alert }) {
  const cause = causeOf(alert);
  return (
    <div className="row apart wrap" style={{ paddingBottom: 2 }}>
      <span className="row wrap breakable" style={{ gap: 10 }}>
        {cause && <Link to={cause[1]}>{cause[0]}</Link>}
        {alert.hint && <span className={alert.hint.startsWith("edgectl ") ? "soft mono" : "soft"}>{alert.hint}</span>}
      </span>
      <AlertActions alert={alert} />
    </div>
  );
}

function columnsOf(list: ListState): Column<Alert>[] {
  return [
    { key: "severity", header: "Severity", cell: (alert) => <State state={alert.severity} /> },
    {
      key: "what",
      header: "What",
      cell: (alert) => (
        <div style={{ minWidth: 150 }}>
          <div className="breakable" style={{ fontWeight: 540 }}>
            {alert.summary}
          </div>
          <button type="button" className="ask small mono" title={`Only ${alert.kind}`} onClick={() => list.set({ kind: alert.kind })}>
            {alert.kind}
          </button>
        </div>
      ),
    },
    { key: "state", header: "State", cell: (alert) => <Standing alert={alert} /> },
    { key: "owner", header: "Owner", cell: (alert) => alert.owner || <span className="soft">nobody</span> },
    { key: "since", header: "Since", align: "right", cell: (alert) => <Time at={alert.opened_at} /> },
  ];
}

function Standing({ alert }: { alert: Alert }) {
  return (
    <>
      <State state={alert.state} />
      {alert.acknowledged_by && <span className="small soft"> {alert.acknowledged_by}</span>}
      {alert.silenced_until && (
        <p className="small soft">
          silent until <Time at={alert.silenced_until} />
        </p>
      )}
      {alert.absent_since && alert.state !== "resolved" && (
        <p className="small soft">
          away since <Time at={alert.absent_since} />
        </p>
      )}
    </>
  );
}

function Silences() {
  const list = useListState("silences");
  const query = api.useQuery(
    "get",
    "/api/v1/alert-silences",
    { params: { query: pageOf(list) } },
    { placeholderData: keepPreviousData, refetchInterval: 60_000 },
  );
  const silences = query.data?.items ?? [];
  if (!query.error && !silences.length && !list.offset) return null;
  return (
    <Panel title="Silences in force">
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      <ul className="alarms" aria-label="Silences in force">
        {silences.map((silence) => (
          <Row key={silence.id} silence={silence} />
        ))}
      </ul>
      {(query.data?.total ?? 0) > PAGE_ROWS && <Pager list={list} shown={silences.length} total={query.data!.total} />}
    </Panel>
  );
}

function Row({ silence }: { silence: Schemas["SilenceInfo"] }) {
  const [open, setOpen] = useState(false);
  const what = [silence.kind, silence.model && `of ${silence.model}`, silence.site && `at ${silence.site}`, silence.subject].filter(Boolean).join(" ");
  return (
    <li className="row apart wrap">
      <span className="breakable">
        <b>{what}</b>, until <Time at={silence.until} />
        <br />
        <span className="soft small">
          {silence.reason}, by {silence.created_by}
        </span>
      </span>
      <Action needs="operator" size="xs" variant="default" aria-label={`End the silence of ${what}`} onClick={() => setOpen(true)}>
        End it
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`End the silence of ${what}`}
        action="End it"
        command={() => endSilence(silence.id)}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/alert-silences/{silence}", { params: { path: { silence: silence.id } } });
          refetchAlerts();
        }}
      >
        <p>What it kept quiet is told again, as it is now.</p>
      </Confirm>
    </li>
  );
}
