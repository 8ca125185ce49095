// What a device saw of an update: its trial, its time as a shadow, the switch, its observation. What
// the device has judged it by stands out, with the limit beside it.
import { api, type Schemas } from "../api/client";
import { bytes, count, duration, milliseconds, share, trialNumber } from "../format";
import { Icon } from "./Icon";

type Observation = Schemas["ObservationInfo"];
type Policy = Schemas["RolloutPolicy"];

export interface Seen {
  transfer?: Schemas["TransferInfo"] | null;
  trial?: Record<string, unknown> | null;
  shadow?: Observation | null;
  swap?: Schemas["SwapInfo"] | null;
  observation?: Observation | null;
  reason?: Schemas["ReasonInfo"] | null;
}

/** The policy that an update is judged by; undefined where no rollout asked for it. */
export function usePolicy(rollout: string | null | undefined): Policy | undefined {
  const query = api.useQuery(
    "get",
    "/api/v1/rollouts/{rollout}",
    { params: { path: { rollout: rollout ?? "" } } },
    { enabled: Boolean(rollout), staleTime: 60_000, retry: false },
  );
  return query.data?.policy;
}

export function hasEvidence({ transfer, trial, shadow, swap, observation }: Seen): boolean {
  return Boolean(transfer ?? trial ?? shadow ?? swap ?? observation);
}

export function Evidence({ seen, policy }: { seen: Seen; policy: Policy | undefined }) {
  if (!hasEvidence(seen)) return null;
  const { transfer, trial, shadow, swap, observation, reason } = seen;
  return (
    <dl className="evidence">
      {transfer && <Block name="Fetched" facts={transferFacts(transfer)} />}
      {trial && <Block name="Trial" facts={trialFacts(trial)} />}
      {shadow && <Block name="Shadow" facts={observed(shadow, policy, blamed(reason, "shadow"))} />}
      {swap && <Block name="Switch" facts={swapFacts(swap)} />}
      {observation && <Block name="Observed" facts={observed(observation, policy, blamed(reason, "observe"))} />}
    </dl>
  );
}

interface Fact {
  name: string;
  value: string;
  note?: string;
  /** It was beyond its limit; or it makes the others doubtful. */
  tone?: "bad" | "warn";
}

function Block({ name, facts }: { name: string; facts: Fact[] }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>
        {facts.map((fact) => (
          <span key={fact.name} className="fact" data-tone={fact.tone}>
            {fact.tone && <Icon name="warning" size={13} />}
            <span className="soft">{fact.name}</span> <b className="number">{fact.value}</b>
            {fact.note && <span className="soft"> {fact.note}</span>}
          </span>
        ))}
      </dd>
    </div>
  );
}

/** "latency" of the code "observe.latency"; empty where the reason is about something else. */
function blamed(reason: Seen["reason"], about: string): string {
  const [subject, what = ""] = reason?.code.split(".") ?? [];
  return subject === about ? what : "";
}

function transferFacts({ whole_bytes, fetched_bytes, delta, rest, refusal }: Schemas["TransferInfo"]): Fact[] {
  const saved = whole_bytes - fetched_bytes;
  const facts: (Fact | null)[] = [
    { name: delta && rest ? "by deltas" : delta || rest ? "by a delta" : "files", value: bytes(fetched_bytes), note: saved > 0 ? `of ${bytes(whole_bytes)}` : undefined },
    saved > 0 ? { name: "saved", value: bytes(saved) } : null,
    refusal ? { name: "delta not used", value: refusal.code, note: refusal.detail, tone: "warn" } : null,
  ];
  return facts.filter((fact) => fact !== null);
}

