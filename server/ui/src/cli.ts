// The command line's words for what the page does: every change shows its equivalent.

export const AGENT = "edgectl-agent";

/** Quote for a POSIX shell where quoting is needed. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export function compareVersions(left: string, right: string): string {
  return `edgectl models compare ${quoted(left)} ${quoted(right)}`;
}

export function benchmark(version: string, device = "DEVICE"): string {
  return `edgectl bench ${quoted(version)} --device ${device}`;
}

export function rolloutAction(action: string, id: string, reason: string, revert = false): string {
  return `edgectl rollout ${action} ${id}${revert ? " --revert" : ""}${reason ? ` --reason ${quoted(reason)}` : ""}`;
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

export interface PushChoice {
  file: string;
  name: string;
  version: string;
  /** By the name of the option: the file's name. */
  files: [option: string, file: string][];
  maxDrop: number | null;
  precisions: string[];
  require: string[];
  parent: string;
}

export function push(choice: PushChoice): string {
  return [
    `edgectl push ${quoted(choice.file || "model.onnx")}`,
    ...(choice.name ? [`--name ${quoted(choice.name)}`] : []),
    ...(choice.version ? [`--version ${quoted(choice.version)}`] : []),
    ...choice.files.map(([option, file]) => `--${option} ${quoted(file)}`),
    ...(choice.maxDrop === null ? [] : [`--max-drop ${choice.maxDrop}`]),
    ...(choice.precisions.length ? [`--precision ${choice.precisions.join(",")}`] : []),
    ...choice.require.map((gate) => `--require ${quoted(gate)}`),
    ...(choice.parent ? [`--parent ${quoted(choice.parent)}`] : []),
  ].join(" ");
}

export function pushVersion(model: string): string {
  return `edgectl push model.onnx --name ${quoted(model)} --calibration calibration.npz --evaluation evaluation.npz`;
}

const into = (group: string) => (group ? ` --group ${quoted(group)}` : "");

export function createEnrolToken(uses: number, seconds: number, group: string): string {
  return `edgectl devices token create --uses ${uses} --expires ${seconds / 3600}h${into(group)}`;
}

interface ImageChoice {
  uses: number;
  seconds: number;
  group: string;
  prefix: string;
  path: string;
  usual: string;
  form: string;
  server: string;
}

