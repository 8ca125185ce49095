// Fleets, sites and devices with where they stand; the same rows wherever they are listed.
import { Link } from "react-router";

import { Measure } from "../components/Bars";
import type { Column } from "../components/DataTable";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { count } from "../format";
import { faultWords, whereOf, whyOf, worstOf, type Finding, type Group } from "./findings";

const TOLD = 2;

export function Moved({ findings }: { findings: Finding[] }) {
  if (!findings.length) return <span className="soft">–</span>;
  const more = findings.length - TOLD;
  return (
    <span className="breakable" title={findings.map((one) => one.feature).join(", ")}>
      {findings.slice(0, TOLD).map((one) => one.feature).join(", ")}
      {more > 0 && <span className="soft"> and {count(more)} more</span>}
    </span>
  );
}

export function Worst({ findings }: { findings: Finding[] }) {
  const worst = worstOf(findings);
  return <Measure text={worst && `${worst.word}, ${worst.size.toFixed(2)}`} share={worst?.size} fill={worst?.fill} />;
}

export const WHERE: Column<Group> = {
  key: "where",
  header: "Where",
  cell: (group) => (
    <Link className="name breakable where" to={whyOf(group)}>
      {whereOf(group)}
    </Link>
  ),
};

export const BUNDLE: Column<Group> = {
  key: "model",
  header: "Model",
  cell: (group) => (
    <Link className="nowrap" to={`/models/${group.model}/${encodeURIComponent(group.version)}`}>
      {group.model} {group.version}
    </Link>
  ),
};

export const STANDING: Column<Group>[] = [
  { key: "state", header: "State", sort: "state", cell: (group) => <State state={group.state} /> },
  { key: "since", header: "Since", sort: "since", cell: (group) => <Time at={group.since} /> },
  { key: "worst", header: "Severity", cell: (group) => <Worst findings={group.findings} /> },
  { key: "moved", header: "What moved", className: "only-medium", cell: (group) => <Moved findings={group.findings} /> },
  { key: "rows", header: "Rows", sort: "rows", align: "right", className: "only-wide", cell: (group) => <span className="number">{count(group.rows)}</span> },
  { key: "until", header: "Judged", align: "right", className: "only-wide", cell: (group) => <Time at={group.until} /> },
];

/** Faults of the data, under the row. */
export function faults(group: Group) {
  if (!group.faults.length) return null;
  return (
    <>
      <b>Data: </b>
      {group.faults.map(faultWords).join("; ")}
    </>
  );
}
