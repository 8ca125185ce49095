import type { ReactNode } from "react";
import { Button, Select } from "@mantine/core";
import { Link, useNavigate, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { gateValue } from "../components/Findings";
import { Head, Loaded, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { compareVersions } from "../cli";
import { bytes, count, duration, plural, points, share } from "../format";
import { measured } from "../models/metrics";

type Comparison = Schemas["VersionComparison"];
type Version = Schemas["VersionSummary"];

export function ComparePage() {
  const { name = "", version: left = "", other: right = "" } = useParams();
  const query = api.useQuery(
    "get",
    "/api/v1/models/{name}/compare",
    { params: { path: { name }, query: { left, right } } },
    { refetchInterval: 30_000 },
  );
  return (
    <>
      <Head
        crumbs={[
          ["Models", "/models"],
          [name, `/models/${name}`],
        ]}
        title={`Compare ${left} and ${right}`}
        actions={<Choice name={name} left={left} right={right} />}
      />
      <Loaded query={query} back={[`All versions of ${name}`, `/models/${name}`]}>
        {(found) => <Inside found={found} />}
      </Loaded>
    </>
  );
}

export function compareAddress(model: string, left: string, right: string): string {
  return `/models/${model}/${encodeURIComponent(left)}/compare/${encodeURIComponent(right)}`;
}

function Choice({ name, left, right }: { name: string; left: string; right: string }) {
  const navigate = useNavigate();
  const versions = api.useQuery("get", "/api/v1/models/{name}/versions", { params: { path: { name }, query: { limit: 200 } } });
  const names = versions.data?.items.map((one) => one.version) ?? [left, right];
  const go = (before: string, after: string) => void navigate(compareAddress(name, before, after), { replace: true });
  const select = (label: string, value: string, onChange: (version: string) => void) => (
    <Select aria-label={label} w={130} searchable allowDeselect={false} data={names} value={value} onChange={(version) => version && onChange(version)} />
  );
  return (
    <>
      {select("Left version", left, (version) => go(version, right))}
      <Button variant="default" aria-label="Swap" onClick={() => go(right, left)}>
        ⇄
      </Button>
      {select("Right version", right, (version) => go(left, version))}
    </>
  );
}

function Inside({ found }: { found: Comparison }) {
  const { left, right } = found;
  return (
    <>
      <Summary found={found} />
      <Contract found={found} />
      <Variants found={found} />
      {found.gates.length > 0 && <Gates found={found} />}
      <Panel>
        <Equivalent text={compareVersions(`${left.model}@${left.version}`, `${right.model}@${right.version}`)} />
      </Panel>
    </>
  );
}

interface TableProps {
  label: string;
  left: string;
  right: string;
  children: ReactNode;
  change?: boolean;
}

function Table({ label, left, right, change, children }: TableProps) {
  return (
    <div className="table-scroll" tabIndex={0} role="region" aria-label={label}>
      <table className="table comparison">
        <thead>
          <tr>
            <td />
            <th scope="col">{left}</th>
            <th scope="col">{right}</th>
            {change && <th scope="col">Change</th>}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

function Row({ name, left, right, change }: { name: ReactNode; left: ReactNode; right: ReactNode; change?: ReactNode }) {
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>{left}</td>
      <td>{right}</td>
      {change !== undefined && <td className="number nowrap">{change}</td>}
    </tr>
  );
}

/** A change as a share of what was; less is better of bytes and time. */
function Change({ before, after }: { before: number | null | undefined; after: number | null | undefined }) {
  if (before == null || after == null || before === 0) return <span className="soft">–</span>;
  const change = after / before - 1;
  if (Math.abs(change) < 0.0005) return <span className="soft">same</span>;
  return (
    <span style={{ color: change > 0 ? "var(--warn)" : "var(--good)" }}>
      {change > 0 ? "+" : "−"}
      {share(Math.abs(change), 1)}
    </span>
  );
}

/** Points of a score; an error is better when it is smaller, as a size is. */
function Gain({ metric, before, after }: { metric?: string | null; before?: number | null; after?: number | null }) {
  if (before == null || after == null || metric === "own") return <span className="soft">–</span>;
  if (metric === "rmse") return <Change before={before} after={after} />;
  const gain = (after - before) * 100;
  return <span style={{ color: gain < 0 ? "var(--warn)" : gain > 0 ? "var(--good)" : undefined }}>{points(-gain)} points</span>;
}

function Summary({ found }: { found: Comparison }) {
  const { left, right } = found;
  const running = (version: Version) => (
    <Link className="underlined" to={`/fleet?model=${version.model}&version=${encodeURIComponent(version.version)}`}>
      {plural(version.devices_running, "device")}
    </Link>
  );
  const alike = left.metric === right.metric;
  const value = (version: Version) => (
    <>
      {measured(version.metric, version.best?.trial.value)}
      {!alike && <span className="soft"> {version.metric}</span>}
    </>
  );
  return (
    <Panel flush title="At a glance" aside={<span className="soft small">{related(found)}</span>}>
      <Table label="At a glance" left={left.version} right={right.version} change>
        <Row name="State" left={<State state={left.state} />} right={<State state={right.state} />} change="" />
        <Row name="Pushed" left={<Time at={left.created_at} />} right={<Time at={right.created_at} />} change="" />
        <Row name="Running on" left={running(left)} right={running(right)} change="" />
        <Row
          name="Model file"
          left={bytes(left.source_bytes)}
          right={bytes(right.source_bytes)}
          change={<Change before={left.source_bytes} after={right.source_bytes} />}
        />
        <Row name="First choice" left={choice(left)} right={choice(right)} change="" />
        <Row
          name="Its size"
          left={bytes(left.best?.model_bytes)}
          right={bytes(right.best?.model_bytes)}
          change={<Change before={left.best?.model_bytes} after={right.best?.model_bytes} />}
        />
        <Row
          name={alike ? `Its ${left.metric ?? "accuracy"}` : "Its value"}
          left={value(left)}
          right={value(right)}
          change={alike ? <Gain metric={left.metric} before={left.best?.trial.value} after={right.best?.trial.value} /> : ""}
        />
        <Row name="Lost against fp32" left={lost(left)} right={lost(right)} change="" />
        <Row
          name="Latency p50, server"
          left={duration(left.best?.trial.latency_p50_us)}
          right={duration(right.best?.trial.latency_p50_us)}
          change={<Change before={left.best?.trial.latency_p50_us} after={right.best?.trial.latency_p50_us} />}
        />
        <Row name="Parent" left={left.parent ?? "–"} right={right.parent ?? "–"} change="" />
      </Table>
    </Panel>
  );
}

function related({ left, right, ancestor }: Comparison): string {
  if (left.version === right.version) return "the same version";
  if (ancestor === left.version) return `${right.version} descends from ${left.version}`;
  if (ancestor === right.version) return `${left.version} descends from ${right.version}`;
  return ancestor ? `both descend from ${ancestor}` : "no common ancestor is known";
}

function choice({ best }: Version): ReactNode {
  return best ? <span className="mono">{best.variant}</span> : <span className="soft">–</span>;
}

function lost({ best }: Version): string {
  return best?.trial.drop_points == null ? "–" : `${best.trial.drop_points.toFixed(2)} points`;
}

const PARTS = { input: "Input", output: "Output", labels: "Label", processing: "Step" } as const;

function Contract({ found }: { found: Comparison }) {
  const { left, right, contract } = found;
  return (
    <Panel flush={contract.length > 0} title="Input and output" aside={contract.length > 0 && <span className="soft small">only what differs</span>}>
      {contract.length === 0 ? (
        <p className="soft">Inputs, outputs, labels and steps are the same: programs that use it need no change.</p>
      ) : (
        <Table label="Input and output" left={left.version} right={right.version}>
          {contract.map((one) => (
            <Row
              key={`${one.part} ${one.name}`}
              name={
                <>
                  {PARTS[one.part]} <span className="mono breakable">{one.name}</span>
                </>
              }
              left={<Side text={one.left} />}
              right={<Side text={one.right} />}
            />
          ))}
        </Table>
      )}
    </Panel>
  );
}

function Side({ text }: { text: string | null }) {
  return text === null ? <span className="soft">none</span> : <span className="mono breakable">{text}</span>;
}

function Variants({ found }: { found: Comparison }) {
  const { left, right, variants } = found;
  const words = (bundle: Schemas["VariantInfo"] | null, metric?: string | null) =>
    bundle ? (
      <span className="number">
        {bytes(bundle.model_bytes)}
        <span className="soft"> · {measured(metric, bundle.trial.value)}
          {left.metric !== right.metric && metric && ` ${metric}`} · {duration(bundle.trial.latency_p50_us)}</span>
      </span>
    ) : (
      <span className="soft">not made</span>
    );
  return (
    <Panel flush={variants.length > 0} title="Variants" aside={<span className="soft small">size · value · latency on the server</span>}>
      {variants.length === 0 ? (
        <p className="soft">Neither has any bundle.</p>
      ) : (
        <Table label="Variants" left={left.version} right={right.version} change>
          {variants.map((one) => (
            <Row
              key={one.variant}
              name={<span className="mono">{one.variant}</span>}
              left={words(one.left, left.metric)}
              right={words(one.right, right.metric)}
              change={<Change before={one.left?.model_bytes} after={one.right?.model_bytes} />}
            />
          ))}
        </Table>
      )}
    </Panel>
  );
}

function Gates({ found }: { found: Comparison }) {
  const { left, right, gates } = found;
  const words = (gate: Schemas["GateInfo"] | null) =>
    gate ? (
      <>
        <State state={gate.status} />{" "}
        <span className="soft small number">
          {gate.measured == null ? gate.detail : gateValue(gate.measured, gate.unit)}
          {gate.bound != null && ` ${gate.direction === ">=" ? "≥" : "≤"} ${gateValue(gate.bound, gate.unit)}`}
        </span>
      </>
    ) : (
      <span className="soft">not asked</span>
    );
  return (
    <Panel flush title="Gates" aside={<span className="soft small">{count(gates.length)} in all</span>}>
      <Table label="Gates" left={left.version} right={right.version}>
        {gates.map((one) => (
          <Row
            key={`${one.name} ${one.variant} ${one.left?.direction ?? one.right?.direction}`}
            name={
              <>
                {one.name} <span className="soft mono">{one.variant || "all"}</span>
              </>
            }
            left={words(one.left)}
            right={words(one.right)}
          />
        ))}
      </Table>
    </Panel>
  );
}
