// What sets a loop off, how far it may go alone, and what a candidate must be; an admin changes it.
import { useState } from "react";
import { Checkbox, Modal, NumberInput, Select } from "@mantine/core";

import { api, fetchClient, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Command, Equivalent } from "../components/Command";
import { ErrorPanel, Facts, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { useSubmit } from "../components/useSubmit";
import { loopFile, setLoop } from "../cli";
import { bytes, plural, share, span } from "../format";
import { refetchLoops } from "./Actions";
import type { Loop, Spec } from "./words";

type Level = Spec["triggers"]["drift"][number];
type Approval = Spec["approvals"][number];

const HOUR_S = 3600;
const LEVELS: { value: Level; label: string }[] = [
  { value: "fleet", label: "the fleet drifts" },
  { value: "site", label: "a site drifts" },
  { value: "device", label: "a device drifts" },
];
const APPROVALS: { value: Approval; label: string }[] = [
  { value: "training", label: "before it trains" },
  { value: "rollout", label: "before it rolls out" },
];

export function PolicyPanel({ loop }: { loop: Loop }) {
  return (
    <Panel id="policy" title="Policy" aside={<EditPolicy loop={loop} />}>
      {loop.policy ? <Shown loop={loop} policy={loop.policy} /> : <p className="soft">There is none: nothing is looked at.</p>}
    </Panel>
  );
}

export function EditPolicy({ loop }: { loop: Loop }) {
  const [open, setOpen] = useState(false);
  const words = loop.policy ? "Edit policy" : "Give it a policy";
  return (
    <>
      <Action needs="admin" icon="settings" variant={loop.policy ? "default" : undefined} onClick={() => setOpen(true)}>
        {words}
      </Action>
      <Modal opened={open} onClose={() => setOpen(false)} title={`The loop of ${loop.model}`} size="lg">
        <Form loop={loop} close={() => setOpen(false)} />
      </Modal>
    </>
  );
}

function Shown({ loop, policy }: { loop: Loop; policy: Spec }) {
  const { triggers } = policy;
  const sets = [
    triggers.drift.length > 0 && `drift of ${triggers.drift.join(", ")}`,
    triggers.estimate && "an estimate that has fallen",
    triggers.accuracy_below != null && `accuracy below ${share(triggers.accuracy_below, 0)}`,
    triggers.every_s != null && `every ${span(triggers.every_s)}`,
    triggers.labels_new != null && `${triggers.labels_new} new labels`,
  ].filter(Boolean);
  return (
    <div className="stack" style={{ gap: 12 }}>
      <div className="halves">
        <Facts
          rows={[
            ["Set off by", sets.join("; ") || "people only"],
            ["Waits for people", policy.approvals.length ? policy.approvals.map((one) => `before the ${one}`).join(", ") : "never: fully automatic"],
            ["Cools down", `${span(policy.cool_down_s)} after a run`],
            ["At most", `${policy.runs_max} runs in ${span(policy.runs_within_s)}`],
            ["Labels", `${policy.labels_min}, within ${span(policy.collect_max_s)}`],
          ]}
        />
        <Facts
          rows={[
            ["Samples meanwhile", policy.sampling.bytes_per_day ? `${bytes(policy.sampling.bytes_per_day)} a day and device` : "as the model's policy says"],
            ["Trainer", policy.trainer],
            ["Candidate must gain", `${policy.gain_points_min} points, and lose ${policy.old_drop_points_max} at most on old data`],
            ["Rollout", phasesOf(policy)],
            [
              "Changed",
              loop.changed_at ? (
                <>
                  <Time at={loop.changed_at} /> by {loop.changed_by}
                </>
              ) : (
                "never"
              ),
            ],
          ]}
        />
      </div>
      <div>
        <p className="soft small" style={{ marginBottom: 4 }}>
          All that a policy can say, such as phases and gates of the rollout, is set by a file
        </p>
        <Command text={loopFile(loop.model)} />
      </div>
    </div>
  );
}

function phasesOf({ rollout }: Spec): string {
  const phases = rollout.phases.map(({ name, percent, devices }) => [name, percent != null ? `${percent} %` : devices != null ? plural(devices, "device") : ""].filter(Boolean).join(", "));
  return phases.length ? phases.join("; then ") : "all at once";
}

function Form({ loop, close }: { loop: Loop; close: () => void }) {
  const { policy } = loop;
  const { data: trainers } = api.useQuery("get", "/api/v1/trainers", {});
  const [labels, setLabels] = useState<number | string>(policy?.labels_min ?? 200);
  const [trainer, setTrainer] = useState(policy?.trainer ?? "head");
  const [hours, setHours] = useState<number | string>((policy?.cool_down_s ?? 24 * HOUR_S) / HOUR_S);
  const [gain, setGain] = useState<number | string>(policy?.gain_points_min ?? 0);
  const [drop, setDrop] = useState<number | string>(policy?.old_drop_points_max ?? 3);
  const [drift, setDrift] = useState<Level[]>(policy?.triggers.drift ?? ["fleet", "site", "device"]);
  const [approvals, setApprovals] = useState<Approval[]>(policy?.approvals ?? []);
  const chosen = {
    labelsMin: Math.round(Number(labels) || 20),
    trainer,
    coolDownS: Math.round(Number(hours) * HOUR_S),
    gainMin: Number(gain),
    oldDropMax: Number(drop),
    drift,
    approvals,
  };
  const send = async () => {
    await fetchClient.PUT("/api/v1/models/{name}/loop", {
      params: { path: { name: loop.model } },
      body: {
        ...(policy ?? {}),
        labels_min: chosen.labelsMin,
        trainer,
        cool_down_s: chosen.coolDownS,
        gain_points_min: chosen.gainMin,
        old_drop_points_max: chosen.oldDropMax,
        triggers: { ...(policy?.triggers ?? {}), drift },
        approvals,
        revision: loop.revision,
      } as Schemas["LoopPolicySpec"],
    });
    refetchLoops();
  };
  const { busy, error, onSubmit } = useSubmit(send, { close });
  return (
    <form className="stack" onSubmit={onSubmit}>
      <Checkbox.Group label="It begins by itself when" value={drift} onChange={(values) => setDrift(values as Level[])}>
        <div className="row wrap" style={{ marginTop: 6 }}>
          {LEVELS.map(({ value, label }) => (
            <Checkbox key={value} value={value} label={label} />
          ))}
        </div>
      </Checkbox.Group>
      <Checkbox.Group label="It waits for a person" description="Nothing chosen: it goes round by itself." value={approvals} onChange={(values) => setApprovals(values as Approval[])}>
        <div className="row wrap" style={{ marginTop: 6 }}>
          {APPROVALS.map(({ value, label }) => (
            <Checkbox key={value} value={value} label={label} />
          ))}
        </div>
      </Checkbox.Group>
      <div className="side-by-side">
        <NumberInput label="Labels before it trains" min={20} max={20_000} allowDecimal={false} value={labels} onChange={setLabels} />
        <NumberInput label="Cool-down after a run" suffix=" h" min={0} max={8784} value={hours} onChange={setHours} />
        <Select
          label="Trainer"
          allowDeselect={false}
          comboboxProps={{ withinPortal: false }}
          data={[...new Set([trainer, ...(trainers ?? []).map((one) => one.name)])]}
          value={trainer}
          onChange={(value) => setTrainer(value ?? trainer)}
        />
      </div>
      <div className="side-by-side">
        <NumberInput label="Points to gain on new data" min={0} max={100} decimalScale={2} value={gain} onChange={setGain} />
        <NumberInput label="Points to lose at most on old data" min={0} max={100} decimalScale={2} value={drop} onChange={setDrop} />
      </div>
      <Equivalent text={setLoop(loop.model, chosen)} />
      {error != null && <ErrorPanel error={error} />}
      <div className="row" style={{ justifyContent: "flex-end" }}>
        <Action needs="admin" submit loading={busy}>
          Save
        </Action>
      </div>
    </form>
  );
}
