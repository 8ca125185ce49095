// How far a group was from its reference over time, and how sure that is.
import { useMemo } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Select, Skeleton } from "@mantine/core";

import { api, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { FilterChip, type ListState } from "../components/DataTable";
import { LineChart, type Mark } from "../components/LineChart";
import { ErrorPanel, Panel } from "../components/Panels";
import { driftHistory, type DriftPlace } from "../cli";
import { count, span } from "../format";
import { eventWords, useDriftEvents } from "./Events";
import { chance, CHANCE_MIN, whereOf } from "./findings";

const HOUR_S = 3600;
const RANGES = [
  { value: "6h", label: "Last 6 hours", seconds: 6 * HOUR_S },
  { value: "24h", label: "Last day", seconds: 24 * HOUR_S },
  { value: "3d", label: "Last 3 days", seconds: 72 * HOUR_S },
  { value: "14d", label: "Last 14 days", seconds: 14 * 24 * HOUR_S },
  { value: "90d", label: "Last 90 days", seconds: 90 * 24 * HOUR_S },
];
/** As many as there are colours to tell apart. */
const LINES = 3;
const MARKS_MAX = 12;

interface CourseProps {
  model: string;
  of: DriftPlace;
  list: ListState;
  limits: Pick<Schemas["DriftSummary"], "distance" | "false_alarms"> | undefined;
}

export function Course({ model, of, list, limits }: CourseProps) {
  const range = RANGES.find((one) => one.value === list.get("range")) ?? RANGES[1]!;
  const feature = list.get("feature");
  const query = api.useQuery(
    "get",
    "/api/v1/models/{model}/drift/history",
    { params: { path: { model }, query: { ...of, since_s: range.seconds, feature: feature ? [feature] : undefined } } },
    { placeholderData: keepPreviousData, refetchInterval: 120_000 },
  );
  const events = useDriftEvents({ model, ...of, limit: MARKS_MAX });
  const history = query.data;
  const marks = useMemo<Mark[]>(
    () => (events.data?.items ?? []).map((event) => ({ at: event.at, name: `${eventWords(event)}, ${whereOf(event)}` })),
    [events.data],
  );
  const shown = useMemo(() => history?.features.slice(0, LINES) ?? [], [history]);
  const distances = useMemo(() => shown.map((one) => ({ name: one.feature, values: one.distance.map((value, step) => sized(value, one.spread[step])) })), [shown]);
  const chances = useMemo(
    () => shown.map((one) => ({ name: one.feature, values: one.p_value.map((value) => (value == null ? null : Math.max(CHANCE_MIN, value))) })),
    [shown],
  );
  const certain = chances.some((line) => line.values.some((value) => value != null));
  return (
    <Panel
      id="course"
      title="Over time"
      aside={
        <Select
          aria-label="Time range"
          w={150}
          allowDeselect={false}
          data={RANGES.map(({ value, label }) => ({ value, label }))}
          value={range.value}
          onChange={(value) => list.set({ range: value })}
        />
      }
    >
      <div className="stack">
        {feature && (
          <div className="filters">
            <FilterChip list={list} names={["feature"]} label={`Feature ${feature}`} />
          </div>
        )}
        {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!history} />}
        {query.isPending && (
          <div className="plots" aria-busy="true" aria-label="Loading">
            <Skeleton height={168} />
            <Skeleton height={168} />
          </div>
        )}
        {history && !shown.length && <p className="soft">Nothing was counted in this time, or it is not kept any more.</p>}
        {history && shown.length > 0 && (
          <div className={query.isPlaceholderData ? "plots stale" : "plots"}>
            <div>
              <h3 className="part">How far from the reference</h3>
              <LineChart
                label="How far from the reference"
                times={history.times}
                lines={distances}
                write={twoDigits}
                marks={marks}
                limit={limits && { value: limits.distance, name: "of interest" }}
              />
            </div>
            <div>
              <h3 className="part">How likely by chance</h3>
              {certain ? (
                <LineChart
                  label="How likely by chance"
                  times={history.times}
                  lines={chances}
                  write={chance}
                  marks={marks}
                  limit={limits && { value: limits.false_alarms, name: "budget" }}
                  rare
                />
              ) : (
                <p className="soft small">Too few devices tell how rows resemble one another over hours. Of a device three days are shown.</p>
              )}
            </div>
          </div>
        )}
        {history && (
          <p className="soft small">
            Steps of {span(history.step_s)}; {count(history.devices_read)} of {count(history.devices)}{" "}
            {history.devices === 1 ? "device" : "devices"}
            {history.devices_read < history.devices && ", evenly chosen"}. Vertical lines are what began and ended.
          </p>
        )}
        <Equivalent text={driftHistory(model, of, range.value, feature)} />
      </div>
    </Panel>
  );
}

/** One number for both kinds of movement, as the severity has it. */
function sized(distance: number | null, spread: number | null | undefined): number | null {
  return distance == null ? null : Math.max(distance, (spread ?? 0) / 2);
}

const twoDigits = (value: number) => value.toFixed(2);
