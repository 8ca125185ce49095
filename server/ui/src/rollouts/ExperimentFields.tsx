// What a phase that is an experiment compares, and when it ends.
import { NumberInput, Select, TextInput } from "@mantine/core";

import { seconds } from "./durations";
import { RATES, type ExperimentChoice } from "./experiment";

interface ExperimentFieldsProps {
  /** Of the phase. */
  name: string;
  experiment: ExperimentChoice;
  set: (part: Partial<ExperimentChoice>) => void;
}

export function ExperimentFields({ name, experiment, set }: ExperimentFieldsProps) {
  return (
    <fieldset className="experiment" aria-label={`Experiment of phase ${name}`}>
      <Select
        label="Compared"
        w={150}
        allowDeselect={false}
        data={RATES}
        value={experiment.rate}
        onChange={(rate) => set({ rate: rate as ExperimentChoice["rate"] })}
      />
      {experiment.rate === "low_confidence" && (
        <NumberInput
          label="Unsure below"
          w={104}
          min={0.05}
          max={0.95}
          step={0.05}
          decimalScale={2}
          value={experiment.below}
          onChange={(value) => set({ below: Math.min(0.95, Math.max(0.05, Math.round(Number(value) * 20) / 20)) })}
        />
      )}
      <NumberInput
        label="May be higher by"
        w={126}
        min={0.01}
        max={90}
        suffix=" of 100"
        decimalScale={2}
        hideControls
        value={Number((experiment.margin * 100).toPrecision(6))}
        onChange={(value) => set({ margin: Math.min(0.9, Math.max(0.0001, Number((Number(value) / 100).toPrecision(6)))) })}
      />
      <NumberInput
        label="Wrong at most"
        w={112}
        min={0.01}
        max={20}
        suffix=" %"
        decimalScale={2}
        hideControls
        value={Number((experiment.alpha * 100).toPrecision(6))}
        onChange={(value) => set({ alpha: Math.min(0.2, Math.max(0.0001, Number((Number(value) / 100).toPrecision(6)))) })}
      />
      <Select
        label="Counts as one"
        w={120}
        allowDeselect={false}
        data={[
          { value: "device", label: "a device" },
          { value: "site", label: "a site" },
        ]}
        value={experiment.unit}
        onChange={(unit) => set({ unit: unit as ExperimentChoice["unit"] })}
      />
      <TextInput
        label="Ends after"
        w={92}
        maxLength={12}
        value={experiment.limit}
        error={(seconds(experiment.limit) ?? 0) < 60}
        onChange={(event) => set({ limit: event.currentTarget.value.trim() })}
      />
      <NumberInput
        label="or so many requests"
        placeholder="no limit"
        w={150}
        min={1000}
        max={1e12}
        allowDecimal={false}
        hideControls
        thousandSeparator=" "
        value={experiment.requests ?? ""}
        onChange={(value) => set({ requests: value === "" ? null : Math.max(1000, Number(value)) })}
      />
    </fieldset>
  );
}
