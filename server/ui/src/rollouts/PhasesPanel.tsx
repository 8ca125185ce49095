// In which steps: phases, what is between them, and who is waited for.
import { ActionIcon, Button, Checkbox, NumberInput, Select, TextInput } from "@mantine/core";

import { Icon } from "../components/Icon";
import { Panel } from "../components/Panels";
import { ExperimentFields } from "./ExperimentFields";
import { seconds } from "./durations";
import { EXPERIMENT } from "./experiment";
import { PHASES_MAX, faults, phaseName, type PhaseChoice } from "./choice";
import { GATES, type Gate, type GateChoice } from "./gates";
import type { PartProps } from "./TargetPanel";

const CANARY: PhaseChoice[] = [
  { name: "canary", amount: 5, unit: "devices" },
  { name: "", amount: 10, unit: "share" },
  { name: "", amount: 50, unit: "share" },
].map((phase) => ({ ...phase, where: "", soak: "", approval: false, experiment: null, gates: null }) as PhaseChoice);

export function PhasesPanel({ choice, change }: PartProps) {
  const { phases } = choice;
  const set = (index: number, part: Partial<PhaseChoice>) =>
    change({ phases: phases.map((phase, at) => (at === index ? { ...phase, ...part } : phase)) });
  const add = () => change({ phases: [...phases, next(phases.at(-1))] });
  const wrong = faults(choice);
  return (
    <Panel
      title="Phases"
      aside={
        phases.length === 0 ? (
          <Button size="xs" variant="default" onClick={() => change({ phases: CANARY })}>
            Begin with a canary
          </Button>
        ) : (
          <Button size="xs" variant="default" onClick={() => change({ phases: [] })}>
            All at once
          </Button>
        )
      }
    >
      {phases.length === 0 ? (
        <p className="soft small">
          All devices at once, as many at a time as is allowed below. With phases, a few devices prove the version before the others get it.
        </p>
      ) : (
        <div className="stack">
          <ol className="phase-rows" aria-label="Phases">
            {phases.map((phase, index) => (
              <PhaseRow
                key={index}
                phase={phase}
                index={index}
                soak={choice.soak}
                common={choice.gates}
                set={(part) => set(index, part)}
                remove={() => change({ phases: phases.filter((_, at) => at !== index) })}
              />
            ))}
            <li className="soft">
              <span className="number">{phases.length + 1}</span>
              <span className="rest">then all the others</span>
            </li>
          </ol>
          {wrong.phases && (
            <p className="small" role="alert" style={{ color: "var(--bad)" }}>
              {wrong.phases}
            </p>
          )}
          <div>
            <Button size="xs" variant="default" disabled={phases.length >= PHASES_MAX} leftSection={<Icon name="plus" size={14} />} onClick={add}>
              Add a phase
            </Button>
          </div>
          <TextInput
            label="Soak"
            description="Watched for so long at the end of each phase but the last, where it has none of its own: 90, 10m, 2h"
            placeholder="none"
            maw={320}
            value={choice.soak}
            error={wrong.soak}
            onChange={(event) => change({ soak: event.currentTarget.value.trim() })}
          />
          <div>
            <h3 className="part">Gates: what must hold for the next phase to begin. An empty one is not asked.</h3>
            <div className="thirds">
              <GateInputs chosen={choice.gates} set={(gates) => change({ gates })} />
            </div>
          </div>
        </div>
      )}
    </Panel>
  );
}

/** Twice as far as the one before. */
function next(last: PhaseChoice | undefined): PhaseChoice {
  const amount = last?.unit === "share" ? Math.min(100, last.amount * 2) : 10;
  return last ? { ...CANARY[1]!, amount } : CANARY[0]!;
}

interface PhaseRowProps {
  phase: PhaseChoice;
  index: number;
  /** Of phases that have none of their own. */
  soak: string;
  /** Gates of phases that have none of their own. */
  common: GateChoice;
  set: (part: Partial<PhaseChoice>) => void;
  remove: () => void;
}

