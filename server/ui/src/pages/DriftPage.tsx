// Whether devices still see what their models were made for: each bundle with its numbers, then the
// fleets, sites and devices that the numbers count.
import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select } from "@mantine/core";
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { Bar, type Part } from "../components/Bars";
import { Command, Equivalent } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type Column, type ListState } from "../components/DataTable";
import { Empty, Head, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { DRIFT_SUMMARY, driftStatus, PUSH } from "../cli";
import { count } from "../format";
import { listOf, whyOf, type Group } from "../watch/findings";
import { BUNDLE, faults, Moved, STANDING, WHERE, Worst } from "../watch/Groups";

type Bundle = Schemas["DriftSummary"];
type StateName = Group["state"];

const BUNDLES_SHOWN = 50;
const STATES: { value: StateName; label: string }[] = [
  { value: "drifting", label: "Drifting" },
  { value: "recovering", label: "Recovering" },
  { value: "suspected", label: "Suspected" },
  { value: "quiet", label: "Quiet" },
  { value: "unknown", label: "Not yet judged" },
];
const LEVELS: { value: Group["level"]; label: string }[] = [
  { value: "fleet", label: "Fleets" },
  { value: "site", label: "Sites" },
  { value: "device", label: "Devices" },
];
const FILTERS = ["q", "model", "manifest", "site", "level", "state", "faulty"];

export function DriftPage() {
  useLive("drift");
  const bundles = api.useQuery(
    "get",
    "/api/v1/drift-summary",
    { params: { query: { limit: BUNDLES_SHOWN } } },
    { refetchInterval: 30_000 },
  );
  return (
    <>
      <Head title="Drift" under="Whether devices still see what their models were made for. They send counts for it, and no input." />
      <div className="stack">
        <Panel flush title="Models" aside={<span className="soft small">judged together, within a budget of false alarms</span>}>
          <DataTable
            label="Models"
            columns={BUNDLES}
            rowKey={(one) => one.fleet.manifest}
            query={bundles}
            empty={
              <Empty icon="wave" title="Nothing has been judged yet">
                <p className="soft">It takes a model that was pushed with data, a device that runs it, and a period with enough requests.</p>
                <Command text={PUSH} />
              </Empty>
            }
          />
          {!!bundles.data?.total && (
            <div style={{ padding: "10px 18px 18px" }}>
              {bundles.data.total > BUNDLES_SHOWN && (
                <p className="soft small" style={{ marginBottom: 8 }}>
                  The {BUNDLES_SHOWN} most urgent of {count(bundles.data.total)}.
                </p>
              )}
              <Equivalent text={DRIFT_SUMMARY} />
            </div>
          )}
        </Panel>
        {!!bundles.data?.total && <Groups bundles={bundles.data.items} />}
      </div>
    </>
  );
}

const FILLS: [state: StateName, words: string, fill: Part["fill"]][] = [
  ["quiet", "Quiet", "good"],
  ["suspected", "Suspected", "busy"],
  ["recovering", "Recovering", "warn"],
  ["drifting", "Drifting", "bad"],
  ["unknown", "Not yet judged", "idle"],
];

function partsOf(counts: Schemas["DriftCounts"]): Part[] {
  return FILLS.map(([state, words, fill]) => ({ name: words, value: counts[state] ?? 0, fill }));
}

/** How many are in the states that somebody should look at; each number is a link to its list. */
function Counts({ bundle, level }: { bundle: Bundle; level: "site" | "device" }) {
  const counts = level === "site" ? bundle.sites : bundle.devices;
  const parts = partsOf(counts);
  const asked = { manifest: bundle.fleet.manifest, level };
  const notable = (["drifting", "recovering", "suspected"] as const).filter((state) => counts[state]);
  return (
    <div style={{ minWidth: 118 }}>
      <div className="number" style={{ marginBottom: 3 }}>
        {notable.map((state) => (
          <span key={state} className="nowrap">
            <Link className="underlined" to={listOf({ ...asked, state })}>
              {count(counts[state])} {state}
            </Link>
            <span className="soft">, </span>
          </span>
        ))}
        <span className="soft">of </span>
        <Link className="underlined" to={listOf(asked)}>
          {count(parts.reduce((sum, part) => sum + part.value, 0))}
        </Link>
      </div>
      <Bar size="small" label={level === "site" ? "Sites" : "Devices"} parts={parts} />
    </div>
  );
}

const BUNDLES: Column<Bundle>[] = [
  {
    key: "model",
    header: "Model",
    cell: ({ fleet }) => (
      <Link className="name breakable" to={whyOf(fleet)} title={fleet.manifest}>
        {fleet.model} {fleet.version}
      </Link>
    ),
  },
  { key: "state", header: "Fleet", cell: ({ fleet }) => <State state={fleet.state} /> },
  { key: "since", header: "Since", className: "only-wide", cell: ({ fleet }) => <Time at={fleet.since} /> },
  { key: "worst", header: "Severity", cell: ({ fleet }) => <Worst findings={fleet.findings} /> },
  { key: "moved", header: "What moved", className: "only-wide", cell: ({ fleet }) => <Moved findings={fleet.findings} /> },
  { key: "sites", header: "Sites", cell: (bundle) => <Counts bundle={bundle} level="site" /> },
  { key: "devices", header: "Devices", cell: (bundle) => <Counts bundle={bundle} level="device" /> },
  {
    key: "faulty",
    header: "Faulty data",
    align: "right",
    className: "only-wide",
    cell: ({ fleet, faulty }) =>
      faulty ? (
        <Link className="underlined number" to={listOf({ manifest: fleet.manifest, level: "device", faulty: "true" })}>
          {count(faulty)}
        </Link>
      ) : (
        <span className="soft">none</span>
      ),
  },
];

export function askedOf(list: ListState) {
  return {
    model: list.get("model"),
    manifest: list.get("manifest"),
    site: list.get("site"),
    level: LEVELS.find((one) => one.value === list.get("level"))?.value,
    state: STATES.find((one) => one.value === list.get("state"))?.value,
    faulty: list.get("faulty") === "true" || undefined,
  };
}

function Groups({ bundles }: { bundles: Bundle[] }) {
  const list = useListState();
  const asked = askedOf(list);
  const query = api.useQuery(
    "get",
    "/api/v1/drift",
    { params: { query: { ...asked, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 30_000 },
  );
  const models = [...new Set(bundles.map(({ fleet }) => fleet.model))];
  const of = bundles.find(({ fleet }) => fleet.manifest === asked.manifest)?.fleet;
  const filtered = FILTERS.some((name) => list.get(name));
  return (
    <Panel
      id="groups"
      flush
      title="Where"
      aside={
        <div className="filters">
          <Choice list={list} name="level" label="Level" all="All levels" data={LEVELS} />
          <Choice list={list} name="state" label="State" all="All states" data={STATES} />
          <Choice list={list} name="model" label="Model" all="All models" data={models.map((value) => ({ value, label: value }))} />
          <Search list={list} label="Search sites and devices" />
        </div>
      }
    >
      {(asked.manifest || asked.site || asked.faulty) && (
        <div className="above-table">
          <div className="filters">
            {asked.manifest && <FilterChip list={list} names={["manifest"]} label={of ? `${of.model} ${of.version}` : "One bundle"} />}
            {asked.site && <FilterChip list={list} names={["site"]} label={`Site ${asked.site}`} />}
            {asked.faulty && <FilterChip list={list} names={["faulty"]} label="Faulty data" />}
          </div>
        </div>
      )}
      <DataTable
        label="Where"
        columns={COLUMNS}
        rowKey={(group) => `${group.manifest} ${group.level} ${group.group}`}
        detail={faults}
        query={query}
        list={list}
        empty={
          <Empty icon="search" title="Nothing matches">
            {filtered && (
              <Button variant="default" size="xs" onClick={() => list.set(Object.fromEntries(FILTERS.map((name) => [name, null])))}>
                Clear filters
              </Button>
            )}
          </Empty>
        }
      />
      <div style={{ padding: "10px 18px 18px" }}>
        <Equivalent text={driftStatus(asked)} />
      </div>
    </Panel>
  );
}

const COLUMNS: Column<Group>[] = [WHERE, BUNDLE, ...STANDING];

interface ChoiceProps {
  list: ListState;
  name: string;
  label: string;
  all: string;
  data: { value: string; label: string }[];
}

/** A filter of a few values, kept in the address. */
export function Choice({ list, name, label, all, data }: ChoiceProps) {
  const value = list.get(name) ?? null;
  return (
    <Select
      aria-label={label}
      placeholder={all}
      w={146}
      clearable
      clearButtonProps={{ "aria-label": all, size: "24px" }}
      data={value && !data.some((one) => one.value === value) ? [...data, { value, label: value }] : data}
      value={value}
      onChange={(chosen) => list.set({ [name]: chosen })}
    />
  );
}
