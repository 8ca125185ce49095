// How careful devices are with a new version. Folded away: what is usual suits most rollouts.
import { useEffect, useRef, useState } from "react";
import { NumberInput, Switch, TagsInput, TextInput } from "@mantine/core";

import { api } from "../api/client";
import { plural, span } from "../format";
import { USUAL as CHOICE, type Safety } from "../rollouts/choice";
import { Icon } from "./Icon";

const USUAL = CHOICE.safety;

interface SafetyPanelProps {
  model: string;
  safety: Safety;
  change: (part: Partial<Safety>) => void;
  /** What the server said against a field, by its place in the request. */
  refused: Record<string, string>;
}

const WEEK_S = 7 * 86_400;

export function SafetyPanel({ model, safety, change, refused }: SafetyPanelProps) {
  const [open, setOpen] = useState(false);
  const place = useRef<HTMLDetailsElement>(null);
  const wrong = (name: string) =>
    Object.entries(refused).find(([field]) => field === `policy.${name}` || field.startsWith(`policy.${name}.`))?.[1];
  const trouble = Object.keys(refused).some((field) => field.startsWith("policy."));
  useEffect(() => {
    if (trouble) setOpen(true);
  }, [trouble, refused]);
  useEffect(() => {
    // The first field that was refused, once it can be seen.
    if (trouble && open) place.current?.querySelector<HTMLElement>("input[aria-invalid=true], [data-error] input")?.focus();
  }, [trouble, open, refused]);
  return (
    <section className="panel">
      <details ref={place} className="advanced" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <h2>
            <Icon name="right" size={15} />
            Advanced
          </h2>
          <span className="soft small">{chosen(safety)}</span>
        </summary>
        {open && (
          <div className="stack" style={{ padding: "2px 18px 18px" }}>
            <Before model={model} safety={safety} change={change} wrong={wrong} />
            <Limits safety={safety} change={change} wrong={wrong} />
          </div>
        )}
      </details>
    </section>
  );
}

/** What differs from the usual, in a few words. */
function chosen(safety: Safety): string {
  const { shadowSeconds, windows, goesWith } = safety;
  const limits = (["errorRateMax", "latencyRatioMax", "classShiftMax", "disagreementMax"] as const).filter(
    (name) => safety[name] !== USUAL[name],
  );
  const parts = [
    shadowSeconds && `shadow for ${span(shadowSeconds)}`,
    windows && `only ${windows}`,
    limits.length && plural(limits.length, "own limit"),
    goesWith.length && `with ${goesWith.join(", ")}`,
    safety.forgive && "also where it was found bad",
  ].filter(Boolean);
  return parts.join(" · ") || "shadow, maintenance windows, limits, what switches together";
}

interface PartProps {
  safety: Safety;
  change: (part: Partial<Safety>) => void;
  wrong: (name: string) => string | undefined;
}

function Before({ model, safety, change, wrong }: PartProps & { model: string }) {
  const models = api.useQuery("get", "/api/v1/models", { params: { query: { limit: 200 } } });
  const others = models.data?.items.flatMap(({ name, latest }) => (latest && name !== model ? [`${name}@${latest.version}`] : [])) ?? [];
  return (
    <>
      <div className="halves">
        <NumberInput
          label="Shadow, seconds"
          description="Answers copies of live requests before it serves; 0: not at all"
          min={0}
          max={WEEK_S}
          error={wrong("shadow_s")}
          value={safety.shadowSeconds}
          onChange={(value) => change({ shadowSeconds: Math.max(0, Number(value) || 0) })}
        />
        <TextInput
          label="Maintenance windows"
          description="When devices may switch; empty: at any time"
          placeholder="mon-fri 02:00-04:00, sat 22:00-02:00 utc"
          maxLength={1024}
          spellCheck={false}
          autoComplete="off"
          error={wrong("windows")}
          value={safety.windows}
          onChange={(event) => change({ windows: event.currentTarget.value })}
        />
      </div>
      <TagsInput
        label="Goes with"
        description="Versions of other models that devices switch to in the same step, each with a rollout of its own"
        placeholder={safety.goesWith.length ? undefined : "model@version"}
        maxTags={15}
        error={wrong("goes_with")}
        data={others}
        clearable={false}
        comboboxProps={{ withinPortal: false }}
        value={safety.goesWith}
        onChange={(names) => change({ goesWith: names.map((name) => name.trim()).filter(Boolean) })}
      />
      <Switch
        label="Try again what devices found bad"
        description="Devices that remember this version as bad try it once more"
        checked={safety.forgive}
        onChange={(event) => change({ forgive: event.currentTarget.checked })}
      />
    </>
  );
}

function Limits({ safety, change, wrong }: PartProps) {
  return (
    <div>
      <h3 className="part">A model that is worse than this goes back. An empty limit is none.</h3>
      <div className="thirds">
        <NumberInput
          label="Failed requests, %"
          description="Of those under observation"
          min={0}
          max={100}
          decimalScale={2}
          error={wrong("error_rate_max")}
          value={percent(safety.errorRateMax)}
          onChange={(value) => change({ errorRateMax: shareOf(value) ?? USUAL.errorRateMax })}
        />
        <NumberInput
          label="Latency, times"
          description="By p95, of the model before"
          min={1}
          max={1000}
          error={wrong("latency_ratio_max")}
          value={safety.latencyRatioMax ?? ""}
          onChange={(value) => change({ latencyRatioMax: value === "" ? null : Number(value) })}
        />
        <NumberInput
          label="Class shift"
          description="Distance of its classes, 0 to 1"
          min={0}
          max={1}
          step={0.05}
          error={wrong("class_shift_max")}
          value={safety.classShiftMax ?? ""}
          onChange={(value) => change({ classShiftMax: value === "" ? null : Number(value) })}
        />
        <NumberInput
          label="Other answers, %"
          description="Of copied requests"
          min={0}
          max={100}
          decimalScale={2}
          error={wrong("disagreement_max")}
          value={percent(safety.disagreementMax)}
          onChange={(value) => change({ disagreementMax: shareOf(value) })}
        />
      </div>
    </div>
  );
}

function percent(share: number | null): number | "" {
  return share === null ? "" : Number((share * 100).toFixed(2));
}

function shareOf(value: string | number): number | null {
  return value === "" ? null : Number((Number(value) / 100).toFixed(4));
}
