// Where the sites are. Without a server of maps there is no coast to draw: degrees, to scale, and the
// sites as circles as large as they are.
import { useLayoutEffect, useRef, useState } from "react";
import { useNavigate } from "react-router";

import type { Schemas } from "../../api/client";
import { count } from "../../format";
import { toSite } from "./siteLinks";

type Site = Schemas["SiteInfo"];

const HEIGHT = 360;
const WIDTH_MIN = 240;
/** Room for a circle with its name, above what the degrees are written on. */
const EDGE = 62;
/** Degrees that are shown at least, so that one site is not all of the world. */
const SPAN_MIN = 0.6;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60];

export function isPlaced(site: Site): site is Site & { latitude: number; longitude: number } {
  return site.latitude !== null && site.longitude !== null;
}

export function SiteMap({ sites }: { sites: Site[] }) {
  const navigate = useNavigate();
  const place = useRef<SVGSVGElement>(null);
  const [width, setWidth] = useState(860);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.max(WIDTH_MIN, Math.round(place.current?.clientWidth ?? 0)));
    const watch = new ResizeObserver(measure);
    measure();
    if (place.current) watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  const placed = sites.filter(isPlaced);
  const view = viewOf(placed, width);
  const most = Math.max(...placed.map((site) => site.devices));
  return (
    <svg ref={place} className="site-map" viewBox={`0 0 ${width} ${HEIGHT}`} height={HEIGHT} role="group" aria-label={`Map of ${count(placed.length)} sites`}>
      <Grid view={view} />
      {[...placed]
        .sort((left, right) => right.devices - left.devices)
        .map((site) => {
          const radius = 6 + 18 * Math.sqrt(site.devices / most);
          const x = view.x(site.longitude);
          const y = view.y(site.latitude);
          const to = toSite(site.site);
          return (
            <a
              key={site.site}
              href={to}
              aria-label={wordsOf(site)}
              onClick={(event) => {
                if (event.ctrlKey || event.metaKey || event.shiftKey) return;
                event.preventDefault();
                void navigate(to);
              }}
            >
              <title>{wordsOf(site)}</title>
              <circle cx={x} cy={y} r={radius} data-tone={toneOf(site)} />
              <text x={x} y={y + radius + 14} textAnchor="middle">
                {site.site || "no site"}
              </text>
            </a>
          );
        })}
    </svg>
  );
}

/** From this share of its devices on, a site is in trouble as a whole. */
const MANY = 0.25;

function toneOf(site: Site): "bad" | "warn" | "good" {
  const troubled = Math.max(site.failing, site.security, site.overdue);
  if (troubled >= site.devices * MANY) return "bad";
  return troubled ? "warn" : "good";
}

function wordsOf(site: Site): string {
  const troubles = [
    [site.overdue, "overdue"],
    [site.failing, "failing"],
    [site.security, "with security events"],
  ]
    .filter(([number]) => number)
    .map(([number, words]) => `, ${count(number as number)} ${words}`);
  return `${site.site || "No site"}: ${count(site.online)} of ${count(site.devices)} online${troubles.join("")}`;
}

interface View {
  width: number;
  x: (longitude: number) => number;
  y: (latitude: number) => number;
  west: number;
  east: number;
  south: number;
  north: number;
}

/** Everything in the picture, a degree of longitude as long as it is in the middle. */
function viewOf(placed: { latitude: number; longitude: number }[], width: number): View {
  const latitudes = placed.map((site) => site.latitude);
  const longitudes = placed.map((site) => site.longitude);
  const middle = (values: number[]) => (Math.min(...values) + Math.max(...values)) / 2;
  const span = (values: number[]) => Math.max(SPAN_MIN, Math.max(...values) - Math.min(...values));
  const [latitude, longitude] = [middle(latitudes), middle(longitudes)];
  const shrink = Math.max(0.2, Math.cos((latitude * Math.PI) / 180));
  const scale = Math.min((width - 2 * EDGE) / (span(longitudes) * shrink), (HEIGHT - 2 * EDGE) / span(latitudes));
  const [wide, high] = [width / 2 / (scale * shrink), HEIGHT / 2 / scale];
  return {
    width,
    x: (value) => width / 2 + (value - longitude) * shrink * scale,
    y: (value) => HEIGHT / 2 - (value - latitude) * scale,
    west: longitude - wide,
    east: longitude + wide,
    south: latitude - high,
    north: latitude + high,
  };
}

function lines(from: number, to: number): number[] {
  const step = STEPS.find((one) => (to - from) / one <= 8) ?? 60;
  const first = Math.ceil(from / step);
  return Array.from({ length: Math.max(0, Math.floor(to / step) - first + 1) }, (_, number) => Number(((first + number) * step).toFixed(6)));
}

function degrees(value: number, positive: string, negative: string): string {
  return `${Math.abs(value)}°${value > 0 ? positive : value < 0 ? negative : ""}`;
}

function Grid({ view }: { view: View }) {
  return (
    <g className="grid" aria-hidden="true">
      {lines(view.west, view.east).map((value) => (
        <g key={value}>
          <line x1={view.x(value)} x2={view.x(value)} y1={0} y2={HEIGHT} />
          <text x={view.x(value) + 4} y={HEIGHT - 6}>
            {degrees(value, "E", "W")}
          </text>
        </g>
      ))}
      {lines(view.south, view.north).map((value) => (
        <g key={value}>
          <line x1={0} x2={view.width} y1={view.y(value)} y2={view.y(value)} />
          <text x={5} y={view.y(value) - 4}>
            {degrees(value, "N", "S")}
          </text>
        </g>
      ))}
    </g>
  );
}
