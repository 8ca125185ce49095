// Who signs what, what waits for signatures, what needs attention. Keys are not changed here: an
// account of this page must not be enough to sign a model.
import { Link } from "react-router";

import { api, type Schemas } from "../api/client";
import { Command } from "../components/Command";
import { DataTable, type Column } from "../components/DataTable";
import { Empty, Facts, Head, Loaded, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { exportStaged, importStaged, signFile, signStaged } from "../cli";
import { count, plural } from "../format";

type Trust = Schemas["TrustInfo"];
type Role = Schemas["TrustRole"];
type Staged = Schemas["StagedInfo"];
type Key = Schemas["TrustKey"];

export function TrustPage() {
  const query = api.useQuery("get", "/api/v1/trust", {}, { refetchInterval: 60_000 });
  return (
    <>
      <Head title="Keys" under="Devices install what these keys have signed, and nothing else." />
      <Loaded query={query}>{(trust) => <Inside trust={trust} query={query} />}</Loaded>
    </>
  );
}

function Inside({ trust, query }: { trust: Trust; query: { error: unknown; refetch: () => unknown } }) {
  const families = trust.roles.filter((role) => role.patterns.length > 0);
  return (
    <>
      <Alerts alerts={trust.alerts} />
      <Panel id="staged" title="Waits for signatures">
        {trust.staged.length === 0 ? (
          <Empty icon="check" title="Nothing waits">
            <p className="soft">What the server does not hold enough keys for shows up here, until people have signed it.</p>
          </Empty>
        ) : (
          <div className="stack">
            {trust.staged.map((one) => (
              <Waiting key={one.role} staged={one} />
            ))}
          </div>
        )}
      </Panel>
      <Panel flush id="roles" title="Roles" aside={<span className="soft small">changed with edgectl keys on the server itself</span>}>
        <DataTable
          label="Roles"
          columns={COLUMNS}
          rowKey={(role) => role.name}
          query={{ ...query, data: { items: trust.roles, total: trust.roles.length } }}
          empty={<Empty icon="key" title="There is no signed metadata yet" />}
        />
      </Panel>
      <Panel title="Model families" aside={<span className="soft small">teams that sign their own models</span>}>
        {families.length === 0 ? (
          <p className="soft">None: the server signs for every model.</p>
        ) : (
          <Facts
            rows={families.map((role) => [
              role.name,
              <span key={role.name}>
                {plural(role.targets, "bundle")} of <Patterns role={role} />
              </span>,
            ])}
          />
        )}
      </Panel>
    </>
  );
}

export function Alerts({ alerts }: { alerts: Schemas["AlertInfo"][] }) {
  if (alerts.length === 0) return null;
  return (
    <section className="stack" style={{ gap: 10 }} id="alerts" aria-label="What needs attention">
      {alerts.map((alert) => (
        <Note key={`${alert.code} ${alert.detail}`} tone={alert.severity === "critical" ? "bad" : "warn"}>
          <strong className="breakable">{alert.detail}</strong>
          {alert.hint && <p className="breakable">{alert.hint}</p>}
          <p className="small mono">{alert.code}</p>
        </Note>
      ))}
    </section>
  );
}

// ---------------------------------------------------------------- what waits

function Waiting({ staged }: { staged: Staged }) {
  const signed = staged.signed_by.length ? staged.signed_by.join(", ") : "nobody yet";
  return (
    <section className="stack" style={{ gap: 12 }} aria-label={`${staged.role} ${staged.version}`}>
      <div className="row apart wrap">
        <h3 className="breakable">
          {staged.role} {staged.version}
        </h3>
        <State state={staged.missing ? "unsigned" : "queued"} />
      </div>
      <Facts
        rows={[
          ["Needs", staged.missing ? `${staged.missing} of ${plural(staged.threshold, "signature")}` : "other staged changes to be signed"],
          ["Signed by", <span className="breakable" key="by">{signed}</span>],
          ["Could sign", <Keys key="keys" keys={staged.unsigned} />],
          [
            "Says",
            <ul key="says" className="plain-list small mono">
              {staged.summary.map((line) => (
                <li key={line} className="breakable">
                  {line}
                </li>
              ))}
            </ul>,
          ],
        ]}
      />
      {staged.missing > 0 && (
        <div className="stack" style={{ gap: 6 }}>
          <p className="soft small">Who has one of the keys signs from anywhere, after reading what it says:</p>
          <Command text={signStaged(staged.role)} />
          <p className="soft small">or on a machine without a network, with a file that is carried there and back:</p>
          <Command text={exportStaged(staged.role)} />
          <Command text={signFile(staged.role)} />
          <Command text={importStaged(staged.role)} />
        </div>
      )}
    </section>
  );
}

// ---------------------------------------------------------------- roles

const COLUMNS: Column<Role>[] = [
  { key: "name", header: "Role", cell: (role) => <span className="name">{role.name}</span> },
  { key: "version", header: "Version", align: "right", cell: (role) => (role.version == null ? "–" : count(role.version)) },
  { key: "ends", header: "Ends", cell: (role) => (role.expires ? <Time at={role.expires} /> : <span className="soft">with root</span>) },
  { key: "threshold", header: "Needs", cell: (role) => <span className="nowrap">{`${role.threshold} of ${role.keys.length}`}</span> },
  { key: "keys", header: "Keys", cell: (role) => <Keys keys={role.keys} /> },
  { key: "where", header: "Signed", cell: (role) => (role.online ? "by the server" : "by people") },
  { key: "targets", header: "Bundles", align: "right", className: "only-medium", cell: (role) => count(role.targets) },
];

/** A key that the server holds is said so: whoever breaks into the server has it too. */
function Keys({ keys }: { keys: Key[] }) {
  if (keys.length === 0) return <span className="soft">nobody else</span>;
  return (
    <ul className="plain-list">
      {keys.map((key) => (
        <li key={key.keyid} title={key.keyid}>
          <span className="breakable">{key.name || "without a name"}</span>{" "}
          <span className="soft small mono nowrap">
            {key.keyid.slice(0, 12)} · {key.online ? "online" : "offline"}
          </span>
        </li>
      ))}
    </ul>
  );
}

/** `models/vision-*\/*\/*` covers the models named vision-…. */
function Patterns({ role }: { role: Role }) {
  return (
    <>
      {role.patterns.map((pattern, number) => {
        const models = pattern.split("/")[1] ?? pattern;
        return (
          <span key={pattern}>
            {number > 0 && ", "}
            <Link style={{ textDecoration: "underline" }} to={`/models?q=${encodeURIComponent(models.replace(/\*+$/, ""))}`}>{models}</Link>
          </span>
        );
      })}
    </>
  );
}
