// A push from the page: files one after the other, then the request for a version.
import { useEffect, useRef, useState } from "react";

import { fetchClient, type Schemas } from "../../api/client";
import { upload, type Progress } from "../../api/upload";
import { ORDER, PARTS, type Files, type Part } from "./files";

export interface Wishes {
  name: string;
  version: string;
  maxDrop: number | null;
  precisions: Schemas["PushOptions"]["precisions"];
  require: string[];
  parent: string;
}

export interface Sending {
  busy: boolean;
  progress: Partial<Record<Part, Progress>>;
  error: unknown;
  push: (files: Files, wishes: Wishes) => Promise<Schemas["PushAccepted"] | null>;
  stop: () => void;
}

/** What leaves the page half-way goes on from there when it is pushed again. */
export function useSending(): Sending {
  const [busy, setBusy] = useState(false);
  const [progress, setProgress] = useState<Sending["progress"]>({});
  const [error, setError] = useState<unknown>(null);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const push = async (files: Files, wishes: Wishes) => {
    const stop = new AbortController();
    abort.current = stop;
    setBusy(true);
    setError(null);
    setProgress({});
    try {
      const sent: Partial<Record<Part, string>> = {};
      for (const part of ORDER.filter((one) => PARTS[one].uploaded && files[one])) {
        const tell = (now: Progress) => setProgress((before) => ({ ...before, [part]: now }));
        sent[part] = await upload(files[part]!, tell, stop.signal);
      }
      const { data } = await fetchClient.POST("/api/v1/models/{name}/versions", {
        params: { path: { name: wishes.name } },
        body: await requestOf(files, sent, wishes),
      });
      return data ?? null;
    } catch (failure) {
      if (!stop.signal.aborted) setError(failure);
      return null;
    } finally {
      setBusy(false);
    }
  };
  return { busy, progress, error, push, stop: () => abort.current?.abort() };
}

async function requestOf(files: Files, sent: Partial<Record<Part, string>>, wishes: Wishes): Promise<Schemas["PushRequest"]> {
  const text = async (part: Part) => (files[part] ? await files[part].text() : "");
  const labels = (await text("labels")).split(/\r?\n/).map((line) => line.trim());
  return {
    model: sent.model!,
    filename: files.model!.name,
    version: wishes.version || null,
    calibration: sent.calibration ?? null,
    evaluation: sent.evaluation ?? null,
    own_metric: sent.metric ?? null,
    parent: wishes.parent || null,
    code_revision: "",
    options: {
      allow: [],
      card: await text("card"),
      encrypt: [],
      input_shapes: {},
      labels: labels.filter(Boolean),
      max_drop_points: wishes.maxDrop,
      objective: "latency",
      precisions: wishes.precisions,
      processing: await text("processing"),
      require: wishes.require,
      runtimes: ["onnxruntime"],
      search_s_max: 1800,
    },
  };
}
