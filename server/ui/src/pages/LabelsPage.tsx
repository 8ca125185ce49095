// Labelling: one sample after the other, by the keyboard. What is said is kept until the server has it.
import { useEffect, useEffectEvent } from "react";
import { Button, Select, Switch } from "@mantine/core";
import { Link, useParams } from "react-router";

import { api } from "../api/client";
import { useLive } from "../api/live";
import { Bar } from "../components/Bars";
import { Command, Equivalent } from "../components/Command";
import { useListState, type ListState } from "../components/DataTable";
import { Empty, ErrorPanel, Head, Loaded, Note, Panel } from "../components/Panels";
import { Time } from "../components/Time";
import { exportLabels, samplePolicy, setLabel } from "../cli";
import { plural, share } from "../format";
import { useDeck, type Asked, type Deck } from "../labels/deck";
import { BEFORE, CANNOT_TELL, classOf, isElsewhere, keyOf, NEXT, SHOW, UNDO } from "../labels/keys";
import { forgetRefusal, useOutbox } from "../labels/outbox";
import { partsOf, Progress, useLabelling } from "../labels/Progress";
import { Answer, Inputs, useContent } from "../samples/Content";
import { REASONS, reasonWords } from "../samples/reasons";
import { useRefusal } from "../session";

const MODELS_MAX = 200;

/** Which model to label. */
export function LabelsPage() {
  const query = api.useQuery("get", "/api/v1/models", { params: { query: { limit: MODELS_MAX } } });
  return (
    <>
      <Head title="Labels" under="What samples are, said by people: it tells how right a model is, and is what the next one learns from." />
      <Loaded query={query}>
        {(page) => (
          <Panel title="Models">
            {page.items.length === 0 && (
              <Empty icon="tag" title="There is no model yet">
                <Link to="/push">Push one</Link>
              </Empty>
            )}
            <ul className="stack" aria-label="Models">
              {page.items.map(({ name }) => (
                <Model key={name} name={name} />
              ))}
            </ul>
          </Panel>
        )}
      </Loaded>
    </>
  );
}

function Model({ name }: { name: string }) {
  const { data } = useLabelling(name);
  const parts = data ? partsOf(data) : [];
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  return (
    <li className="version-share">
      <Link to={`/labels/${name}`} className="name breakable">
        {name}
      </Link>
      <Bar label={`Samples of ${name}`} parts={parts} />
      <span className="small soft">{data ? (total ? `${parts[0]!.value} of ${plural(total, "sample")} labelled` : "no samples yet") : "…"}</span>
    </li>
  );
}

const ORDERS = [
  { value: "uncertain", label: "Least certain first" },
  { value: "newest", label: "Newest first" },
  { value: "conflict", label: "Where labels disagree" },
] as const;
const LABELLERS = ["1", "2", "3"];

function askedOf(model: string, list: ListState): Asked {
  return {
    model,
    first: ORDERS.find((one) => one.value === list.get("first"))?.value ?? "uncertain",
    labellers: Number(LABELLERS.find((one) => one === list.get("labellers")) ?? 1),
    reason: REASONS.find((one) => one.value === list.get("reason"))?.value,
    sample: list.get("sample"),
  };
}

export function LabellingPage() {
  const { name = "" } = useParams();
  const list = useListState();
  const refusal = useRefusal("operator");
  useLive("samples");
  const asked = askedOf(name, list);
  return (
    <>
      <Head
        crumbs={[["Labels", "/labels"]]}
        title={`Label ${name}`}
        actions={
          <>
            <Button component={Link} to={`/samples?model=${name}`} variant="default">
              All samples
            </Button>
            <Button component={Link} to={`/datasets?model=${name}`} variant="default">
              Datasets
            </Button>
          </>
        }
      />
      <div className="columns">
        {refusal ? (
          <Panel>
            <Empty icon="key" title="Labelling is for operators">
              <p className="soft">{refusal}</p>
            </Empty>
          </Panel>
        ) : (
          <Sitting key={JSON.stringify(asked)} asked={asked} list={list} />
        )}
        <div className="stack">
          <Progress model={name} />
        </div>
      </div>
    </>
  );
}

