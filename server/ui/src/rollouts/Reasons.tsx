// Why devices have ended as they have, counted; each number leads to the devices that it counts.
import { Link } from "react-router";

import { api } from "../api/client";
import { ErrorPanel, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { plural } from "../format";

export function Reasons({ id, total }: { id: string; total: number }) {
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}/reasons",
    { params: { path: { rollout: id } } },
    { refetchInterval: 15_000 },
  );
  if (query.error) return <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />;
  if (!query.data?.length) return null; // nothing went wrong: nothing to say
  const most = Math.max(...query.data.map((group) => group.devices));
  return (
    <Panel title="Reasons" aside={<span className="soft small">why devices have ended so</span>}>
      <ul className="plain-list reasons" aria-label="Reasons">
        {query.data.map((group) => (
          <li key={`${group.state} ${group.code}`}>
            <div className="row apart wrap">
              <span className="row wrap" style={{ gap: 8 }}>
                <State state={group.state} />
                <span className="mono">{group.code}</span>
              </span>
              <Link
                to={`?state=${group.state}&reason=${encodeURIComponent(group.code)}#devices`}
                replace
                className="number nowrap"
              >
                {plural(group.devices, "device")}
              </Link>
            </div>
            <span className="measure-track" aria-hidden="true">
              <span data-fill={group.state === "cancelled" || group.state === "reverted" ? "idle" : "bad"} style={{ width: `${(group.devices / Math.max(most, total / 4)) * 100}%` }} />
            </span>
            <p className="soft small breakable">
              {group.example} · <Time at={group.newest_at} />
            </p>
          </li>
        ))}
      </ul>
    </Panel>
  );
}
