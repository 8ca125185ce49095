// Letting devices in: those that ask, a token, the keys that are on the list.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { NumberInput, Select } from "@mantine/core";

import { api, fetchClient, type Schemas } from "../api/client";
import { refresh } from "../api/refresh";
import { Action } from "../components/Action";
import { Command, CopyButton, Equivalent } from "../components/Command";
import { Confirm } from "../components/Confirm";
import { DataTable, PAGE_ROWS, pageOf, Search, useListState, type Column, type ListState } from "../components/DataTable";
import { Empty, ErrorPanel, Head, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { useSubmit } from "../components/useSubmit";
import { approve, createEnrolToken, enrol, enrolWithout, forgetPreauthorised, preauthorise, reject, revokeEnrolToken } from "../cli";
import { plural } from "../format";
import { GroupInput, wrongGroup } from "./enrol/GroupInput";
import { Image } from "./enrol/Image";

type Asking = Schemas["EnrolRequestInfo"];
type Listed = Schemas["PreauthorisedInfo"];
type Token = Schemas["EnrolTokenInfo"];

const REQUESTS = "/api/v1/enrolment/requests";
const LISTED = "/api/v1/enrolment/preauthorised";
const TOKENS = "/api/v1/enrolment/tokens";

export function EnrolPage() {
  return (
    <>
      <Head crumbs={[["Fleet", "/fleet"]]} title="Enrol devices" />
      <div className="stack">
        <Requests />
        <WithToken />
        <Image />
        <Without />
      </div>
    </>
  );
}

/** A page is short enough to be read; more than that is searched. */
const many = (list: ListState, page: { total: number } | undefined) => Boolean(list.q) || (page?.total ?? 0) > PAGE_ROWS;

export function Fingerprint({ value }: { value: string }) {
  return <code className="mono breakable small">{value}</code>;
}

// ---------------------------------------------------------------- devices that ask

/** Everybody may ask under any name, so what is compared is the fingerprint. */
function Requests() {
  const authority = api.useQuery("get", "/api/v1/enrolment/authority");
  const list = useListState("asking");
  const query = api.useQuery(
    "get",
    REQUESTS,
    { params: { query: pageOf(list) } },
    { placeholderData: keepPreviousData, refetchInterval: 5_000 },
  );
  const [approving, setApproving] = useState<Asking | null>(null);
  const [rejecting, setRejecting] = useState<Asking | null>(null);
  const [group, setGroup] = useState("");
  const columns: Column<Asking>[] = [
    { key: "device", header: "Name", sort: "device", cell: (one) => <span className="name nowrap">{one.device}</span> },
    { key: "fingerprint", header: "Fingerprint of its key", cell: (one) => <Fingerprint value={one.fingerprint} /> },
    { key: "state", header: "State", cell: (one) => <State state={one.state} /> },
    { key: "source", header: "From", className: "only-wide", cell: (one) => <span className="mono small">{one.source}</span> },
    { key: "since", header: "Since", sort: "first_at", className: "only-medium", cell: (one) => <Time at={one.first_at} /> },
    {
      key: "act",
      header: "Action",
      align: "right",
      cell: (one) => (
        <div className="row" style={{ justifyContent: "flex-end" }}>
          <Action
            needs="operator"
            size="xs"
            blocked={one.taken && "The name belongs to an enrolled device with another key."}
            aria-label={`Approve ${one.device}`}
            onClick={() => {
              setGroup("");
              setApproving(one);
            }}
          >
            Approve
          </Action>
          <Action
            needs="operator"
            size="xs"
            variant="default"
            blocked={one.state === "rejected" && "It has been rejected already."}
            aria-label={`Reject ${one.device}`}
            onClick={() => setRejecting(one)}
          >
            Reject
          </Action>
        </div>
      ),
    },
  ];
  const path = (one: Asking | null) => ({ path: { device: one?.device ?? "" } });
  return (
    <Panel
      flush
      id="requests"
      title="Devices that ask"
      aside={
        <span className="row wrap">
          <span className="soft small">without a token, until somebody approves</span>
          {many(list, query.data) && <Search list={list} label="Search devices that ask" />}
        </span>
      }
    >
      <DataTable
        stacks
        label="Devices that ask"
        columns={columns}
        rowKey={(one) => `${one.device} ${one.fingerprint}`}
        detail={(one) => (one.taken ? `${one.device} is enrolled, with another key. Shut that device out first if this one replaces it.` : null)}
        query={query}
        list={list}
        defaultSort="first_at"
        empty={
          list.q ? (
            <Empty icon="search" title="No device that asks matches" />
          ) : (
            <Empty icon="key" title="No device asks">
              <p className="soft">
                {authority.data && !authority.data.takes_requests
                  ? "This server takes no requests: a device needs a token, or its key has to be on the list."
                  : "A device that is started with the authority of this server and without a token shows up here."}
              </p>
            </Empty>
          )
        }
      />
      <Confirm
        opened={approving !== null}
        close={() => setApproving(null)}
        title={`Approve ${approving?.device ?? ""}`}
        action="Approve"
        command={() => approve(approving?.device ?? "", approving?.fingerprint ?? "", group)}
        confirm={async () => {
          const body = { fingerprint: approving!.fingerprint, group };
          await fetchClient.POST("/api/v1/enrolment/requests/{device}/actions/approve", { params: path(approving), body });
          await refresh(REQUESTS, LISTED);
        }}
      >
        <p>
          Compare with what <b>{approving?.device}</b> itself shows, on its screen or in its log. Approve only if all of it is the
          same: somebody else may ask under this name.
        </p>
        <Fingerprint value={approving?.fingerprint ?? ""} />
        <GroupInput value={group} change={setGroup} width={150} />
      </Confirm>
      <Confirm
        opened={rejecting !== null}
        close={() => setRejecting(null)}
        title={`Reject ${rejecting?.device ?? ""}`}
        action="Reject"
        danger
        command={() => reject(rejecting?.device ?? "", rejecting?.fingerprint ?? "")}
        confirm={async () => {
          const body = { fingerprint: rejecting!.fingerprint };
          await fetchClient.POST("/api/v1/enrolment/requests/{device}/actions/reject", { params: path(rejecting), body });
          await refresh(REQUESTS);
        }}
      >
        <p>This key is told for a day that it was rejected. It can still be approved meanwhile.</p>
        <Fingerprint value={rejecting?.fingerprint ?? ""} />
      </Confirm>
    </Panel>
  );
}

// ---------------------------------------------------------------- tokens

const HOUR_S = 3600;
const LIFETIMES = [
  { value: String(HOUR_S), label: "1 hour" },
  ...[1, 7, 30].map((days) => ({ value: String(days * 24 * HOUR_S), label: plural(days, "day") })),
];

function WithToken() {
  const [uses, setUses] = useState(1);
  const [lifetime, setLifetime] = useState(String(HOUR_S));
  const [group, setGroup] = useState("");
  const [made, setMade] = useState<Schemas["EnrolTokenCreated"] | null>(null);
  const send = async () => {
    const body = { uses, expires_in_s: Number(lifetime), group };
    const { data } = await fetchClient.POST("/api/v1/enrolment/tokens", { body });
    setMade(data ?? null);
    await refresh(TOKENS);
  };
  const { busy, error, onSubmit } = useSubmit(send);
  return (
    <Panel id="token" title="With a token">
      <form className="stack" onSubmit={onSubmit}>
        <p className="soft">
          A device proves itself once with a token, gets a certificate of its own, and needs the token never again.
        </p>
        <div className="row wrap" style={{ alignItems: "flex-end", gap: 12 }}>
          <NumberInput
            label="Devices"
            w={110}
            min={1}
            max={10000}
            allowDecimal={false}
            value={uses}
            onChange={(value) => setUses(Math.max(1, Math.round(Number(value) || 1)))}
          />
          <Select label="Valid for" w={130} allowDeselect={false} data={LIFETIMES} value={lifetime} onChange={(value) => setLifetime(value!)} />
          <GroupInput value={group} change={setGroup} width={150} />
          <Action needs="operator" submit icon="key" loading={busy} blocked={wrongGroup(group)}>
            Make an enrol token
          </Action>
        </div>
        {error != null && <ErrorPanel error={error} />}
        {made ? (
          <Note tone="busy" icon="key">
            <p style={{ marginBottom: 8 }}>
              Run this on {made.uses === 1 ? "the device" : `each of the ${plural(made.uses, "device")}`}, with a name of its own. The
              token is shown this once and expires <Time at={made.expires_at} />.
            </p>
            <Command text={enrol(window.location.origin, made.token, "DEVICE")} />
          </Note>
        ) : (
          <Equivalent text={createEnrolToken(uses, Number(lifetime), group)} />
        )}
      </form>
      <Tokens />
    </Panel>
  );
}

function Tokens() {
  const list = useListState("tokens");
  const query = api.useQuery("get", TOKENS, { params: { query: pageOf(list) } }, { placeholderData: keepPreviousData });
  const [revoking, setRevoking] = useState<Token | null>(null);
  if (query.error == null && !query.data?.total && !list.q) return null;
  const columns: Column<Token>[] = [
    { key: "id", header: "Token", cell: (one) => <span className="mono">{one.id}</span> },
    { key: "uses", header: "Uses left", align: "right", cell: (one) => one.uses_left },
    { key: "group", header: "Group", cell: (one) => one.group || <span className="soft">none</span> },
    { key: "by", header: "Made by", className: "only-medium", cell: (one) => one.created_by },
    { key: "expires", header: "Expires", sort: "expires_at", cell: (one) => <Time at={one.expires_at} /> },
    {
      key: "act",
      header: "Action",
      align: "right",
      cell: (one) => (
        <Action needs="operator" size="xs" variant="default" aria-label={`Revoke ${one.id}`} onClick={() => setRevoking(one)}>
          Revoke
        </Action>
      ),
    },
  ];
  return (
    <div style={{ marginTop: 14 }}>
      {many(list, query.data) && <Search list={list} label="Search enrol tokens" />}
      <DataTable
        label="Enrol tokens"
        stacks
        columns={columns}
        rowKey={(one) => one.id}
        query={query}
        list={list}
        defaultSort="-created_at"
        empty={<Empty icon="search" title="No enrol token matches" />}
      />
      <Confirm
        opened={revoking !== null}
        close={() => setRevoking(null)}
        title={`Revoke token ${revoking?.id ?? ""}`}
        action="Revoke"
        danger
        command={() => revokeEnrolToken(revoking?.id ?? "")}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/enrolment/tokens/{token_id}", { params: { path: { token_id: revoking!.id } } });
          await refresh(TOKENS);
        }}
      >
        <p>No device can enrol with it any more. Those that have stay.</p>
      </Confirm>
    </div>
  );
}

