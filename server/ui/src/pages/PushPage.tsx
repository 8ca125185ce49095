// A model from a browser: dropped, sent, and then followed on the page of its version.
import { useState, type FormEvent } from "react";
import { Button, MultiSelect, NumberInput, TagsInput, TextInput } from "@mantine/core";
import { useNavigate, useSearchParams } from "react-router";

import { api, type Schemas } from "../api/client";
import type { Progress } from "../api/upload";
import { Action } from "../components/Action";
import { Measure } from "../components/Bars";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Head, Note, Panel } from "../components/Panels";
import { push as pushCommand } from "../cli";
import { bytes } from "../format";
import { useRefusal } from "../session";
import { DropZone } from "./push/DropZone";
import { nameOf, ORDER, PARTS, sortFiles, stemOf, type Files, type Part } from "./push/files";
import { useSending, type Wishes } from "./push/sending";

const NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const VERSION = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$/;
const USUAL: Schemas["PushOptions"]["precisions"] = ["fp32", "int8"];

export function PushPage() {
  const refusal = useRefusal("operator");
  const limits = api.useQuery("get", "/api/v1/uploads", {}, { enabled: !refusal });
  const [parameters] = useSearchParams();
  const [files, setFiles] = useState<Files>({});
  const [unknown, setUnknown] = useState<string[]>([]);
  const [wishes, setWishes] = useState<Wishes>({
    name: parameters.get("model") ?? "",
    version: "",
    maxDrop: null,
    precisions: USUAL,
    require: [],
    parent: "",
  });
  const sending = useSending();
  const navigate = useNavigate();
  const name = wishes.name || (files.model ? nameOf(files.model.name) : "");
  const take = (dropped: File[]) => {
    const sorted = sortFiles(dropped, files);
    setFiles(sorted.files);
    setUnknown(sorted.unknown);
  };
  const wrong = wrongWith(files, { ...wishes, name }, limits.data);
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (wrong || refusal || sending.busy) return;
    const accepted = await sending.push(files, { ...wishes, name });
    if (accepted) void navigate(`/models/${accepted.model}/${encodeURIComponent(accepted.version)}`);
  };
  return (
    <>
      <Head title="Push a model" under="It is checked, quantized, measured and signed on the server, and shown while that happens." />
      <form className="stack" onSubmit={(event) => void submit(event)}>
        {refusal && <Note icon="key">{refusal}</Note>}
        <Panel title="Files" aside={limits.data && <Limits limits={limits.data} />}>
          <div className="stack">
            <DropZone take={take} disabled={Boolean(refusal) || sending.busy} />
            {unknown.length > 0 && (
              <Note tone="warn" alert>
                Nothing is known that {unknown.join(", ")} could be for: names end in {PARTS.model.accept.replaceAll(",", ", ")}, .npz, .py,
                .toml, .txt or .md.
              </Note>
            )}
            <Chosen files={files} change={setFiles} progress={sending.progress} busy={sending.busy} />
          </div>
        </Panel>
        <Panel title="How">
          <Options wishes={wishes} name={name} change={(part) => setWishes((before) => ({ ...before, ...part }))} />
        </Panel>
        {sending.error != null && <ErrorPanel error={sending.error} />}
        <div className="row wrap">
          <Action needs="operator" submit icon="upload" loading={sending.busy} blocked={wrong}>
            Push {name}
          </Action>
          {sending.busy && (
            <Button variant="default" onClick={sending.stop}>
              Stop
            </Button>
          )}
          {sending.busy && <span className="soft">What has arrived is kept: pushed again, it goes on from there.</span>}
        </div>
        <Panel>
          <Equivalent text={commandOf(files, { ...wishes, name })} />
        </Panel>
      </form>
    </>
  );
}

function Limits({ limits }: { limits: Schemas["UploadLimits"] }) {
  return (
    <span className="soft small">
      up to {bytes(limits.file_bytes_max)} a file; the server has room for {bytes(limits.room_bytes)}
    </span>
  );
}

/** What has to be put right before anything is sent. */
function wrongWith(files: Files, wishes: Wishes, limits: Schemas["UploadLimits"] | undefined): string | null {
  if (!files.model) return "Choose a model first.";
  if (!NAME.test(wishes.name)) return "Give it a name first: small letters, digits, - and _.";
  if (wishes.version && !VERSION.test(wishes.version)) return "Correct the version first.";
  if (!wishes.precisions.length) return "Choose what may be made first.";
  for (const part of ORDER) {
    const file = files[part];
    const most = PARTS[part].bytesMax ?? limits?.file_bytes_max;
    if (file && most !== undefined && file.size > most) return `${file.name} has ${bytes(file.size)}; at most ${bytes(most)} are taken.`;
    if (file?.size === 0) return `${file.name} is empty.`;
  }
  const whole = ORDER.filter((part) => PARTS[part].uploaded).reduce((sum, part) => sum + (files[part]?.size ?? 0), 0);
  if (limits && whole > limits.room_bytes) return `They have ${bytes(whole)}; the server has room for ${bytes(limits.room_bytes)}.`;
  return null;
}

