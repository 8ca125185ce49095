// Whether this device sees what its models were made for.
import { Link } from "react-router";

import { api } from "../../api/client";
import { useLive } from "../../api/live";
import { Command } from "../../components/Command";
import { ErrorPanel, Panel } from "../../components/Panels";
import { State } from "../../components/State";
import { Time } from "../../components/Time";
import { driftShow } from "../../cli";
import { faultWords, whyOf } from "../../watch/findings";
import { Moved, Worst } from "../../watch/Groups";

const MODELS_MAX = 10;

export function DriftPanel({ id }: { id: string }) {
  useLive("drift");
  const query = api.useQuery("get", "/api/v1/drift", { params: { query: { device: id, sort: "-since", limit: MODELS_MAX } } }, { refetchInterval: 60_000 });
  const groups = query.data?.items ?? [];
  const [first] = groups;
  if (!query.error && !first) return null;
  return (
    <Panel title="Drift" id="drift" aside={<Link to={`/samples?device=${id}`}>Samples</Link>}>
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      <div className="stack">
        <ul className="alarms" aria-label="Drift">
          {groups.map((group) => (
            <li key={group.manifest}>
              <div className="row apart wrap" style={{ gap: "2px 12px" }}>
                <Link to={whyOf(group)} className="name">
                  {group.model} {group.version}
                </Link>
                <State state={group.state} />
              </div>
              <p className="small soft">
                since <Time at={group.since} />, judged until <Time at={group.until} />
              </p>
              {group.findings.length > 0 && (
                <div className="small" style={{ marginTop: 4 }}>
                  <Worst findings={group.findings} /> <Moved findings={group.findings} />
                </div>
              )}
              {group.faults.length > 0 && <p className="small breakable">Data: {group.faults.map(faultWords).join("; ")}</p>}
            </li>
          ))}
        </ul>
        {first && <Command text={driftShow(first.model, { device: id })} />}
      </div>
    </Panel>
  );
}