export function imageSnippet({ uses, seconds, group, prefix, path, usual, form, server }: ImageChoice): string {
  return [
    `edgectl devices image-snippet --uses ${uses} --expires ${seconds / 86_400}d${into(group)}`,
    ...(prefix === "device" ? [] : [`--prefix ${quoted(prefix)}`]),
    ...(path === usual ? [] : [`--package ${quoted(path)}`]),
    ...(form === "cloud-init" ? [] : [`--form ${form}`]),
    `--server ${quoted(server)}`,
  ].join(" ");
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

const because = (reason: string) => (reason ? ` --reason ${quoted(reason)}` : "");

export function hold(device: string, reason: string): string {
  return `edgectl devices hold ${device}${because(reason)}`;
}

export function release(device: string): string {
  return `edgectl devices release ${device}`;
}

export function rollBack(device: string, model: string, version: string): string {
  return `edgectl devices rollback ${device} ${model} --version ${quoted(version)}`;
}

export const SITES = "edgectl devices sites";

interface DeviceQuery {
  q?: string;
  state?: string;
  where?: string;
  site?: string | null;
  group?: string | null;
  model?: string | null;
  version?: string | null;
  device_class?: string | null;
  online?: boolean | null;
  overdue?: boolean | null;
  updating?: boolean | null;
  failing?: boolean | null;
  held?: boolean | null;
  security?: boolean | null;
}

/** In options, and as a selector where there is none. */
export function listDevices(asked: DeviceQuery): string {
  const more = [
    asked.device_class && `class=${asked.device_class}`,
    asked.security == null ? "" : `security=${asked.security}`,
    ...(["overdue", "updating", "failing", "held"] as const).map((name) => asked[name] === false && `${name}=false`),
  ].filter(Boolean);
  const whole = [asked.where && more.length ? `(${asked.where})` : asked.where, ...more].filter(Boolean).join(" and ");
  return [
    "edgectl devices list",
    ...(asked.q ? [`--search ${quoted(asked.q)}`] : []),
    ...(asked.state ? [`--${asked.state}`] : []),
    ...(asked.online == null ? [] : [asked.online ? "--online" : "--offline"]),
    ...(["overdue", "updating", "failing", "held"] as const).filter((name) => asked[name]).map((name) => `--${name}`),
    ...(["group", "model", "version"] as const).flatMap((name) => (asked[name] ? [`--${name} ${quoted(asked[name])}`] : [])),
    ...(asked.site == null ? [] : [`--site ${quoted(asked.site)}`]),
    ...(whole ? [`--where ${quoted(whole)}`] : []),
  ].join(" ");
}

export interface Labelling {
  labels: string[];
  devices: string[];
  where: string;
  expected: number | null;
}

export function labelDevices({ labels, devices, where, expected }: Labelling): string {
  const which = where ? [`--where ${quoted(where)}`] : devices.map((device) => `--device ${device}`);
  const count = where && expected !== null ? [`--expect ${expected}`] : [];
  return ["edgectl devices label", ...(labels.length ? labels.map(quoted) : ["NAME=VALUE"]), ...which, ...count].join(" ");
}

export function saveSelector(name: string, text: string): string {
  return `edgectl selectors set ${quoted(name || "NAME")} ${quoted(text)}`;
}

export function selectorOverlaps(name: string): string {
  return `edgectl selectors overlaps ${quoted(name)}`;
}

export function deleteSelector(name: string): string {
  return `edgectl selectors delete ${quoted(name)}`;
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

export const EXPORT_AUDIT = "edgectl audit export --output audit.jsonl";

/** Each as it is asked; nothing where it is not. */
export function listAudit(asked: Record<string, string | undefined>): string {
  const options = Object.entries(asked).flatMap(([name, value]) => (value ? [`--${name === "q" ? "search" : name} ${quoted(value)}`] : []));
  return ["edgectl audit list", ...options].join(" ");
}

export function addWebhook(name: string, url: string, format: string, events: string[]): string {
  const form = format === "edgectl" ? "" : ` --format ${format}`;
  return `edgectl webhooks add ${quoted(name || "NAME")} ${quoted(url || "URL")}${form}${events.map((one) => ` --event ${one}`).join("")}`;
}

export function setWebhook(name: string, on: boolean): string {
  return `edgectl webhooks set ${quoted(name)} ${on ? "--on" : "--off"}`;
}

export function testWebhook(name: string): string {
  return `edgectl webhooks test ${quoted(name)}`;
}

export function webhookDeliveries(name: string): string {
  return `edgectl webhooks deliveries ${quoted(name)}`;
}

export function deleteWebhook(name: string): string {
  return `edgectl webhooks remove ${quoted(name)}`;
}

export const LIST_USERS = "edgectl users list";

const meant = (myself: boolean) => (myself ? " --myself" : "");

export function createUser(name: string, role: string): string {
  return `edgectl users create ${quoted(name || "NAME")} --role ${role}`;
}

export function changeRole(name: string, role: string, myself: boolean): string {
  return `edgectl users role ${quoted(name)} ${role}${meant(myself)}`;
}

export function resetPassword(name: string, myself: boolean): string {
  return `edgectl users password ${quoted(name)}${meant(myself)}`;
}

export const OWN_PASSWORD = "edgectl users password";

export function logOutUser(name: string, tokens: boolean, myself: boolean): string {
  return `edgectl users logout ${quoted(name)}${tokens ? " --tokens" : ""}${meant(myself)}`;
}

export function disableUser(name: string, disabled: boolean, myself: boolean): string {
  return disabled ? `edgectl users disable ${quoted(name)}${meant(myself)}` : `edgectl users enable ${quoted(name)}`;
}

export function deleteUser(name: string, myself: boolean): string {
  return `edgectl users delete ${quoted(name)}${meant(myself)}`;
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

export function followLogs(device: string): string {
  return `edgectl devices logs ${device} --follow`;
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

/** A fleet, a site or a device with one model. */
export interface DriftPlace {
  model?: string;
  manifest?: string;
  site?: string;
  device?: string;
}

const options = (asked: Record<string, string | undefined>, ...names: string[]) =>
  names.flatMap((name) => (asked[name] ? [` --${name} ${quoted(asked[name])}`] : [])).join("");

export function driftStatus(asked: DriftPlace & { level?: string; state?: string; faulty?: boolean }): string {
  const { faulty, ...rest } = asked;
  const model = rest.model ? ` ${quoted(rest.model)}` : "";
  return `edgectl drift status${model}${options(rest, "level", "state", "site", "manifest")}${faulty ? " --faulty" : ""}`;
}

export const DRIFT_SUMMARY = "edgectl drift summary";

export function driftShow(model: string, asked: DriftPlace): string {
  return `edgectl drift show ${quoted(model)}${options({ ...asked }, "site", "device", "manifest")}`;
}

export function accuracyShow(model: string, asked: DriftPlace): string {
  return `edgectl accuracy show ${quoted(model)}${options({ ...asked }, "site", "device", "manifest")}`;
}

export function driftHistory(model: string, asked: DriftPlace, since: string, feature?: string): string {
  return `edgectl drift history ${quoted(model)}${options({ ...asked, since, feature }, "site", "device", "manifest", "since", "feature")}`;
}

export function usualDays(model: string): string {
  return `edgectl drift usual ${quoted(model)}`;
}

/** Whole days of UTC: without a zone the command line takes its own. */
export function setUsualDays(model: string, since: string, until: string): string {
  return `edgectl drift usual ${quoted(model)} --from ${since}T00:00Z --to ${until}T00:00Z`;
}

export function endUsualDays(model: string): string {
  return `edgectl drift usual ${quoted(model)} --off`;
}

export function driftEvents(asked: DriftPlace): string {
  return `edgectl drift events${asked.model ? ` ${quoted(asked.model)}` : ""}${options({ ...asked }, "site", "device", "manifest")}`;
}

export interface SampleQuery {
  model?: string;
  device?: string;
  site?: string;
  reason?: string;
  label_state?: string;
  from?: string;
}

export function listSamples(asked: SampleQuery): string {
  return `edgectl samples list${options({ ...asked, "label-state": asked.label_state }, "model", "device", "site", "reason", "label-state", "from")}`;
}

export function getSample(id: string, sealed = false): string {
  return `edgectl samples get ${id}${sealed ? " --key FILE" : ""} --output sample.safetensors`;
}

export function deleteSample(id: string): string {
  return `edgectl samples delete ${id}`;
}

/** `seal`: undefined: as it is. */
export function samplePolicy(model: string, bytes: number, reasons: string[], randomShare: number, seal?: string): string {
  if (!bytes || !reasons.length) return `edgectl samples policy ${quoted(model)} --off`;
  const why = reasons.map((reason) => ` --reason ${reason}`).join("");
  return `edgectl samples policy ${quoted(model)} --bytes-per-day ${bytes}${why} --random-share ${randomShare}${seal ? ` --seal ${quoted(seal)}` : ""}`;
}

/** Undefined: taken back; null: cannot tell. */
export function setLabel(sample: string, label: string | null | undefined): string {
  return `edgectl labels set ${sample} ${label === undefined ? "--remove" : label === null ? "--skip" : quoted(label)}`;
}

export function labelStatus(model: string): string {
  return `edgectl labels status ${quoted(model)}`;
}

export function exportLabels(model: string): string {
  return `edgectl labels export ${quoted(model)} --output labels.csv`;
}

export function listAlerts(asked: Record<string, string | undefined>): string {
  return `edgectl alerts list${options(asked, "kind", "severity", "model", "site", "owner")}${asked.state === "resolved" ? " --ended" : ""}`;
}

export function acknowledgeAlert(alert: string, reason: string): string {
  return `edgectl alerts ack ${alert}${because(reason)}`;
}

export function assignAlert(alert: string, owner: string): string {
  return `edgectl alerts assign ${alert} ${owner ? quoted(owner) : "-"}`;
}

export function resolveAlert(alert: string, reason: string): string {
  return `edgectl alerts resolve ${alert}${because(reason)}`;
}

export function silenceAlerts(which: Record<string, string | undefined>, time: string, reason: string): string {
  return `edgectl alerts silence add${options(which, "kind", "model", "site", "subject")} --for ${time} --reason ${quoted(reason || "WHY")}`;
}

export function endSilence(silence: string): string {
  return `edgectl alerts silence remove ${silence}`;
}

export const LIST_LOOPS = "edgectl loop status";

export function explainLoop(model: string, run?: string): string {
  return `edgectl loop explain ${quoted(model)}${run ? ` --run ${run}` : ""}`;
}

export function loopAction(action: string, model: string, reason: string): string {
  return `edgectl loop ${action} ${quoted(model)}${because(reason)}`;
}

export function loopApprove(model: string, approval: string, run: string, reason: string): string {
  return `edgectl loop approve ${quoted(model)} ${approval} --run ${run}${because(reason)}`;
}

export interface LoopChoice {
  labelsMin: number;
  trainer: string;
  coolDownS: number;
  gainMin: number;
  oldDropMax: number;
  drift: string[];
  approvals: string[];
}

export function setLoop(model: string, choice: LoopChoice): string {
  return [
    `edgectl loop set ${quoted(model)} --labels-min ${choice.labelsMin} --trainer ${quoted(choice.trainer)} --cool-down-s ${choice.coolDownS}`,
    `--gain-min ${choice.gainMin} --old-drop-max ${choice.oldDropMax}`,
    choice.drift.length ? choice.drift.map((level) => `--drift ${level}`).join(" ") : "--no-drift",
    choice.approvals.length ? choice.approvals.map((one) => `--approve ${one}`).join(" ") : "--automatic",
  ].join(" ");
}

export function loopFile(model: string): string {
  return `edgectl loop set ${quoted(model)} --file loop.yaml`;
}

export function loopRuns(model: string): string {
  return `edgectl loop runs ${quoted(model)}`;
}

export function showDataset(name: string): string {
  return `edgectl dataset show ${quoted(name)}`;
}

export function listDatasets(model?: string): string {
  return `edgectl dataset list${model ? ` --model ${quoted(model)}` : ""}`;
}

export function createDataset(model: string): string {
  return `edgectl dataset create NAME --model ${model === "MODEL" ? model : quoted(model)}`;
}

export function checkDataset(name: string): string {
  return `edgectl data check ${quoted(name)}`;
}

export function exportDataset(name: string): string {
  return `edgectl dataset export ${quoted(name)} --output ${quoted(name)}`;
}

export function retrainOn(model: string, dataset: string): string {
  return `edgectl retrain ${quoted(model)} --dataset ${quoted(dataset)}`;
}

export function retrainingLog(id: string): string {
  return `edgectl retrainings show ${id} --log`;
}
