import { useState, type FormEvent } from "react";
import { Select } from "@mantine/core";
import { Link, useNavigate } from "react-router";

import { api, asApiError, fetchClient } from "../api/client";
import { Action } from "../components/Action";
import { Equivalent } from "../components/Command";
import { Confirm } from "../components/Confirm";
import { ErrorPanel, Head, Note, Panel } from "../components/Panels";
import { SafetyPanel } from "../components/SafetyPanel";
import { bytes, count, plural } from "../format";
import { missing, request, startRollout } from "../rollouts/choice";
import { PacePanel } from "../rollouts/PacePanel";
import { PhasesPanel } from "../rollouts/PhasesPanel";
import { Preview, useForecast, type Forecast } from "../rollouts/Preview";
import { TargetPanel, type PartProps } from "../rollouts/TargetPanel";
import { useChoice } from "../rollouts/useChoice";
import { useRefusal } from "../session";

/** A first phase of more devices than this, and of most that there are, is no canary. */
const CANARY_MAX = 10;

export function StartRolloutPage() {
  const navigate = useNavigate();
  const [choice, change] = useChoice();
  const [busy, setBusy] = useState(false);
  const [asked, setAsked] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const forecast = useForecast(choice);
  const refusal = useRefusal("operator");
  const lacks = missing(choice);
  const first = forecast.data ? unproved(forecast.data) : 0;

  const start = async () => {
    const { data } = await fetchClient.POST("/api/v1/rollouts", { body: request(choice) });
    void navigate(`/rollouts/${data!.id}`);
  };
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (refusal || lacks || busy || !forecast.fresh) return;
    setError(null);
    if (first) {
      setAsked(true);
      return;
    }
    setBusy(true);
    try {
      await start();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };

  const refused = [error, forecast.error].flatMap((one) => (one == null ? [] : [asApiError(one).fields]));
  return (
    <>
      <Head crumbs={[["Rollouts", "/rollouts"]]} title="Start rollout" under="The address of this page holds the whole form: a link to it opens the same." />
      {refusal && (
        <div style={{ marginBottom: 18 }}>
          <Note>{refusal} You can plan a rollout here, and send the link to somebody who may start it.</Note>
        </div>
      )}
      <form className="columns wizard" onSubmit={(event) => void submit(event)}>
        <div className="stack">
          <WhatPanel choice={choice} change={change} />
          <TargetPanel choice={choice} change={change} />
          <PhasesPanel choice={choice} change={change} />
          <PacePanel choice={choice} change={change} />
          <SafetyPanel
            model={choice.model}
            safety={choice.safety}
            change={(part) => {
              change({ safety: { ...choice.safety, ...part } });
              setError(null); // what was said against a field is no longer about what stands there
            }}
            refused={Object.assign({}, ...refused)}
          />
        </div>
        <div className="stack beside">
          <Panel title="Preview" aside={<span className="soft small">nothing is started</span>}>
            <Preview query={forecast} lacks={lacks} choice={choice} />
          </Panel>
          <Panel>
            <div className="stack">
              <Equivalent text={startRollout(choice)} />
              {error != null && <ErrorPanel error={error} />}
              <Action
                needs="operator"
                submit
                loading={busy}
                blocked={lacks ?? (forecast.fresh ? null : forecast.error ? "The preview says why it cannot start." : "Waits for the preview.")}
                icon="rollout"
                fullWidth
              >
                Start rollout
              </Action>
              {lacks && <p className="soft small">{lacks}</p>}
            </div>
          </Panel>
        </div>
      </form>
      <Confirm
        opened={asked}
        close={() => setAsked(false)}
        title="Start without a canary"
        action={`Start on ${plural(first, "device")}`}
        danger
        typed={String(first)}
        command={() => startRollout(choice)}
        confirm={start}
      >
        <p>
          Its first phase has <b>{plural(first, "device")}</b>
          {forecast.data && first < forecast.data.devices ? ` of ${count(forecast.data.devices)}` : ", all that there are"}. If the version is
          bad in a way that devices do not notice by themselves, all of them have it before anybody sees that. A canary of a few devices costs
          some minutes.
        </p>
      </Confirm>
    </>
  );
}

/** How many devices get it first, where that is no canary; 0 where it is one. */
function unproved({ devices, phases }: Forecast): number {
  const first = phases[0]?.devices ?? 0;
  return first > CANARY_MAX && first > devices / 2 ? first : 0;
}

function WhatPanel({ choice, change }: PartProps) {
  const models = api.useQuery("get", "/api/v1/models", { params: { query: { limit: 200 } } });
  const versions = api.useQuery(
    "get",
    "/api/v1/models/{name}/versions",
    { params: { path: { name: choice.model }, query: { limit: 200 } } },
    { enabled: choice.model !== "" },
  );
  const ready = versions.data?.items.filter((version) => version.state === "ready") ?? [];
  return (
    <Panel title="What">
      <div className="halves">
        <Select
          label="Model"
          placeholder="Choose a model"
          searchable
          data={models.data?.items.map((model) => model.name) ?? []}
          value={choice.model || null}
          onChange={(model) => change({ model: model ?? "", version: "" })}
        />
        <Select
          label="Version"
          placeholder={choice.model ? "Choose a version" : "Choose a model first"}
          disabled={!choice.model}
          nothingFoundMessage="No version is ready"
          data={ready.map((version) => ({
            value: version.version,
            label: version.best ? `${version.version} (${bytes(version.best.model_bytes)}, ${version.best.variant})` : version.version,
          }))}
          value={choice.version || null}
          onChange={(version) => change({ version: version ?? "" })}
        />
      </div>
      {choice.model && versions.data && ready.length === 0 && (
        <p className="soft small" style={{ marginTop: 10 }}>
          No version of {choice.model} is ready. <Link to={`/models/${choice.model}`}>See its versions</Link>
        </p>
      )}
      {models.data?.total === 0 && (
        <p className="soft small" style={{ marginTop: 10 }}>
          No model has been pushed yet. <Link to="/models">How to push one</Link>
        </p>
      )}
    </Panel>
  );
}
