// How far the labelling of a model is, and how well those who label agree.
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Bar, Measure, type Part } from "../components/Bars";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Panel } from "../components/Panels";
import { labelStatus } from "../cli";
import { count, share } from "../format";
import { reasonWords } from "../samples/reasons";

type Summary = Omit<Schemas["LabellingSummary"], "right"> & { right: Record<string, number[]> };

const STATES: [state: string, name: string, fill: Part["fill"]][] = [
  ["labelled", "Labelled", "good"],
  ["conflict", "Labels disagree", "bad"],
  ["skipped", "Cannot be told", "idle"],
  ["unlabelled", "Not labelled", "none"],
];

export function useLabelling(model: string) {
  return api.useQuery("get", "/api/v1/models/{name}/labelling", { params: { path: { name: model } } }, { refetchInterval: 30_000 });
}

export function partsOf(summary: Summary): Part[] {
  return STATES.map(([state, name, fill]) => ({
    name,
    value: summary.states[state] ?? 0,
    fill,
    to: `/samples?model=${summary.model}&label_state=${state}`,
  }));
}

export function Progress({ model }: { model: string }) {
  const query = useLabelling(model);
  const summary = query.data;
  return (
    <>
      <Panel title="Progress">
        {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!summary} />}
        {summary && (
          <div className="stack" style={{ gap: 12 }}>
            <Bar size="large" label={`Samples of ${model}`} parts={partsOf(summary)} />
            <ul className="legend column">
              {partsOf(summary).map((part) => (
                <li key={part.name}>
                  <Link to={part.to ?? ""}>
                    <span className="swatch" data-fill={part.fill} />
                    {part.name} <b>{count(part.value)}</b>
                  </Link>
                </li>
              ))}
            </ul>
            <Classes summary={summary} />
            <Equivalent text={labelStatus(model)} />
          </div>
        )}
      </Panel>
      {summary && <Agreement summary={summary} />}
    </>
  );
}

function Classes({ summary }: { summary: Summary }) {
  const most = Math.max(1, ...Object.values(summary.by_class));
  if (!summary.classes.length) return null;
  return (
    <div className="classes">
      {summary.classes.map((name) => (
        <div key={name} style={{ display: "contents" }}>
          <span className="breakable">{name}</span>
          <Measure text="" share={(summary.by_class[name] ?? 0) / most} />
          <span className="number">{count(summary.by_class[name] ?? 0)}</span>
        </div>
      ))}
    </div>
  );
}

/** Landis and Koch (1977). */
function inWords(kappa: number): string {
  return kappa >= 0.8 ? "almost perfect" : kappa >= 0.6 ? "substantial" : kappa >= 0.4 ? "moderate" : "poor: look at the classes' meanings together";
}

const MODEL_RIGHT_MIN = 20;

function Agreement({ summary }: { summary: Summary }) {
  const right = Object.entries(summary.right);
  return (
    <Panel title="Agreement">
      <div className="stack" style={{ gap: 12 }}>
        {summary.agreement == null ? (
          <p className="soft small">No sample has two labels yet. Ask for two labellers of each to see whether people agree.</p>
        ) : (
          <p className="small">
            Between all who label: <b className="number">{summary.agreement.toFixed(2)}</b> <span className="soft">(Fleiss&apos; kappa)</span>, {inWords(summary.agreement)}.
          </p>
        )}
        {summary.pairs.length > 0 && (
          <table className="figures-table">
            <thead>
              <tr>
                <td>Who</td>
                <th scope="col">Agreed</th>
                <th scope="col">Kappa</th>
              </tr>
            </thead>
            <tbody>
              {summary.pairs.map((pair) => (
                <tr key={`${pair.one} ${pair.other}`}>
                  <th scope="row" className="breakable">
                    {pair.one}, {pair.other}
                  </th>
                  <td className="number">
                    {count(pair.agreed)} of {count(pair.samples)}
                  </td>
                  <td className="number">{pair.kappa?.toFixed(2) ?? "–"}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {right.length > 0 && (
          <div>
            <h3 className="part">The model was right</h3>
            <ul className="small">
              {right.map(([reason, [good = 0, all = 0]]) => (
                <li key={reason}>
                  {reasonWords(reason)}: <span className="number">{`${count(good)} of ${count(all)}`}</span>
                  {all >= MODEL_RIGHT_MIN && <span className="number">, {share(good / all, 0)}</span>}
                  {reason === "random" && <span className="soft"> (an estimate of its accuracy in the field)</span>}
                </li>
              ))}
            </ul>
          </div>
        )}
        {Object.keys(summary.labellers).length > 0 && (
          <p className="small soft breakable">
            By {Object.entries(summary.labellers).map(([name, number]) => `${name} ${count(number)}`).join(", ")}
          </p>
        )}
      </div>
    </Panel>
  );
}
