// Selectors that are saved under a name, and what they share with one another and with groups.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Modal } from "@mantine/core";
import { Link } from "react-router";

import { api, fetchClient, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Action } from "../../components/Action";
import { Confirm } from "../../components/Confirm";
import { Equivalent } from "../../components/Command";
import { DataTable, pageOf, Search, useListState, type Column } from "../../components/DataTable";
import { Empty, Panel } from "../../components/Panels";
import { Time } from "../../components/Time";
import { deleteSelector, selectorOverlaps } from "../../cli";
import { count, plural } from "../../format";

type Saved = Schemas["SavedSelectorInfo"];
type Overlap = Schemas["SelectorOverlap"];

const SELECTORS = "/api/v1/selectors";

export function Selectors() {
  const list = useListState("selectors");
  const query = api.useQuery("get", SELECTORS, { params: { query: pageOf(list) } }, { placeholderData: keepPreviousData });
  const [compared, setCompared] = useState<Saved | null>(null);
  const [deleting, setDeleting] = useState<Saved | null>(null);
  const columns: Column<Saved>[] = [
    { key: "name", header: "Name", sort: "name", cell: (one) => <span className="name mono nowrap">@{one.name}</span> },
    { key: "text", header: "Selector", cell: (one) => <span className="mono small breakable">{one.text}</span> },
    {
      key: "devices",
      header: "Devices",
      align: "right",
      cell: (one) => (
        <Link className="number" to={`/fleet?where=${encodeURIComponent(`@${one.name}`)}`}>
          {count(one.devices)}
        </Link>
      ),
    },
    { key: "by", header: "Changed by", className: "only-medium", cell: (one) => one.changed_by },
    { key: "at", header: "Changed", sort: "changed_at", className: "only-medium", cell: (one) => <Time at={one.changed_at} /> },
    {
      key: "act",
      header: "Action",
      align: "right",
      cell: (one) => (
        <div className="row wrap" style={{ justifyContent: "flex-end" }}>
          <Action needs="viewer" size="xs" variant="default" aria-label={`Overlaps of ${one.name}`} onClick={() => setCompared(one)}>
            Overlaps
          </Action>
          <Action needs="operator" size="xs" variant="default" aria-label={`Delete ${one.name}`} onClick={() => setDeleting(one)}>
            Delete
          </Action>
        </div>
      ),
    },
  ];
  return (
    <Panel
      flush
      id="selectors"
      title="Saved selectors"
      aside={
        <span className="row wrap">
          <span className="soft small">devices that have a name together</span>
          <Search list={list} label="Search selectors" />
        </span>
      }
    >
      <DataTable
        stacks
        label="Saved selectors"
        columns={columns}
        rowKey={(one) => one.name}
        query={query}
        list={list}
        defaultSort="name"
        empty={
          list.q ? (
            <Empty icon="search" title="No selector matches" />
          ) : (
            <Empty icon="filter" title="No selector is saved yet">
              <p className="soft">
                Apply one in the <Link to="/fleet">list of devices</Link> and save it there.
              </p>
            </Empty>
          )
        }
      />
      <Modal opened={compared !== null} onClose={() => setCompared(null)} title={`What shares devices with @${compared?.name ?? ""}`} size="lg">
        {compared && <Overlaps of={compared} />}
      </Modal>
      <Confirm
        opened={deleting !== null}
        close={() => setDeleting(null)}
        title={`Delete @${deleting?.name ?? ""}`}
        action="Delete"
        danger
        command={() => deleteSelector(deleting?.name ?? "")}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/selectors/{name}", { params: { path: { name: deleting!.name } } });
          await refresh(SELECTORS);
        }}
      >
        <p>Lists and labels cannot say it any more. Rollouts that run keep what it meant when they started.</p>
        <p className="mono small breakable">{deleting?.text}</p>
      </Confirm>
    </Panel>
  );
}

function Overlaps({ of }: { of: Saved }) {
  const query = api.useQuery("get", "/api/v1/selectors/{name}/overlaps", { params: { path: { name: of.name } } }, { staleTime: 0 });
  const columns: Column<Overlap>[] = [
    {
      key: "name",
      header: "What",
      cell: (one) => <span className="mono breakable">{one.kind === "selector" ? `@${one.name}` : `group ${one.name}`}</span>,
    },
    {
      key: "devices",
      header: "Shared",
      align: "right",
      cell: (one) => (
        <Link className="number nowrap" to={`/fleet?where=${encodeURIComponent(`@${of.name} and ${meaning(one)}`)}`}>
          {plural(one.devices, "device")}
        </Link>
      ),
    },
    {
      key: "of",
      header: "Of its devices",
      align: "right",
      cell: (one) => (
        <Link className="number" to={`/fleet?where=${encodeURIComponent(meaning(one))}`}>
          {count(one.of)}
        </Link>
      ),
    },
  ];
  return (
    <div className="stack">
      <DataTable
        label={`What shares devices with ${of.name}`}
        columns={columns}
        rowKey={(one) => `${one.kind} ${one.name}`}
        query={{ ...query, data: query.data && { items: query.data, total: query.data.length } }}
        empty={<Empty icon="filter" title="It shares no device with another selector or a group" />}
      />
      <Equivalent text={selectorOverlaps(of.name)} />
    </div>
  );
}

/** As a selector. */
const meaning = (one: Overlap) => (one.kind === "selector" ? `@${one.name}` : `group=${one.name}`);
