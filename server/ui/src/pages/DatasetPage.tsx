// A dataset: what is in it, where it comes from, what rules of data find in it, what was trained on it.
import { useState } from "react";
import { Button } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { ErrorPanel, Facts, Head, Loaded, Note, Panel } from "../components/Panels";
import { State } from "../components/State";
import { Time } from "../components/Time";
import { checkDataset, exportDataset, retrainOn, showDataset } from "../cli";
import { bytes, count, plural } from "../format";

type Dataset = Schemas["DatasetDetail"];
type Split = "train" | "validation" | "test";

/** The parts of `dataset.json` that are shown: docs/datasets.md. */
interface Document {
  classes?: string[];
  models?: { manifest: string; version: string; rows: number }[];
  left_out?: Record<string, number>;
  filter?: Record<string, unknown>;
  inputs?: { name: string; datatype: string; shape: number[] }[];
  statistics?: { classes?: Record<string, number[]>; unlabelled?: Record<string, number>; devices?: Record<string, number> };
}

const SPLITS: Split[] = ["train", "validation", "test"];
const SPLIT_WORDS: Record<string, string> = {
  device: "By device: no device is in two splits.",
  rank: "By device, dealt out by their rows: there are few.",
  time: "By time: the oldest rows train, the newest test, and devices are in both.",
};
const RETRAININGS_SHOWN = 100;

export function DatasetPage() {
  const { name = "" } = useParams();
  const query = api.useQuery("get", "/api/v1/datasets/{dataset}", { params: { path: { dataset: name } } });
  return (
    <Loaded query={query} back={["All datasets", "/datasets"]}>
      {(dataset) => <Inside dataset={dataset} />}
    </Loaded>
  );
}

function Inside({ dataset }: { dataset: Dataset }) {
  const { info } = dataset;
  const document = dataset.document as Document;
  return (
    <>
      <Head
        crumbs={[["Datasets", "/datasets"]]}
        title={info.name}
        under={
          <>
            {plural(info.rows, "row")} of <Link to={`/models/${info.model}`}>{info.model}</Link>, made <Time at={info.created_at} /> by {info.created_by}
          </>
        }
      />
      <div className="stack">
        {dataset.blobs_missing > 0 && (
          <Note tone="bad" alert>
            <strong>{plural(dataset.blobs_missing, "sample")} of it cannot be found in the store</strong>
            <p>Nothing can be trained on it. A backup has them, if one was made since.</p>
          </Note>
        )}
        <Rows info={info} document={document} />
        <Checks name={info.name} />
        <Origin dataset={dataset} document={document} />
        <Trained dataset={info} />
      </div>
    </>
  );
}