function PhaseRow({ phase, index, soak, common, set, remove }: PhaseRowProps) {
  const name = phaseName(phase, index);
  return (
    <li>
      <span className="number soft">{index + 1}</span>
      <TextInput
        aria-label={`Name of phase ${index + 1}`}
        placeholder={String(index + 1)}
        w={112}
        maxLength={32}
        spellCheck={false}
        value={phase.name}
        onChange={(event) => set({ name: event.currentTarget.value.toLowerCase().replaceAll(/[^a-z0-9_-]|^[_-]+/g, "") })}
      />
      {phase.unit === "where" ? (
        <TextInput
          aria-label={`Selector of phase ${name}`}
          placeholder="tag=canary"
          w={170}
          maxLength={1024}
          spellCheck={false}
          classNames={{ input: "mono" }}
          value={phase.where}
          onChange={(event) => set({ where: event.currentTarget.value })}
        />
      ) : (
        <NumberInput
          aria-label={`Size of phase ${name}`}
          w={82}
          min={phase.unit === "share" ? 0.1 : 1}
          max={phase.unit === "share" ? 100 : 100_000}
          allowDecimal={phase.unit === "share"}
          decimalScale={1}
          hideControls
          value={phase.amount}
          onChange={(value) => set({ amount: Math.max(phase.unit === "share" ? 0.1 : 1, Number(value) || 0) })}
        />
      )}
      <Select
        aria-label={`Unit of phase ${name}`}
        w={132}
        allowDeselect={false}
        data={[
          { value: "devices", label: "devices" },
          { value: "share", label: "% of all" },
          { value: "where", label: "by selector" },
        ]}
        value={phase.unit}
        onChange={(unit) =>
          set({
            unit: unit as PhaseChoice["unit"],
            amount: unit === "share" ? Math.min(100, phase.amount) : Math.ceil(phase.amount),
          })
        }
      />
      <TextInput
        aria-label={`Soak of phase ${name}`}
        leftSection={<span className="soft small">soak</span>}
        leftSectionWidth={46}
        placeholder={soak || "none"}
        w={112}
        maxLength={12}
        value={phase.soak}
        error={phase.soak !== "" && seconds(phase.soak) === null}
        onChange={(event) => set({ soak: event.currentTarget.value.trim() })}
      />
      <Checkbox
        label="compare"
        aria-label={`Experiment in phase ${name}`}
        checked={phase.experiment !== null}
        onChange={(event) => set({ experiment: event.currentTarget.checked ? EXPERIMENT : null })}
      />
      <Checkbox
        label="own gates"
        aria-label={`Gates of phase ${name} alone`}
        checked={phase.gates !== null}
        onChange={(event) => set({ gates: event.currentTarget.checked ? {} : null })}
      />
      <Checkbox
        label="then ask me"
        aria-label={`Approval after phase ${name}`}
        checked={phase.approval}
        onChange={(event) => set({ approval: event.currentTarget.checked })}
      />
      <ActionIcon aria-label={`Remove phase ${name}`} onClick={remove}>
        <Icon name="cross" size={15} />
      </ActionIcon>
      {phase.experiment && (
        <ExperimentFields name={name} experiment={phase.experiment} set={(part) => set({ experiment: { ...phase.experiment!, ...part } })} />
      )}
      {phase.gates && (
        <fieldset className="experiment" aria-label={`Gates of phase ${name}`}>
          <div className="thirds grow">
            <GateInputs chosen={phase.gates} common={common} set={(gates) => set({ gates })} />
          </div>
        </fieldset>
      )}
    </li>
  );
}

interface GateInputsProps {
  chosen: GateChoice;
  /** What counts where nothing is chosen. */
  common?: GateChoice;
  set: (chosen: GateChoice) => void;
}

function GateInputs({ chosen, common = {}, set }: GateInputsProps) {
  return GATES.map((gate) => (
    <GateInput
      key={gate.field}
      gate={gate}
      value={chosen[gate.field]}
      otherwise={common[gate.field]}
      set={(value) => {
        const { [gate.field]: _, ...others } = chosen;
        set(value === undefined ? others : { ...others, [gate.field]: value });
      }}
    />
  ));
}

interface GateInputProps {
  gate: Gate;
  value: number | undefined;
  otherwise: number | undefined;
  set: (value: number | undefined) => void;
}

function GateInput({ gate, value, otherwise, set }: GateInputProps) {
  const shown = (of: number) => Number((of / gate.factor).toPrecision(9));
  return (
    <NumberInput
      label={`${gate.label} ${gate.operator === "<=" ? "≤" : "≥"}`}
      description={gate.description}
      min={gate.min}
      max={gate.max}
      suffix={gate.suffix}
      allowDecimal={!gate.whole}
      decimalScale={3}
      hideControls
      placeholder={otherwise === undefined ? "not asked" : `${shown(otherwise)}${gate.suffix}`}
      value={value === undefined ? "" : shown(value)}
      onChange={(typed) => set(typed === "" ? undefined : Number((Number(typed) * gate.factor).toPrecision(9)))}
    />
  );
}
