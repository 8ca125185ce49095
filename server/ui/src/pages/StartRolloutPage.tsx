import { useState, type FormEvent } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { MultiSelect, NumberInput, SegmentedControl, Select, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { Link, useNavigate, useSearchParams } from "react-router";

import { api, asApiError, fetchClient, type Schemas } from "../api/client";
import { Action } from "../components/Action";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Head, Panel } from "../components/Panels";
import { SafetyPanel } from "../components/SafetyPanel";
import { startRollout, USUAL, type RolloutChoice } from "../cli";
import { bytes, count, plural, span } from "../format";

const CHOICES_MAX = 50;

export function StartRolloutPage() {
  const [parameters] = useSearchParams();
  const navigate = useNavigate();
  const device = parameters.get("device");
  const [choice, setChoice] = useState<RolloutChoice>({
    model: parameters.get("model") ?? "",
    version: parameters.get("version") ?? "",
    devices: device ? [device] : "all",
    maxInProgress: 100,
    failuresMax: 1,
    observeSeconds: 10,
    safety: USUAL,
  });
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const change = (part: Partial<RolloutChoice>) => setChoice((before) => ({ ...before, ...part }));
  const missing = lacks(choice);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (missing || busy) return;
    setBusy(true);
    setError(null);
    try {
      const { data } = await fetchClient.POST("/api/v1/rollouts", { body: request(choice) });
      void navigate(`/rollouts/${data!.id}`);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };

  return (
    <>
      <Head crumbs={[["Rollouts", "/rollouts"]]} title="Start rollout" />
      <form className="columns" onSubmit={(event) => void submit(event)}>
        <div className="stack">
          <What choice={choice} change={change} />
          <Where choice={choice} change={change} />
          <How choice={choice} change={change} />
          <SafetyPanel
            model={choice.model}
            safety={choice.safety}
            change={(part) => {
              change({ safety: { ...choice.safety, ...part } });
              setError(null); // what was said against a field is no longer about what stands there
            }}
            refused={error === null ? {} : asApiError(error).fields}
          />
        </div>
        <Review choice={choice} missing={missing} busy={busy} error={error} />
      </form>
    </>
  );
}

interface PartProps {
  choice: RolloutChoice;
  change: (part: Partial<RolloutChoice>) => void;
}

function lacks(choice: RolloutChoice): string | null {
  if (!choice.model) return "Choose a model.";
  if (!choice.version) return "Choose a version.";
  if (Array.isArray(choice.devices) && !choice.devices.length) return "Choose at least one device.";
  if (groupOf(choice) === "") return "Name a group.";
  return null;
}

/** Undefined where the choice is not by group. */
function groupOf({ devices }: RolloutChoice): string | undefined {
  return typeof devices === "object" && !Array.isArray(devices) ? devices.group : undefined;
}

function request(choice: RolloutChoice): Schemas["RolloutRequest"] {
  const all = choice.devices === "all";
  const { safety } = choice;
  return {
    model: choice.model,
    version: choice.version,
    selector: { all, devices: Array.isArray(choice.devices) ? choice.devices : [], group: groupOf(choice) ?? "", where: "" },
    policy: {
      max_in_progress: choice.maxInProgress,
      failures_max: choice.failuresMax,
      observe_s: choice.observeSeconds,
      shadow_s: safety.shadowSeconds,
      windows: safety.windows,
      error_rate_max: safety.errorRateMax,
      latency_ratio_max: safety.latencyRatioMax,
      class_shift_max: safety.classShiftMax,
      disagreement_max: safety.disagreementMax,
      goes_with: safety.goesWith,
      forgive: safety.forgive,
      phases: [],
      gates: { committed_min: 1, requests_min: 100 },
      on_deadline: "leave",
      priority: 0,
    },
  };
}

function What({ choice, change }: PartProps) {
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
          description={undefined}
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
    </Panel>
  );
}

