// Samples of inputs and answers, by model, reason, place and time; and by which policy they come.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Button, Skeleton } from "@mantine/core";
import { Link } from "react-router";

import { api } from "../api/client";
import { useLive } from "../api/live";
import { Command, Equivalent } from "../components/Command";
import { FilterChip, Pager, Search, useListState, type ListState } from "../components/DataTable";
import { Empty, ErrorPanel, Head, Panel } from "../components/Panels";
import { listSamples, samplePolicy } from "../cli";
import { Gallery } from "../samples/Gallery";
import { useClasses } from "../samples/classes";
import { PolicyPanel, Privacy } from "../samples/PolicyPanel";
import { REASONS } from "../samples/reasons";
import { Choice } from "./DriftPage";

const ROWS = 24;
const MODELS_MAX = 200;
const SITES_MAX = 200;
const FILTERS = ["q", "model", "device", "site", "reason", "label_state", "since"];
const HOUR_S = 3600;
const SINCE = [
  { value: "1h", label: "Last hour", seconds: HOUR_S },
  { value: "1d", label: "Last day", seconds: 24 * HOUR_S },
  { value: "7d", label: "Last 7 days", seconds: 7 * 24 * HOUR_S },
];
const LABEL_STATES = [
  { value: "unlabelled", label: "Not labelled" },
  { value: "labelled", label: "Labelled" },
  { value: "conflict", label: "Labels disagree" },
  { value: "skipped", label: "Cannot be told" },
] as const;

/** The beginning of a time that ends now; kept, so that the question stays the same. */
function useSince(value: string | undefined): string | undefined {
  const seconds = SINCE.find((one) => one.value === value)?.seconds;
  const begin = () => (seconds ? new Date(Date.now() - seconds * 1000).toISOString() : undefined);
  const [kept, keep] = useState({ value, at: begin() });
  if (kept.value !== value) keep({ value, at: begin() });
  return kept.value === value ? kept.at : undefined;
}

export function SamplesPage() {
  useLive("samples");
  const list = useListState();
  const model = list.get("model");
  return (
    <>
      <Head
        title="Samples"
        under="Single inputs with what the model answered, as they were; from devices whose policy lets them leave."
        actions={
          model && (
            <Button component={Link} to={`/labels/${model}`} variant="default">
              Label them
            </Button>
          )
        }
      />
      <div className="stack">
        <All list={list} />
        {model ? (
          <PolicyPanel key={model} model={model} />
        ) : (
          <Panel title="What may leave devices">
            <p className="soft" style={{ marginBottom: 8 }}>
              Each model has a policy of its own: choose one above to see it. Without one, nothing leaves.
            </p>
            <Privacy />
          </Panel>
        )}
      </div>
    </>
  );
}

function All({ list }: { list: ListState }) {
  const since = useSince(list.get("since"));
  const asked = {
    model: list.get("model"),
    device: list.get("device"),
    site: list.has("site") ? (list.get("site") ?? "") : undefined,
    reason: REASONS.find((one) => one.value === list.get("reason"))?.value,
    label_state: LABEL_STATES.find((one) => one.value === list.get("label_state"))?.value,
  };
  const query = api.useQuery(
    "get",
    "/api/v1/samples",
    { params: { query: { ...asked, since, q: list.q, sort: list.sort, offset: list.offset, limit: ROWS } } },
    { placeholderData: keepPreviousData, refetchInterval: 30_000 },
  );
  const models = api.useQuery("get", "/api/v1/models", { params: { query: { limit: MODELS_MAX } } });
  const places = api.useQuery("get", "/api/v1/fleet/sites", { params: { query: { limit: SITES_MAX } } });
  const sites = (places.data?.items ?? []).filter(({ site }) => site).map(({ site }) => ({ value: site, label: site }));
  const classes = useClasses(query.data?.items ?? []);
  const filtered = FILTERS.some((name) => list.get(name) !== undefined);
  const page = query.data;
  return (
    <Panel
      flush
      title="All samples"
      aside={
        <div className="filters">
          <Choice list={list} name="model" label="Model" all="All models" data={(models.data?.items ?? []).map(({ name }) => ({ value: name, label: name }))} />
          <Choice list={list} name="reason" label="Reason" all="All reasons" data={REASONS.map(({ value, label }) => ({ value, label }))} />
          {sites.length > 0 && <Choice list={list} name="site" label="Site" all="All sites" data={sites} />}
          <Choice list={list} name="label_state" label="Label" all="Any label" data={[...LABEL_STATES]} />
          <Choice list={list} name="since" label="Time" all="Any time" data={SINCE.map(({ value, label }) => ({ value, label }))} />
          <Search list={list} label="Search devices" />
        </div>
      }
    >
      {(asked.device || asked.site === "") && (
        <div className="above-table">
          <div className="filters">
            {asked.device && <FilterChip list={list} names={["device"]} label={`Device ${asked.device}`} />}
            {asked.site === "" && <FilterChip list={list} names={["site"]} label="No site" />}
          </div>
        </div>
      )}
      {query.error != null && (
        <div style={{ padding: "0 14px 14px" }}>
          <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!page} />
        </div>
      )}
      {query.isPending && (
        <div className="gallery" aria-busy="true" aria-label="Loading">
          {Array.from({ length: 6 }, (_, number) => (
            <Skeleton key={number} height={230} />
          ))}
        </div>
      )}
      {page?.items.length === 0 &&
        (filtered ? (
          <Empty icon="search" title="No sample matches">
            <Button variant="default" size="xs" onClick={() => list.set(Object.fromEntries(FILTERS.map((name) => [name, null])))}>
              Clear filters
            </Button>
          </Empty>
        ) : (
          <Empty icon="picture" title="No sample has come yet">
            <p className="soft">None leaves a device until an admin gives its model a policy.</p>
            <Command text={samplePolicy("MODEL", 5_000_000, ["uncertain", "random"], 0.2)} />
          </Empty>
        ))}
      {page && page.items.length > 0 && (
        <div className={query.error || query.isPlaceholderData ? "stale" : undefined}>
          <Gallery samples={page.items} classes={classes} />
          <Pager list={list} shown={page.items.length} total={page.total} rows={ROWS} />
        </div>
      )}
      <div style={{ padding: "10px 18px 18px" }}>
        <Equivalent text={listSamples({ ...asked, from: since })} />
      </div>
    </Panel>
  );
}
