// The fleet by place: a map where places are known, and a table.
import { keepPreviousData } from "@tanstack/react-query";
import { Link } from "react-router";

import { api, type Schemas } from "../../api/client";
import { Bar } from "../../components/Bars";
import { Equivalent } from "../../components/Command";
import { DataTable, PAGE_ROWS, Search, type Column, type ListState } from "../../components/DataTable";
import { Empty, Panel } from "../../components/Panels";
import { SITES } from "../../cli";
import { count } from "../../format";
import { isPlaced, SiteMap } from "./SiteMap";
import { toSite } from "./siteLinks";

type Site = Schemas["SiteInfo"];

const REFETCH_MS = 20_000;
const MAP_REFETCH_MS = 60_000;
/** What the map shows at most: the largest. */
const PLACED_MAX = 200;

export function Sites({ list }: { list: ListState }) {
  const query = api.useQuery(
    "get",
    "/api/v1/fleet/sites",
    { params: { query: { q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: REFETCH_MS },
  );
  const all = api.useQuery("get", "/api/v1/fleet/sites", { params: { query: { limit: PLACED_MAX } } }, { refetchInterval: MAP_REFETCH_MS });
  const placed = (all.data?.items ?? []).filter(isPlaced);
  return (
    <>
      {placed.length > 0 && (
        <Panel
          title="Map"
          aside={
            <span className="soft small">
              {count(placed.length)} of {count(all.data?.total)} sites have the labels lat and lon
            </span>
          }
        >
          <SiteMap sites={placed} />
        </Panel>
      )}
      <Panel flush title="Sites" aside={<Search list={list} label="Search sites" />}>
        <DataTable
          label="Sites"
          columns={COLUMNS}
          rowKey={(site) => site.site}
          query={query}
          list={list}
          defaultSort="-devices"
          empty={
            <Empty icon="search" title={list.q ? "No site matches" : "There is no site yet"}>
              <p className="soft">A device is of the site that its label site names, or else of its group.</p>
            </Empty>
          }
        />
        <div style={{ padding: "4px 18px 18px" }}>
          <Equivalent text={SITES} />
        </div>
      </Panel>
    </>
  );
}

/** A number that leads to what it counts; nothing to see is said softly. */
function Number({ value, to, tone }: { value: number; to: string; tone?: "bad" | "warn" }) {
  if (!value) return <span className="soft number">0</span>;
  return (
    <Link to={to} className="number" style={tone && { color: `var(--${tone})`, fontWeight: 600 }}>
      {count(value)}
    </Link>
  );
}

const COLUMNS: Column<Site>[] = [
  {
    key: "site",
    header: "Site",
    sort: "site",
    cell: (site) => (
      <Link to={toSite(site.site)} className="name breakable">
        {site.site || <span className="soft">no site</span>}
      </Link>
    ),
  },
  { key: "devices", header: "Devices", sort: "devices", align: "right", cell: (site) => <Number value={site.devices} to={toSite(site.site)} /> },
  { key: "online", header: "Online", sort: "online", align: "right", cell: (site) => <Number value={site.online} to={toSite(site.site, "&online=true")} /> },
  {
    key: "overdue",
    header: "Overdue",
    sort: "overdue",
    align: "right",
    cell: (site) => <Number value={site.overdue} tone="warn" to={toSite(site.site, "&overdue=true")} />,
  },
  {
    key: "failing",
    header: "Failing",
    sort: "failing",
    align: "right",
    cell: (site) => <Number value={site.failing} tone="bad" to={toSite(site.site, "&failing=true")} />,
  },
  {
    key: "security",
    header: "Security",
    sort: "security",
    align: "right",
    className: "only-medium",
    cell: (site) => <Number value={site.security} tone="bad" to={toSite(site.site, "&security=true")} />,
  },
  { key: "versions", header: "Runs", className: "only-medium", cell: (site) => <Mix site={site} /> },
];

const SHADES = ["accent", "busy", "warn", "idle"] as const;

function Mix({ site }: { site: Site }) {
  const models = [...new Set(site.versions.map((share) => share.model))];
  if (!models.length) return <span className="soft">nothing yet</span>;
  return (
    <div className="stack" style={{ gap: 8, minWidth: 190 }}>
      {models.map((model) => {
        const shares = site.versions.filter((one) => one.model === model).sort((left, right) => right.devices - left.devices);
        return (
          <div key={model}>
            <div className="soft small">
              {model}{" "}
              {shares.map((one, number) => (
                <span key={one.version}>
                  {number > 0 && ", "}
                  <Link to={toSite(site.site, `&model=${model}&version=${encodeURIComponent(one.version)}`)}>{one.version}</Link>{" "}
                  <span className="soft number">{count(one.devices)}</span>
                </span>
              ))}
            </div>
            <Bar
              size="small"
              label={`Versions of ${model} at ${site.site || "no site"}`}
              parts={shares.map((one, number) => ({
                name: `version ${one.version}`,
                value: one.devices,
                fill: SHADES[Math.min(number, SHADES.length - 1)]!,
              }))}
            />
          </div>
        );
      })}
    </div>
  );
}
