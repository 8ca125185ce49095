// Who outside is told of what happens; for admins, because it is told to whoever holds the address.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Modal, MultiSelect, Select, TextInput } from "@mantine/core";

import { api, fetchClient, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Action } from "../../components/Action";
import { CopyButton, Equivalent } from "../../components/Command";
import { Confirm } from "../../components/Confirm";
import { DataTable, pageOf, useListState, type Column, type ListState } from "../../components/DataTable";
import { Empty, ErrorPanel, Note, Panel } from "../../components/Panels";
import { State } from "../../components/State";
import { Time } from "../../components/Time";
import { useSubmit } from "../../components/useSubmit";
import { addWebhook, deleteWebhook, setWebhook, testWebhook, webhookDeliveries } from "../../cli";
import { count, plural } from "../../format";

type Hook = Schemas["WebhookInfo"];
type Delivery = Schemas["WebhookDeliveryInfo"];
type Event = Hook["events"][number];

const HOOKS = "/api/v1/webhooks";
const EVENTS: Event[] = [
  "rollout.started",
  "rollout.phase",
  "rollout.paused",
  "rollout.resumed",
  "rollout.approved",
  "rollout.aborted",
  "rollout.finished",
  "gate.failed",
  "device.failed",
  "device.rejected",
  "device.rolled_back",
  "enrolment.pending",
];
const FORMATS: { value: Hook["format"]; label: string }[] = [
  { value: "edgectl", label: "JSON, signed" },
  { value: "slack", label: "Slack" },
  { value: "teams", label: "Teams" },
];

const named = (hook: Hook) => ({ params: { path: { webhook: hook.id } } });

export function Webhooks() {
  const query = api.useQuery("get", HOOKS, { params: { query: { limit: 200 } } }, { refetchInterval: 15_000 });
  const [deleting, setDeleting] = useState<Hook | null>(null);
  const [switching, setSwitching] = useState<Hook | null>(null);
  const deliveries = useListState("deliveries");
  const shown = query.data?.items.find((hook) => hook.id === deliveries.get("of")) ?? null;
  const columns: Column<Hook>[] = [
    { key: "name", header: "Name", cell: (hook) => <span className="name breakable">{hook.name}</span> },
    { key: "url", header: "Address", cell: (hook) => <span className="mono small breakable">{hook.url}</span> },
    { key: "format", header: "Format", className: "only-medium", cell: (hook) => FORMATS.find((one) => one.value === hook.format)?.label },
    { key: "events", header: "Told of", className: "only-medium", cell: (hook) => <span title={hook.events.join(", ")}>{plural(hook.events.length, "event")}</span> },
    { key: "newest", header: "Newest", cell: (hook) => (hook.enabled ? <Newest delivery={hook.newest} /> : <State state="off" />) },
    {
      key: "act",
      header: "Action",
      align: "right",
      cell: (hook) => (
        <div className="row wrap" style={{ justifyContent: "flex-end" }}>
          <Test hook={hook} />
          <Action needs="admin" size="xs" variant="default" aria-label={`Deliveries of ${hook.name}`} onClick={() => deliveries.set({ of: hook.id })}>
            Deliveries
          </Action>
          <Action
            needs="admin"
            size="xs"
            variant="default"
            aria-label={`Switch ${hook.name} ${hook.enabled ? "off" : "on"}`}
            onClick={() => setSwitching(hook)}
          >
            {hook.enabled ? "Off" : "On"}
          </Action>
          <Action needs="admin" size="xs" variant="default" aria-label={`Delete ${hook.name}`} onClick={() => setDeleting(hook)}>
            Delete
          </Action>
        </div>
      ),
    },
  ];
  return (
    <Panel flush id="webhooks" title="Webhooks" aside={<span className="soft small">who outside is told of what happens</span>}>
      <div className="body" style={{ padding: "2px 18px 18px" }}>
        <NewWebhook />
      </div>
      <DataTable
        label="Webhooks"
        columns={columns}
        rowKey={(hook) => hook.id}
        detail={(hook) => hook.note || (hook.newest?.state !== "delivered" && hook.newest?.error) || null}
        query={query}
        empty={<Empty icon="info" title="Nobody is told yet" />}
      />
      <Confirm
        opened={switching !== null}
        close={() => setSwitching(null)}
        title={`Switch ${switching?.name ?? ""} ${switching?.enabled ? "off" : "on"}`}
        action={switching?.enabled ? "Off" : "On"}
        command={() => (switching ? setWebhook(switching.name, !switching.enabled) : "")}
        confirm={async () => {
          await fetchClient.PATCH("/api/v1/webhooks/{webhook}", { ...named(switching!), body: { enabled: !switching!.enabled } });
          await refresh(HOOKS);
        }}
      >
        <p>{switching?.enabled ? "Nothing is sent to it any more; what waits is kept." : "What has waited is sent, and what happens from now on."}</p>
      </Confirm>
      <Confirm
        opened={deleting !== null}
        close={() => setDeleting(null)}
        title={`Delete ${deleting?.name ?? ""}`}
        action="Delete"
        danger
        command={() => deleteWebhook(deleting?.name ?? "")}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/webhooks/{webhook}", named(deleting!));
          await refresh(HOOKS);
        }}
      >
        <p>It is told nothing any more, and what was on its way to it is forgotten.</p>
      </Confirm>
      <Modal
        opened={shown !== null}
        onClose={() => deliveries.set({ of: null, sort: null })}
        title={`Deliveries to ${shown?.name ?? ""}`}
        size="xl"
      >
        {shown && <Deliveries hook={shown} list={deliveries} />}
      </Modal>
    </Panel>
  );
}

