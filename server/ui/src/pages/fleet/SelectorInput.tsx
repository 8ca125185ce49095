// A selector, as the command line takes it: typed, or one that was saved under a name.
import { useEffect, useState, type FormEvent } from "react";
import { ActionIcon, Button, CloseButton, Menu, TextInput, Tooltip } from "@mantine/core";

import { api, fetchClient, type ApiError } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Confirm } from "../../components/Confirm";
import type { ListState } from "../../components/DataTable";
import { Icon } from "../../components/Icon";
import { saveSelector } from "../../cli";
import { count } from "../../format";
import { useRefusal } from "../../session";

const SELECTORS = "/api/v1/selectors";
const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const EXAMPLE = "site=porto and hw=rpi4 and not tag=demo";

interface SelectorInputProps {
  list: ListState;
  /** What the server said against what is in the address. */
  error: ApiError | null;
}

export function SelectorInput({ list, error }: SelectorInputProps) {
  const where = list.get("where") ?? "";
  const [text, setText] = useState(where);
  const [saving, setSaving] = useState(false);
  const refusal = useRefusal("operator");
  useEffect(() => setText(where), [where]);
  const apply = (event: FormEvent) => {
    event.preventDefault();
    list.set({ where: text.trim() || null });
  };
  const same = text.trim() === where;
  const unsaved = !where || error ? "Apply a selector first." : where.startsWith("@") ? "It is saved already." : refusal;
  return (
    <form className="selector" onSubmit={apply}>
      <TextInput
        className="grow"
        size="sm"
        aria-label="Selector"
        placeholder={EXAMPLE}
        maxLength={1024}
        spellCheck={false}
        autoComplete="off"
        leftSection={<Icon name="filter" size={15} />}
        rightSection={
          text && (
            <CloseButton
              size={24}
              aria-label="Clear selector"
              onClick={() => {
                setText("");
                list.set({ where: null });
              }}
            />
          )
        }
        value={text}
        error={error && same ? <Wrong error={error} text={where} /> : undefined}
        onChange={(event) => setText(event.currentTarget.value)}
      />
      <Button type="submit" variant={same ? "default" : "filled"} aria-disabled={same}>
        Apply
      </Button>
      <Saved choose={(name) => list.set({ where: `@${name}` })} />
      <Tooltip label={unsaved ?? "Keep this selector under a name"}>
        <ActionIcon
          size={34}
          variant="default"
          aria-label="Save selector"
          aria-disabled={unsaved ? true : undefined}
          data-disabled={unsaved ? true : undefined}
          aria-description={unsaved ?? undefined}
          onClick={() => !unsaved && setSaving(true)}
        >
          <Icon name="plus" size={16} />
        </ActionIcon>
      </Tooltip>
      <Save opened={saving} close={() => setSaving(false)} text={where} done={(name) => list.set({ where: `@${name}` })} />
    </form>
  );
}

/** The text once more, with a mark where it goes wrong. */
function Wrong({ error, text }: { error: ApiError; text: string }) {
  const position = typeof error.data.position === "number" ? error.data.position : null;
  const before = error.detail.split(" at character ")[0];
  return (
    <span role="alert" style={{ display: "block" }}>
      {position === null ? error.detail : `${before}, at character ${position + 1}`}
      {position !== null && (
        <span className="mono wrong-place" aria-hidden="true">
          {text.slice(0, position)}
          <mark>{text.slice(position, position + 1) || " "}</mark>
          {text.slice(position + 1)}
        </span>
      )}
      {position === null && error.hint && <span style={{ display: "block" }}>{error.hint}</span>}
    </span>
  );
}

function Saved({ choose }: { choose: (name: string) => void }) {
  const [open, setOpen] = useState(false);
  const query = api.useQuery("get", SELECTORS, { params: { query: { limit: 200 } } }, { enabled: open });
  return (
    <Menu opened={open} onChange={setOpen} position="bottom-end" width={300} shadow="md">
      <Menu.Target>
        <Button type="button" variant="default" rightSection={<Icon name="down" size={13} />}>
          Saved
        </Button>
      </Menu.Target>
      <Menu.Dropdown mah={320} style={{ overflowY: "auto" }}>
        {query.data?.items.length === 0 && <Menu.Label>No selector is saved yet.</Menu.Label>}
        {query.isPending && <Menu.Label>Loading…</Menu.Label>}
        {query.error != null && <Menu.Label>The list cannot be read now.</Menu.Label>}
        {query.data?.items.map((one) => (
          <Menu.Item key={one.name} onClick={() => choose(one.name)}>
            <span className="row apart">
              <b style={{ fontWeight: 560 }}>{one.name}</b>
              <span className="soft small number">{count(one.devices)}</span>
            </span>
            <span className="soft small mono breakable">{one.text}</span>
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

interface SaveProps {
  opened: boolean;
  close: () => void;
  text: string;
  done: (name: string) => void;
}

function Save({ opened, close, text, done }: SaveProps) {
  const [name, setName] = useState("");
  const wrong = name !== "" && !NAME.test(name);
  return (
    <Confirm
      opened={opened}
      close={close}
      title="Save this selector"
      action="Save"
      incomplete={!NAME.test(name)}
      command={() => saveSelector(name, text)}
      confirm={async () => {
        await fetchClient.PUT("/api/v1/selectors/{name}", { params: { path: { name } }, body: { text } });
        await refresh(SELECTORS);
        done(name);
      }}
    >
      <p>
        Lists, labels and rollouts can then say <span className="mono">@{name || "name"}</span>. A name that exists gets this text;
        rollouts that run keep what it meant when they started.
      </p>
      <TextInput
        label="Name"
        data-autofocus
        maxLength={64}
        spellCheck={false}
        autoComplete="off"
        error={wrong ? "small letters, digits and . _ -" : undefined}
        value={name}
        onChange={(event) => setName(event.currentTarget.value)}
      />
      <p className="mono small breakable">{text}</p>
    </Confirm>
  );
}
