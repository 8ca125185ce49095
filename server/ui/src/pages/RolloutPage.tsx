import { useState, type ReactNode } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Select, Switch } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api, fetchClient, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { Action } from "../components/Action";
import { Bar, Legend, Measure, rolloutParts } from "../components/Bars";
import { Confirm } from "../components/Confirm";
import { DataTable, PAGE_ROWS, Search, useListState, type Column } from "../components/DataTable";
import { Evidence, hasEvidence } from "../components/Evidence";
import { Empty, ErrorPanel, Facts, Head, Loaded, Note, Older, Panel, useNewest } from "../components/Panels";
import { Online, State, wordsOf } from "../components/State";
import { waitsFor } from "../components/Story";
import { Time } from "../components/Time";
import { rolloutAction } from "../cli";
import { bytes, count, plural, share, span } from "../format";
import { queryClient } from "../session";

type Rollout = Schemas["RolloutInfo"];
type RolloutDevice = Schemas["RolloutDeviceInfo"];

const DEVICE_STATES = ["pending", "in_progress", "committed", "failed", "rejected", "rolled_back", "overdue", "reverted", "cancelled"] as const;

export function RolloutPage() {
  const { id = "" } = useParams();
  useLive(`rollout:${id}`);
  const query = api.useQuery("get", "/api/v1/rollouts/{rollout}", { params: { path: { rollout: id } } }, { refetchInterval: 15_000 });
  return (
    <Loaded query={query} back={["All rollouts", "/rollouts"]}>
      {(rollout) => <Inside rollout={rollout} />}
    </Loaded>
  );
}

function Inside({ rollout }: { rollout: Rollout }) {
  const version = `${rollout.model} ${rollout.version}`;
  return (
    <>
      <Head
        crumbs={[["Rollouts", "/rollouts"]]}
        title={
          <Link to={`/models/${rollout.model}/${encodeURIComponent(rollout.version)}`} style={{ color: "inherit" }}>
            {version}
          </Link>
        }
        beside={
          <>
            <State state={rollout.state} />
            <span className="soft mono">{rollout.id}</span>
          </>
        }
        under={
          <>
            Started <Time at={rollout.created_at} /> by {rollout.created_by}
            {rollout.finished_at && (
              <>
                {" "}
                · ended <Time at={rollout.finished_at} />
              </>
            )}
          </>
        }
        actions={<Actions rollout={rollout} />}
      />
      {rollout.note && (
        <Note tone={rollout.state === "paused" ? "warn" : rollout.state === "aborted" ? "bad" : undefined}>{rollout.note}</Note>
      )}
      <Progress rollout={rollout} />
      <div className="columns">
        <Devices rollout={rollout} />
        <div className="stack">
          <Policy rollout={rollout} />
          <History id={rollout.id} />
        </div>
      </div>
    </>
  );
}

function Progress({ rollout }: { rollout: Rollout }) {
  const { counts } = rollout;
  const parts = rolloutParts(counts, (state) => `?state=${state}`);
  return (
    <Panel>
      <div className="row apart wrap" style={{ alignItems: "baseline", marginBottom: 10 }}>
        <span>
          <span className="tile-value">{share(counts.total ? counts.committed / counts.total : 0, 0)}</span>{" "}
          <span className="soft number">
            {count(counts.committed)} of {plural(counts.total, "device")} committed
          </span>
        </span>
        <Transfer of={rollout.bytes} />
      </div>
      <Bar size="large" label={`Rollout ${rollout.id}, ${plural(counts.total, "device")}`} parts={parts} />
      <div style={{ marginTop: 12 }}>
        <Legend parts={parts} />
      </div>
    </Panel>
  );
}

/** What fetching was expected to cost, and what it has saved. */
function Transfer({ of }: { of: Rollout["bytes"] }) {
  if (!of.whole) return null;
  return (
    <span className="soft number">
      {bytes(of.predicted)} of {bytes(of.whole)} expected to be fetched
      {of.fetched > 0 && (
        <>
          {" · "}
          {bytes(of.fetched)} fetched, <b>{bytes(of.saved)} saved</b>
        </>
      )}
    </span>
  );
}

type ActionName = "pause" | "resume" | "approve" | "abort";