interface ChosenProps {
  files: Files;
  change: (files: Files) => void;
  progress: Partial<Record<Part, Progress>>;
  busy: boolean;
}

function Chosen({ files, change, progress, busy }: ChosenProps) {
  return (
    <ul className="chosen-files" aria-label="Chosen files">
      {ORDER.map((part) => (
        <li key={part} data-empty={files[part] ? undefined : true}>
          <b>{PARTS[part].title}</b>
          <span className="grow breakable">
            {files[part] ? (
              <>
                {files[part].name} <span className="soft number">{bytes(files[part].size)}</span>
              </>
            ) : (
              <span className="soft">{PARTS[part].what}</span>
            )}
          </span>
          {progress[part] ? (
            <Sent progress={progress[part]} />
          ) : (
            files[part] &&
            !busy && (
              <Button
                size="xs"
                variant="default"
                aria-label={`Take off ${files[part].name}`}
                onClick={() => change({ ...files, [part]: undefined })}
              >
                Take off
              </Button>
            )
          )}
        </li>
      ))}
    </ul>
  );
}

const WORDS: Record<Progress["stage"], string> = {
  hashing: "Digest",
  sending: "Sent",
  waiting: "The connection is lost; it goes on by itself",
  there: "There",
};

function Sent({ progress: { stage, done, total } }: { progress: Progress }) {
  return (
    <div
      style={{ minWidth: 190 }}
      role="progressbar"
      aria-label={WORDS[stage]}
      aria-valuemin={0}
      aria-valuemax={total}
      aria-valuenow={done}
    >
      <Measure
        text={stage === "there" ? "There" : `${WORDS[stage]} · ${bytes(done)} of ${bytes(total)}`}
        share={total ? done / total : 1}
        fill={stage === "there" ? "good" : stage === "waiting" ? "warn" : "busy"}
      />
    </div>
  );
}

interface OptionsProps {
  wishes: Wishes;
  name: string;
  change: (part: Partial<Wishes>) => void;
}

function Options({ wishes, name, change }: OptionsProps) {
  return (
    <div className="thirds level">
      <TextInput
        label="Name"
        description="Of the model; a known one gets a new version"
        placeholder={name || "by the file's name"}
        maxLength={64}
        spellCheck={false}
        autoComplete="off"
        error={wishes.name && !NAME.test(wishes.name) ? "small letters, digits, - and _" : undefined}
        value={wishes.name}
        onChange={(event) => change({ name: event.currentTarget.value.trim() })}
      />
      <TextInput
        label="Version"
        description="Empty: the next free number"
        maxLength={64}
        spellCheck={false}
        autoComplete="off"
        error={wishes.version && !VERSION.test(wishes.version) ? "letters, digits and . _ + -" : undefined}
        value={wishes.version}
        onChange={(event) => change({ version: event.currentTarget.value.trim() })}
      />
      <TextInput
        label="Parent"
        description="The version that it was trained from"
        maxLength={64}
        spellCheck={false}
        autoComplete="off"
        value={wishes.parent}
        onChange={(event) => change({ parent: event.currentTarget.value.trim() })}
      />
      <NumberInput
        label="Largest loss, points"
        description="Against fp32; empty: the model's policy, or 1"
        min={0}
        max={100}
        decimalScale={2}
        value={wishes.maxDrop ?? ""}
        onChange={(value) => change({ maxDrop: value === "" ? null : Number(value) })}
      />
      <MultiSelect
        label="May be made"
        description="With int8, one int8 variant must pass"
        data={["fp32", "fp16", "int8"]}
        value={wishes.precisions}
        onChange={(value) => change({ precisions: value as Wishes["precisions"] })}
      />
      <TagsInput
        label="Must reach"
        description="Of every variant"
        placeholder={wishes.require.length ? undefined : "accuracy>=0.9"}
        maxTags={16}
        value={wishes.require}
        onChange={(value) => change({ require: value.map((one) => one.trim()).filter(Boolean) })}
      />
    </div>
  );
}

function commandOf(files: Files, wishes: Wishes): string {
  const named = ORDER.filter((part) => part !== "model" && files[part]).map((part): [string, string] => [part, files[part]!.name]);
  const usual = wishes.precisions.join() === USUAL.join();
  return pushCommand({
    file: files.model?.name ?? "",
    name: files.model && wishes.name === stemOf(files.model.name) ? "" : wishes.name,
    version: wishes.version,
    files: named,
    maxDrop: wishes.maxDrop,
    precisions: usual ? [] : wishes.precisions,
    require: wishes.require,
    parent: wishes.parent,
  });
}
