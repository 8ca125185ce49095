// The fleet: its numbers, what it runs, and its devices, as a list or by site.
import { SegmentedControl } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Bar } from "../components/Bars";
import { useListState } from "../components/DataTable";
import { ErrorPanel, Head, Panel } from "../components/Panels";
import { count } from "../format";
import { Devices } from "./fleet/Devices";
import { FILTERS } from "./fleet/filters";
import { Sites } from "./fleet/Sites";
import { Tiles } from "./fleet/Tiles";

type Fleet = Schemas["FleetSummary"];

const VIEWS = [
  { value: "devices", label: "Devices" },
  { value: "sites", label: "Sites" },
];

export function FleetPage() {
  const list = useListState();
  const summary = api.useQuery("get", "/api/v1/fleet");
  const bySite = list.get("view") === "sites";
  return (
    <>
      <Head
        title="Fleet"
        beside={
          <SegmentedControl
            aria-label="Show"
            data={VIEWS}
            value={bySite ? "sites" : "devices"}
            onChange={(view) =>
              list.set({
                ...Object.fromEntries(["q", "sort", ...FILTERS].map((name) => [name, null])),
                view: view === "sites" ? view : null,
              })
            }
          />
        }
        actions={<EnrolButton />}
      />
      <div className="stack">
        {Boolean(summary.error) && <ErrorPanel error={summary.error} retry={() => void summary.refetch()} stale={!!summary.data} />}
        <Tiles fleet={summary.data} list={list} />
        {!!summary.data?.versions.length && !bySite && <Versions fleet={summary.data} />}
        {bySite ? <Sites list={list} /> : <Devices list={list} fleet={summary.data} />}
      </div>
    </>
  );
}

/** Says how many devices wait for somebody to approve them. */
function EnrolButton() {
  const asking = api.useQuery("get", "/api/v1/enrolment/requests", { params: { query: { limit: 200 } } }, { refetchInterval: 15_000 });
  const waiting = asking.data?.items.filter((one) => one.state === "waiting").length ?? 0;
  return (
    <Action needs="viewer" icon="plus" variant="default" to="/enrol">
      Enrol devices{waiting > 0 && ` (${count(waiting)} ${waiting === 1 ? "asks" : "ask"})`}
    </Action>
  );
}

const SHADES = ["accent", "busy", "warn", "idle"] as const;

/** Which versions run: a line for each model, newest first. */
function Versions({ fleet }: { fleet: Fleet }) {
  const models = [...new Set(fleet.versions.map((share) => share.model))];
  return (
    <Panel title="Running versions">
      <div className="stack" style={{ gap: 12 }}>
        {models.map((model) => {
          const shares = fleet.versions
            .filter((share) => share.model === model)
            .sort((left, right) => right.devices - left.devices);
          const parts = shares.map((share, number) => ({
            name: `version ${share.version}`,
            value: share.devices,
            fill: SHADES[Math.min(number, SHADES.length - 1)]!,
            to: `/fleet?model=${model}&version=${encodeURIComponent(share.version)}`,
          }));
          return (
            <div key={model} className="version-share">
              <Link to={`/models/${model}`} className="name breakable">
                {model}
              </Link>
              <Bar label={`Devices that run ${model}`} parts={parts} />
              <div className="legend">
                {parts.map((part) => (
                  <Link key={part.name} to={part.to}>
                    <span className="swatch" data-fill={part.fill} />
                    {part.name} <b>{count(part.value)}</b>
                  </Link>
                ))}
              </div>
            </div>
          );
        })}
      </div>
    </Panel>
  );
}
