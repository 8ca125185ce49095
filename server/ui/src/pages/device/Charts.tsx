// Latency and health of a device over time.
import { useMemo } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Select, Skeleton } from "@mantine/core";
import { useSearchParams } from "react-router";

import { api, type Schemas } from "../../api/client";
import { LineChart, type Line } from "../../components/LineChart";
import { ErrorPanel, Panel } from "../../components/Panels";
import { bytes, count, duration } from "../../format";

const HOUR_S = 3600;
/** Devices report each minute: no step is shorter. */
const RANGES = [
  { value: "1h", label: "Last hour", seconds: HOUR_S, points: 60 },
  { value: "6h", label: "Last 6 hours", seconds: 6 * HOUR_S, points: 120 },
  { value: "24h", label: "Last day", seconds: 24 * HOUR_S, points: 144 },
  { value: "7d", label: "Last 7 days", seconds: 7 * 24 * HOUR_S, points: 168 },
];

export function Charts({ id }: { id: string }) {
  const [parameters, setParameters] = useSearchParams();
  const range = RANGES.find((one) => one.value === parameters.get("range")) ?? RANGES[0]!;
  const query = api.useQuery(
    "get",
    "/api/v1/devices/{device}/telemetry/series",
    { params: { path: { device: id }, query: { since_s: range.seconds, points: range.points } } },
    { placeholderData: keepPreviousData, refetchInterval: 30_000 },
  );
  const charts = useMemo(() => (query.data ? chartsOf(query.data) : []), [query.data]);
  return (
    <Panel
      id="charts"
      title="Latency and health"
      aside={
        <Select
          aria-label="Time range"
          w={150}
          allowDeselect={false}
          data={RANGES.map(({ value, label }) => ({ value, label }))}
          value={range.value}
          onChange={(value) =>
            setParameters(
              (before) => {
                before.set("range", value ?? "1h");
                return new URLSearchParams(before);
              },
              { replace: true, preventScrollReset: true },
            )
          }
        />
      }
    >
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!query.data} />}
      {query.isPending && (
        <div className="plots" aria-busy="true" aria-label="Loading">
          <Skeleton height={168} />
          <Skeleton height={168} />
        </div>
      )}
      {query.data && charts.length === 0 && (
        <p className="soft">Nothing has come in this time: the device was silent, or no application has used its endpoint.</p>
      )}
      <div className={query.isPlaceholderData ? "plots stale" : "plots"}>
        {charts.map(({ name, lines, write }) => (
          <div key={name}>
            <h3 className="part">{name}</h3>
            <LineChart label={name} times={query.data?.times ?? []} lines={lines} write={write} />
          </div>
        ))}
      </div>
    </Panel>
  );
}

interface Chart {
  name: string;
  lines: Line[];
  write: (value: number) => string;
}

const degrees = (value: number) => `${value.toFixed(0)} °C`;
const load = (value: number) => value.toFixed(2);

function chartsOf({ slots, health }: Schemas["DeviceSeries"]): Chart[] {
  const charts: Chart[] = slots.flatMap((slot) => [
    {
      name: `${slot.slot}: latency`,
      lines: [
        { name: "p50", values: slot.latency_p50_us },
        { name: "p95", values: slot.latency_p95_us },
      ],
      write: duration,
    },
    {
      name: `${slot.slot}: requests`,
      lines: [
        { name: "requests", values: slot.requests },
        { name: "errors", values: slot.errors },
      ],
      write: count,
    },
  ]);
  const add = (name: string, write: Chart["write"], ...parts: [name: string, key: string][]) => {
    const lines = parts.flatMap(([words, key]) => (health[key] ? [{ name: words, values: health[key] }] : []));
    if (lines.length) charts.push({ name, lines, write });
  };
  add("Temperature", degrees, ["temperature", "temperature_c"]);
  add("Load", load, ["load of a minute", "load_1min"]);
  add("Free memory", bytes, ["free", "memory_available_bytes"]);
  add("Memory used", bytes, ["agent", "agent_rss_bytes"], ["inference", "inference_rss_bytes"]);
  return charts;
}