// ---------------------------------------------------------------- without a token

function Without() {
  const authority = api.useQuery("get", "/api/v1/enrolment/authority");
  return (
    <Panel id="without" title="Without a token">
      <div className="stack">
        <p className="soft">
          The device is told by which authority it knows this server. It comes in if its key is on the list, and asks to be
          approved if not.
        </p>
        {authority.error != null && <ErrorPanel error={authority.error} retry={() => void authority.refetch()} />}
        {authority.data && (
          <>
            <div className="row">
              <Fingerprint value={authority.data.fingerprint} />
              <CopyButton text={authority.data.fingerprint} label="Copy fingerprint of the authority" />
            </div>
            <Command text={enrolWithout(window.location.origin, authority.data.fingerprint, "DEVICE")} />
          </>
        )}
        <OnTheList />
      </div>
    </Panel>
  );
}

function OnTheList() {
  const list = useListState("keys");
  const query = api.useQuery(
    "get",
    LISTED,
    { params: { query: pageOf(list) } },
    { placeholderData: keepPreviousData, refetchInterval: 15_000 },
  );
  const [removing, setRemoving] = useState<Listed | null>(null);
  const columns: Column<Listed>[] = [
    { key: "device", header: "Name", sort: "device", cell: (one) => <span className="name nowrap">{one.device}</span> },
    { key: "fingerprint", header: "Fingerprint of its key", cell: (one) => <Fingerprint value={one.fingerprint} /> },
    { key: "group", header: "Group", cell: (one) => one.group || <span className="soft">none</span> },
    { key: "by", header: "By", className: "only-medium", cell: (one) => one.created_by },
    { key: "since", header: "Since", sort: "created_at", className: "only-medium", cell: (one) => <Time at={one.created_at} /> },
    {
      key: "act",
      header: "Action",
      align: "right",
      cell: (one) => (
        <Action needs="operator" size="xs" variant="default" aria-label={`Remove ${one.device}`} onClick={() => setRemoving(one)}>
          Remove
        </Action>
      ),
    },
  ];
  return (
    <>
      {query.error != null && !query.data && <ErrorPanel error={query.error} retry={() => void query.refetch()} />}
      {query.data?.total || list.q ? (
        <div>
          {many(list, query.data) && <Search list={list} label="Search keys on the list" />}
          <DataTable
            label="Keys on the list"
            stacks
            columns={columns}
            rowKey={(one) => one.device}
            query={query}
            list={list}
            defaultSort="device"
            empty={<Empty icon="search" title="No key on the list matches" />}
          />
        </div>
      ) : (
        <Equivalent text={preauthorise()} />
      )}
      <Confirm
        opened={removing !== null}
        close={() => setRemoving(null)}
        title={`Remove ${removing?.device ?? ""}`}
        action="Remove"
        danger
        command={() => forgetPreauthorised(removing?.device ?? "")}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/enrolment/preauthorised/{device}", { params: { path: { device: removing!.device } } });
          await refresh(LISTED);
        }}
      >
        <p>Its key is taken off the list: it can ask, and somebody has to approve.</p>
      </Confirm>
    </>
  );
}
