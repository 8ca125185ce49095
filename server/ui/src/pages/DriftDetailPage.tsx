// Why a fleet, a site or a device is where it is with one model.
import { keepPreviousData } from "@tanstack/react-query";
import { Button, Select } from "@mantine/core";
import { Link, useNavigate, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { useLive } from "../api/live";
import { Equivalent } from "../components/Command";
import { DataTable, FilterChip, PAGE_ROWS, Search, useListState, type ListState } from "../components/DataTable";
import { Empty, Facts, Head, Loaded, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { driftShow, driftStatus, type DriftPlace } from "../cli";
import { count, plural, share } from "../format";
import { Accuracy } from "../watch/Accuracy";
import { Course } from "../watch/Course";
import { Events } from "../watch/Events";
import { Explanation, Features } from "../watch/Features";
import { UsualDays } from "../watch/UsualDays";
import { faultWords, listOf, whereOf, whyOf, type Group } from "../watch/findings";
import { faults, STANDING, WHERE } from "../watch/Groups";
import { Choice } from "./DriftPage";

type Detail = Schemas["DriftDetail"];

const SITES_MAX = 200;

export function DriftDetailPage() {
  const { name = "" } = useParams();
  const list = useListState();
  useLive("drift");
  const asked = { manifest: list.get("manifest"), site: list.has("site") ? (list.get("site") ?? "") : undefined, device: list.get("device") };
  const query = api.useQuery(
    "get",
    "/api/v1/models/{model}/drift",
    { params: { path: { model: name }, query: asked } },
    { placeholderData: keepPreviousData, refetchInterval: 60_000 },
  );
  return (
    <Loaded query={query} back={["Drift of all models", "/drift"]}>
      {(detail) => <Inside detail={detail} list={list} />}
    </Loaded>
  );
}

function placeOf({ group }: Detail): DriftPlace {
  const place: DriftPlace = { manifest: group.manifest };
  if (group.level === "site") place.site = group.group;
  if (group.level === "device") place.device = group.group;
  return place;
}

function Inside({ detail, list }: { detail: Detail; list: ListState }) {
  const { group } = detail;
  const place = placeOf(detail);
  const { data } = api.useQuery("get", "/api/v1/drift-summary", { params: { query: { model: group.model, limit: SITES_MAX } } });
  const limits = data?.items.find(({ fleet }) => fleet.manifest === group.manifest);
  const address = `/models/${group.model}/${encodeURIComponent(group.version)}`;
  return (
    <>
      <Head
        crumbs={[
          ["Drift", "/drift"],
          ...(group.level === "fleet" ? [] : ([[`${group.model} ${group.version}`, whyOf({ ...group, level: "fleet" })]] as [string, string][])),
        ]}
        title={
          <>
            {group.model} {group.version}, {whereOf(group)}
          </>
        }
        beside={<State state={group.state} />}
        under={
          <>
            Since <Time at={group.since} /> · judged until <Time at={group.until} /> · <Link to={address}>the version</Link>
            {group.level === "device" && (
              <>
                {" "}
                · <Link to={`/fleet/${group.group}`}>the device</Link>
              </>
            )}
          </>
        }
        actions={
          <>
            <Button component={Link} variant="default" to={samplesOf(group)}>
              Samples
            </Button>
            <Button component={Link} variant="default" to={`/loop/${group.model}`}>
              Loop
            </Button>
          </>
        }
      />
      <div className="stack">
        <div className="filters">
          <Bundles of={group} bundles={data?.items ?? []} />
          <Sites of={group} />
        </div>
        <Explanation detail={detail} />
        {group.faults.length > 0 && (
          <Note tone="warn">
            <strong>Something is wrong with the data itself</strong>
            <p className="breakable">{group.faults.map(faultWords).join("; ")}</p>
          </Note>
        )}
        <Features detail={detail} list={list} />
        <Course model={group.model} of={place} list={list} limits={limits} />
        <Accuracy model={group.model} of={place} />
        {group.level !== "device" && <Devices of={group} place={place} list={list} />}
        <UsualDays model={group.model} usual={detail.usual} />
        <div className="halves">
          <Panel title="What was looked at">
            <Looked detail={detail} limits={limits} />
            <div style={{ marginTop: 14 }}>
              <Equivalent text={driftShow(group.model, place)} />
            </div>
          </Panel>
          <Events of={{ model: group.model, ...place }} />
        </div>
      </div>
    </>
  );
}

function samplesOf(group: Group): string {
  const query = new URLSearchParams({ model: group.model });
  if (group.level !== "fleet") query.set(group.level, group.group);
  return `/samples?${query}`;
}

function Looked({ detail, limits }: { detail: Detail; limits: Schemas["DriftSummary"] | undefined }) {
  const { group } = detail;
  const described = group.rows + detail.skipped;
  return (
    <Facts
      rows={[
        ["From", <Time key="f" at={detail.start} />],
        ["Until", <Time key="u" at={group.until} />],
        ["Rows", <span key="r" className="number">{`${count(group.rows)} in ${plural(detail.windows, "window")}`}</span>],
        ["Left out", detail.skipped ? <span key="s" className="number">{`${count(detail.skipped)}, ${share(detail.skipped / described, 0)}: devices describe some a second`}</span> : "none"],
        ["Reference", <span key="n" className="number">{plural(detail.reference_rows, "row")}</span>],
        ["Of interest", limits ? `distance from ${limits.distance}, spread from ${limits.spread}` : "–"],
        ["False alarms", limits ? `at most ${share(limits.false_alarms, 1)} of judgements at this level` : "–"],
      ]}
    />
  );
}

/** Another version's, of the same place. */
function Bundles({ of, bundles }: { of: Group; bundles: Schemas["DriftSummary"][] }) {
  const navigate = useNavigate();
  if (bundles.length < 2) return null;
  return (
    <Select
      aria-label="Version"
      w={190}
      allowDeselect={false}
      data={bundles.map(({ fleet }) => ({ value: fleet.manifest, label: `${fleet.version}, ${fleet.manifest.slice(7, 13)}` }))}
      value={of.manifest}
      onChange={(manifest) => manifest && void navigate(whyOf({ ...of, manifest }))}
    />
  );
}

const FLEET = "\u0000fleet";

function Sites({ of }: { of: Group }) {
  const navigate = useNavigate();
  const { data } = api.useQuery("get", "/api/v1/drift", {
    params: { query: { manifest: of.manifest, level: "site", limit: SITES_MAX } },
  });
  const sites = data?.items ?? [];
  const value = of.level === "fleet" ? FLEET : of.level === "site" ? `=${of.group}` : null;
  return (
    <Select
      aria-label="Where"
      placeholder={of.level === "device" ? of.group : undefined}
      w={190}
      searchable
      allowDeselect={false}
      data={[
        { value: FLEET, label: "The fleet" },
        ...sites.map((site) => ({ value: `=${site.group}`, label: `${site.group || "No site"}, ${site.state}` })),
      ]}
      value={value}
      onChange={(chosen) =>
        chosen && void navigate(whyOf({ ...of, level: chosen === FLEET ? "fleet" : "site", group: chosen.slice(1) }))
      }
    />
  );
}

const COLUMNS = [WHERE, ...STANDING];
const STATES = ["drifting", "recovering", "suspected", "quiet", "unknown"] as const;

function Devices({ of, place, list }: { of: Group; place: DriftPlace; list: ListState }) {
  const state = STATES.find((name) => name === list.get("state"));
  const faulty = list.get("faulty") === "true" || undefined;
  const asked = { model: of.model, manifest: of.manifest, site: place.site, level: "device" as const, state, faulty };
  const query = api.useQuery(
    "get",
    "/api/v1/drift",
    { params: { query: { ...asked, q: list.q, sort: list.sort, offset: list.offset, limit: PAGE_ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 60_000 },
  );
  return (
    <Panel
      id="devices"
      flush
      title="Devices"
      aside={
        <div className="filters">
          {faulty ? (
            <FilterChip list={list} names={["faulty"]} label="Faulty data" />
          ) : (
            <Button size="xs" variant="default" onClick={() => list.set({ faulty: "true" })}>
              Faulty data only
            </Button>
          )}
          <Choice list={list} name="state" label="State" all="All states" data={STATES.map((value) => ({ value, label: value }))} />
          <Search list={list} label="Search devices" />
        </div>
      }
    >
      <DataTable
        label="Devices"
        columns={COLUMNS}
        rowKey={(group) => group.group}
        detail={faults}
        query={query}
        list={list}
        empty={
          <Empty icon="search" title="No device matches">
            <Button variant="default" size="xs" onClick={() => list.set({ q: null, state: null, faulty: null })}>
              Clear filters
            </Button>
          </Empty>
        }
      />
      <div className="row apart wrap" style={{ padding: "10px 18px 18px", alignItems: "flex-end" }}>
        <div className="grow">
          <Equivalent text={driftStatus(asked)} />
        </div>
        <Link to={listOf({ manifest: of.manifest, level: "device" })}>Beside all other places</Link>
      </div>
    </Panel>
  );
}
