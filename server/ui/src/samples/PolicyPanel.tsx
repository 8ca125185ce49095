// What of a model's inputs may leave devices: nothing until an admin says so, and what that costs.
import { useState } from "react";
import { Checkbox, Modal, NumberInput, Select, Slider, TextInput } from "@mantine/core";
import { Link } from "react-router";

import { api, fetchClient, type Schemas } from "../api/client";
import { setNewest } from "../api/refresh";
import { Action } from "../components/Action";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Facts, Note, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { useSubmit } from "../components/useSubmit";
import { samplePolicy } from "../cli";
import { bytes, count, share } from "../format";
import { REASONS, reasonWords, type Reason } from "./reasons";

type Policy = Schemas["SamplePolicyInfo"];

const MB = 1_000_000;
const BYTES_MAX = 1024 ** 3;
const DAY_S = 86_400;

const isOn = (policy: Pick<Policy, "bytes_per_day" | "reasons">) => policy.bytes_per_day > 0 && policy.reasons.length > 0;

/** Devices that are to run a model, and how large its newest sample is. */
function useScale(model: string) {
  const { data: found } = api.useQuery("get", "/api/v1/models/{name}", { params: { path: { name: model } } });
  const { data: page } = api.useQuery("get", "/api/v1/samples", { params: { query: { model, limit: 1 } } });
  return { devices: found?.devices_desired, each: page?.items[0]?.length };
}

export function PolicyPanel({ model }: { model: string }) {
  const [open, setOpen] = useState(false);
  const query = api.useQuery("get", "/api/v1/models/{name}/samples", { params: { path: { name: model } } }, { refetchInterval: 30_000 });
  const policy = query.data;
  const on = policy && isOn(policy);
  return (
    <Panel
      id="policy"
      title={`What of ${model} may leave devices`}
      aside={
        policy && (
          <Action needs="admin" icon="settings" variant="default" onClick={() => setOpen(true)}>
            Change
          </Action>
        )
      }
    >
      {Boolean(query.error) && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!policy} />}
      {policy && (
        <div className="halves">
          <Facts
            rows={[
              ["Now", on ? <b key="n">samples, by policy</b> : <b key="n">nothing leaves a device</b>],
              ["A day and device", on ? bytes(policy.bytes_per_day) : "–"],
              ["Why", on ? policy.reasons.map(reasonWords).join(", ") : "–"],
              ["Sealed to", on ? sealWords(policy) : "–"],
              ["Random control", on ? share(policy.random_share, 0) : "–"],
              [
                "Changed",
                policy.changed_at ? (
                  <>
                    <Time at={policy.changed_at} /> by {policy.changed_by}
                  </>
                ) : (
                  "never: that is how it is from the beginning"
                ),
              ],
            ]}
          />
          <div className="stack" style={{ gap: 10 }}>
            {on && <Cost model={model} budget={policy.bytes_per_day} />}
            <Privacy />
          </div>
        </div>
      )}
      {policy && (
        <Modal opened={open} onClose={() => setOpen(false)} title={`What of ${model} may leave devices`} size="lg">
          <Form model={model} policy={policy} close={() => setOpen(false)} />
        </Modal>
      )}
    </Panel>
  );
}

const SEALS = [
  { value: "server", label: "The server's own key: it opens them when they come" },
  { value: "key", label: "A key that this server doesn't have" },
  { value: "none", label: "No key: they travel, and lie on devices, as they are" },
];
const PUBLIC_KEY = /^[A-Za-z0-9+/]{43}=$/;

function sealWords(policy: Policy) {
  if (policy.seal === "none") return "no key: they travel as they are";
  if (policy.seal === "server") return "the server's own key";
  return (
    <>
      the key <span className="mono">{policy.key}</span>, which this server doesn&apos;t have
    </>
  );
}

/** What a budget means for the whole fleet. */
function Cost({ model, budget }: { model: string; budget: number }) {
  const { devices, each } = useScale(model);
  if (devices === undefined) return null;
  const samples = each ? Math.min(DAY_S, Math.floor(budget / each)) : null;
  return (
    <div className="consequences small" role="status">
      <p>
        At most <b className="number">{bytes(budget * devices)}</b> a day from{" "}
        <Link className="underlined" to={`/fleet?where=${encodeURIComponent(`model=${model}`)}`}>
          {count(devices)} devices
        </Link>{" "}
        that are to run {model}, {bytes(budget * devices * 30)} in 30 days.
      </p>
      <p className="soft">
        {samples === null
          ? "How many samples that are is known when the first has come."
          : samples > 0
            ? `A sample has ${bytes(each)}: up to ${count(samples)} a day and device, one each ${every(samples)}.`
            : `A sample has ${bytes(each)}, more than the budget of a day: none would leave.`}
      </p>
    </div>
  );
}

