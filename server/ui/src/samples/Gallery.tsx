// Samples as cards: what is in each, what the model said of it, and where it comes from.
import { Link } from "react-router";

import { Time } from "../components/Time";
import { share } from "../format";
import { Thumbnail } from "./Content";
import { reasonWords, type Sample } from "./reasons";

interface GalleryProps {
  samples: Sample[];
  /** Names of classes by `version`. */
  classes: (sample: Sample) => string[] | undefined;
}

export function Gallery({ samples, classes }: GalleryProps) {
  return (
    <ul className="gallery" aria-label="Samples">
      {samples.map((sample) => (
        <li key={sample.id} className="card">
          <Link to={`/samples/${sample.id}`} aria-label={`Sample ${sample.id} of ${sample.model}`}>
            <Thumbnail id={sample.id} sealed={sample.sealed} />
          </Link>
          <div className="card-text">
            <div className="row apart" style={{ gap: 8 }}>
              <Link to={`/samples/${sample.id}`} className="name breakable">
                {answerWords(sample, classes(sample))}
              </Link>
              {sample.confidence != null && <span className="number soft">{share(sample.confidence, 0)}</span>}
            </div>
            <LabelState sample={sample} />
            <p className="small soft breakable">
              {reasonWords(sample.reason)} · <Link to={`/fleet/${sample.device}`}>{sample.device}</Link>
              <br />
              {sample.model} {sample.version} · <Time at={sample.taken_at} />
            </p>
          </div>
        </li>
      ))}
    </ul>
  );
}

export function answerWords(sample: Sample, classes: string[] | undefined): string {
  if (sample.sealed) return "sealed";
  if (sample.answer < 0) return "no class scores";
  return classes?.[sample.answer] ?? `class ${sample.answer}`;
}

const STATES: Record<Sample["label_state"], [words: string, tone: string | undefined]> = {
  unlabelled: ["not labelled", undefined],
  labelled: ["", "good"],
  conflict: ["labels disagree", "bad"],
  skipped: ["cannot be told", undefined],
};

export function LabelState({ sample }: { sample: Sample }) {
  const [words, tone] = STATES[sample.label_state];
  return (
    <div>
      <span className="tag plain" data-tone={tone}>
        {sample.label_state === "labelled" ? `labelled ${sample.label}` : words}
      </span>
    </div>
  );
}