function Sitting({ asked, list }: { asked: Asked; list: ListState }) {
  const deck = useDeck(asked);
  const shown = list.get("answers") === "true";
  const toggle = () => list.set({ answers: shown ? null : "true" });
  useKeys(deck, toggle);
  const done = !deck.current && !deck.loading && deck.error == null;
  return (
    <div className="stack">
      <Options list={list} asked={asked} shown={shown} toggle={toggle} />
      <Sending />
      {deck.sealed > 0 && (
        <Note icon="key">
          {plural(deck.sealed, "sample")} of {asked.model} {deck.sealed === 1 ? "is" : "are"} sealed to a key that this server doesn&apos;t have: nobody can label
          {deck.sealed === 1 ? " it" : " them"} here. Who has the key can say what they are with <span className="mono">edgectl labels import</span>.
        </Note>
      )}
      {deck.error != null && <ErrorPanel error={deck.error} retry={deck.retry} stale={deck.samples.length > 0} />}
      {deck.classes?.length === 0 && !deck.loading ? (
        <Panel>
          <Empty icon="tag" title={deck.samples.length || deck.waiting ? "This model has no classes" : "There is nothing to label"}>
            <p className="soft">Samples of models with classes can be labelled, once a policy lets some leave devices.</p>
            <Command text={samplePolicy(asked.model, 5_000_000, ["uncertain", "random"], 0.2)} />
          </Empty>
        </Panel>
      ) : deck.current ? (
        <Card deck={deck} shown={shown} />
      ) : (
        done && (
          <Panel>
            <Empty icon="check" title={deck.said.size ? "That was all" : "Nothing is left to label"}>
              <p className="soft">{deck.said.size ? `You have said something of ${plural(deck.said.size, "sample")}.` : "You, or enough others, have labelled what is here."}</p>
              <div className="row wrap">
                <Button variant="default" onClick={deck.retry}>
                  Look for more
                </Button>
                {deck.said.size > 0 && (
                  <Button variant="default" onClick={deck.undo}>
                    Undo the last
                  </Button>
                )}
              </div>
              <Command text={exportLabels(asked.model)} />
            </Empty>
          </Panel>
        )
      )}
      {!deck.current && deck.loading && (
        <Panel>
          <p className="soft" aria-busy="true">
            Looking for samples…
          </p>
        </Panel>
      )}
    </div>
  );
}