function Newest({ delivery }: { delivery: Delivery | null }) {
  if (!delivery) return <span className="soft">nothing yet</span>;
  return (
    <span className="row wrap" style={{ gap: "0 8px" }}>
      <State state={delivery.state} more={delivery.status} />
      <span className="soft small">
        <Time at={delivery.tried_at ?? delivery.created_at} />
      </span>
    </span>
  );
}

function Test({ hook }: { hook: Hook }) {
  const [open, setOpen] = useState(false);
  const [result, setResult] = useState<Delivery | null>(null);
  return (
    <>
      <Action needs="admin" size="xs" variant="default" aria-label={`Test ${hook.name}`} onClick={() => setOpen(true)}>
        Test
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`Test ${hook.name}`}
        action="Send a test"
        command={() => testWebhook(hook.name)}
        confirm={async () => {
          const { data } = await fetchClient.POST("/api/v1/webhooks/{webhook}/test", named(hook));
          setResult(data ?? null);
          await refresh(HOOKS);
        }}
      >
        <p>
          A test is sent now, once, to <span className="mono breakable">{hook.url}</span>.
        </p>
      </Confirm>
      <Modal opened={result !== null} onClose={() => setResult(null)} title={`Test of ${hook.name}`}>
        {result && (
          <Note tone={result.state === "delivered" ? "busy" : "bad"} icon={result.state === "delivered" ? "check" : "warning"}>
            {result.state === "delivered" ? `It was taken: ${result.status ?? ""}` : result.error || `It answered ${result.status}`}
          </Note>
        )}
      </Modal>
    </>
  );
}

const DELIVERIES: Column<Delivery>[] = [
  { key: "event", header: "Event", cell: (one) => <span className="mono small">{one.event}</span> },
  { key: "state", header: "State", cell: (one) => <State state={one.state} more={one.status} /> },
  { key: "attempts", header: "Attempts", align: "right", cell: (one) => count(one.attempts) },
  { key: "at", header: "Came", sort: "created_at", cell: (one) => <Time at={one.created_at} /> },
  { key: "next", header: "Again", cell: (one) => <Time at={one.next_at} never="–" /> },
];

function Deliveries({ hook, list }: { hook: Hook; list: ListState }) {
  const query = api.useQuery(
    "get",
    "/api/v1/webhooks/{webhook}/deliveries",
    { params: { path: { webhook: hook.id }, query: pageOf(list) } },
    { placeholderData: keepPreviousData },
  );
  return (
    <div className="stack">
      <DataTable
        label={`Deliveries to ${hook.name}`}
        columns={DELIVERIES}
        rowKey={(one) => one.id}
        detail={(one) => one.error || null}
        query={query}
        list={list}
        defaultSort="-created_at"
        empty={<Empty icon="clock" title="Nothing was sent yet" />}
      />
      <Equivalent text={webhookDeliveries(hook.name)} />
    </div>
  );
}

function NewWebhook() {
  const [name, setName] = useState("");
  const [url, setUrl] = useState("");
  const [format, setFormat] = useState<Hook["format"]>("edgectl");
  const [events, setEvents] = useState<Event[]>(["rollout.paused", "rollout.finished", "gate.failed"]);
  const [made, setMade] = useState<Schemas["WebhookCreated"] | null>(null);
  const send = async () => {
    const body = { name: name.trim(), url: url.trim(), events, format, enabled: true };
    const { data } = await fetchClient.POST("/api/v1/webhooks", { body });
    setMade(data ?? null);
    setName("");
    setUrl("");
    await refresh(HOOKS);
  };
  const { busy, error, onSubmit } = useSubmit(send);
  const blocked = (!name.trim() && "Give it a name first.") || (!url.trim() && "Say where it goes first.") || (!events.length && "Choose events first.");
  return (
    <form className="stack" style={{ gap: 12 }} onSubmit={onSubmit}>
      <div className="row wrap" style={{ alignItems: "flex-end", gap: 12 }}>
        <TextInput label="Webhook" w={150} maxLength={64} value={name} onChange={(event) => setName(event.currentTarget.value)} />
        <TextInput
          label="Address"
          placeholder="https://hooks.example/edgectl"
          w={280}
          maxLength={2048}
          spellCheck={false}
          autoComplete="off"
          value={url}
          onChange={(event) => setUrl(event.currentTarget.value)}
        />
        <Select label="Format" w={140} allowDeselect={false} data={FORMATS} value={format} onChange={(value) => setFormat(value as Hook["format"])} />
        <MultiSelect label="Told of" w={380} maw="100%" data={EVENTS} value={events} onChange={(value) => setEvents(value as Event[])} />
        <Action needs="admin" submit icon="plus" variant="default" loading={busy} blocked={blocked}>
          Add webhook
        </Action>
      </div>
      {error != null && <ErrorPanel error={error} />}
      {made ? (
        <Note tone="busy" icon="key">
          <p>
            With this secret <b className="breakable">{made.webhook.name}</b> checks what it is sent. It is shown this once.
          </p>
          <div className="row">
            <code className="mono breakable">{made.secret}</code>
            <CopyButton text={made.secret} label="Copy secret" />
          </div>
        </Note>
      ) : (
        <Equivalent text={addWebhook(name.trim(), url.trim(), format, events.length === EVENTS.length ? ["all"] : events)} />
      )}
    </form>
  );
}
