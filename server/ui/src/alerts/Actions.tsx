// What people do with an alert: know of it, see to it, end it, or not hear of it for a while.
import { useState } from "react";
import { Select, TextInput } from "@mantine/core";

import { api, fetchClient } from "../api/client";
import { refresh } from "../api/refresh";
import { Action } from "../components/Action";
import { Confirm } from "../components/Confirm";
import { acknowledgeAlert, assignAlert, resolveAlert, silenceAlerts } from "../cli";
import { useMe } from "../session";
import { TIMES, type Alert } from "./words";

const LISTS = ["/api/v1/alerts", "/api/v1/alerts/counts", "/api/v1/alerts/{alert}", "/api/v1/alert-silences"] as const;

export function refetchAlerts(): void {
  void refresh(...LISTS);
}

const named = (alert: Alert) => ({ params: { path: { alert: alert.id } } });

export function AlertActions({ alert }: { alert: Alert }) {
  const ended = alert.state === "resolved" && "It has ended.";
  return (
    <div className="row wrap" style={{ gap: 6 }}>
      <Acknowledge alert={alert} blocked={ended || (alert.state === "acknowledged" && `${alert.acknowledged_by} knows of it already.`)} />
      <Assign alert={alert} />
      <Silence alert={alert} />
      <Resolve alert={alert} blocked={ended} />
    </div>
  );
}

interface Props {
  alert: Alert;
  blocked?: string | false;
}

function Acknowledge({ alert, blocked }: Props) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action needs="operator" icon="check" size="xs" px={9} variant="default" blocked={blocked} onClick={() => setOpen(true)}>
        Acknowledge
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="Acknowledge"
        action="I know of it"
        askReason
        command={(reason) => acknowledgeAlert(alert.id, reason)}
        confirm={async (reason) => {
          await fetchClient.POST("/api/v1/alerts/{alert}/acknowledge", { ...named(alert), body: { reason } });
          refetchAlerts();
        }}
      >
        <p className="breakable">{alert.summary}</p>
        <p className="soft">Nobody is reminded of it any more. It stays in the list until its condition has ended.</p>
      </Confirm>
    </>
  );
}

function Assign({ alert }: { alert: Alert }) {
  const me = useMe();
  const [open, setOpen] = useState(false);
  const [owner, setOwner] = useState(alert.owner || me.user);
  return (
    <>
      <Action needs="operator" icon="people" size="xs" px={9} variant="default" onClick={() => setOpen(true)}>
        {alert.owner ? "Hand over" : "Take"}
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="Who sees to it?"
        action="Assign"
        command={() => assignAlert(alert.id, owner.trim())}
        confirm={async () => {
          await fetchClient.POST("/api/v1/alerts/{alert}/assign", { ...named(alert), body: { owner: owner.trim() } });
          refetchAlerts();
        }}
      >
        <TextInput label="User" description="Empty: nobody." maxLength={128} spellCheck={false} value={owner} onChange={(event) => setOwner(event.currentTarget.value)} />
      </Confirm>
    </>
  );
}

function Resolve({ alert, blocked }: Props) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action needs="operator" icon="minus" size="xs" px={9} variant="default" blocked={blocked} onClick={() => setOpen(true)}>
        End
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="End this alert"
        action="End it"
        askReason
        command={(reason) => resolveAlert(alert.id, reason)}
        confirm={async (reason) => {
          await fetchClient.POST("/api/v1/alerts/{alert}/resolve", { ...named(alert), body: { reason } });
          refetchAlerts();
        }}
      >
        <p className="breakable">{alert.summary}</p>
        <p className="soft">While its condition lasts, it comes back only if it grows more severe.</p>
      </Confirm>
    </>
  );
}

function Silence({ alert }: { alert: Alert }) {
  const [open, setOpen] = useState(false);
  const [wide, setWide] = useState<string>("subject");
  const [time, setTime] = useState(TIMES[1]!.value);
  const [why, setWhy] = useState("");
  const chosen = TIMES.find((one) => one.value === time) ?? TIMES[0]!;
  const choices = [
    { value: "subject", label: "This alone" },
    ...(alert.site ? [{ value: "site", label: `All ${alert.kind} at ${alert.site}` }] : []),
    ...(alert.model ? [{ value: "model", label: `All ${alert.kind} of ${alert.model}` }] : []),
    { value: "kind", label: `All ${alert.kind}` },
  ];
  const which = {
    kind: alert.kind,
    ...(wide === "subject" ? { subject: alert.subject } : {}),
    ...(wide === "site" ? { site: alert.site } : {}),
    ...(wide === "model" ? { model: alert.model } : {}),
  };
  return (
    <>
      <Action needs="operator" icon="pause" size="xs" px={9} variant="default" onClick={() => setOpen(true)}>
        Silence
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="Silence"
        action="Silence"
        incomplete={!why.trim()}
        command={() => silenceAlerts(which, chosen.text, why.trim())}
        confirm={async () => {
          const all = { model: "", site: "", subject: "", ...which };
          await fetchClient.POST("/api/v1/alert-silences", { body: { ...all, for_s: Number(chosen.value), reason: why.trim() } });
          refetchAlerts();
        }}
      >
        <Select label="Which" allowDeselect={false} comboboxProps={{ withinPortal: false }} data={choices} value={wide} onChange={(value) => setWide(value ?? "subject")} />
        <Select
          label="For"
          allowDeselect={false}
          comboboxProps={{ withinPortal: false }}
          data={TIMES.map(({ value, label }) => ({ value, label }))}
          value={time}
          onChange={(value) => setTime(value ?? time)}
        />
        <TextInput label="Reason" required maxLength={1024} value={why} onChange={(event) => setWhy(event.currentTarget.value)} />
        <p className="soft">Nobody is told of them meanwhile, by webhook, e-mail or MQTT. They are listed here all the same.</p>
      </Confirm>
    </>
  );
}

export function useAlertCounts() {
  return api.useQuery("get", "/api/v1/alerts/counts", {}, { refetchInterval: 60_000 });
}
