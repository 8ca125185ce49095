// Days of which somebody has said that nothing was wrong: what these hours of the day saw is no drift.
import { useState, type ReactNode } from "react";
import { TextInput } from "@mantine/core";

import { fetchClient, type Schemas } from "../api/client";
import { refresh } from "../api/refresh";
import { Action } from "../components/Action";
import { Equivalent } from "../components/Command";
import { Confirm } from "../components/Confirm";
import { Facts, Note, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { endUsualDays, setUsualDays, usualDays } from "../cli";
import { plural } from "../format";

type Usual = Schemas["UsualDays"];

const DAYS_MIN = 3;
const DAYS_MAX = 62;
const DAYS_BEFORE = 7;
const DAY_MS = 86_400_000;

/** Whole days of UTC, as the server compares its hours: "2026-11-01". */
const dayOf = (moment: number) => new Date(moment).toISOString().slice(0, 10);
const startOf = (day: string) => Date.parse(`${day}T00:00:00Z`);

/** The reader's words for a stretch; of whole days without hours, the last one included. */
function stretchWords({ since, until }: Usual): string {
  const [begin, end] = [Date.parse(since), Date.parse(until)];
  const whole = begin % DAY_MS === 0 && end % DAY_MS === 0;
  const words = (moment: number) =>
    new Date(moment).toLocaleString("en-GB", { timeZone: "UTC", dateStyle: "medium", ...(whole ? {} : { timeStyle: "short" }) });
  return `${words(begin)} to ${words(whole ? end - DAY_MS : end)}`;
}

const DRIFT = "/api/v1/models/{model}/drift";

const daysIn = ({ since, until }: Usual) => Math.round((Date.parse(until) - Date.parse(since)) / DAY_MS);

export function UsualDays({ model, usual }: { model: string; usual: Usual | null }) {
  const [open, setOpen] = useState<"set" | "remove" | null>(null);
  const [days, setDays] = useState<Days>({ first: "", last: "", today: "" });
  const close = () => setOpen(null);
  const ask = () => {
    setDays(suggested(usual));
    setOpen("set");
  };
  return (
    <Panel
      id="usual"
      title={`Usual days of ${model}`}
      aside={
        <div className="row wrap">
          {usual && (
            <Action needs="operator" variant="default" onClick={() => setOpen("remove")}>
              Remove
            </Action>
          )}
          <Action needs="operator" variant="default" onClick={ask}>
            {usual ? "Change" : "Say which were usual"}
          </Action>
        </div>
      }
    >
      <div className="halves">
        <div className="stack" style={{ gap: 12 }}>
          <Facts rows={usual ? factsOf(usual) : [["Now", <b key="n">none: the reference decides alone</b>]]} />
          <Equivalent text={usualDays(model)} />
        </div>
        <Rules />
      </div>
      <SetDialog opened={open === "set"} close={close} model={model} usual={usual} days={days} change={setDays} />
      <Confirm
        opened={open === "remove"}
        close={close}
        title={`No usual days of ${model}`}
        action="Remove"
        danger
        command={() => endUsualDays(model)}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/models/{model}/drift/usual", { params: { path: { model } } });
          await refresh(DRIFT);
        }}
      >
        <p>
          From the next evaluation on, every version of {model} is compared with its reference alone: what comes at some hours of each day may be
          told as drift again. Sums of those hours that are older than the server keeps others are deleted, and the days cannot be said anew.
        </p>
      </Confirm>
    </Panel>
  );
}

function factsOf(usual: Usual): [string, ReactNode][] {
  return [
    ["Days", <b key="d">{stretchWords(usual)}</b>],
    ["In all", <span key="a" className="number">{plural(daysIn(usual), "day")}, their hours in UTC</span>],
    [
      "Said",
      <span key="s">
        <Time at={usual.set_at} /> by {usual.set_by}
      </span>,
    ],
  ];
}

function Rules() {
  return (
    <ul className="small soft bullets">
      <li>A feature has moved only where it differs from the reference and from the same hours of these days: of that device, that site, the fleet.</li>
      <li>That takes findings away and adds none. A day on which something was wrong hides the same from now on.</li>
      <li>They count for every version that has the same features on the same edges.</li>
      <li>Where fewer than {DAYS_MIN} of the days, or 100 rows, were counted of a group, the reference decides alone.</li>
    </ul>
  );
}

/** As chosen: both days included. */
interface Days {
  first: string;
  last: string;
  today: string;
}

/** Those that are usual by now; else the last week. */
function suggested(usual: Usual | null): Days {
  const today = dayOf(Date.now());
  if (usual) return { first: dayOf(Date.parse(usual.since)), last: dayOf(Date.parse(usual.until) - 1), today };
  return { first: dayOf(startOf(today) - DAYS_BEFORE * DAY_MS), last: dayOf(startOf(today) - DAY_MS), today };
}

interface DialogProps {
  opened: boolean;
  close: () => void;
  model: string;
  usual: Usual | null;
  days: Days;
  change: (days: Days) => void;
}

function SetDialog({ opened, close, model, usual, days, change }: DialogProps) {
  const { first, last, today } = days;
  const length = (startOf(last) - startOf(first)) / DAY_MS + 1;
  const wrong = wrongWith(length, last, today);
  const until = wrong ? "" : dayOf(startOf(last) + DAY_MS);
  return (
    <Confirm
      opened={opened}
      close={close}
      title={`Days on which nothing was wrong with ${model}`}
      action={usual ? "Change" : "Say that they were usual"}
      incomplete={wrong !== null}
      command={wrong ? undefined : () => setUsualDays(model, first, until)}
      confirm={async () => {
        const body = { since: `${first}T00:00:00Z`, until: `${until}T00:00:00Z` };
        await fetchClient.PUT("/api/v1/models/{model}/drift/usual", { params: { path: { model } }, body });
        await refresh(DRIFT);
      }}
    >
      <div className="row wrap" style={{ alignItems: "flex-start", gap: 16 }}>
        <TextInput type="date" label="First day" required withAsterisk={false} max={today} value={first} onChange={(event) => change({ ...days, first: event.currentTarget.value })} />
        <TextInput type="date" label="Last day" required withAsterisk={false} max={today} value={last} onChange={(event) => change({ ...days, last: event.currentTarget.value })} />
      </div>
      <p role="status" className={wrong ? undefined : "soft"}>
        {wrong ?? `${plural(length, "whole day")} of UTC.`}
      </p>
      {usual && <Note icon="info">Takes the place of {stretchWords(usual)}.</Note>}
      <Rules />
    </Confirm>
  );
}

/** As the server would say it; null: nothing. */
function wrongWith(length: number, last: string, today: string): string | null {
  if (Number.isNaN(length)) return "Choose both days.";
  if (last >= today) return "The last day has to be over, in UTC.";
  if (length < DAYS_MIN || length > DAYS_MAX) return `It takes ${DAYS_MIN} to ${DAYS_MAX} days.`;
  return null;
}
