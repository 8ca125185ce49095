// How fast, and how much may go wrong meanwhile.
import { NumberInput, SegmentedControl, TextInput } from "@mantine/core";

import { Panel } from "../components/Panels";
import { faults } from "./choice";
import type { PartProps } from "./TargetPanel";

export function PacePanel({ choice, change }: PartProps) {
  const wrong = faults(choice);
  const whole = (value: string | number, least: number) => Math.max(least, Math.round(Number(value) || least));
  return (
    <Panel title="Pace">
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
          max={7 * 86_400}
          value={choice.observeSeconds}
          onChange={(value) => change({ observeSeconds: Math.max(0, Number(value) || 0) })}
        />
        <TextInput
          label="Stay available"
          description="Of each site, untouched: 2, or 50%"
          placeholder="no budget"
          value={choice.available}
          error={wrong.available}
          onChange={(event) => change({ available: event.currentTarget.value.trim() })}
        />
        <NumberInput
          label="Priority"
          description="On a device of two rollouts"
          min={-100}
          max={100}
          allowDecimal={false}
          value={choice.priority}
          onChange={(value) => change({ priority: Math.round(Number(value) || 0) })}
        />
        <div>
          <TextInput
            label="Deadline"
            description="Wait for offline devices: 2h, 3d"
            placeholder="for ever"
            value={choice.deadline}
            error={wrong.deadline}
            onChange={(event) => change({ deadline: event.currentTarget.value.trim() })}
          />
          {choice.deadline && (
            <SegmentedControl
              aria-label="What late devices are then"
              size="xs"
              mt={6}
              data={[
                { value: "leave", label: "leave behind" },
                { value: "fail", label: "count as failed" },
              ]}
              value={choice.onDeadline}
              onChange={(value) => change({ onDeadline: value as "leave" | "fail" })}
            />
          )}
        </div>
      </div>
    </Panel>
  );
}
