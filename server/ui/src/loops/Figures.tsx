// What came of a run in figures: how often the model was right before, during and after, and the costs.
import { Facts, Panel } from "../components/Panels";
import { Time, useNow } from "../components/Time";
import { bytes, count, plural, share, span } from "../format";
import { labelled, rate, seconds, type Run } from "./words";

const WHEN = {
  before: ["Before", "measured at its push"],
  during: ["During", "estimated"],
  after: ["After", "estimated"],
} as const;

export function Figures({ run }: { run: Run }) {
  const now = useNow();
  const took = span(Math.round(seconds(run.noticed_at ?? run.began_at, run.ended_at, now)));
  return (
    <div className="halves">
      <Panel title="How often it is right">
        {run.accuracies.length ? <Accuracies run={run} /> : <p className="soft">Known when samples taken at random are labelled, or answers are enough for an estimate.</p>}
      </Panel>
      <Panel title="What it took">
        <Facts
          rows={[
            [run.ended_at ? "From notice to end" : "Since it was noticed", <span key="t" className="number">{took}</span>],
            ["Begun", <Time key="b" at={run.began_at} />],
            ["Ended", run.ended_at ? <Time key="e" at={run.ended_at} /> : "not yet"],
            ["Labels", <span key="l" className="number">{labelled(run)}</span>],
            ["On the wire", run.transfer ? <Wire key="w" of={run.transfer} /> : "nothing yet"],
          ]}
        />
      </Panel>
    </div>
  );
}

function Wire({ of }: { of: NonNullable<Run["transfer"]> }) {
  return (
    <span className="number">
      {bytes(of.fetched_bytes / of.devices)} a device, of {bytes(of.whole_bytes / of.devices)} that the bundle has; {plural(of.devices, "device")} told
    </span>
  );
}

function Accuracies({ run }: { run: Run }) {
  return (
    <>
      <div className="table-scroll" tabIndex={0} role="region" aria-label="How often it is right">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">Version</th>
              <th scope="col" data-align="right">
                By labels
              </th>
              <th scope="col" data-align="right">
                Without labels
              </th>
            </tr>
          </thead>
          <tbody>
            {run.accuracies.map((one) => (
              <tr key={one.when}>
                <td>{WHEN[one.when][0]}</td>
                <td>{one.version}</td>
                <td data-align="right" className="number">
                  {one.rows ? (
                    <>
                      <b>{share(rate(one.right, one.rows), 1)}</b> <span className="soft small nowrap">of {count(one.rows)}</span>
                    </>
                  ) : (
                    <span className="soft">none</span>
                  )}
                </td>
                <td data-align="right" className="number">
                  {one.estimate == null ? (
                    <span className="soft">–</span>
                  ) : (
                    <>
                      {share(one.estimate, 1)} <span className="soft small nowrap">{WHEN[one.when][1]}</span>
                    </>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="soft small" style={{ marginTop: 8 }}>
        By labels of samples that were taken at random: those that the model was unsure of say nothing of the rest.
      </p>
    </>
  );
}
