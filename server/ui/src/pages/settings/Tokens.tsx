// API tokens: made here, shown once, revoked.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { MultiSelect, Select, TextInput } from "@mantine/core";

import { api, fetchClient, type Role, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Action } from "../../components/Action";
import { CopyButton, Equivalent } from "../../components/Command";
import { Confirm } from "../../components/Confirm";
import { DataTable, FilterChip, pageOf, Search, useListState, type Column } from "../../components/DataTable";
import { Empty, ErrorPanel, Note, Panel } from "../../components/Panels";
import { Time } from "../../components/Time";
import { useSubmit } from "../../components/useSubmit";
import { createToken, revokeToken } from "../../cli";
import { plural } from "../../format";
import { useMe } from "../../session";

const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;
const DAYS = [1, 7, 30].map((days) => ({ value: String(days * DAY_S), label: plural(days, "day") }));
const TOKEN_LIFETIMES = [
  ...DAYS,
  { value: String(90 * DAY_S), label: "90 days" },
  { value: String(365 * DAY_S), label: "1 year" },
  { value: "never", label: "never" },
];

type Token = Schemas["TokenInfo"];

export function Tokens() {
  const me = useMe();
  const list = useListState("tokens");
  const user = list.get("user");
  const valid = list.get("valid") === "true" || undefined;
  const query = api.useQuery("get", "/api/v1/tokens", { params: { query: { ...pageOf(list), user, valid } } }, { placeholderData: keepPreviousData });
  const [revoking, setRevoking] = useState<Token | null>(null);
  const columns: Column<Token>[] = [
    { key: "name", header: "Name", sort: "name", cell: (token) => <span className="name breakable">{token.name}</span> },
    { key: "id", header: "Id", className: "only-medium", cell: (token) => <span className="mono">{token.id}</span> },
    { key: "user", header: "User", sort: "user", cell: (token) => token.user },
    { key: "role", header: "Role", cell: (token) => token.role },
    { key: "scopes", header: "For", className: "only-medium", cell: (token) => <span className="small breakable">{scopesOf(token)}</span> },
    { key: "used", header: "Last used", sort: "last_used_at", cell: (token) => <Time at={token.last_used_at} /> },
    { key: "expires", header: "Expires", cell: (token) => <Time at={token.expires_at} /> },
    {
      key: "revoke",
      header: "Action",
      align: "right",
      cell: (token) => (
        <Action
          needs={token.user === me.user ? "viewer" : "admin"}
          size="xs"
          variant="default"
          onClick={() => setRevoking(token)}
          aria-label={`Revoke ${token.name}`}
        >
          Revoke
        </Action>
      ),
    },
  ];
  return (
    <Panel flush id="tokens" title="API tokens" aside={<span className="soft small">for the command line and other programs</span>}>
      <div className="body" style={{ padding: "2px 18px 18px" }}>
        <NewToken />
      </div>
      <div className="above-table">
        <div className="filters">
          <Search list={list} label="Search tokens" />
          {user && <FilterChip list={list} names={["user", "valid"]} label={`Of ${user}${valid ? ", not expired" : ""}`} />}
        </div>
      </div>
      <DataTable
        stacks
        label="API tokens"
        columns={columns}
        rowKey={(token) => token.id}
        query={query}
        list={list}
        defaultSort="-created_at"
        empty={<Empty icon={list.q || user ? "search" : "key"} title={list.q || user ? "No token matches" : "No token yet"} />}
      />
      <Confirm
        opened={revoking !== null}
        close={() => setRevoking(null)}
        title={`Revoke ${revoking?.name ?? ""}`}
        action="Revoke"
        danger
        command={() => revokeToken(revoking?.id ?? "")}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/tokens/{token_id}", { params: { path: { token_id: revoking!.id } } });
          await refresh("/api/v1/tokens");
        }}
      >
        <p>What uses this token, or one that was made with it, is refused from now on.</p>
      </Confirm>
    </Panel>
  );
}

const ROLES: Role[] = ["viewer", "operator", "admin"];
type Scope = Token["scopes"][number];
const VIEWER: Scope[] = ["read", "metrics", "tokens"];
const OPERATOR: Scope[] = [...VIEWER, "models:write", "rollouts:write", "devices:write", "trust:write"];
const SCOPES: Record<Role, Scope[]> = { viewer: VIEWER, operator: OPERATOR, admin: [...OPERATOR, "admin"] };

function scopesOf(token: Token): string {
  return token.scopes.length === SCOPES[token.role].length ? "everything of its role" : token.scopes.join(", ");
}

function NewToken() {
  const me = useMe();
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [scopes, setScopes] = useState<Scope[]>([]);
  const [lifetime, setLifetime] = useState<string>("never");
  const [made, setMade] = useState<Schemas["TokenCreated"] | null>(null);
  const seconds = lifetime === "never" ? null : Number(lifetime);
  const send = async () => {
    const { data } = await fetchClient.POST("/api/v1/tokens", {
      body: { name: name.trim(), role, scopes: scopes.length ? scopes : null, expires_in_s: seconds },
    });
    setMade(data ?? null);
    setName("");
    await refresh("/api/v1/tokens");
  };
  const { busy, error, onSubmit } = useSubmit(send);
  return (
    <form className="stack" style={{ gap: 12 }} onSubmit={onSubmit}>
      <div className="row wrap" style={{ alignItems: "flex-end", gap: 12 }}>
        <TextInput label="Name" w={210} maxLength={128} value={name} onChange={(event) => setName(event.currentTarget.value)} />
        <Select
          label="Role"
          w={130}
          allowDeselect={false}
          data={ROLES.slice(0, ROLES.indexOf(me.role) + 1)}
          value={role}
          onChange={(value) => {
            setRole(value as Role);
            setScopes((before) => before.filter((scope) => SCOPES[value as Role].includes(scope)));
          }}
        />
        <MultiSelect
          label="Only for"
          w={260}
          clearable
          data={SCOPES[role].filter((scope) => me.scopes.includes(scope))}
          placeholder={scopes.length ? "" : "everything of its role"}
          value={scopes}
          onChange={(value) => setScopes(value as Scope[])}
        />
        <Select
          label="Expires after"
          w={130}
          allowDeselect={false}
          data={TOKEN_LIFETIMES}
          value={lifetime}
          onChange={(value) => setLifetime(value!)}
        />
        <Action needs="viewer" submit icon="plus" variant="default" loading={busy} blocked={!name.trim() && "Give it a name first."}>
          Create token
        </Action>
      </div>
      {error != null && <ErrorPanel error={error} />}
      {made && (
        <Note tone="busy" icon="key">
          <p>
            This is <b className="breakable">{made.info.name}</b>. It is shown this once; keep it as you keep a password.
          </p>
          <div className="row">
            <code className="mono breakable">{made.token}</code>
            <CopyButton text={made.token} label="Copy token" />
          </div>
        </Note>
      )}
      {!made && <Equivalent text={createToken(name.trim(), role, scopes, seconds)} />}
    </form>
  );
}
