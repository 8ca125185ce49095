// The command line's words for what the page does: every change shows its equivalent.

export const AGENT = "edgectl-agent";

/** Quote for a POSIX shell where quoting is needed. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export interface RolloutChoice {
  model: string;
  version: string;
  devices: string[] | "all" | { group: string };
  maxInProgress: number;
  failuresMax: number;
  observeSeconds: number;
  safety: Safety;
}

/** How a device goes about it; null is no limit. */
export interface Safety {
  shadowSeconds: number;
  windows: string;
  errorRateMax: number;
  latencyRatioMax: number | null;
  classShiftMax: number | null;
  disagreementMax: number | null;
  /** "name@version" */
  goesWith: string[];
  /** Devices that remember the version as bad try it once more. */
  forgive: boolean;
}

/** What the server and the command line take where nothing is said. */
export const USUAL: Safety = {
  shadowSeconds: 0,
  windows: "",
  errorRateMax: 0.05,
  latencyRatioMax: 5,
  classShiftMax: 0.5,
  disagreementMax: 0.5,
  goesWith: [],
  forgive: false,
};

function safetyOptions(safety: Safety): string[] {
  const limits = [
    ["--error-rate-max", safety.errorRateMax, USUAL.errorRateMax],
    ["--latency-ratio-max", safety.latencyRatioMax, USUAL.latencyRatioMax],
    ["--class-shift-max", safety.classShiftMax, USUAL.classShiftMax],
    ["--disagreement-max", safety.disagreementMax, USUAL.disagreementMax],
  ] as const;
  return [
    ...(safety.shadowSeconds ? [`--shadow ${safety.shadowSeconds}`] : []),
    ...(safety.windows ? [`--window ${quoted(safety.windows)}`] : []),
    ...limits.filter(([, value, usual]) => value !== usual).map(([name, value]) => `${name} ${value ?? "none"}`),
    ...safety.goesWith.map((name) => `--with ${quoted(name)}`),
    ...(safety.forgive ? ["--forgive"] : []),
  ];
}

export function startRollout(choice: RolloutChoice): string {
  const { model, version, devices } = choice;
  return [
    "edgectl rollout start",
    quoted(`${model || "MODEL"}@${version || "VERSION"}`),
    ...(devices === "all"
      ? ["--all"]
      : Array.isArray(devices)
        ? devices.map((device) => `--device ${quoted(device)}`)
        : [`--group ${quoted(devices.group || "GROUP")}`]),
    `--max-in-progress ${choice.maxInProgress}`,
    `--failures-max ${choice.failuresMax}`,
    `--observe ${choice.observeSeconds}`,
    ...safetyOptions(choice.safety),
  ].join(" ");
}

export function benchmark(version: string): string {
  return `edgectl bench ${quoted(version)} --device DEVICE`;
}

export function rolloutAction(action: string, id: string, reason: string): string {
  return `edgectl rollout ${action} ${id}${reason ? ` --reason ${quoted(reason)}` : ""}`;
}

export function enrol(server: string, token: string, device: string): string {
  // In the environment: everybody can read the arguments of a process.
  return `EDGECTL_AGENT_TOKEN=${token} ${AGENT} run --server ${server} --device ${device}`;
}

export function enrolWithout(server: string, authority: string, device: string): string {
  return `${AGENT} run --server ${server} --authority ${authority} --device ${device}`;
}

export const PUSH =
  "edgectl push model.onnx --calibration calibration.npz --evaluation evaluation.npz";

export function pushVersion(model: string): string {
  return `edgectl push model.onnx --name ${quoted(model)} --calibration calibration.npz --evaluation evaluation.npz`;
}

const into = (group: string) => (group ? ` --group ${quoted(group)}` : "");

export function createEnrolToken(uses: number, seconds: number, group: string): string {
  return `edgectl devices token create --uses ${uses} --expires ${seconds / 3600}h${into(group)}`;
}

export function revokeEnrolToken(id: string): string {
  return `edgectl devices token revoke ${id}`;
}

export function preauthorise(): string {
  return "edgectl devices preauthorise devices.csv";
}

export function forgetPreauthorised(device: string): string {
  return `edgectl devices preauthorised remove ${device}`;
}

export function approve(device: string, fingerprint: string, group: string): string {
  return `edgectl devices approve ${device} --fingerprint ${fingerprint}${into(group)}`;
}

export function reject(device: string, fingerprint: string): string {
  return `edgectl devices reject ${device} --fingerprint ${fingerprint}`;
}

export function revoke(device: string): string {
  return `edgectl devices revoke ${device}`;
}

export function signStaged(role: string): string {
  return `edgectl keys sign ${quoted(role)} --key KEY`;
}

export function exportStaged(role: string): string {
  return `edgectl keys export ${quoted(role)} --output ${quoted(role)}.json`;
}

export function signFile(role: string): string {
  return `edgectl keys sign ${quoted(role)}.json --key KEY`;
}

export function importStaged(role: string): string {
  return `edgectl keys import ${quoted(role)}.json`;
}

export function createToken(name: string, role: string, scopes: string[], seconds: number | null): string {
  const expires = seconds === null ? "" : ` --expires ${seconds / 86_400}d`;
  const wanted = scopes.map((scope) => ` --scope ${scope}`).join("");
  return `edgectl tokens create ${quoted(name || "NAME")} --role ${role}${wanted}${expires}`;
}

export function verifyAudit(): string {
  return "edgectl audit verify";
}

export function revokeToken(id: string): string {
  return `edgectl tokens revoke ${id}`;
}

export function deviceLogs(device: string): string {
  return `edgectl devices logs ${device}`;
}

export function decommission(device: string): string {
  return `edgectl devices decommission ${device}`;
}

export function cancelJob(job: string): string {
  return `edgectl jobs cancel ${job}`;
}

/** The command line makes itself a token when it logs in. */
export function logIn(server: string, user: string): string {
  return `edgectl login ${server} --username ${quoted(user)}`;
}
