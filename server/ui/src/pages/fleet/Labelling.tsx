// Labels, or a rollout, for many devices at once: for those that are chosen, or for all that the list means.
import { useState } from "react";
import { Button, TextInput } from "@mantine/core";

import { api, fetchClient, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Action } from "../../components/Action";
import { Confirm, useFocusBack } from "../../components/Confirm";
import { labelDevices } from "../../cli";
import { count, plural } from "../../format";
import type { AsSelector } from "./filters";

const CHOSEN_MAX = 1000;
/** The address of the form holds their names. */
const ROLLED_OUT_MAX = 100;

interface LabellingProps {
  chosen: string[];
  clear: () => void;
  /** Devices of the whole list. */
  total: number;
  selector: AsSelector;
}

export function Labelling({ chosen, clear, total, selector }: LabellingProps) {
  const [whole, setWhole] = useState(false);
  const [open, setOpen] = useState(false);
  const [done, setDone] = useState<Schemas["LabelResult"] | null>(null);
  if (!chosen.length && !done) return null;
  if (!chosen.length) {
    return (
      <div className="chosen" role="status">
        {plural(done!.changed, "device")} of {count(done!.matched)} changed.
        <Button size="xs" variant="subtle" onClick={() => setDone(null)}>
          Good
        </Button>
      </div>
    );
  }
  const can = "text" in selector;
  const number = whole ? total : chosen.length;
  return (
    <div className="chosen" role="status">
      <b className="number">{whole ? `All ${plural(total, "device")} that match` : `${plural(chosen.length, "device")} chosen`}</b>
      {total > chosen.length && !whole && (
        <Action needs="operator" size="xs" variant="subtle" blocked={!can && `Not all at once: ${selector.but}.`} onClick={() => setWhole(true)}>
          Choose all {count(total)} that match
        </Action>
      )}
      <span className="grow" />
      <Action
        needs="operator"
        size="xs"
        icon="tag"
        blocked={!whole && chosen.length > CHOSEN_MAX && `At most ${count(CHOSEN_MAX)} by hand.`}
        onClick={() => setOpen(true)}
      >
        Label {count(number)}
      </Action>
      <Action
        needs="operator"
        size="xs"
        variant="default"
        icon="rollout"
        blocked={!whole && chosen.length > ROLLED_OUT_MAX && `At most ${count(ROLLED_OUT_MAX)} by hand: choose all that match, or give them a label.`}
        to={formFor(whole && can ? { where: selector.text } : { devices: chosen })}
      >
        Roll out to {count(number)}
      </Action>
      <Button
        size="xs"
        variant="default"
        onClick={() => {
          setWhole(false);
          clear();
        }}
      >
        Clear
      </Button>
      {open && (
        <Dialog
          devices={whole ? [] : chosen}
          where={whole && can ? selector.text : ""}
          close={() => setOpen(false)}
          done={(result) => {
            setDone(result);
            setWhole(false);
            clear();
          }}
        />
      )}
    </div>
  );
}

/** The form of a rollout, with these devices. */
function formFor({ where, devices = [] }: { where?: string; devices?: string[] }): string {
  const address = new URLSearchParams(where ? { to: "where", where } : { to: "devices" });
  for (const device of devices) address.append("device", device);
  return `/rollouts/new?${address.toString()}`;
}

interface DialogProps {
  devices: string[];
  where: string;
  close: () => void;
  done: (result: Schemas["LabelResult"]) => void;
}

const ONE = /^([a-z][a-z0-9_-]{0,31})(?:=(.+)|-)$/;

/** "site=porto demo-" → what is set and what is removed; null when it says neither. */
function read(text: string): Pick<Schemas["LabelRequest"], "set" | "remove"> | null {
  const set: Record<string, string> = {};
  const remove: string[] = [];
  const words = text.trim().split(/\s+/).filter(Boolean);
  for (const word of words) {
    const [, name, value] = ONE.exec(word) ?? [];
    if (!name) return null;
    if (value === undefined) remove.push(name);
    else set[name] = value;
  }
  return words.length ? { set, remove } : null;
}

function Dialog({ devices, where, close, done }: DialogProps) {
  useFocusBack();
  const [text, setText] = useState("");
  // Counted now, and by the server again when it is done: not more than was shown here.
  const preview = api.useQuery("get", "/api/v1/devices", { params: { query: { where, limit: 1 } } }, { enabled: where !== "", staleTime: 0 });
  const number = where ? preview.data?.total : devices.length;
  const asked = read(text);
  return (
    <Confirm
      opened
      close={close}
      title={number === undefined ? "Label devices" : `Label ${plural(number, "device")}`}
      action="Label"
      incomplete={!asked || !number}
      command={() => labelDevices({ labels: text.trim().split(/\s+/).filter(Boolean), devices, where, expected: number ?? null })}
      confirm={async () => {
        const body = { ...asked!, devices, where, expected: number! };
        const { data } = await fetchClient.POST("/api/v1/devices/labels", { body });
        await refresh("/api/v1/devices");
        done(data!);
      }}
    >
      <TextInput
        label="Labels"
        description="name=value gives a label, name- takes it away; several with spaces between"
        placeholder="site=porto hw=rpi4 demo-"
        data-autofocus
        spellCheck={false}
        autoComplete="off"
        error={text.trim() && !asked ? "write site=porto to give a label, site- to take it away" : undefined}
        value={text}
        onChange={(event) => setText(event.currentTarget.value)}
      />
      <p>
        {where ? (
          <>
            Every enrolled device that is <span className="mono breakable">{where}</span>
            {number !== undefined && <>: {plural(number, "device")} now</>}. If it is another number when it is done, nothing is done.
          </>
        ) : (
          <>
            {devices.slice(0, 8).join(", ")}
            {devices.length > 8 && ` and ${count(devices.length - 8)} more`}
          </>
        )}
      </p>
      <p className="soft small">Rollouts that go by a selector take in devices that it comes to mean.</p>
    </Confirm>
  );
}