function every(samples: number): string {
  const seconds = DAY_S / samples;
  return seconds < 90 ? `${seconds.toFixed(0)} s` : seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function Privacy() {
  return (
    <ul className="small soft bullets">
      <li>Samples are inputs as they were, such as pictures of people: ask whoever is in them.</li>
      <li>Devices seal them before they are written, and their owners can have them redacted before that.</li>
      <li>The policy travels in signed orders; a device whose owner sets samples = false sends nothing, whatever is said here.</li>
      <li>Only operators see what is in a sample, and the audit log tells who has.</li>
      <li>They are deleted after the days that the server keeps them, or when somebody deletes them.</li>
    </ul>
  );
}

function Form({ model, policy, close }: { model: string; policy: Policy; close: () => void }) {
  const [budget, setBudget] = useState<number | string>(policy.bytes_per_day / MB);
  const [reasons, setReasons] = useState<Reason[]>(policy.reasons);
  const [control, setControl] = useState(policy.random_share);
  const own = policy.seal !== "server" && policy.seal !== "none";
  const [holder, setHolder] = useState(own ? "key" : policy.seal);
  const [key, setKey] = useState(own ? policy.seal : "");
  const seal = holder === "key" ? key.trim() : holder;
  const chosen = { bytes_per_day: Math.round(Number(budget || 0) * MB), reasons, random_share: control, seal };
  const wrongKey = holder === "key" && !PUBLIC_KEY.test(seal);
  const on = isOn(chosen);
  const send = async () => {
    const path = { params: { path: { name: model } } };
    const { data } = await fetchClient.PUT("/api/v1/models/{name}/samples", { ...path, body: { ...chosen, revision: policy.revision } });
    setNewest(api.queryOptions("get", "/api/v1/models/{name}/samples", path).queryKey, data);
  };
  const { busy, error, onSubmit } = useSubmit(send, { close, incomplete: wrongKey });
  return (
    <form className="stack" onSubmit={onSubmit}>
      <NumberInput
        label="Budget of a device and day, in MB"
        description="0: nothing leaves. Spread over the day, so that a bad morning does not spend it."
        min={0}
        max={BYTES_MAX / MB}
        decimalScale={3}
        suffix=" MB"
        value={budget}
        onChange={setBudget}
      />
      <Checkbox.Group label="Why samples may be taken" value={reasons} onChange={(values) => setReasons(values as Reason[])}>
        <div className="stack" style={{ gap: 8, marginTop: 6 }}>
          {REASONS.map(({ value, label, means }) => (
            <Checkbox key={value} value={value} label={label} description={means} />
          ))}
        </div>
      </Checkbox.Group>
      <div>
        <label htmlFor="control" style={{ fontWeight: 500 }}>
          Random control: {share(control, 0)} of samples
        </label>
        <Slider
          id="control"
          thumbLabel="Random control, in percent"
          min={0}
          max={1}
          step={0.05}
          label={(value) => share(value, 0)}
          value={control}
          onChange={setControl}
        />
      </div>
      <Select label="Sealed on the device to" allowDeselect={false} data={SEALS} value={holder} onChange={(value) => setHolder(value ?? "server")} />
      {holder === "key" && (
        <>
          <TextInput
            label="Public key"
            description="Of `edgectl samples key create FILE`: what is in FILE.pub."
            className="mono"
            value={key}
            error={key && wrongKey ? "This is no public key: it has 44 characters" : undefined}
            onChange={(event) => setKey(event.currentTarget.value)}
          />
          <Note icon="key">Nobody can look at such samples or label them here, and no datasets are made of them.</Note>
        </>
      )}
      {on ? (
        <Cost model={model} budget={chosen.bytes_per_day} />
      ) : (
        <Note icon="info">Nothing leaves a device. What devices have kept for the policy before they delete.</Note>
      )}
      {on && <Privacy />}
      <Equivalent text={samplePolicy(model, chosen.bytes_per_day, reasons, control, seal || undefined)} />
      {error != null && <ErrorPanel error={error} />}
      <div className="row" style={{ justifyContent: "flex-end" }}>
        <Action needs="viewer" variant="default" onClick={close}>
          Cancel
        </Action>
        <Action needs="admin" submit loading={busy}>
          {on ? "Let samples leave" : "Let nothing leave"}
        </Action>
      </div>
    </form>
  );
}
