// What can be done with a rollout, and before each what that will do to how many devices.
import { useState, type ReactNode } from "react";
import { Radio } from "@mantine/core";

import { api, fetchClient, type Schemas } from "../api/client";
import { refresh, setNewest } from "../api/refresh";
import { Action } from "../components/Action";
import { Confirm } from "../components/Confirm";
import { rolloutAction } from "../cli";
import { count, plural } from "../format";

type Rollout = Schemas["RolloutInfo"];
type ActionName = "pause" | "resume" | "approve" | "abort";

const DIALOGS: Record<ActionName, { title: string; button: string }> = {
  pause: { title: "Pause this rollout", button: "Pause" },
  resume: { title: "Resume this rollout", button: "Resume" },
  approve: { title: "Approve this phase", button: "Approve" },
  abort: { title: "Abort this rollout", button: "Abort rollout" },
};

export function Actions({ rollout }: { rollout: Rollout }) {
  const [asked, setAsked] = useState<ActionName | null>(null);
  const [shown, setShown] = useState<ActionName>("pause");
  const [revert, setRevert] = useState(false);
  const ended = rollout.state === "completed" || rollout.state === "aborted";
  const blocked = ended && `It has ${rollout.state === "completed" ? "completed" : "been aborted"}.`;
  const ask = (action: ActionName) => {
    setShown(action);
    setAsked(action);
    setRevert(false);
  };
  const act = async (reason: string) => {
    const { data } = await fetchClient.POST("/api/v1/rollouts/{rollout}/actions/{action}", {
      params: { path: { rollout: rollout.id, action: shown } },
      body: { reason, revert: shown === "abort" && revert },
    });
    const named = { params: { path: { rollout: rollout.id } } };
    setNewest(api.queryOptions("get", "/api/v1/rollouts/{rollout}", named).queryKey, data);
    const parts = ["events", "devices", "phases", "reasons"] as const;
    void refresh(...parts.map((part) => `/api/v1/rollouts/{rollout}/${part}` as const));
  };
  const dialog = DIALOGS[shown];
  const aborts = shown === "abort";
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
      {rollout.state === "running" && rollout.phase && rollout.phase.step !== "ordering" && (
        <Action needs="operator" icon="check" variant={rollout.phase.step === "approval" ? undefined : "default"} onClick={() => ask("approve")}>
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
        danger={aborts}
        typed={aborts ? `${rollout.model}@${rollout.version}` : undefined}
        askReason
        command={(reason) => rolloutAction(shown, rollout.id, reason, aborts && revert)}
        confirm={act}
      >
        {aborts ? <Abort rollout={rollout} revert={revert} setRevert={setRevert} /> : <Words action={shown} rollout={rollout} />}
      </Confirm>
    </>
  );
}

function Words({ action, rollout }: { action: ActionName; rollout: Rollout }) {
  const { counts, phase } = rollout;
  const bad = counts.failed + counts.rejected + counts.rolled_back;
  if (action === "pause") {
    return (
      <p>
        No further device is started: {plural(counts.pending, "device")} that {counts.pending === 1 ? "is" : "are"} pending stay as they are.{" "}
        {plural(counts.in_progress, "device")} in progress finish what they are doing.
      </p>
    );
  }
  if (action === "resume") {
    const failedGate = phase?.verdicts.some((one) => one.verdict === "failed");
    return (
      <>
        <p>It goes on with {plural(counts.pending, "pending device")}.</p>
        {bad > 0 && (
          <p>
            <b>{plural(bad, "failure")} that {bad === 1 ? "is" : "are"} known now {bad === 1 ? "is" : "are"} acknowledged</b>: {bad === 1 ? "it counts" : "they count"} no
            longer towards the limit, and the next {plural(rollout.policy.failures_max ?? 1, "failure")} would pause it again.
          </p>
        )}
        {failedGate && (
          <p>
            <b>A gate of phase {phase!.name} has failed.</b> To resume is to let that phase pass.
          </p>
        )}
      </>
    );
  }
  const open = phase?.verdicts.filter((one) => one.verdict !== "passed") ?? [];
  return (
    <>
      <p>The phase after {phase?.name} begins: more devices get the version.</p>
      {open.length > 0 && (
        <p>
          Not passed: {open.map((one) => `${one.gate} (${one.detail})`).join("; ")}.
        </p>
      )}
      {phase?.step === "soaking" && <p>It still soaks; approving lets it pass when that has ended.</p>}
    </>
  );
}

interface AbortProps {
  rollout: Rollout;
  revert: boolean;
  setRevert: (revert: boolean) => void;
}

function Abort({ rollout, revert, setRevert }: AbortProps) {
  const { counts } = rollout;
  const bad = counts.failed + counts.rejected + counts.rolled_back;
  const rows: [devices: number, state: string, what: ReactNode][] = [
    [counts.committed, "committed", revert ? <b>go back to what they ran before, all at once</b> : "keep the new version"],
    [counts.in_progress, "in progress", "stop, and go back to what they ran before"],
    [counts.pending, "pending", "are not touched"],
    [counts.overdue, "overdue", "are given up; what one has begun, it takes back"],
    [bad, "that went wrong", "are told to run what they ran before; most do already"],
  ];
  return (
    <>
      <Radio.Group
        label="Devices that have committed"
        value={revert ? "revert" : "keep"}
        onChange={(value) => setRevert(value === "revert")}
      >
        <div className="stack" style={{ gap: 8, marginTop: 8 }}>
          <Radio value="keep" label="Keep the new version" />
          <Radio value="revert" label="Revert: go back too" description="When what runs is worse than a short interruption. Keeps to no rate and no budget." />
        </div>
      </Radio.Group>
      <ul className="plain-list consequences">
        {rows
          .filter(([devices]) => devices > 0)
          .map(([devices, state, what]) => (
            <li key={state}>
              <b className="number">{count(devices)}</b> <span className="soft">{state}</span> <span>{what}</span>
            </li>
          ))}
      </ul>
      <p className="soft small">An aborted rollout cannot be resumed.</p>
    </>
  );
}
