// One stream for all tabs of a browser: over HTTP/1.1 a browser opens six connections to an origin
// at most, and a stream in each of seven tabs would hang the seventh without a message.
import { Stream, type Report } from "./stream";

/** A tab that has not been heard of for so long is gone; hidden tabs may call once a minute. */
const SILENT_MS = 180_000;

export type FromTab = { topics: string[] } | "here" | "bye";

const TOPICS_MAX = 16;

interface Tab {
  topics: string[];
  asked: number;
  heard: number;
}

const scope = self as unknown as { onconnect: ((event: MessageEvent) => void) | null };
const tabs = new Map<MessagePort, Tab>();
const newest = new Map<string, Report>();

const stream = new Stream((report) => {
  if (report.kind === "snapshot") newest.set(report.topic, report);
  for (const [port, tab] of tabs) {
    if (report.kind === "status" || tab.topics.includes(report.topic)) port.postMessage(report);
  }
});

function gather(): void {
  // The server takes so many topics from one listener; tabs beyond refetch, as they do anyway.
  const newestFirst = [...tabs.values()].sort((left, right) => right.asked - left.asked);
  const unique = new Set(newestFirst.flatMap((tab) => tab.topics));
  const wanted = new Set([...unique].slice(0, TOPICS_MAX));
  for (const topic of newest.keys()) if (!wanted.has(topic)) newest.delete(topic);
  stream.ask(wanted);
}

function hear(port: MessagePort, message: FromTab): void {
  const tab = tabs.get(port) ?? { topics: [], asked: 0, heard: 0 };
  tab.heard = Date.now();
  if (message === "bye") {
    tabs.delete(port);
    gather();
    return;
  }
  tabs.set(port, tab);
  if (message === "here") return;
  const fresh = message.topics.filter((topic) => !tab.topics.includes(topic));
  tab.topics = message.topics;
  tab.asked = tab.heard;
  gather();
  port.postMessage(stream.currentStatus);
  for (const topic of fresh) {
    const report = newest.get(topic);
    if (report) port.postMessage(report);
  }
}

scope.onconnect = (event) => {
  const port = event.ports[0];
  if (!port) return;
  port.onmessage = (received: MessageEvent<FromTab>) => hear(port, received.data);
  port.start();
};

setInterval(() => {
  const oldest = Date.now() - SILENT_MS;
  for (const [port, tab] of tabs) if (tab.heard < oldest) tabs.delete(port);
  gather();
}, 60_000);
