// One sample: what was seen, what the model said of it, what people say, and where it comes from.
import { useState } from "react";
import { Button } from "@mantine/core";
import { Link, useNavigate, useParams } from "react-router";

import { api, fetchClient, type Schemas } from "../api/client";
import { refresh } from "../api/refresh";
import { useLive } from "../api/live";
import { Action } from "../components/Action";
import { Digest, Equivalent } from "../components/Command";
import { Confirm } from "../components/Confirm";
import { Icon } from "../components/Icon";
import { Empty, ErrorPanel, Facts, Head, Loaded, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { deleteSample, getSample } from "../cli";
import { bytes, share } from "../format";
import { Answer, Inputs, SEALED, useContent } from "../samples/Content";
import { LabelState } from "../samples/Gallery";
import { reasonWords } from "../samples/reasons";
import { useRefusal } from "../session";
import { whyOf } from "../watch/findings";

type Labelled = Schemas["LabelledSample"];

export function SamplePage() {
  const { id = "" } = useParams();
  useLive("samples");
  const query = api.useQuery("get", "/api/v1/samples/{sample}/annotations", { params: { path: { sample: id } } });
  return (
    <Loaded query={query} back={["All samples", "/samples"]}>
      {(found) => <Inside found={found} />}
    </Loaded>
  );
}

function Inside({ found }: { found: Labelled }) {
  const { sample } = found;
  const refusal = useRefusal("operator");
  const content = useContent(sample.id, !refusal && !sample.sealed);
  return (
    <>
      <Head
        crumbs={[
          ["Samples", "/samples"],
          [sample.model, `/samples?model=${sample.model}`],
        ]}
        title={<span className="mono">{sample.id}</span>}
        beside={<LabelState sample={sample} />}
        under={
          <>
            {reasonWords(sample.reason)}, taken <Time at={sample.taken_at} /> on <Link to={`/fleet/${sample.device}`}>{sample.device}</Link>
          </>
        }
        actions={
          <>
            {!sample.sealed && (
              <Action needs="operator" icon="tag" to={`/labels/${sample.model}?sample=${sample.id}`}>
                Label
              </Action>
            )}
            {!refusal && (
              <Button
                component="a"
                href={`/api/v1/samples/${sample.id}`}
                download={`sample-${sample.id}.${sample.sealed ? "sealed" : "safetensors"}`}
                variant="default"
                leftSection={<Icon name="down" size={15} />}
              >
                Download
              </Button>
            )}
            <Delete id={sample.id} />
          </>
        }
      />
      <div className="columns">
        <div className="stack">
          <Panel title="Input">
            {sample.sealed ? (
              <Sealed sample={sample} />
            ) : refusal ? (
              <Empty icon="key" title="What is in a sample is for operators">
                <p className="soft">{refusal}</p>
              </Empty>
            ) : content.data ? (
              <Inputs content={content.data} />
            ) : content.error ? (
              <ErrorPanel error={content.error} retry={() => void content.refetch()} />
            ) : (
              <p className="soft" aria-busy="true">
                Reading it…
              </p>
            )}
          </Panel>
          <Said found={found} />
          <Equivalent text={getSample(sample.id, sample.sealed)} />
        </div>
        <div className="stack">
          <Panel title="What the model answered">
            {content.data ? (
              <Answer content={content.data} />
            ) : (
              <p className="soft">{sample.sealed ? "It is sealed with the input." : sample.confidence == null ? "It has no class scores." : `Class ${sample.answer}, with a confidence of ${share(sample.confidence, 1)}.`}</p>
            )}
          </Panel>
          <Panel title="Where it comes from">
            <Facts
              rows={[
                ["Model", <Link key="m" to={`/models/${sample.model}/${encodeURIComponent(sample.version)}`}>{`${sample.model} ${sample.version}`}</Link>],
                ["Bundle", <Digest key="b" value={sample.manifest} />],
                ["Device", <Link key="d" to={`/samples?device=${sample.device}`}>{sample.device}</Link>],
                ["Its drift", <Link key="w" to={whyOf({ model: sample.model, level: "device", group: sample.device })}>how far from the reference</Link>],
                ["Sealed to", sample.key ? <SealedTo key="k" sample={sample} /> : "no key: it came as it was"],
                ["Redacted", sample.redacted ? "on the device, before it was written" : "no"],
                ["Request", sample.request ? <span key="r" className="mono breakable">{sample.request}</span> : "not named"],
                ["Taken", <Time key="t" at={sample.taken_at} />],
                ["Received", <Time key="v" at={sample.received_at} />],
                ["Deleted", <Time key="e" at={sample.expires_at} />],
                ["Size", bytes(sample.length)],
                ["Digest", <Digest key="g" value={sample.digest} />],
              ]}
            />
          </Panel>
        </div>
      </div>
    </>
  );
}

function Sealed({ sample }: { sample: Labelled["sample"] }) {
  return (
    <Empty icon="key" title={SEALED}>
      <p className="soft">
        Nobody can look at it or label it here, and no dataset is made of it. Who has the key <span className="mono">{sample.key}</span> opens it on
        their own machine.
      </p>
    </Empty>
  );
}

function SealedTo({ sample }: { sample: Labelled["sample"] }) {
  return (
    <>
      <span className="mono">{sample.key}</span>
      {sample.sealed ? ", which is not this server's" : ", opened when it came"}
    </>
  );
}

const SOURCES = { person: "", import: "imported", field: "what happened" } as const;

function Said({ found }: { found: Labelled }) {
  return (
    <Panel title="What is said of it">
      {found.annotations.length === 0 && <p className="soft">Nobody has labelled it yet.</p>}
      <ul className="alarms" aria-label="What is said of it">
        {found.annotations.map((one) => (
          <li key={`${one.source} ${one.labeller}`} className="row apart wrap">
            <span className="breakable">
              <b>{one.label ?? "cannot tell"}</b> <span className="soft">by {one.labeller}</span>{" "}
              {SOURCES[one.source] && <span className="tag">{SOURCES[one.source]}</span>}
            </span>
            <span className="soft small">
              <Time at={one.made_at} />
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Delete({ id }: { id: string }) {
  const [open, setOpen] = useState(false);
  const navigate = useNavigate();
  return (
    <>
      <Action needs="operator" variant="default" onClick={() => setOpen(true)}>
        Delete
      </Action>
      <Confirm
        opened={open}
        close={() => setOpen(false)}
        title="Delete this sample"
        action="Delete"
        danger
        command={() => deleteSample(id)}
        confirm={async () => {
          await fetchClient.DELETE("/api/v1/samples/{sample}", { params: { path: { sample: id } } });
          void refresh("/api/v1/samples");
          void navigate("/samples");
        }}
      >
        <p>It is gone for everybody with its content and its labels, and cannot be brought back. Datasets that were made of it keep theirs.</p>
      </Confirm>
    </>
  );
}