function Where({ choice, change }: PartProps) {
  const fleet = api.useQuery("get", "/api/v1/fleet");
  const [typed, setTyped] = useState("");
  const [wanted] = useDebouncedValue(typed, 250);
  const chosen = Array.isArray(choice.devices) ? choice.devices : [];
  const group = groupOf(choice);
  const inGroup = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { group, limit: 1 } } },
    { enabled: Boolean(group), placeholderData: keepPreviousData },
  );
  const found = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { q: wanted || undefined, limit: CHOICES_MAX } } },
    { enabled: Array.isArray(choice.devices), placeholderData: keepPreviousData },
  );
  const devices = found.data?.items ?? [];
  const options = [
    ...devices.map((device) => ({ value: device.id, label: device.online ? device.id : `${device.id} (offline)` })),
    ...chosen.filter((id) => !devices.some((device) => device.id === id)).map((id) => ({ value: id, label: id })),
  ];
  return (
    <Panel title="Where">
      <div className="stack" style={{ gap: 12 }}>
        <SegmentedControl
          aria-label="Devices"
          style={{ alignSelf: "flex-start" }}
          data={[
            { value: "all", label: fleet.data ? `All devices (${count(fleet.data.devices)})` : "All devices" },
            { value: "group", label: "A group" },
            { value: "chosen", label: "Chosen devices" },
          ]}
          value={choice.devices === "all" ? "all" : group === undefined ? "chosen" : "group"}
          onChange={(value) => change({ devices: value === "all" ? "all" : value === "group" ? { group: "" } : [] })}
        />
        {choice.devices === "all" ? (
          <p className="soft small">Every device that is enrolled when the rollout starts. Those that are offline follow when they come back.</p>
        ) : group !== undefined ? (
          <TextInput
            label="Group"
            placeholder="site-a"
            w={220}
            maxLength={64}
            spellCheck={false}
            description={group && inGroup.data ? `${plural(inGroup.data.total, "device")} now` : "As given when the devices enrolled"}
            value={group}
            onChange={(event) => change({ devices: { group: event.currentTarget.value.trim() } })}
          />
        ) : (
          <MultiSelect
            label="Devices"
            placeholder={chosen.length ? undefined : "Type to search"}
            searchable
            hidePickedOptions
            nothingFoundMessage="No device matches"
            clearButtonProps={{ "aria-label": "Remove all", size: "24px" }}
            data={options}
            filter={({ options: all }) => all}
            searchValue={typed}
            onSearchChange={setTyped}
            value={chosen}
            onChange={(ids) => change({ devices: ids })}
          />
        )}
      </div>
    </Panel>
  );
}

function How({ choice, change }: PartProps) {
  const whole = (value: string | number, least: number) => Math.max(least, Math.round(Number(value) || least));
  return (
    <Panel title="How">
      <div className="thirds">
        <NumberInput
          label="At the same time"
          description="Devices in progress at most"
          min={1}
          allowDecimal={false}
          value={choice.maxInProgress}
          onChange={(value) => change({ maxInProgress: whole(value, 1) })}
        />
        <NumberInput
          label="Pause after failures"
          description="Failed, rejected or rolled back"
          min={1}
          allowDecimal={false}
          value={choice.failuresMax}
          onChange={(value) => change({ failuresMax: whole(value, 1) })}
        />
        <NumberInput
          label="Observe, seconds"
          description="Serving, before it is committed"
          min={0}
          max={7 * 86400}
          value={choice.observeSeconds}
          onChange={(value) => change({ observeSeconds: Math.max(0, Number(value) || 0) })}
        />
      </div>
    </Panel>
  );
}

interface ReviewProps {
  choice: RolloutChoice;
  missing: string | null;
  busy: boolean;
  error: unknown;
}

function Review({ choice, missing, busy, error }: ReviewProps) {
  const { model, version, devices, safety } = choice;
  const where =
    devices === "all" ? "all enrolled devices" : Array.isArray(devices) ? plural(devices.length, "device") : `the group ${devices.group || "…"}`;
  return (
    <div className="stack" style={{ position: "sticky", top: 16 }}>
      <Panel title="Review">
        <div className="stack">
          <p>
            <b>
              {model || "A model"} {version}
            </b>{" "}
            goes to <b>{where}</b>, at most {plural(choice.maxInProgress, "device")} at a time. Each proves it in a trial on its own
            hardware, {safety.shadowSeconds > 0 && <>lets it answer copies of live requests for {span(safety.shadowSeconds)}, </>}
            {safety.windows && <>waits for its maintenance window, </>}
            {safety.goesWith.length > 0 && <>switches together with {safety.goesWith.join(" and ")}, </>}then serves it for {choice.observeSeconds} s under observation, and goes back by itself if it misbehaves. The
            rollout pauses after {plural(choice.failuresMax, "failure")}.
          </p>
          <Equivalent text={startRollout(choice)} />
          {error != null && <ErrorPanel error={error} />}
          <Action needs="operator" submit loading={busy} blocked={missing} icon="rollout" fullWidth>
            Start rollout
          </Action>
          {missing && <p className="soft small">{missing}</p>}
        </div>
      </Panel>
    </div>
  );
}