const DIALOGS: Record<ActionName, { title: string; button: string; words: string }> = {
  pause: {
    title: "Pause this rollout",
    button: "Pause",
    words: "No further device is started. Those in progress finish what they are doing.",
  },
  resume: {
    title: "Resume this rollout",
    button: "Resume",
    words: "It goes on with the devices that are pending. Failures that are known now no longer count towards the limit.",
  },
  approve: {
    title: "Approve this phase",
    button: "Approve",
    words: "The next phase begins, whatever the gates of this one have not said yet.",
  },
  abort: {
    title: "Abort this rollout",
    button: "Abort rollout",
    words:
      "Pending devices are not touched, those in progress go back to what they ran before. Devices that have committed keep the new version. An aborted rollout cannot be resumed.",
  },
};

function Actions({ rollout }: { rollout: Rollout }) {
  const [asked, setAsked] = useState<ActionName | null>(null);
  const [shown, setShown] = useState<ActionName>("pause");
  const ended = rollout.state === "completed" || rollout.state === "aborted";
  const blocked = ended && `It has ${rollout.state === "completed" ? "completed" : "been aborted"}.`;
  const ask = (action: ActionName) => {
    setShown(action);
    setAsked(action);
  };
  const act = async (reason: string) => {
    const { data } = await fetchClient.POST("/api/v1/rollouts/{rollout}/actions/{action}", {
      params: { path: { rollout: rollout.id, action: shown } },
      body: { reason, revert: false },
    });
    const named = { params: { path: { rollout: rollout.id } } };
    queryClient.setQueryData(api.queryOptions("get", "/api/v1/rollouts/{rollout}", named).queryKey, data);
    void queryClient.invalidateQueries({ queryKey: ["get", "/api/v1/rollouts/{rollout}/events"] });
    void queryClient.invalidateQueries({ queryKey: ["get", "/api/v1/rollouts/{rollout}/devices"] });
  };
  const dialog = DIALOGS[shown];
  return (
    <>
      {rollout.state === "paused" ? (
        <Action needs="operator" icon="play" onClick={() => ask("resume")}>
          Resume
        </Action>
      ) : (
        <Action needs="operator" icon="pause" variant="default" blocked={blocked} onClick={() => ask("pause")}>
          Pause
        </Action>
      )}
      {rollout.state === "running" && (rollout.phase?.step === "gates" || rollout.phase?.step === "approval") && (
        <Action needs="operator" icon="check" variant="default" onClick={() => ask("approve")}>
          Approve
        </Action>
      )}
      <Action needs="operator" icon="stop" variant="default" blocked={blocked} onClick={() => ask("abort")}>
        Abort
      </Action>
      <Confirm
        opened={asked !== null}
        close={() => setAsked(null)}
        title={dialog.title}
        action={dialog.button}
        danger={shown === "abort"}
        typed={shown === "abort" ? `${rollout.model}@${rollout.version}` : undefined}
        askReason
        command={(reason) => rolloutAction(shown, rollout.id, reason)}
        confirm={act}
      >
        <p>{dialog.words}</p>
      </Confirm>
    </>
  );
}

const COLUMNS: Column<RolloutDevice>[] = [
  {
    key: "device",
    header: "Device",
    sort: "device",
    cell: (row) => (
      <Link className="name nowrap" to={`/fleet/${row.device}`}>
        {row.device}
      </Link>
    ),
  },
  { key: "online", header: "Connection", className: "only-medium", cell: (row) => <Online online={row.online} /> },
  {
    key: "state",
    header: "State",
    cell: (row) => (
      <State state={row.state} />
    ),
  },
  {
    key: "step",
    header: "Step",
    cell: (row) =>
      row.state === "in_progress" ? (
        row.step === "downloading" && row.bytes_total > 0 ? (
          <Measure
            text={`${bytes(row.bytes_done)} of ${bytes(row.bytes_total)}`}
            share={row.bytes_done / row.bytes_total}
            fill="busy"
          />
        ) : row.step === "waiting" ? (
          waitsFor(row.reason?.code)
        ) : (
          wordsOf(row.step) || <span className="soft">waits for the device</span>
        )
      ) : (
        <span className="soft">–</span>
      ),
  },
  {
    key: "bytes",
    header: "Saved",
    align: "right",
    className: "only-wide",
    cell: (row) => (
      <span className="number nowrap" title={row.bytes ? `${bytes(row.bytes.predicted)} of ${bytes(row.bytes.whole)} expected` : undefined}>
        {row.bytes?.fetched ? bytes(row.bytes.saved) : "–"}
      </span>
    ),
  },
  { key: "variant", header: "Variant", className: "only-medium", cell: (row) => <span className="mono nowrap">{row.variant || "–"}</span> },
  { key: "updated", header: "Changed", align: "right", cell: (row) => <Time at={row.updated_at} /> },
];

