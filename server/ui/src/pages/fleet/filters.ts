// What the address says of the list of devices, and the selector that means the same.
import type { paths } from "../../api/schema";
import { PAGE_ROWS, type ListState } from "../../components/DataTable";

type Query = NonNullable<paths["/api/v1/devices"]["get"]["parameters"]["query"]>;

/** Filters that the address may hold, beside the search. */
export const FILTERS = [
  "where", "site", "group", "device_class", "state", "online", "overdue", "updating", "failing", "held", "security", "model", "version",
];

/** Those of them that are true, false or not asked. */
const SWITCHES = ["online", "overdue", "updating", "failing", "held", "security"] as const;

/** As chips say it. */
export const WORDS: Record<string, [when: string, whenNot: string]> = {
  online: ["Online", "Offline"],
  overdue: ["Overdue", "Not overdue"],
  updating: ["Updating", "Not updating"],
  failing: ["Failing", "Not failing"],
  held: ["Held", "Not held"],
  security: ["Security events", "No security event"],
};

export type State = NonNullable<Query["state"]>;

export const STATES: { value: State; label: string }[] = [
  { value: "enrolled", label: "Enrolled" },
  { value: "revoked", label: "Lost" },
  { value: "decommissioned", label: "Decommissioned" },
];

export function stateOf(list: ListState): State {
  return STATES.find((one) => one.value === list.get("state"))?.value ?? "enrolled";
}

/** What is asked of the server. */
export function queryOf(list: ListState): Query {
  const switches = SWITCHES.map((name) => [name, list.get(name) === undefined ? undefined : list.get(name) === "true"]);
  const state = stateOf(list);
  return {
    q: list.q,
    sort: list.sort,
    offset: list.offset,
    limit: PAGE_ROWS,
    state: state === "enrolled" ? undefined : state,
    where: list.get("where"),
    site: list.has("site") ? (list.get("site") ?? "") : undefined,
    group: list.get("group"),
    device_class: list.get("device_class"),
    model: list.get("model"),
    version: list.get("version"),
    ...Object.fromEntries(switches),
  };
}

/** A value as selectors write it. */
function written(value: string): string {
  return /^[A-Za-z0-9._:+/@-]+$/.test(value) ? value : `"${value}"`;
}

export type AsSelector = { text: string } | { but: string };

/** The selector that means the whole list, or what stands in the way of there being one. */
export function selectorOf(list: ListState): AsSelector {
  if (stateOf(list) !== "enrolled") return { but: "devices that are not enrolled have no labels" };
  const inTheWay = [
    ...(list.q ? ["the search"] : []),
    ...(list.get("version") && !list.get("model") ? ["the version without a model"] : []),
  ];
  if (inTheWay.length) return { but: `a selector cannot say this: take off ${inTheWay.join(", ")}` };
  const parts: string[] = [];
  const where = list.get("where");
  if (where) parts.push(`(${where})`);
  if (list.has("site")) {
    const site = list.get("site");
    parts.push(site ? `(site=${written(site)} or (not site=* and group=${written(site)}))` : "(not site=* and not group=*)");
  }
  for (const [name, field] of [["group", "group"], ["device_class", "class"], ...SWITCHES.map((one) => [one, one] as const)] as const) {
    const value = list.get(name);
    if (value) parts.push(`${field}=${written(value)}`);
  }
  const [model, version] = [list.get("model"), list.get("version")];
  if (model) parts.push(`runs=${written(version ? `${model}@${version}` : model)}`);
  if (parts.length === 1 && where) return { text: where };
  return { text: parts.join(" and ") || "device=*" };
}