function trialFacts(trial: Record<string, unknown>): Fact[] {
  const number = (name: string) => trialNumber(trial, name);
  const difference = number("max_abs_diff");
  const passed = number("golden_passed");
  const facts: (Fact | null)[] = [
    {
      name: "golden inputs",
      value: `${count(passed)} of ${count(number("golden_total"))}`,
      tone: passed === number("golden_total") ? undefined : "bad",
    },
    difference === null ? null : { name: "largest difference", value: difference.toPrecision(2) },
    { name: "p50", value: duration(number("latency_p50_us")) },
    { name: "p95", value: duration(number("latency_p95_us")) },
    { name: "load", value: milliseconds(number("load_ms")) },
    { name: "memory", value: bytes(number("rss_bytes")) },
    number("threads") ? { name: "threads", value: count(number("threads")) } : null,
    trial.provider ? { name: "provider", value: provider(String(trial.provider)), note: unused(trial.others) } : null,
    number("temperature_c") === null ? null : { name: "hottest sensor", value: `${number("temperature_c")!.toFixed(0)} °C` },
    trial.throttled ? { name: "processor", value: "throttled", note: "it can do better", tone: "warn" } : null,
  ];
  return facts.filter((fact) => fact !== null);
}

/** "CPUExecutionProvider" → "CPU". */
export function provider(name: string): string {
  return name.replace(/ExecutionProvider$/, "");
}

function unused(others: unknown): string | undefined {
  if (!Array.isArray(others) || !others.length) return undefined;
  const words = others.map((one: { provider: string; reason: Schemas["ReasonInfo"] }) => `${provider(one.provider)} (${one.reason.detail})`);
  return `not ${words.join(", ")}`;
}

function swapFacts({ load_ms, gap_ms, resident }: Schemas["SwapInfo"]): Fact[] {
  return [
    { name: "loaded and warmed up in", value: milliseconds(load_ms) },
    gap_ms > 0
      ? { name: "requests waited", value: milliseconds(gap_ms), note: "no memory for two models" }
      : { name: "requests waited", value: "not at all" },
    { name: "in memory beside it", value: resident ? "the model before" : "nothing" },
  ];
}

function observed(seen: Observation, policy: Policy | undefined, guilty: string): Fact[] {
  const { requests, errors, mirrored, agreed, skipped } = seen;
  const most = (limit: number | null | undefined, words: (value: number) => string) =>
    policy === undefined ? undefined : limit == null ? "no limit" : `at most ${words(limit)}`;
  const bad = (what: string) => (guilty === what ? "bad" : undefined);
  const asked = requests || mirrored + errors;
  const facts: (Fact | null)[] = [
    requests || !mirrored ? { name: "requests", value: count(requests) } : null,
    {
      name: "errors",
      value: asked && errors ? `${count(errors)} (${share(errors / asked, 1)})` : count(errors),
      note: most(policy?.error_rate_max, percent),
      tone: bad("error_rate"),
    },
    { name: "NaN", value: count(seen.non_finite), tone: bad("non_finite") },
    {
      name: "p95",
      value: duration(seen.latency_p95_us),
      note: join(against(seen), most(policy?.latency_ratio_max, (limit) => `${limit}×`)),
      tone: bad("latency"),
    },
    seen.class_shift == null
      ? null
      : {
          name: "class shift",
          value: seen.class_shift.toFixed(2),
          note: most(policy?.class_shift_max, String),
          tone: bad("class_shift"),
        },
    mirrored
      ? {
          name: "same answer",
          value: `${count(agreed)} of ${count(mirrored)} copies`,
          note: join(share(agreed / mirrored, 1), most(policy?.disagreement_max, (limit) => `${percent(limit)} may differ`)),
          tone: bad("disagreement"),
        }
      : null,
    skipped ? { name: "not copied", value: count(skipped), note: "for the budget" } : null,
  ];
  return facts.filter((fact) => fact !== null);
}

function against({ latency_p95_us, reference_p95_us }: Observation): string | undefined {
  if (latency_p95_us == null) return "too few runs to tell";
  if (reference_p95_us == null) return undefined;
  const ratio = reference_p95_us > 0 ? ` (${(latency_p95_us / reference_p95_us).toFixed(1)}×)` : "";
  return `model before ${duration(reference_p95_us)}${ratio}`;
}

function percent(limit: number): string {
  return `${Number((limit * 100).toFixed(2))} %`;
}

function join(...parts: (string | undefined)[]): string {
  return parts.filter(Boolean).join(", ");
}