function useKeys(deck: Deck, toggle: () => void): void {
  const press = useEffectEvent((event: KeyboardEvent) => {
    if (isElsewhere(event) || event.repeat) return;
    const label = classOf(event.key.toLowerCase(), deck.classes ?? []);
    if (event.key === NEXT) deck.move(1);
    else if (event.key === BEFORE) deck.move(-1);
    else if (event.key.toLowerCase() === UNDO || event.key === "Backspace") deck.undo();
    else if (event.key.toLowerCase() === SHOW) toggle();
    else if (event.key === CANNOT_TELL) deck.label(null);
    else if (label !== undefined) deck.label(label);
    else return;
    event.preventDefault();
  });
  useEffect(() => {
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, []);
}

/** What is on its way, and what was refused. */
function Sending() {
  const { waiting, refused, stuck } = useOutbox();
  return (
    <>
      {refused && (
        <Note tone="bad" alert>
          <strong>A label was not taken</strong>: {refused.error.detail}
          <p className="small mono">
            {setLabel(refused.said.sample, refused.said.label)} · {refused.error.code}
          </p>
          <Button size="xs" variant="default" onClick={forgetRefusal}>
            I have seen it
          </Button>
        </Note>
      )}
      {stuck && waiting > 0 && (
        <Note tone="warn" icon="clock">
          {plural(waiting, "label")} {waiting === 1 ? "waits" : "wait"} for the server in this browser, and {waiting === 1 ? "goes" : "go"} by
          {waiting === 1 ? " itself" : " themselves"} when it answers. Go on labelling.
        </Note>
      )}
    </>
  );
}

interface OptionsProps {
  list: ListState;
  asked: Asked;
  shown: boolean;
  toggle: () => void;
}

function Options({ list, asked, shown, toggle }: OptionsProps) {
  return (
    <div className="filters">
      <Select aria-label="Order" w={190} allowDeselect={false} data={[...ORDERS]} value={asked.first} onChange={(value) => list.set({ first: value, sample: null })} />
      <Select
        aria-label="Reason"
        placeholder="All reasons"
        w={160}
        clearable
        clearButtonProps={{ "aria-label": "All reasons", size: "24px" }}
        data={REASONS.map(({ value, label }) => ({ value, label }))}
        value={asked.reason ?? null}
        onChange={(value) => list.set({ reason: value, sample: null })}
      />
      <Select
        aria-label="Labellers of each"
        w={150}
        allowDeselect={false}
        data={LABELLERS.map((value) => ({ value, label: value === "1" ? "1 labeller each" : `${value} labellers each` }))}
        value={String(asked.labellers)}
        onChange={(value) => list.set({ labellers: value === "1" ? null : value, sample: null })}
      />
      <Switch label="Show the model's answer" checked={shown} onChange={toggle} />
    </div>
  );
}

function Card({ deck, shown }: { deck: Deck; shown: boolean }) {
  const sample = deck.current!;
  const content = useContent(sample.id);
  const said = deck.said.get(sample.id);
  const last = deck.samples[deck.place - 1];
  const before = last && deck.said.has(last.id) ? (deck.said.get(last.id) ?? "cannot tell") : null;
  return (
    <>
      <Panel
        title={<span className="mono">{sample.id}</span>}
        aside={
          <span className="soft small">
            {reasonWords(sample.reason)} · {sample.device} · <Time at={sample.taken_at} />
          </span>
        }
      >
        {content.data ? (
          <Inputs content={content.data} />
        ) : content.error ? (
          <ErrorPanel error={content.error} retry={() => void content.refetch()} />
        ) : (
          <p className="soft" aria-busy="true" style={{ minHeight: 260 }}>
            Reading it…
          </p>
        )}
      </Panel>
      {shown && content.data && (
        <Panel title="What the model answered" aside={sample.confidence != null && <span className="soft small">confidence {share(sample.confidence, 0)}</span>}>
          <Answer content={content.data} />
        </Panel>
      )}
      <div className="at-hand">
        <Panel title="What is it?" aside={<span className="soft small number" role="status">{`${before ? `${before}. ` : ""}${plural(deck.waiting ?? 0, "sample")} left`}</span>}>
          <Choices deck={deck} said={said} />
        </Panel>
      </div>
      <Equivalent text={setLabel(sample.id, said === undefined ? (deck.classes?.[0] ?? null) : said)} />
    </>
  );
}

function Choices({ deck, said }: { deck: Deck; said: string | null | undefined }) {
  return (
    <div className="stack" style={{ gap: 12 }}>
      <div className="choices" role="group" aria-label="Classes">
        {(deck.classes ?? []).map((name, number) => (
          <button key={name} type="button" className="choice" aria-pressed={said === name} aria-keyshortcuts={keyOf(number)} onClick={() => deck.label(name)}>
            {keyOf(number) && <kbd>{keyOf(number)}</kbd>}
            <span className="breakable">{name}</span>
          </button>
        ))}
        <button type="button" className="choice" data-quiet aria-pressed={said === null} aria-keyshortcuts={CANNOT_TELL} onClick={() => deck.label(null)}>
          <kbd>{CANNOT_TELL}</kbd> Cannot tell
        </button>
      </div>
      <div className="row wrap small">
        <Button size="xs" variant="default" disabled={deck.place === 0} onClick={() => deck.move(-1)}>
          ← Before
        </Button>
        <Button size="xs" variant="default" onClick={() => deck.move(1)}>
          Next →
        </Button>
        <Button size="xs" variant="default" disabled={!deck.said.size} onClick={deck.undo}>
          Undo (u)
        </Button>
        <span className="soft">m shows the model&apos;s answer; without it, it does not lead you.</span>
      </div>
    </div>
  );
}
