// What a dropped file is for, by its name; people may say otherwise.

export type Part = "model" | "calibration" | "evaluation" | "metric" | "processing" | "labels" | "card";

interface PartInfo {
  title: string;
  what: string;
  accept: string;
  /** It is sent as a file of its own; else its text goes with the request. */
  uploaded: boolean;
  /** Longest text, in bytes. */
  bytesMax?: number;
}

const MODELS = ".onnx,.tflite,.keras,.h5,.hdf5,.pt2,.skops,.zip";

export const PARTS: Record<Part, PartInfo> = {
  model: { title: "Model", what: "ONNX, TFLite, Keras, torch.export (.pt2), skops, or a SavedModel as .zip", accept: MODELS, uploaded: true },
  calibration: { title: "Calibration", what: "inputs as .npz, for static int8", accept: ".npz", uploaded: true },
  evaluation: { title: "Evaluation", what: "inputs and labels as .npz, for the accuracy", accept: ".npz", uploaded: true },
  metric: { title: "Own metric", what: "a metric.py by which variants are measured", accept: ".py", uploaded: true },
  processing: { title: "Processing", what: "steps around the model, TOML", accept: ".toml", uploaded: false, bytesMax: 32 * 1024 },
  labels: { title: "Labels", what: "names of the classes, one a line", accept: ".txt", uploaded: false, bytesMax: 1024 * 1024 },
  card: { title: "Card", what: "what the model is for, Markdown", accept: ".md", uploaded: false, bytesMax: 64 * 1024 },
};

export const ORDER = Object.keys(PARTS) as Part[];

export type Files = Partial<Record<Part, File>>;

/** Where each of some files belongs; those that belong nowhere are named. */
export function sortFiles(files: File[], there: Files): { files: Files; unknown: string[] } {
  const found: Files = { ...there };
  const unknown: string[] = [];
  for (const file of files) {
    const part = partOf(file.name.toLowerCase(), found);
    if (part) found[part] = file;
    else unknown.push(file.name);
  }
  return { files: found, unknown };
}

function partOf(name: string, there: Files): Part | null {
  if (name.endsWith(".npz")) {
    if (/cal/.test(name)) return "calibration";
    if (/eval|test|val/.test(name)) return "evaluation";
    return there.calibration ? "evaluation" : "calibration";
  }
  return ORDER.find((part) => PARTS[part].accept.split(",").some((ending) => name.endsWith(ending))) ?? null;
}

/** What the command line takes for the name where none is given, if it can be one. */
export function stemOf(file: string): string {
  return file.replace(/\.[^.]*$/, "");
}

/** "HAR v1.onnx" → "har-v1": as the command line proposes it. */
export function nameOf(file: string): string {
  return stemOf(file).toLowerCase().replace(/[^a-z0-9_-]+/g, "-").replace(/^[-_]+|[-_]+$/g, "").slice(0, 64);
}
