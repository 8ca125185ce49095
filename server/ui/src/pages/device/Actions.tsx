// What can be done with one device; each dialog says what will happen before it does.
import { useState, type ReactNode } from "react";
import { Select } from "@mantine/core";
import { useNavigate } from "react-router";

import { api, fetchClient, type Schemas } from "../../api/client";
import { setNewest } from "../../api/refresh";
import { Action } from "../../components/Action";
import { Confirm } from "../../components/Confirm";
import { Note } from "../../components/Panels";
import { Time } from "../../components/Time";
import { benchmark, decommission, hold, release, revoke, rollBack } from "../../cli";

type Device = Schemas["DeviceDetail"];

const named = (device: Device) => ({ params: { path: { device: device.id } } });

function show(device: Device, data: Device | undefined): void {
  setNewest(api.queryOptions("get", "/api/v1/devices/{device}", named(device)).queryKey, data);
}

/** Of each variant, as the command line asks for. */
const BENCH_RUNS = 200;

const gone = (device: Device) => device.state !== "enrolled" && "It has been shut out.";

export function DeviceActions({ device }: { device: Device }) {
  return (
    <>
      {device.hold ? <Release device={device} /> : <Hold device={device} />}
      <RollBack device={device} />
      <Bench device={device} />
      <Revoke device={device} />
      <Decommission device={device} />
    </>
  );
}

/** That it is held, by whom and why: what an operator must know before wondering. */
export function Held({ device }: { device: Device }) {
  if (!device.hold) return null;
  return (
    <Note tone="warn" icon="pause">
      <strong>No rollout begins on {device.id}</strong>: held by {device.hold.by} <Time at={device.hold.at} />
      {device.hold.reason && <p className="breakable">{device.hold.reason}</p>}
    </Note>
  );
}

function Hold({ device }: { device: Device }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action needs="operator" icon="pause" variant="default" blocked={gone(device)} onClick={() => setOpen(true)}>
        Hold
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`Hold ${device.id}`}
        action="Hold"
        askReason
        command={(reason) => hold(device.id, reason)}
        confirm={async (reason) => {
          const { data } = await fetchClient.POST("/api/v1/devices/{device}/actions/hold", { ...named(device), body: { reason } });
          show(device, data);
        }}
      >
        <p>
          No rollout begins on it until it is released. What it runs goes on running; an update in progress goes on, and an abort
          reaches it.
        </p>
      </Confirm>
    </>
  );
}

function Release({ device }: { device: Device }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action needs="operator" icon="play" onClick={() => setOpen(true)}>
        Release
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`Release ${device.id}`}
        action="Release"
        command={() => release(device.id)}
        confirm={async () => {
          const { data } = await fetchClient.POST("/api/v1/devices/{device}/actions/release", named(device));
          show(device, data);
        }}
      >
        <p>Rollouts that wait for it begin on it at once, as far as their phases allow.</p>
      </Confirm>
    </>
  );
}

interface ChoiceProps {
  label: string;
  names: string[];
  value: string;
  change: (value: string) => void;
  children?: ReactNode;
}

function Choice({ label, names, value, change }: ChoiceProps) {
  if (names.length < 2) return null;
  return (
    <Select
      label={label}
      allowDeselect={false}
      comboboxProps={{ withinPortal: false }}
      data={names}
      value={value}
      onChange={(chosen) => change(chosen!)}
    />
  );
}

function RollBack({ device }: { device: Device }) {
  const slots = device.slots.filter((slot) => slot.previous);
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState("");
  const slot = slots.find((one) => one.slot === chosen) ?? slots[0];
  const version = slot?.previous?.version ?? "";
  return (
    <>
      <Action
        needs="operator"
        icon="back"
        variant="default"
        blocked={gone(device) || (!slot && "It has no version from before.")}
        onClick={() => setOpen(true)}
      >
        Roll back
      </Action>
      {slot && (
        <Confirm
          opened={open}
          close={() => setOpen(false)}
          title={`Roll ${device.id} back`}
          action="Roll back"
          danger
          command={() => rollBack(device.id, slot.slot, version)}
          confirm={async () => {
            const { data } = await fetchClient.POST("/api/v1/devices/{device}/actions/rollback", {
              ...named(device),
              body: { slot: slot.slot, version },
            });
            show(device, data);
          }}
        >
          <Choice label="Model" names={slots.map((one) => one.slot)} value={slot.slot} change={setChosen} />
          <p>
            {slot.slot} goes from <b>{slot.running?.version ?? "nothing"}</b> to <b>{version}</b>, which it ran before, after a trial
            like any update. The next rollout that includes it takes it on again: hold it to prevent that.
          </p>
        </Confirm>
      )}
    </>
  );
}

function Bench({ device }: { device: Device }) {
  const slots = device.slots.filter((slot) => slot.running);
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState("");
  const navigate = useNavigate();
  const slot = slots.find((one) => one.slot === chosen) ?? slots[0];
  const version = slot?.running?.version ?? "";
  return (
    <>
      <Action
        needs="operator"
        icon="clock"
        variant="default"
        blocked={gone(device) || (!slot && "It runs nothing yet.") || (!device.online && "It is not connected.")}
        onClick={() => setOpen(true)}
      >
        Bench
      </Action>
      {slot && (
        <Confirm
          opened={open}
          close={() => setOpen(false)}
          title={`Bench on ${device.id}`}
          action="Measure"
          command={() => benchmark(`${slot.slot}@${version}`, device.id)}
          confirm={async () => {
            await fetchClient.POST("/api/v1/models/{name}/versions/{version}/benchmarks", {
              params: { path: { name: slot.slot, version } },
              body: { device: device.id, runs: BENCH_RUNS, variants: [] },
            });
            void navigate(`/models/${slot.slot}/${encodeURIComponent(version)}`);
          }}
        >
          <Choice label="Model" names={slots.map((one) => one.slot)} value={slot.slot} change={setChosen} />
          <p>
            It measures every variant of {slot.slot} {version} that it can run, in its trial process: latency, memory, answers to the
            golden inputs. What it serves is not touched, and an update goes first. The figures come to the version's page.
          </p>
        </Confirm>
      )}
    </>
  );
}

/** For a device that is lost: it may come back when somebody lets it. */
function Revoke({ device }: { device: Device }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action
        needs="operator"
        variant="default"
        blocked={device.state !== "enrolled" && "It has been shut out already."}
        onClick={() => setOpen(true)}
      >
        Lost
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`${device.id} is lost`}
        action="Shut out"
        danger
        command={() => revoke(device.id)}
        confirm={async () => {
          const { data } = await fetchClient.POST("/api/v1/devices/{device}/actions/revoke", named(device));
          show(device, data);
        }}
      >
        <p>
          Its certificates are revoked, it is disconnected at once, and it cannot renew them. What it is to run stays: when it is
          found, it enrols again, with a token or an approval that is made after this.
        </p>
      </Confirm>
    </>
  );
}

function Decommission({ device }: { device: Device }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Action
        needs="admin"
        variant="default"
        blocked={device.state === "decommissioned" && "It has been decommissioned already."}
        onClick={() => setOpen(true)}
      >
        Decommission
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title={`Decommission ${device.id}`}
        action="Decommission"
        danger
        typed={device.id}
        command={() => decommission(device.id)}
        confirm={async () => {
          const { data } = await fetchClient.POST("/api/v1/devices/{device}/actions/decommission", named(device));
          show(device, data);
        }}
      >
        <p>
          Its certificate is revoked and it is disconnected at once. The model that it runs goes on running. To come back it
          has to enrol again.
        </p>
      </Confirm>
    </>
  );
}
