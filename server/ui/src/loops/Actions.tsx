// What a person may do with a loop, and before each what that does.
import { useState, type ReactNode } from "react";

import { fetchClient } from "../api/client";
import { refresh } from "../api/refresh";
import { Action } from "../components/Action";
import { Confirm } from "../components/Confirm";
import { loopAction, loopApprove } from "../cli";
import type { Loop } from "./words";

type ActionName = "run" | "pause" | "resume" | "approve" | "stop";

const DIALOGS: Record<ActionName, { title: string; button: string; words: ReactNode }> = {
  run: {
    title: "Begin a run now",
    button: "Run now",
    words: <p>It begins whatever its cool-down and its budget of runs say. Devices may be asked for samples at once.</p>,
  },
  pause: {
    title: "Pause this loop",
    button: "Pause",
    words: <p>It stays where it is, and nothing sets it off. A rollout that it has started goes on.</p>,
  },
  resume: { title: "Resume this loop", button: "Resume", words: <p>It goes on from where it is.</p> },
  approve: { title: "Approve", button: "Approve", words: null },
  stop: {
    title: "Stop this run",
    button: "Stop the run",
    words: <p>The run ends here. A training or a rollout that it has begun goes on by itself; samples are taken as before.</p>,
  },
};

export function refetchLoops(): void {
  void refresh("/api/v1/loops", "/api/v1/models/{name}/loop", "/api/v1/models/{name}/loop/runs", "/api/v1/models/{name}/loop/runs/{run}");
}

export function Actions({ loop }: { loop: Loop }) {
  const [asked, setAsked] = useState<ActionName | null>(null);
  const [shown, setShown] = useState<ActionName>("run");
  // What the dialog is of, and not what the loop waits for by the time that it is answered.
  const [seen, setSeen] = useState<Loop>(loop);
  const ask = (action: ActionName) => {
    setShown(action);
    setSeen(loop);
    setAsked(action);
  };
  const active = loop.state !== "watching";
  const none = !loop.policy && "It has no policy yet.";
  const dialog = DIALOGS[shown];
  const stops = shown === "stop";
  const approves = shown === "approve" && seen.approval && seen.run ? { approval: seen.approval, run: seen.run.id } : null;
  return (
    <>
      {loop.approval && (
        <Action needs="operator" icon="check" onClick={() => ask("approve")}>
          Approve the {loop.approval}
        </Action>
      )}
      {!active && (
        <Action needs="operator" icon="play" blocked={none} onClick={() => ask("run")}>
          Run now
        </Action>
      )}
      <Action needs="operator" icon={loop.paused ? "play" : "pause"} variant={loop.paused ? undefined : "default"} blocked={none} onClick={() => ask(loop.paused ? "resume" : "pause")}>
        {loop.paused ? "Resume" : "Pause"}
      </Action>
      {active && (
        <Action needs="operator" icon="stop" variant="default" onClick={() => ask("stop")}>
          Stop
        </Action>
      )}
      <Confirm
        opened={asked !== null}
        close={() => setAsked(null)}
        title={approves ? `Approve the ${approves.approval}` : dialog.title}
        action={dialog.button}
        danger={stops}
        typed={stops ? loop.model : undefined}
        askReason
        command={(reason) => (approves ? loopApprove(loop.model, approves.approval, approves.run, reason) : loopAction(shown, loop.model, reason))}
        confirm={async (reason) => {
          await fetchClient.POST("/api/v1/models/{name}/loop/actions/{action}", { params: { path: { name: loop.model, action: shown } }, body: { reason, ...approves } });
          refetchLoops();
        }}
      >
        {shown === "approve" ? (
          <p>
            {seen.approval === "training"
              ? "A candidate is trained from the dataset, and compared with the version in service."
              : `Devices begin to get version ${seen.run?.version ?? ""}, phase by phase, with its gates.`}
          </p>
        ) : (
          dialog.words
        )}
      </Confirm>
    </>
  );
}
