// Why: which features have moved, by how much, in which sites, with both histograms of each.
import { Fragment } from "react";
import { Link } from "react-router";

import type { Schemas } from "../api/client";
import type { ListState } from "../components/DataTable";
import { Note, Panel } from "../components/Panels";
import { count, plural } from "../format";
import { chance, directionOf, severityOf, sizeOf, whyOf, type Group } from "./findings";
import { HistogramLegend, Histograms } from "./Histograms";

type Detail = Schemas["DriftDetail"];
type Feature = Schemas["DriftFeature"];

const SITES_NAMED = 4;

export function Explanation({ detail }: { detail: Detail }) {
  const { group, features, sites } = detail;
  const moved = features.filter((one) => one.moved);
  if (!features.length) {
    return (
      <Note icon="clock">
        The windows of that time are not kept any more; what was found is in the lists below. New ones are judged after each period.
      </Note>
    );
  }
  if (!moved.length) {
    return (
      <Note icon={group.state === "unknown" ? "clock" : "check"}>
        {group.state === "unknown"
          ? "Too few rows have come to say anything, or no device runs this bundle any more."
          : `None of ${plural(features.length, "feature")} differs from the reference by more than chance and by enough to matter.`}
      </Note>
    );
  }
  return (
    <Note tone={group.state === "drifting" ? "bad" : "warn"}>
      <strong>
        {count(moved.length)} of {plural(features.length, "feature")} {moved.length === 1 ? "has" : "have"} left the reference
      </strong>
      {sites.length > 0 && (
        <p>
          in{" "}
          {sites.slice(0, SITES_NAMED).map((site, number) => (
            <Fragment key={site.group}>
              {number > 0 && ", "}
              <Link to={whyOf(site)}>{site.group || "no site"}</Link>
            </Fragment>
          ))}
          {sites.length > SITES_NAMED && ` and ${plural(sites.length - SITES_NAMED, "more site", "more sites")}`}.
        </p>
      )}
      {group.level === "fleet" && !sites.length && <p>in no site by itself: it is a small shift that all of them share.</p>}
    </Note>
  );
}

export function Features({ detail, list }: { detail: Detail; list: ListState }) {
  const moved = detail.features.filter((one) => one.moved);
  const others = detail.features.filter((one) => !one.moved);
  const open = list.get("all") === "true";
  if (!detail.features.length) return null;
  return (
    <Panel
      id="features"
      title={moved.length ? "What moved" : "Features"}
      aside={<HistogramLegend />}
    >
      <div className="stack">
        {moved.length > 0 && (
          <div className="features">
            {moved.map((feature) => (
              <Card key={feature.feature} feature={feature} detail={detail} list={list} />
            ))}
          </div>
        )}
        {others.length > 0 && (
          <details
            className="as-table"
            open={open}
            onToggle={(event) => {
              if (event.currentTarget.open !== open) list.set({ all: event.currentTarget.open ? "true" : null });
            }}
          >
            <summary className="soft">
              {moved.length ? `${plural(others.length, "other feature")}, as in the reference` : `All ${plural(others.length, "feature")}, the farthest first`}
            </summary>
            {open && (
              <div className="features" style={{ marginTop: 12 }}>
                {others.map((feature) => (
                  <Card key={feature.feature} feature={feature} detail={detail} list={list} />
                ))}
              </div>
            )}
          </details>
        )}
      </div>
    </Panel>
  );
}

function Card({ feature, detail, list }: { feature: Feature; detail: Detail; list: ListState }) {
  const severity = severityOf(sizeOf(feature));
  const finding = detail.group.findings.find((one) => one.feature === feature.feature);
  const where = [...detail.sites, ...detail.devices].filter((group: Group) => group.findings.some((one) => one.feature === feature.feature));
  return (
    <article className="feature">
      <div className="row apart wrap" style={{ gap: "2px 10px" }}>
        <h3 className="mono breakable">{feature.feature}</h3>
        {feature.moved && (
          <span className="tag" data-severity={severity.word}>
            {severity.word}, {severity.size.toFixed(2)}
          </span>
        )}
      </div>
      <p className="small soft">
        {feature.edges.length ? `Values are ${directionOf(feature.shift)}` : "Answers are of other classes"} · distance{" "}
        <span className="number">{feature.distance.toFixed(3)}</span> · spread <span className="number">{feature.spread.toFixed(3)}</span>
        {finding && (
          <>
            {" "}
            · by chance <span className="number">{chance(finding.p_value)}</span>
          </>
        )}
      </p>
      <Histograms feature={feature} />
      <div className="row apart wrap small" style={{ gap: "2px 10px" }}>
        <span className="soft">
          {where.length > 0 && "also in "}
          {where.slice(0, SITES_NAMED).map((group, number) => (
            <Fragment key={`${group.level} ${group.group}`}>
              {number > 0 && ", "}
              <Link to={whyOf(group)}>{group.group || "no site"}</Link>
            </Fragment>
          ))}
          {where.length > SITES_NAMED && ` and ${count(where.length - SITES_NAMED)} more`}
        </span>
        <button type="button" className="ask" onClick={() => list.set({ feature: feature.feature })} aria-label={`${feature.feature} over time`}>
          over time
        </button>
      </div>
    </article>
  );
}
