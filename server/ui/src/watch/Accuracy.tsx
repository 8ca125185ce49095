// How often the model is right here: estimated without labels, and found by those who label.
import { useMemo } from "react";
import { Link } from "react-router";

import { api, asApiError, type Schemas } from "../api/client";
import { Equivalent } from "../components/Command";
import { LineChart } from "../components/LineChart";
import { ErrorPanel, Facts, Panel } from "../components/Panels";
import { State } from "../components/State";
import { accuracyShow, type DriftPlace } from "../cli";
import { useLabelling } from "../labels/Progress";
import { count, plural, share } from "../format";

type Found = Schemas["AccuracyFound"];

const UNKNOWN: Record<Found["unknown"], string> = {
  "": "",
  labels: "the model was pushed without labels, so that nobody knows what its sureness is worth",
  rows: "too few answers have come",
  unseen: "too many answers are of a sureness that the reference has never seen",
};

/** Estimates and what labels say, side by side: they rest on different assumptions. */
export function Accuracy({ model, of }: { model: string; of: DriftPlace }) {
  const level = of.device ? "device" : of.site ? "site" : "fleet";
  const judged = api.useQuery(
    "get",
    "/api/v1/accuracy",
    { params: { query: { model, level, q: of.device ?? of.site, limit: 1 } } },
    { refetchInterval: 120_000 },
  );
  const query = api.useQuery(
    "get",
    "/api/v1/models/{model}/accuracy",
    { params: { path: { model }, query: of } },
    { refetchInterval: 120_000, enabled: !!judged.data?.total },
  );
  const labels = useLabelling(model);
  const [right, labelled] = labels.data?.right["random"] ?? [];
  const detail = query.data;
  const missing = query.error != null && asApiError(query.error).status === 404;
  const points = useMemo(() => detail?.points ?? [], [detail]);
  const times = useMemo(() => points.map((point) => point.until), [points]);
  const lines = useMemo(
    () => [
      { name: "by sureness", values: points.map(({ found }) => found.accuracy) },
      { name: "by classes", values: points.map(({ found }) => found.by_classes) },
    ],
    [points],
  );
  const found = detail?.group.found;
  return (
    <Panel title="Accuracy" id="accuracy" aside={detail && <State state={detail.group.state} />}>
      {query.error != null && !missing && <ErrorPanel error={query.error} retry={() => void query.refetch()} stale={!!detail} />}
      <div className="stack">
        <div className="halves">
          <Facts
            rows={[
              ["Estimated", found?.accuracy == null ? <span key="n">{found?.unknown ? UNKNOWN[found.unknown] : "not yet"}</span> : <Estimate key="e" found={found} />],
              ["By classes", found?.by_classes == null ? "–" : `${share(found.by_classes, 1)}, if classes are as frequent as they were`],
              ["At the push", found?.reference == null ? "–" : `${share(found.reference, 1)} of ${plural(found.reference_rows, "row")}`],
              [
                "By labels",
                labelled ? (
                  <span key="l">
                    <b className="number">{share((right ?? 0) / labelled, 1)}</b>, {count(right)} of{" "}
                    <Link className="underlined" to={`/samples?model=${model}&reason=random&label_state=labelled`}>
                      {plural(labelled, "labelled sample")}
                    </Link>{" "}
                    of the random control, from all of {model}
                  </span>
                ) : (
                  <Link key="l" to={`/labels/${model}?reason=random&first=newest`}>
                    nobody has labelled the random control yet
                  </Link>
                ),
              ],
            ]}
          />
          <p className="soft small">
            The estimate takes the model at its word: how often answers that were as sure were right at the push. It is blind to a model that
            errs and is sure. Labels of the random control know better, and are fewer.
          </p>
        </div>
        {points.length > 1 && (
          <div>
            <h3 className="part">Estimated accuracy</h3>
            <LineChart label="Estimated accuracy" times={times} lines={lines} write={percent} limit={found?.reference == null ? undefined : { value: found.reference, name: "at the push" }} />
          </div>
        )}
        <Equivalent text={accuracyShow(model, of)} />
      </div>
    </Panel>
  );
}

const percent = (value: number) => share(value, 0);

function Estimate({ found }: { found: Found }) {
  return (
    <span>
      <b className="number">{share(found.accuracy, 1)}</b>{" "}
      <span className="soft number">
        {found.low != null && found.high != null && `${share(found.low, 1)} to ${share(found.high, 1)}`}
        {found.unseen > 0.005 && `, ${share(found.unseen, 0)} of answers are of a sureness never seen`}
      </span>
    </span>
  );
}
