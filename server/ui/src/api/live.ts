// What a tab knows of the live stream: which topics its pages want, whether the stream is up, and
// where a snapshot goes (into the query cache, as if it had been fetched).
import { useEffect, useSyncExternalStore } from "react";
import type { QueryClient } from "@tanstack/react-query";

import { api, type Schemas } from "./client";
import type { FromTab } from "./events.worker";
import { setNewest } from "./refresh";
import { Stream, type Report } from "./stream";

export interface LiveStatus {
  live: boolean;
  since: number;
}

const PRESENT_EVERY_MS = 20_000;
const REFETCH_EVERY_MS = 2_000;
/** In a large fleet something changes each second; the numbers come at once, the rows by and by. */
const FLEET_EVERY_MS = 8_000;

let status: LiveStatus = { live: false, since: Date.now() };
let deliver: (topic: string, snapshot: unknown) => void = () => {};
let lost: () => void = () => {};
let found: () => void = () => {};
let sendTopics: ((topics: string[]) => void) | undefined;
const wanted = new Map<string, number>();
const watchers = new Set<() => void>();

function receive(report: Report): void {
  if (report.kind === "snapshot") {
    deliver(report.topic, report.snapshot);
    return;
  }
  const wasLive = status.live;
  status = { live: report.live, since: report.since };
  for (const watcher of watchers) watcher();
  if (wasLive && !report.live) lost();
  if (!wasLive && report.live) found();
}

/** Some mobile browsers have no SharedWorker: then a stream for this tab, closed while hidden. */
function startAlone(): (topics: string[]) => void {
  const stream = new Stream(receive);
  let topics: string[] = [];
  const update = () => stream.ask(document.hidden ? [] : topics);
  document.addEventListener("visibilitychange", update);
  return (asked) => {
    topics = asked;
    update();
  };
}

function startShared(): (topics: string[]) => void {
  const worker = new SharedWorker(new URL("./events.worker.ts", import.meta.url), {
    type: "module",
    name: "edgectl-events",
  });
  const send = (message: FromTab) => worker.port.postMessage(message);
  worker.port.onmessage = (event: MessageEvent<Report>) => receive(event.data);
  worker.port.start();
  setInterval(() => send("here"), PRESENT_EVERY_MS);
  window.addEventListener("pagehide", () => send("bye"));
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) send({ topics: [...wanted.keys()] });
  });
  return (topics) => send({ topics });
}

function changeTopics(): void {
  sendTopics ??= typeof SharedWorker === "undefined" ? startAlone() : startShared();
  sendTopics([...wanted.keys()]);
}

/** Keep these topics live while the component is shown. */
export function useLive(...topics: (string | null | undefined | false)[]): void {
  const key = topics.filter(Boolean).join("\n");
  useEffect(() => {
    const asked = key ? key.split("\n") : [];
    for (const topic of asked) wanted.set(topic, (wanted.get(topic) ?? 0) + 1);
    if (asked.length) changeTopics();
    return () => {
      for (const topic of asked) {
        const left = (wanted.get(topic) ?? 1) - 1;
        if (left) wanted.set(topic, left);
        else wanted.delete(topic);
      }
      if (asked.length) changeTopics();
    };
  }, [key]);
}

export function useLiveStatus(): LiveStatus {
  return useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    () => status,
  );
}

/** Put snapshots into the cache and have the tables beside them fetched again, not too often. */
export function connectLive(client: QueryClient, onLost: () => void): void {
  lost = onLost;
  // Whatever failed or was missed in between is asked for again.
  found = () => void client.invalidateQueries();
  const due = new Map<string, ReturnType<typeof setTimeout>>();
  const refetch = (path: string, everyMs = REFETCH_EVERY_MS) => {
    if (due.has(path)) return;
    const asked = { queryKey: ["get", path] };
    const again = () => {
      // A first answer may be of before the change, and is not cut short: on a slow server none would come.
      if (client.isFetching({ ...asked, predicate: ({ state }) => state.data === undefined })) {
        due.set(path, setTimeout(again, everyMs));
        return;
      }
      due.delete(path);
      void client.invalidateQueries(asked);
    };
    void client.invalidateQueries(asked);
    due.set(path, setTimeout(again, everyMs));
  };
  deliver = (topic, snapshot) => {
    const [kind, id = ""] = topic.split(/:(.*)/s);
    if (kind === "fleet") {
      setNewest(api.queryOptions("get", "/api/v1/fleet").queryKey, snapshot, client);
      refetch("/api/v1/devices", FLEET_EVERY_MS);
    } else if (kind === "rollout") {
      setNewest(api.queryOptions("get", "/api/v1/rollouts/{rollout}", { params: { path: { rollout: id } } }).queryKey, snapshot, client);
      refetch("/api/v1/rollouts/{rollout}/phases");
      refetch("/api/v1/rollouts/{rollout}/reasons");
      refetch("/api/v1/rollouts/{rollout}/devices");
      refetch("/api/v1/rollouts/{rollout}/events");
      refetch("/api/v1/rollouts");
    } else if (kind === "device") {
      setNewest(api.queryOptions("get", "/api/v1/devices/{device}", { params: { path: { device: id } } }).queryKey, snapshot, client);
      refetch("/api/v1/devices/{device}/events");
    } else if (kind === "job") {
      setNewest(api.queryOptions("get", "/api/v1/jobs/{job_id}", { params: { path: { job_id: id } } }).queryKey, snapshot, client);
      refetch("/api/v1/retrainings/{retraining}");
      if ((snapshot as Schemas["JobInfo"]).finished_at) {
        refetch("/api/v1/models/{name}/versions/{version}");
        refetch("/api/v1/models/{name}/versions");
        refetch("/api/v1/models");
      }
    } else if (kind === "version") {
      refetch("/api/v1/models/{name}/versions/{version}");
      refetch("/api/v1/models/{name}/versions");
      refetch("/api/v1/models");
    } else if (kind === "trust") {
      refetch("/api/v1/trust");
    } else if (kind === "drift") {
      refetch("/api/v1/drift");
      refetch("/api/v1/drift-summary");
      refetch("/api/v1/drift-events");
      refetch("/api/v1/models/{model}/drift");
      refetch("/api/v1/models/{model}/drift/history");
      refetch("/api/v1/models/{model}/accuracy");
    } else if (kind === "alerts") {
      setNewest(api.queryOptions("get", "/api/v1/alerts/counts", {}).queryKey, snapshot, client);
      refetch("/api/v1/alerts");
      refetch("/api/v1/alert-silences");
    } else if (kind === "loops") {
      refetch("/api/v1/loops");
      refetch("/api/v1/models/{name}/loop");
      refetch("/api/v1/models/{name}/loop/runs");
      refetch("/api/v1/models/{name}/loop/runs/{run}");
    } else if (kind === "samples") {
      refetch("/api/v1/samples");
      refetch("/api/v1/models/{name}/loop/runs/{run}");
    }
  };
}
