// An image for many devices: what each does at its first boot, with a token that is made here.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Button, NumberInput, Select, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";

import { api, fetchClient, type Schemas } from "../../api/client";
import { refresh } from "../../api/refresh";
import { Action } from "../../components/Action";
import { CopyButton, Equivalent } from "../../components/Command";
import { Icon } from "../../components/Icon";
import { ErrorPanel, Note, Panel } from "../../components/Panels";
import { Time } from "../../components/Time";
import { useSubmit } from "../../components/useSubmit";
import { imageSnippet } from "../../cli";
import { plural } from "../../format";
import { GroupInput, wrongGroup } from "./GroupInput";

type Form = Schemas["ImageSnippet"]["form"];

const TOKENS = "/api/v1/enrolment/tokens";
const DAY_S = 86_400;
const LIFETIMES = [1, 7, 30].map((days) => ({ value: String(days * DAY_S), label: plural(days, "day") }));
const FILES: Record<Form, string> = { "cloud-init": "user-data", script: "firstboot.sh" };
const FORMS = [
  { value: "cloud-init", label: "cloud-init" },
  { value: "script", label: "shell script" },
];
const PACKAGE = "/boot/firmware/edgectl-agent.deb";
const TYPING_MS = 350;

export function Image() {
  const [uses, setUses] = useState(10);
  const [lifetime, setLifetime] = useState(String(7 * DAY_S));
  const [group, setGroup] = useState("");
  const [prefix, setPrefix] = useState("device");
  const [path, setPath] = useState(PACKAGE);
  const [server, setServer] = useState(window.location.origin);
  const [form, setForm] = useState<Form>("cloud-init");
  const [made, setMade] = useState<Schemas["EnrolTokenCreated"] | null>(null);
  const [asked] = useDebouncedValue({ server, prefix, package: path, form }, TYPING_MS);
  const template = api.useQuery(
    "get",
    "/api/v1/enrolment/image-snippet",
    { params: { query: asked } },
    { placeholderData: keepPreviousData, retry: false },
  );
  const shown = template.data;
  const text = shown && made ? shown.text.replace(shown.placeholder, made.token) : shown?.text;
  const send = async () => {
    const body = { uses, expires_in_s: Number(lifetime), group };
    const { data } = await fetchClient.POST(TOKENS, { body });
    setMade(data ?? null);
    await refresh(TOKENS);
  };
  const { busy, error, onSubmit } = useSubmit(send);
  return (
    <Panel id="image" title="An image for many devices" aside={<span className="soft small">many SD cards, one token</span>}>
      <form className="stack" onSubmit={onSubmit}>
        <p className="soft">
          At its first boot each device installs the package, enrols under a name of its own, and starts the agent.
        </p>
        <div className="thirds">
          <NumberInput
            label="Devices"
            min={1}
            max={10000}
            allowDecimal={false}
            value={uses}
            onChange={(value) => setUses(Math.max(1, Math.round(Number(value) || 1)))}
          />
          <Select label="Valid for" allowDeselect={false} data={LIFETIMES} value={lifetime} onChange={(value) => setLifetime(value!)} />
          <GroupInput value={group} change={setGroup} />
          <TextInput label="Names begin with" maxLength={40} spellCheck={false} value={prefix} onChange={(event) => setPrefix(event.currentTarget.value)} />
          <Select label="As" allowDeselect={false} data={FORMS} value={form} onChange={(value) => setForm(value as Form)} />
          <TextInput
            label="Address of the server"
            maxLength={300}
            spellCheck={false}
            value={server}
            onChange={(event) => setServer(event.currentTarget.value.trim())}
          />
          <TextInput
            label="The package, in the image"
            maxLength={300}
            spellCheck={false}
            value={path}
            onChange={(event) => setPath(event.currentTarget.value.trim())}
          />
        </div>
        {template.error != null && <ErrorPanel error={template.error} retry={() => void template.refetch()} />}
        {error != null && <ErrorPanel error={error} />}
        {text && (
          <div className={template.isPlaceholderData ? "snippet stale" : "snippet"}>
            <pre tabIndex={0} role="region" aria-label="What the image does">
              {text}
            </pre>
            {made && <CopyButton text={text} label={`Copy ${FILES[form]}`} />}
          </div>
        )}
        {made && text ? (
          <Note tone="busy" icon="key">
            <p style={{ marginBottom: 8 }}>
              The token in it is shown this once, lets {plural(made.uses, "device")} in, and expires <Time at={made.expires_at} />. Whoever
              has the image has it too: revoke it below when all are in.
            </p>
            <Button
              component="a"
              size="xs"
              variant="default"
              leftSection={<Icon name="down" size={14} />}
              href={`data:text/plain;charset=utf-8,${encodeURIComponent(text)}`}
              download={FILES[form]}
            >
              Save {FILES[form]}
            </Button>
          </Note>
        ) : (
          <>
            <div>
              <Action
                needs="operator"
                submit
                icon="key"
                loading={busy}
                blocked={wrongGroup(group) || (template.error != null && "Mend what is wrong above first.") || (!shown && "It is being made.")}
              >
                Put a token into it
              </Action>
            </div>
            <Equivalent text={imageSnippet({ uses, seconds: Number(lifetime), group, prefix, path, usual: PACKAGE, form, server })} />
          </>
        )}
      </form>
    </Panel>
  );
}
