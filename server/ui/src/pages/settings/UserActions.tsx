// What an admin does to one user: each a dialog with the own password, and the command for it.
import { useRef, useState } from "react";
import { ActionIcon, Checkbox, Menu, Select } from "@mantine/core";

import { fetchClient, type Role, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Icon } from "../../components/Icon";
import { Note } from "../../components/Panels";
import { changeRole, deleteUser, disableUser, logOutUser, resetPassword } from "../../cli";
import { forgetProof, Proved, type ProofHeader } from "../../proof";
import { checkSession, useMe } from "../../session";

export type User = Schemas["UserInfo"];
export const ROLES: Role[] = ["viewer", "operator", "admin"];

export const reload = () => refresh("/api/v1/users", "/api/v1/tokens");

type Kind = "role" | "password" | "logout" | "disable" | "enable" | "delete";

interface Props {
  user: User;
  /** A new password, to be shown once. */
  made: (made: Schemas["UserCreated"]) => void;
}

export function UserActions({ user, made }: Props) {
  const [kind, setKind] = useState<Kind | null>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const local = user.by === "password";
  return (
    <>
      <Menu position="bottom-end" width={210}>
        <Menu.Target>
          <ActionIcon ref={opener} size={30} variant="default" aria-label={`Change ${user.name}`}>
            <Icon name="settings" size={16} />
          </ActionIcon>
        </Menu.Target>
        <Menu.Dropdown>
          {local && <Menu.Item onClick={() => setKind("role")}>Change role…</Menu.Item>}
          {local && <Menu.Item onClick={() => setKind("password")}>New password…</Menu.Item>}
          <Menu.Item onClick={() => setKind("logout")}>Log out everywhere…</Menu.Item>
          {user.disabled_at ? (
            <Menu.Item onClick={() => setKind("enable")}>Let in again…</Menu.Item>
          ) : (
            <Menu.Item onClick={() => setKind("disable")}>Disable…</Menu.Item>
          )}
          <Menu.Item color="red" onClick={() => setKind("delete")}>
            Delete…
          </Menu.Item>
        </Menu.Dropdown>
      </Menu>
      {kind && (
        <Dialog
          kind={kind}
          user={user}
          made={made}
          close={() => {
            setKind(null);
            opener.current?.focus(); // the menu's entry is gone
          }}
        />
      )}
    </>
  );
}

function Dialog({ kind, user, made, close }: Props & { kind: Kind; close: () => void }) {
  const me = useMe();
  const { name } = user;
  const own = name === me.user;
  const [role, setRole] = useState<Role>(user.role);
  const [tokens, setTokens] = useState(false);
  const [meant, setMeant] = useState(false);
  const params = (header: ProofHeader) => ({ header, path: { user: name }, query: own ? { myself: true } : {} });
  const done = async () => {
    if (own) {
      forgetProof();
      checkSession();
    }
    await reload();
  };
  const change = (body: Schemas["UserChange"]) => async (header: ProofHeader) => {
    await fetchClient.PATCH("/api/v1/users/{user}", { params: params(header), body });
    await done();
  };
  const what = {
    role: {
      title: `Change the role of ${name}`,
      action: "Change role",
      command: changeRole(name, role, own),
      act: change({ role }),
      words: "It counts at once, also for sessions and tokens that there are.",
    },
    password: {
      title: `New password for ${name}`,
      action: "Make a new password",
      command: resetPassword(name, own),
      act: async (header: ProofHeader) => {
        const { data } = await fetchClient.POST("/api/v1/users/{user}/password", { params: params(header) });
        made(data!);
        await done();
      },
      words: "The old one opens nothing any more, and all sessions end. Tokens stay as they are.",
    },
    logout: {
      title: `Log ${name} out everywhere`,
      action: "Log out",
      command: logOutUser(name, tokens, own),
      act: async (header: ProofHeader) => {
        const { query, ...rest } = params(header);
        await fetchClient.POST("/api/v1/users/{user}/logout", { params: { ...rest, query: { ...query, tokens } } });
        await done();
      },
      words: "All sessions in browsers end. The password stays as it is.",
    },
    disable: {
      title: `Disable ${name}`,
      action: "Disable",
      command: disableUser(name, true, own),
      act: change({ disabled: true }),
      words: "Sessions end; password and tokens open nothing until you let them in again.",
    },
    enable: {
      title: `Let ${name} in again`,
      action: "Let in",
      command: disableUser(name, false, own),
      act: change({ disabled: false }),
      words: "With the password, role and tokens from before.",
    },
    delete: {
      title: `Delete ${name}`,
      action: "Delete",
      command: deleteUser(name, own),
      act: async (header: ProofHeader) => {
        await fetchClient.DELETE("/api/v1/users/{user}", { params: params(header) });
        await done();
      },
      words:
        user.by === "sign-on"
          ? "Sessions and tokens go with them. Single sign-on makes them anew at their next login: to keep them out, disable them."
          : "Sessions and tokens go with them. What they did stays in the audit log.",
    },
  }[kind];
  return (
    <Proved
      close={close}
      title={what.title}
      action={what.action}
      danger={kind !== "enable" && kind !== "role"}
      incomplete={(own && !meant) || (kind === "role" && role === user.role)}
      command={what.command}
      act={what.act}
    >
      <p>{what.words}</p>
      {kind === "role" && (
        <Select
          label="Role"
          allowDeselect={false}
          comboboxProps={{ withinPortal: false }}
          data={ROLES}
          value={role}
          onChange={(value) => setRole(value as Role)}
        />
      )}
      {kind === "logout" && (
        <Checkbox
          label={`Revoke all ${user.tokens} tokens, too`}
          disabled={!user.tokens}
          checked={tokens}
          onChange={(event) => setTokens(event.currentTarget.checked)}
        />
      )}
      {own && (
        <Note tone="warn">
          <p>This is your own user: you may shut yourself out.</p>
          <Checkbox mt={8} label="I mean my own user" checked={meant} onChange={(event) => setMeant(event.currentTarget.checked)} />
        </Note>
      )}
    </Proved>
  );
}
