// Where a run stands on its way, at a glance: each state with how long it took.
import { Icon } from "../components/Icon";
import { useNow } from "../components/Time";
import { span } from "../format";
import { seconds, WAY, type Run } from "./words";

export function Track({ run }: { run: Run }) {
  const now = useNow();
  const failed = run.state === "rejected" || run.state === "rolled-back";
  return (
    <ol className="loop-track" aria-label="The way of this run">
      {WAY.map(({ state, words, means }) => {
        const step = run.steps.find((one) => one.state === state);
        const current = run.state === state && run.ended_at === null;
        const stopped = failed && step !== undefined && run.steps.at(-2) === step;
        const standing = stopped ? "stopped" : current ? "current" : step ? "done" : "next";
        return (
          <li key={state} data-standing={standing} aria-current={current ? "step" : undefined} title={means}>
            <span className="loop-sign">
              <Icon name={stopped ? "cross" : step && !current ? "check" : current ? "busy" : "minus"} size={13} />
            </span>
            <span className="loop-word">{words}</span>
            <span className="soft small number">
              {step && state !== "promoted" ? span(Math.round(seconds(step.began_at, step.ended_at, now))) : state === "promoted" && step ? "done" : "–"}
              {stopped && <span className="hidden"> ended here</span>}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
