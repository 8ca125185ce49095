// Who may log in. A session alone must not be enough to make another admin: changes ask for the own
// password again.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Select, TextInput } from "@mantine/core";
import { Link } from "react-router";

import { api, fetchClient, type Role, type Schemas } from "../../api/client";
import { Action } from "../../components/Action";
import { Command, CopyButton } from "../../components/Command";
import { DataTable, pageOf, Search, useListState, type Column } from "../../components/DataTable";
import { Empty, Note, Panel } from "../../components/Panels";
import { Time } from "../../components/Time";
import { createUser, LIST_USERS } from "../../cli";
import { count } from "../../format";
import { Proved } from "../../proof";
import { reload, ROLES, UserActions, type User } from "./UserActions";

const columns = (made: (made: Schemas["UserCreated"]) => void): Column<User>[] => [
  { key: "name", header: "User", sort: "name", cell: (user) => <span className="name breakable">{user.name}</span> },
  { key: "role", header: "Role", sort: "role", cell: (user) => user.role },
  { key: "by", header: "Logs in by", cell: (user) => <LogsInBy user={user} /> },
  { key: "sessions", header: "Sessions", align: "right", cell: (user) => <span className="number">{count(user.sessions)}</span> },
  { key: "tokens", header: "Tokens", align: "right", cell: (user) => <Counted user={user} /> },
  { key: "login", header: "Last login", cell: (user) => <Time at={user.last_login_at} never="–" /> },
  { key: "since", header: "Since", sort: "created_at", className: "only-medium", cell: (user) => <Time at={user.created_at} /> },
  {
    key: "did",
    header: "Did",
    align: "right",
    cell: (user) => <Link to={`/audit?actor=${encodeURIComponent(user.name)}`}>audit log</Link>,
  },
  { key: "change", header: "Action", align: "right", cell: (user) => <UserActions user={user} made={made} /> },
];

/** The list that they are in is on this page. */
function Counted({ user }: { user: User }) {
  if (!user.tokens) return <span className="number">0</span>;
  return (
    <Link className="number" to={`?tokens.user=${encodeURIComponent(user.name)}&tokens.valid=true#tokens`}>
      {count(user.tokens)}
    </Link>
  );
}

function LogsInBy({ user }: { user: User }) {
  if (user.disabled_at)
    return (
      <>
        disabled <Time at={user.disabled_at} />
      </>
    );
  return user.by === "sign-on" ? "single sign-on" : "password";
}

export function Users() {
  const list = useListState("people");
  const query = api.useQuery("get", "/api/v1/users", { params: { query: pageOf(list) } }, { placeholderData: keepPreviousData });
  const [made, setMade] = useState<Schemas["UserCreated"] | null>(null);
  const [adding, setAdding] = useState(false);
  return (
    <Panel flush id="users" title="Users" aside={<span className="soft small">who may log in, and with what role</span>}>
      <div className="body stack" style={{ padding: "2px 18px 18px", gap: 12 }}>
        <div className="row wrap">
          <Action needs="admin" icon="plus" variant="default" onClick={() => setAdding(true)}>
            Add user
          </Action>
          <Search list={list} label="Search users" />
        </div>
        {made && (
          <Note tone="busy" icon="key">
            <p>
              The password of <b className="breakable">{made.user.name}</b>. It is shown this once; they can change it on this page.
            </p>
            <div className="row">
              <code className="mono breakable">{made.password}</code>
              <CopyButton text={made.password} label="Copy password" />
            </div>
          </Note>
        )}
      </div>
      <DataTable
        label="Users"
        stacks
        columns={columns(setMade)}
        rowKey={(user) => user.name}
        query={query}
        list={list}
        defaultSort="name"
        empty={<Empty icon={list.q ? "search" : "people"} title={list.q ? "No user matches" : "Nobody yet"} />}
      />
      <div className="body" style={{ padding: "12px 18px 18px" }}>
        <Command text={LIST_USERS} />
      </div>
      {adding && <AddUser made={setMade} close={() => setAdding(false)} />}
    </Panel>
  );
}

function AddUser({ made, close }: { made: (made: Schemas["UserCreated"]) => void; close: () => void }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  return (
    <Proved
      close={close}
      title="Add a user"
      action="Add user"
      incomplete={!name.trim()}
      command={createUser(name.trim(), role)}
      act={async (header) => {
        const { data } = await fetchClient.POST("/api/v1/users", { params: { header }, body: { name: name.trim(), role } });
        made(data!);
        await reload();
      }}
    >
      <TextInput
        label="User name"
        description="Small letters and digits, such as ana or ana.silva."
        maxLength={64}
        autoComplete="off"
        autoCapitalize="none"
        spellCheck={false}
        value={name}
        onChange={(event) => setName(event.currentTarget.value)}
      />
      <Select
        label="Role"
        allowDeselect={false}
        comboboxProps={{ withinPortal: false }}
        data={ROLES}
        value={role}
        onChange={(value) => setRole(value as Role)}
      />
    </Proved>
  );
}
