// Which devices: all, a group, those that a selector means, or named ones; with how many that are now.
import { useState } from "react";
import { keepPreviousData } from "@tanstack/react-query";
import { Autocomplete, MultiSelect, SegmentedControl, Textarea } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { Link } from "react-router";

import { api, asApiError, type ApiError } from "../api/client";
import { Panel } from "../components/Panels";
import { count, plural } from "../format";
import type { RolloutChoice, Target } from "./choice";

const CHOICES_MAX = 50;
const TYPING_MS = 300;

export interface PartProps {
  choice: RolloutChoice;
  change: (part: Partial<RolloutChoice>) => void;
}

export function TargetPanel({ choice, change }: PartProps) {
  const fleet = api.useQuery("get", "/api/v1/fleet");
  return (
    <Panel title="Where">
      <div className="stack" style={{ gap: 12 }}>
        <SegmentedControl
          aria-label="Devices"
          className="segments"
          data={[
            { value: "all", label: fleet.data ? `All (${count(fleet.data.devices)})` : "All" },
            { value: "group", label: "Group" },
            { value: "where", label: "Selector" },
            { value: "devices", label: "Chosen" },
          ]}
          value={choice.target}
          onChange={(target) => change({ target: target as Target })}
        />
        {choice.target === "all" && (
          <p className="soft small">
            Every enrolled device, and those that enrol while it runs. Who is offline follows when it comes back.
          </p>
        )}
        {choice.target === "group" && <Group choice={choice} change={change} />}
        {choice.target === "where" && <Where choice={choice} change={change} />}
        {choice.target === "devices" && <Chosen choice={choice} change={change} />}
      </div>
    </Panel>
  );
}

function Group({ choice, change }: PartProps) {
  const [group] = useDebouncedValue(choice.group, TYPING_MS);
  const found = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { group, limit: 1 } } },
    { enabled: group !== "", placeholderData: keepPreviousData },
  );
  const some = api.useQuery("get", "/api/v1/devices", { params: { query: { limit: 200 } } }, { staleTime: 60_000 });
  const known = [...new Set(some.data?.items.map((device) => device.group).filter(Boolean))].sort();
  return (
    <div>
      <Autocomplete
        label="Group"
        placeholder="site-a"
        maw={320}
        maxLength={64}
        spellCheck={false}
        data={known}
        description="As given when the devices enrolled"
        value={choice.group}
        onChange={(value) => change({ group: value.trim() })}
      />
      <Count total={group ? found.data?.total : undefined} to={`/fleet?group=${encodeURIComponent(group)}`} error={null} />
    </div>
  );
}

function Where({ choice, change }: PartProps) {
  const [where] = useDebouncedValue(choice.where.trim(), TYPING_MS);
  const found = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { where, limit: 1 } } },
    { enabled: where !== "", retry: false },
  );
  const error = where && found.error ? asApiError(found.error) : null;
  return (
    <div>
      <Textarea
        label="Selector"
        placeholder="site=porto and hw=rpi4 and not tag=demo"
        description="Labels, groups, classes and what devices run: =, !=, in (…), and, or, not"
        autosize
        minRows={1}
        maxLength={1024}
        spellCheck={false}
        autoCapitalize="none"
        classNames={{ input: "mono" }}
        error={error !== null}
        value={choice.where}
        onChange={(event) => change({ where: event.currentTarget.value.replaceAll("\n", " ") })}
      />
      <Count total={where ? found.data?.total : undefined} to={`/fleet?where=${encodeURIComponent(where)}`} error={error} text={where} />
    </div>
  );
}

interface CountProps {
  total: number | undefined;
  to: string;
  error: ApiError | null;
  text?: string;
}

/** How many devices are meant now; or what is wrong with the selector, and where. */
function Count({ total, to, error, text = "" }: CountProps) {
  const position = error?.data.position;
  return (
    <div role="status" className="small" style={{ minHeight: 22, marginTop: 6 }}>
      {error ? (
        <>
          {typeof position === "number" && (
            <code className="mono breakable">
              {text.slice(0, position)}
              <mark className="wrong">{text.slice(position, position + 1) || " "}</mark>
              {text.slice(position + 1)}
            </code>
          )}
          <p style={{ color: "var(--bad)" }}>{error.detail}</p>
          {error.hint && <p className="soft">{error.hint}</p>}
        </>
      ) : total === undefined ? null : total === 0 ? (
        <span style={{ color: "var(--warn)" }}>No device now</span>
      ) : (
        <Link to={to}>{plural(total, "device")} now</Link>
      )}
    </div>
  );
}

function Chosen({ choice, change }: PartProps) {
  const [typed, setTyped] = useState("");
  const [wanted] = useDebouncedValue(typed, TYPING_MS);
  const found = api.useQuery(
    "get",
    "/api/v1/devices",
    { params: { query: { q: wanted || undefined, limit: CHOICES_MAX } } },
    { placeholderData: keepPreviousData },
  );
  const devices = found.data?.items ?? [];
  const options = [
    ...devices.map((device) => ({ value: device.id, label: device.online ? device.id : `${device.id} (offline)` })),
    ...choice.devices.filter((id) => !devices.some((device) => device.id === id)).map((id) => ({ value: id, label: id })),
  ];
  return (
    <MultiSelect
      label="Devices"
      placeholder={choice.devices.length ? undefined : "Type to search"}
      searchable
      hidePickedOptions
      nothingFoundMessage="No device matches"
      clearButtonProps={{ "aria-label": "Remove all", size: "24px" }}
      data={options}
      filter={({ options: all }) => all}
      searchValue={typed}
      onSearchChange={setTyped}
      value={choice.devices}
      onChange={(ids) => change({ devices: ids })}
    />
  );
}
