import { useEffect, useState, type FormEvent } from "react";
import { MultiSelect, Select, TextInput } from "@mantine/core";
import { useLocation } from "react-router";

import { api, fetchClient, type Role, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { CopyButton, Equivalent } from "../components/Command";
import { Confirm } from "../components/Confirm";
import { DataTable, type Column } from "../components/DataTable";
import { Empty, ErrorPanel, Facts, Head, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { createToken, logIn, revokeToken } from "../cli";
import { plural } from "../format";
import { queryClient, useMe } from "../session";
import { AuditPanel } from "./AuditPanel";

export function SettingsPage() {
  const me = useMe();
  const { hash } = useLocation();
  useEffect(() => {
    if (hash) document.getElementById(hash.slice(1))?.scrollIntoView({ block: "start" });
  }, [hash]);
  return (
    <>
      <Head title="Settings" />
      <div className="stack">
        <div className="halves">
          <Panel title="You">
            <div className="stack" style={{ gap: 12 }}>
              <Facts
                rows={[
                  ["User", me.user],
                  ["Role", me.role],
                  ["May", MAY[me.role]],
                ]}
              />
              <Equivalent text={logIn(window.location.origin, me.user)} />
            </div>
          </Panel>
          <About />
        </div>
        <Tokens />
        {me.role === "admin" && <AuditPanel />}
      </div>
    </>
  );
}

const MAY: Record<Role, string> = {
  viewer: "see everything, change nothing",
  operator: "push models, start and steer rollouts, enrol devices",
  admin: "do everything, decommissioning devices included",
};

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

function Tokens() {
  const me = useMe();
  const [offset] = useState(0);
  const query = api.useQuery("get", "/api/v1/tokens", { params: { query: { offset, limit: 200 } } });
  const [revoking, setRevoking] = useState<Token | null>(null);
  const columns: Column<Token>[] = [
    { key: "name", header: "Name", cell: (token) => <span className="name breakable">{token.name}</span> },
    { key: "id", header: "Id", className: "only-medium", cell: (token) => <span className="mono">{token.id}</span> },
    { key: "user", header: "User", cell: (token) => token.user },
    { key: "role", header: "Role", cell: (token) => token.role },
    { key: "scopes", header: "For", className: "only-medium", cell: (token) => <span className="small breakable">{scopesOf(token)}</span> },
    { key: "used", header: "Last used", cell: (token) => <Time at={token.last_used_at} /> },
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
      <DataTable
        label="API tokens"
        columns={columns}
        rowKey={(token) => token.id}
        query={query}
        empty={<Empty icon="key" title="No token yet" />}
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
          await queryClient.invalidateQueries({ queryKey: ["get", "/api/v1/tokens"] });
        }}
      >
        <p>What uses this token, or one that was made with it, is refused from now on.</p>
      </Confirm>
    </Panel>
  );
}

const ROLES: Role[] = ["viewer", "operator", "admin"];
type Scope = Token["scopes"][number];
const VIEWER: Scope[] = ["read", "tokens"];
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
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const seconds = lifetime === "never" ? null : Number(lifetime);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const { data } = await fetchClient.POST("/api/v1/tokens", {
        body: { name: name.trim(), role, scopes: scopes.length ? scopes : null, expires_in_s: seconds },
      });
      setMade(data ?? null);
      setName("");
      await queryClient.invalidateQueries({ queryKey: ["get", "/api/v1/tokens"] });
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form className="stack" style={{ gap: 12 }} onSubmit={(event) => void submit(event)}>
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

function About() {
  const version = api.useQuery("get", "/api/v1/version");
  const ready = api.useQuery("get", "/api/v1/health/ready", {}, { refetchInterval: 30_000 });
  const checks = Object.entries(ready.data?.checks ?? {});
  return (
    <Panel title="This server">
      <Facts
        rows={[
          ["Version", version.data?.version ?? "–"],
          ["State", <State key="s" state={ready.data?.ready ? "ready" : ready.error ? "failed" : "pending"} />],
          ["Parts", checks.map(([name, words]) => `${name} ${words}`).join(", ") || "–"],
          [
            "More",
            <span key="m" className="row wrap" style={{ gap: "0 16px" }}>
              <a href="/api/v1/openapi.json">OpenAPI description</a>
              <a href="/THIRD-PARTY-LICENSES.txt">Licences of this page</a>
            </span>,
          ],
        ]}
      />
    </Panel>
  );
}