/** Rows of each class, split by split. */
function Rows({ info, document }: { info: Dataset["info"]; document: Document }) {
  const { classes = [], statistics = {} } = document;
  const of = (split: Split, number: number) => statistics.classes?.[split]?.[number] ?? 0;
  const shown = classes.map((words, number) => ({ words, number })).filter(({ number }) => SPLITS.some((split) => of(split, number) > 0));
  const unlabelled = SPLITS.some((split) => statistics.unlabelled?.[split]);
  const none = classes.length - shown.length;
  return (
    <Panel flush title="What is in it">
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Rows by class and split">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Class</th>
              {SPLITS.map((split) => (
                <th key={split} scope="col" data-align="right">
                  {split.charAt(0).toUpperCase() + split.slice(1)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map(({ words, number }) => (
              <Counted key={number} name={words} of={(split) => of(split, number)} />
            ))}
            {unlabelled && <Counted name={<span className="soft">no label</span>} of={(split) => statistics.unlabelled?.[split] ?? 0} />}
            <Counted name={<b>All</b>} of={(split) => info.splits[split] ?? 0} />
            <Counted name={<span className="soft">devices</span>} of={(split) => statistics.devices?.[split] ?? 0} />
          </tbody>
        </table>
      </div>
      <div style={{ padding: "10px 18px 18px" }}>
        <p className="soft small" style={{ marginBottom: 10 }}>
          {SPLIT_WORDS[info.split_by]}
          {none > 0 && ` Of ${plural(none, "class", "classes")} there is no row.`}
        </p>
        <Equivalent text={showDataset(info.name)} />
      </div>
    </Panel>
  );
}

function Counted({ name, of }: { name: React.ReactNode; of: (split: Split) => number }) {
  return (
    <tr>
      <td className="breakable">{name}</td>
      {SPLITS.map((split) => (
        <td key={split} data-align="right" className="number">
          {count(of(split))}
        </td>
      ))}
    </tr>
  );
}

/** Reads all of its samples, which may take a while: only when asked. */
function Checks({ name }: { name: string }) {
  const [asked, ask] = useState(false);
  const query = api.useQuery("get", "/api/v1/datasets/{dataset}/checks", { params: { path: { dataset: name } } }, { enabled: asked, staleTime: Infinity });
  const report = query.data;
  return (
    <Panel
      title="Is it sound?"
      aside={
        !report && (
          <Button size="xs" variant="default" loading={asked && query.isFetching} onClick={() => ask(true)}>
            Check it
          </Button>
        )
      }
    >
      {query.error != null && <ErrorPanel error={query.error} retry={() => void query.refetch()} />}
      {!report && query.error == null && <p className="soft">Rules look at schema, numbers, ranges, classes, duplicates, devices and labels. All samples are read.</p>}
      {report && (
        <ul className="plain-list verdicts" aria-label="Findings">
          {report.findings.map((one, number) => (
            <li key={number} className="small">
              <State state={one.status} /> <b>{one.check}</b> <span className="soft breakable number">{one.detail}</span>{" "}
              {one.samples.slice(0, 3).map((sample) => (
                <Link key={sample} className="mono" to={`/samples/${sample}`}>
                  {sample}{" "}
                </Link>
              ))}
            </li>
          ))}
        </ul>
      )}
      <div style={{ marginTop: 12 }}>
        <Equivalent text={checkDataset(name)} />
      </div>
    </Panel>
  );
}

function Origin({ dataset, document }: { dataset: Dataset; document: Document }) {
  const { info } = dataset;
  const left = Object.entries(document.left_out ?? {}).filter(([, number]) => number > 0);
  const asked = Object.entries(document.filter ?? {});
  return (
    <Panel title="Where it comes from">
      <Facts
        rows={[
          ["Id", <span key="id" className="mono breakable">{info.id}</span>],
          ["Size", bytes(info.bytes)],
          [
            "Answered by",
            <span key="by" className="breakable">
              {(document.models ?? []).map((one, number) => (
                <span key={one.manifest}>
                  {number > 0 && ", "}
                  <Link className="underlined" to={`/models/${info.model}/${encodeURIComponent(one.version)}`}>{one.version}</Link> ({count(one.rows)})
                </span>
              ))}
            </span>,
          ],
          ["Inputs", (document.inputs ?? []).map((one) => `${one.name} ${one.datatype} [${one.shape.join(", ")}]`).join("; ")],
          ["Continues", info.parent ? <Link key="parent" className="mono breakable" to={`/datasets/${info.parent}`}>{info.parent.slice(0, 19)}</Link> : "no other dataset"],
          ["Asked for", asked.length ? asked.map(([name, value]) => `${name} ${String(value)}`).join(", ") : "all samples of the model"],
          ["Left out", left.length ? left.map(([why, number]) => `${count(number)} ${why.replaceAll("_", " ")}`).join(", ") : "none"],
        ]}
      />
      <div style={{ marginTop: 12 }}>
        <Equivalent text={exportDataset(info.name)} />
      </div>
    </Panel>
  );
}

/** Retrainings on this very dataset, of the newest ones of its model. */
function Trained({ dataset }: { dataset: Dataset["info"] }) {
  const query = api.useQuery("get", "/api/v1/retrainings", { params: { query: { model: dataset.model, limit: RETRAININGS_SHOWN } } });
  const found = (query.data?.items ?? []).filter((one) => one.dataset === dataset.id);
  return (
    <Panel title="Trained on it">
      {query.error != null && <ErrorPanel error={query.error} retry={() => void query.refetch()} />}
      {query.data && found.length === 0 && <p className="soft">Nothing yet.</p>}
      <ul className="plain-list" aria-label="Retrainings">
        {found.map((one) => (
          <li key={one.id} className="small">
            <State state={one.state} /> trainer <b>{one.trainer}</b>, from version {one.parent}
            {one.version && (
              <>
                {" to "}
                <Link className="underlined" to={`/models/${one.model}/${encodeURIComponent(one.version)}`}>{one.version}</Link>
              </>
            )}
            , <Time at={one.created_at} />
            {one.error && <span className="soft breakable"> {one.error.detail}</span>}
          </li>
        ))}
      </ul>
      <div style={{ marginTop: 12 }}>
        <Equivalent text={retrainOn(dataset.model, dataset.name)} />
      </div>
    </Panel>
  );
}
