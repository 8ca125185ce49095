// Which version was trained from which: a tree that grows to the right, the newest branch on top.
import type { CSSProperties } from "react";
import { Link } from "react-router";

import type { Schemas } from "../api/client";
import { Panel } from "../components/Panels";
import { plural } from "../format";

type Version = Schemas["VersionSummary"];

const NODE = { width: 124, height: 46 };
const GAP = { x: 44, y: 12 };

interface Place {
  version: Version;
  column: number;
  row: number;
  parent: Place | null;
}

/** Places of all versions that have a parent or a child here; each child right of its parent. */
function arrange(versions: Version[]): Place[] {
  const names = new Set(versions.map((one) => one.version));
  const children = new Map<string, Version[]>();
  for (const one of versions) {
    if (one.parent && names.has(one.parent)) children.set(one.parent, [...(children.get(one.parent) ?? []), one]);
  }
  const roots = versions.filter((one) => !(one.parent && names.has(one.parent)) && children.has(one.version));
  const places: Place[] = [];
  let rows = 0;
  // Without recursion: a long line of versions is deep.
  const open = [...roots].reverse().map((version) => ({ version, column: 0, parent: null as Place | null }));
  while (open.length) {
    const { version, column, parent } = open.pop()!;
    const first = parent !== null && !places.some((place) => place.parent === parent);
    const place: Place = { version, column, parent, row: first ? parent.row : rows++ };
    places.push(place);
    const below = children.get(version.version) ?? [];
    open.push(...[...below].reverse().map((child) => ({ version: child, column: column + 1, parent: place })));
  }
  return places;
}

const left = (place: Place) => place.column * (NODE.width + GAP.x);
const top = (place: Place) => place.row * (NODE.height + GAP.y);

export function LineageGraph({ versions, total, current }: { versions: Version[]; total: number; current?: string }) {
  const places = arrange(versions);
  const alone = total - places.length;
  const width = Math.max(0, ...places.map(left)) + NODE.width;
  const height = Math.max(0, ...places.map(top)) + NODE.height;
  return (
    <Panel
      title="Lineage"
      aside={places.length > 0 && alone > 0 && <span className="soft small">{plural(alone, "version")} without parent or child</span>}
    >
      {places.length === 0 ? (
        <p className="soft small">No version names another as its parent: push with `--parent` and they are drawn here.</p>
      ) : (
        <div className="graph" tabIndex={0} role="region" aria-label="Lineage">
          <div style={{ position: "relative", width, height }}>
            <svg width={width} height={height} aria-hidden="true">
              {places.map((place) => place.parent && <path key={place.version.version} d={edge(place.parent, place)} />)}
            </svg>
            <ol>
              {places.map((place) => (
                <li key={place.version.version} style={{ left: left(place), top: top(place), ...NODE } as CSSProperties}>
                  <Node place={place} current={place.version.version === current} />
                </li>
              ))}
            </ol>
          </div>
        </div>
      )}
    </Panel>
  );
}

function Node({ place: { version, parent }, current }: { place: Place; current: boolean }) {
  return (
    <Link
      to={`/models/${version.model}/${encodeURIComponent(version.version)}`}
      className="node"
      data-state={version.state}
      aria-current={current ? "page" : undefined}
      title={`${version.version}: ${version.state}${parent ? `, from ${parent.version.version}` : ""}`}
    >
      <span className="clip name">{version.version}</span>
      <span className="soft small number">
        {parent && <span className="hidden">from {parent.version.version}, </span>}
        {version.devices_running ? `on ${plural(version.devices_running, "device")}` : version.state === "ready" ? "nowhere" : version.state}
      </span>
    </Link>
  );
}

function edge(from: Place, to: Place): string {
  const [x1, y1] = [left(from) + NODE.width, top(from) + NODE.height / 2];
  const [x2, y2] = [left(to), top(to) + NODE.height / 2];
  const bend = GAP.x / 2;
  return y1 === y2 ? `M${x1} ${y1}H${x2}` : `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}
