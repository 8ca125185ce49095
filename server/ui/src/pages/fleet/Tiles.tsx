// The fleet in numbers: each is a link to the list that it counts.
import { Link } from "react-router";

import type { Schemas } from "../../api/client";
import type { ListState } from "../../components/DataTable";
import { count } from "../../format";
import { FILTERS } from "./filters";

type Fleet = Schemas["FleetSummary"];

export function Tiles({ fleet, list }: { fleet: Fleet | undefined; list: ListState }) {
  const none = FILTERS.every((name) => !list.get(name));
  const is = (name: string) => list.get(name) === "true";
  return (
    <div className="tiles">
      <Tile name="Devices" value={fleet?.devices} to="/fleet" current={none && !list.q} />
      <Tile name="Online" value={fleet?.online} to="/fleet?online=true" dot="good" current={is("online")} />
      <Tile name="Offline" value={fleet?.offline} to="/fleet?online=false" dot="none" current={list.get("online") === "false"} />
      <Tile
        name="Overdue"
        value={fleet?.overdue}
        to="/fleet?overdue=true&sort=last_seen_at"
        dot={fleet?.overdue ? "warn" : undefined}
        current={is("overdue")}
      />
      <Tile name="Updating" value={fleet?.updating} to="/fleet?updating=true" dot={fleet?.updating ? "busy" : undefined} current={is("updating")} />
      <Tile name="Failing" value={fleet?.failing} to="/fleet?failing=true" dot={fleet?.failing ? "bad" : undefined} current={is("failing")} />
      <Tile name="Held" value={fleet?.held} to="/fleet?held=true" dot={fleet?.held ? "warn" : undefined} current={is("held")} />
      <Tile name="Security" value={fleet?.security} to="/fleet?security=true" dot={fleet?.security ? "bad" : undefined} current={is("security")} />
    </div>
  );
}

/** What the names of the tiles stand for. */
export const MEANINGS: Record<string, string> = {
  overdue: "Offline for longer than is usual; the setting device_overdue_s of the server says how long that is.",
  failing: "The newest update failed, was rejected or was rolled back.",
  security: "A security event came in the last day.",
  held: "Somebody lets no rollout begin on it.",
};

interface TileProps {
  name: string;
  value: number | undefined;
  to: string;
  dot?: "good" | "busy" | "warn" | "bad" | "none";
  current?: boolean;
}

function Tile({ name, value, to, dot, current }: TileProps) {
  return (
    <Link className="tile" to={to} aria-current={current ? "true" : undefined} title={MEANINGS[name.toLowerCase()]}>
      <span className="tile-name">
        {dot && <span className="dot" data-tone={dot} data-hollow={dot === "none" ? true : undefined} />}
        {name}
      </span>
      <span className="tile-value">{value === undefined ? "–" : count(value)}</span>
    </Link>
  );
}
