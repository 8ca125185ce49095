// Lines over time, drawn by ECharts, which is fetched when the first chart is shown. What the lines
// say is in a table too, for who cannot see them.
import { useEffect, useMemo, useRef, useState } from "react";
import { useMantineColorScheme } from "@mantine/core";
import type { EChartsType } from "echarts/core";

import { outdated } from "../api/client";
import { absolute, clock } from "../format";
import { ErrorPanel } from "./Panels";

export interface Line {
  name: string;
  values: (number | null)[];
}

/** A moment that explains a bend: a vertical line with its words in the tooltip and the table. */
export interface Mark {
  at: string;
  name: string;
}

interface LineChartProps {
  label: string;
  times: string[];
  lines: Line[];
  /** How a value is written. */
  write: (value: number) => string;
  marks?: Mark[];
  /** A value that lines are held against. */
  limit?: { value: number; name: string };
  /** Chances: by powers of ten, the rarest on top. */
  rare?: boolean;
}

const SHADES = ["--chart-1", "--chart-2", "--chart-3"];
const HEIGHT = 168;

export function LineChart({ label, times, lines, write, marks, limit, rare }: LineChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<EChartsType | null>(null);
  const [isAway, setAway] = useState(false);
  const { colorScheme } = useMantineColorScheme();
  const [value, name] = [limit?.value, limit?.name];
  const given = useMemo(() => (value === undefined ? undefined : { value, name: name ?? "" }), [value, name]);
  useEffect(() => {
    let gone = false;
    let watch: ResizeObserver | undefined;
    const draw = ({ init }: typeof import("./echarts")) => {
      if (gone || !place.current) return;
      chart.current ??= init(place.current);
      chart.current.setOption(options(place.current, { label, times, lines, write, marks, limit: given, rare }), { notMerge: true });
      watch = new ResizeObserver(() => chart.current?.resize());
      watch.observe(place.current);
    };
    import("./echarts").then(draw, () => setAway(true));
    return () => {
      gone = true;
      watch?.disconnect();
    };
  }, [label, times, lines, write, marks, given, rare, colorScheme]);
  useEffect(
    () => () => {
      chart.current?.dispose();
      chart.current = null;
    },
    [],
  );
  return (
    <figure style={{ margin: 0 }}>
      {isAway && <ErrorPanel error={outdated()} />}
      <div ref={place} role="img" aria-label={summary(label, lines, write, given)} style={{ height: isAway ? 0 : HEIGHT }} />
      <details className="as-table">
        <summary className="small soft">As a table</summary>
        <div className="table-scroll" tabIndex={0} role="region" aria-label={`${label}, as a table`} style={{ maxHeight: 220, overflowY: "auto" }}>
          <table className="table">
            <thead>
              <tr>
                <th scope="col">Until</th>
                {lines.map((line) => (
                  <th key={line.name} scope="col" data-align="right">
                    {line.name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {times.map((time, step) =>
                lines.every((line) => line.values[step] == null) ? null : (
                  <tr key={time}>
                    <td className="nowrap" title={absolute(Date.parse(time))}>
                      {moment(time, times)}
                    </td>
                    {lines.map((line) => (
                      <td key={line.name} data-align="right" className="number">
                        {line.values[step] == null ? "–" : write(line.values[step])}
                      </td>
                    ))}
                  </tr>
                ),
              )}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

const DAY_MS = 86_400_000;

/** The time of day; with the day where there are several. */
function moment(time: string, times: string[]): string {
  const [first, last] = [Date.parse(times[0] ?? time), Date.parse(times.at(-1) ?? time)];
  const day = last - first > DAY_MS ? `${time.slice(5, 10)} ` : "";
  return day + clock(Date.parse(time));
}

function summary(label: string, lines: Line[], write: (value: number) => string, limit?: LineChartProps["limit"]): string {
  const parts = lines.map((line) => {
    const known = line.values.filter((value) => value != null);
    const last = known.at(-1);
    return last === undefined ? `${line.name}: nothing` : `${line.name}: now ${write(last)}, ${write(Math.min(...known))} to ${write(Math.max(...known))}`;
  });
  return `${label}. ${parts.join("; ")}${limit ? `. ${limit.name}: ${write(limit.value)}` : ""}`;
}

/** Silence of a step or two is how reports fall into steps; a longer one is a gap in the line. */
const JOINED_STEPS = 3;

function pointsOf(times: string[], values: (number | null)[]): [string, number | null][] {
  const points: [string, number | null][] = [];
  let silent = 0;
  times.forEach((time, step) => {
    const value = values[step] ?? null;
    silent = value === null ? silent + 1 : 0;
    if (value !== null || silent === JOINED_STEPS) points.push([time, value]);
  });
  return points;
}

function options(place: HTMLElement, { times, lines, write, marks = [], limit, rare }: LineChartProps) {
  // The canvas knows no CSS variables, and the page's are light-dark() pairs: asked of the browser.
  const probe = document.createElement("span");
  place.append(probe);
  const colour = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const [ink, soft, line, panel] = ["--ink", "--soft", "--line", "--panel"].map(colour);
  const shades = SHADES.map(colour);
  probe.remove();
  const text = { color: soft, fontFamily: "Inter Variable", fontSize: 11.5 };
  return {
    animation: false,
    color: shades,
    grid: { left: 4, right: 12, top: lines.length > 1 ? 30 : 12, bottom: 2, containLabel: true },
    legend: lines.length > 1 ? { left: 0, top: 0, icon: "roundRect", itemWidth: 10, itemHeight: 10, textStyle: { ...text, color: ink } } : undefined,
    tooltip: {
      trigger: "axis",
      backgroundColor: panel,
      borderColor: line,
      textStyle: { ...text, color: ink },
      valueFormatter: (value: unknown) => (typeof value === "number" ? write(value) : "–"),
    },
    xAxis: { type: "time", axisLabel: { ...text, hideOverlap: true }, axisLine: { lineStyle: { color: line } }, splitLine: { show: false } },
    yAxis: {
      ...(rare ? { type: "log", inverse: true, max: 1 } : { type: "value" }),
      splitNumber: 3,
      axisLabel: { ...text, formatter: write },
      splitLine: { lineStyle: { color: line } },
    },
    series: lines.map(({ name, values }, number) => ({
      ...(number === 0 && (marks.length || limit) ? { markLine: markLine(marks, limit, times, { ...text, color: soft }, ink) } : {}),
      name,
      type: "line",
      showSymbol: values.filter((value) => value != null).length < 3,
      symbolSize: 5,
      lineStyle: { width: 1.75 },
      data: pointsOf(times, values),
    })),
  };
}

/** What began and ended while the chart goes on, and the limit. */
function markLine(marks: Mark[], limit: LineChartProps["limit"], times: string[], label: object, ink: string | undefined) {
  const [first, last] = [Date.parse(times[0] ?? ""), Date.parse(times.at(-1) ?? "")];
  const inside = marks.filter(({ at }) => Date.parse(at) >= first && Date.parse(at) <= last);
  return {
    silent: true,
    symbol: "none",
    animation: false,
    lineStyle: { color: ink, width: 1 },
    data: [
      ...inside.map(({ at, name }) => ({ name, xAxis: at, label: { show: false }, lineStyle: { type: "dotted" } })),
      ...(limit ? [{ name: limit.name, yAxis: limit.value, label: { ...label, formatter: limit.name, position: "insideEndTop" }, lineStyle: { type: "dashed" } }] : []),
    ],
  };
}