function Devices({ rollout }: { rollout: Rollout }) {
  const { id, policy } = rollout;
  const list = useListState();
  const figures = list.get("figures") === "true";
  const state = DEVICE_STATES.find((name) => name === list.get("state"));
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/devices",
    { params: { path: { rollout: id }, query: { state, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 10_000 },
  );
  return (
    <Panel
      flush
      title="Devices"
      aside={
        <div className="filters">
          <Select
            aria-label="State"
            placeholder="All states"
            w={140}
            clearable
            clearButtonProps={{ "aria-label": "All states", size: "24px" }}
            data={DEVICE_STATES.map((value) => ({ value, label: wordsOf(value) }))}
            value={state ?? null}
            onChange={(value) => list.set({ state: value })}
          />
          <Search list={list} label="Search devices" />
          <Switch label="Figures" checked={figures} onChange={(event) => list.set({ figures: event.currentTarget.checked ? "true" : null })} />
        </div>
      }
    >
      <DataTable
        label="Devices of this rollout"
        columns={COLUMNS}
        rowKey={(row) => row.device}
        detail={(row) =>
          (row.reason || (figures && hasEvidence(row))) && (
            <>
              {row.reason && (
                <>
                  {row.reason.detail} <span className="mono">({row.reason.code})</span>
                </>
              )}
              {figures && <Evidence seen={row} policy={policy} />}
            </>
          )
        }
        query={query}
        list={list}
        defaultSort="device"
        empty={<Empty icon="search" title="No device matches" />}
      />
    </Panel>
  );
}

function Policy({ rollout }: { rollout: Rollout }) {
  const { policy, selector } = rollout;
  return (
    <Panel title="Policy">
      <Facts
        rows={[
          ["Devices", where(selector)],
          ...(rollout.phase ? [["Phase", phaseOf(rollout.phase)] as [string, string]] : []),
          ["In progress", `at most ${count(policy.max_in_progress)}`],
          ["Pauses after", plural(policy.failures_max ?? 1, "failure")],
          ["Shadow", policy.shadow_s ? `answers copies for ${span(policy.shadow_s)}` : <span className="soft">none</span>],
          ["Switches", policy.windows || <span className="soft">at any time</span>],
          ["Goes with", policy.goes_with.length ? <Partners names={policy.goes_with} /> : <span className="soft">nothing else</span>],
          ...(policy.forgive ? [["Found bad before", "tried once more"] as [string, string]] : []),
          ["Observed for", span(policy.observe_s)],
          ["Errors", `at most ${Number((policy.error_rate_max * 100).toFixed(2))} %`],
          ["Latency", limit(policy.latency_ratio_max, (most) => `${most}× the model before`)],
          ["Class shift", limit(policy.class_shift_max, String)],
          ["Other answers", limit(policy.disagreement_max, (most) => `${Number((most * 100).toFixed(2))} % of copies`)],
        ]}
      />
    </Panel>
  );
}

function phaseOf({ name, number, phases, admitted, target }: Schemas["PhaseProgress"]): string {
  return `${name}, ${number} of ${phases}: ${count(admitted)} of ${plural(target, "device")}`;
}

function where({ all, group, where: selector, devices }: Schemas["Selector"]): string {
  if (all) return "all that are enrolled";
  if (selector) return selector;
  return group ? `group ${group}` : plural(devices.length, "chosen device");
}

function limit(most: number | null | undefined, words: (most: number) => string): ReactNode {
  return most == null ? <span className="soft">no limit</span> : `at most ${words(most)}`;
}

function Partners({ names }: { names: string[] }) {
  return names.map((name, number) => {
    const [model, version] = name.split("@");
    return (
      <span key={name}>
        {number > 0 && ", "}
        <Link to={`/models/${model}/${encodeURIComponent(version ?? "")}`}>{name}</Link>
      </span>
    );
  });
}

function History({ id }: { id: string }) {
  const { limit, grow } = useNewest();
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
        {query.data?.items.map((event) => (
          <li key={event.revision}>
            <span className="marker">
              <span className="dot" />
            </span>
            <div className="row apart" style={{ alignItems: "baseline" }}>
              <b style={{ fontWeight: 580 }}>{sentence(event.kind)}</b>
              <span className="soft small">
                <Time at={event.at} />
              </span>
            </div>
            <p className="soft small breakable">
              {event.actor}
              {details(event.data).map((text) => ` · ${text}`)}
            </p>
          </li>
        ))}
      </ol>
      {query.data && <Older shown={query.data.items.length} total={query.data.total} grow={grow} />}
    </Panel>
  );
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
