// What the rollout would do, as the server says it; asked again while the form changes.
import { keepPreviousData, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { Skeleton } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { Link } from "react-router";

import { asApiError, fetchClient, type Schemas } from "../api/client";
import { ErrorPanel, Facts, Note } from "../components/Panels";
import { bytes, count, plural, span } from "../format";
import { missing, phaseName, request, type RolloutChoice } from "./choice";
import { stopRule, UNITS_MIN } from "./experiment";

export type Forecast = Schemas["RolloutForecast"];

const TYPING_MS = 350;
const NAMES_SHOWN = 6;

/** The forecast of a choice; it is not asked for while something is missing. */
export function useForecast(choice: RolloutChoice): UseQueryResult<Forecast> & { fresh: boolean } {
  const wanted = missing(choice) === null ? JSON.stringify(request(choice)) : "";
  const [asked] = useDebouncedValue(wanted, TYPING_MS);
  const query = useQuery({
    queryKey: ["plan", asked],
    queryFn: async ({ signal }) => (await fetchClient.POST("/api/v1/rollouts/plan", { body: JSON.parse(asked), signal })).data!,
    enabled: asked !== "",
    placeholderData: keepPreviousData,
    refetchInterval: 30_000,
    retry: false,
  });
  const fresh = asked !== "" && asked === wanted && !query.isPlaceholderData && query.data !== undefined && !query.error;
  return { ...query, fresh };
}

export function Preview({ query, lacks, choice }: { query: ReturnType<typeof useForecast>; lacks: string | null; choice: RolloutChoice }) {
  if (lacks) return <p className="soft small">What it would do appears here. {lacks}</p>;
  if (query.error) {
    // The field says it where it is written.
    const selector = asApiError(query.error).code.startsWith("selector.");
    return selector ? <p className="soft small">The selector says what is wrong with it.</p> : <ErrorPanel error={query.error} retry={() => void query.refetch()} />;
  }
  if (!query.data) {
    return (
      <div className="stack" aria-busy="true" aria-label="Loading">
        <Skeleton height={18} width="70%" />
        <Skeleton height={90} />
      </div>
    );
  }
  return (
    <div className={query.fresh ? "stack" : "stack stale"} aria-live="polite">
      <Warnings forecast={query.data} />
      <Sums forecast={query.data} choice={choice} />
      <Phases forecast={query.data} />
      <Experiments choice={choice} forecast={query.data} />
      <Sites forecast={query.data} />
    </div>
  );
}

function Warnings({ forecast }: { forecast: Forecast }) {
  const { unfit, unknown, overlaps } = forecast;
  const blocked = forecast.phases.reduce((sum, phase) => sum + phase.blocked, 0);
  return (
    <>
      {overlaps.map(({ rollout, devices }) => (
        <Note key={rollout} tone="bad">
          <strong>{plural(devices, "device")} of it are in another rollout of this model.</strong>
          <p>
            It cannot start before <Link to={`/rollouts/${rollout}`}>rollout {rollout}</Link> has ended.
          </p>
        </Note>
      ))}
      {unfit.length > 0 && (
        <Note tone="warn">
          <strong>No variant fits {named(unfit, forecast.unfit_devices)}.</strong>
          <p>They would fail.</p>
        </Note>
      )}
      {blocked > 0 && (
        <Note tone="warn">
          <strong>The budget of their site never lets {plural(blocked, "device")} go.</strong>
        </Note>
      )}
      {unknown.length > 0 && (
        <Note>
          {named(unknown, forecast.unknown_devices)} {unknown.length === 1 ? "has" : "have"} never said what {unknown.length === 1 ? "it is" : "they are"}: waited for.
        </Note>
      )}
    </>
  );
}

/** Of many the server names the first only, and says how many there are. */
function named(names: string[], devices: number): string {
  const shown = names.slice(0, NAMES_SHOWN).join(", ");
  return devices > NAMES_SHOWN ? `${shown} and ${count(devices - NAMES_SHOWN)} more` : shown;
}

/** The list of devices that a choice means, of them those that a selector means besides. */
function listed({ target, group, where, devices }: RolloutChoice, besides = ""): string {
  const meant = {
    all: "",
    group: `group=${group}`,
    where: besides ? `(${where.trim()})` : where.trim(),
    devices: `device in (${devices.join(", ")})`,
  }[target];
  const text = [meant, besides].filter(Boolean).join(" and ");
  return text ? `/fleet?where=${encodeURIComponent(text)}` : "/fleet";
}

function Sums({ forecast, choice }: { forecast: Forecast; choice: RolloutChoice }) {
  const { phases, pace, offline_devices: offline } = forecast;
  const sum = (times: (number | null)[]) => (times.includes(null) ? null : times.reduce<number>((all, one) => all + one!, 0));
  const likely = sum(phases.map((phase) => phase.likely_s));
  const slow = sum(phases.map((phase) => phase.slow_s));
  const least = sum(phases.map((phase) => phase.least_s))!;
  const asks = phases.some((phase) => phase.approval);
  return (
    <Facts
      rows={[
        [
          "Devices",
          <>
            <Link to={listed(choice)} className="target">
              <b>{count(forecast.devices)}</b>
            </Link>
            {offline > 0 && (
              <>
                {" "}
                <Link to={listed(choice, "online=false")} className="soft underlined target">
                  {count(offline)} offline now
                </Link>
              </>
            )}
          </>,
        ],
        ["Fetched", <b key="b">{bytes(forecast.fetches_bytes)}</b>],
        [
          "Time",
          <>
            <b>{likely === null ? `at least ${span(least)}` : span(likely)}</b>{" "}
            <span className="soft">
              {slow !== null && `up to ${span(slow)}, `}
              {pace.samples ? `from ${plural(pace.samples, "earlier update")}` : "nothing like it was timed before"}
              {asks && ", without the time until you approve"}
            </span>
          </>,
        ],
      ]}
    />
  );
}

function Phases({ forecast }: { forecast: Forecast }) {
  return (
    <div className="table-scroll inset" tabIndex={0} role="region" aria-label="Phases of the plan">
      <table className="table">
        <thead>
          <tr>
            <th scope="col">Phase</th>
            <th scope="col">Devices</th>
            <th scope="col" data-align="right">
              Fetched
            </th>
            <th scope="col" data-align="right">
              Time
            </th>
          </tr>
        </thead>
        <tbody>
          {forecast.phases.map((phase) => (
            <tr key={phase.name}>
              <td>
                <span className="name">{phase.name}</span>
                <div className="soft small nowrap">
                  {plural(phase.waves, "wave")}
                  {phase.approval && ", asks"}
                </div>
              </td>
              <td>
                <span className="number">{count(phase.devices)}</span>
                {phase.offline > 0 && <span className="soft small"> {count(phase.offline)} offline</span>}
                <div className="soft small breakable">
                  {Object.entries(phase.variants)
                    .map(([variant, devices]) => `${variant} ${count(devices)}`)
                    .join(", ")}
                </div>
              </td>
              <td data-align="right" className="number nowrap">
                {bytes(phase.fetches_bytes)}
              </td>
              <td data-align="right" className="number nowrap">
                {phase.likely_s === null ? `≥ ${span(phase.least_s)}` : span(phase.likely_s)}
                {phase.soak_s > 0 && <div className="soft small">soaks {span(phase.soak_s)}</div>}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** What is compared in which phase, and by what rule that ends. */
function Experiments({ choice, forecast }: { choice: RolloutChoice; forecast: Forecast }) {
  return choice.phases.map((phase, index) => {
    if (!phase.experiment) return null;
    const name = phaseName(phase, index);
    const rule = stopRule(phase.experiment);
    const devices = forecast.phases[index]?.devices ?? 0;
    const few = phase.experiment.unit === "device" && devices < UNITS_MIN;
    return (
      <section key={index} aria-label={`Stop rule of phase ${name}`}>
        <h3 className="part">
          Phase {name} {rule.title}
        </h3>
        <ul className="plain-list small">
          {rule.ends.map(([how, when]) => (
            <li key={how}>
              <b>{how}</b> {when}
            </li>
          ))}
        </ul>
        <p className="soft small">{rule.sure}</p>
        {few && (
          <Note tone="warn">
            <strong>
              With {plural(devices, "device")} in this phase it cannot come to an answer: {UNITS_MIN} are needed.
            </strong>
          </Note>
        )}
      </section>
    );
  });
}

/** Sites that would lose something; the worst first. */
function Sites({ forecast }: { forecast: Forecast }) {
  const worst = (site: Schemas["SiteForecastInfo"]) => site.blind_s ?? Number.POSITIVE_INFINITY;
  const blind = forecast.sites.filter((site) => site.blind_s !== 0).sort((left, right) => worst(right) - worst(left));
  if (!blind.length) return <p className="soft small">No site would be without a device that serves.</p>;
  const shown = blind.slice(0, NAMES_SHOWN);
  return (
    <div>
      <h3 className="part">Sites that could be without any device that serves, at worst</h3>
      <ul className="plain-list small">
        {shown.map((site) => (
          <li key={site.site} className="row apart">
            <span className="breakable">{site.site || "without a site"}</span>
            <span className="number nowrap">
              {site.blind_s === null ? <span className="soft">not measured</span> : span(site.blind_s)}{" "}
              <span className="soft">
                {count(site.at_once)} of {count(site.available)} at once
              </span>
            </span>
          </li>
        ))}
      </ul>
      {blind.length > shown.length && <p className="soft small">and {count(blind.length - shown.length)} more</p>}
    </div>
  );
}
