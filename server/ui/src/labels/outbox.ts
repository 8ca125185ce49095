// Labels on their way to the server. Each is kept in the browser until the server has it, so that
// neither a reload nor a lost connection loses one.
//
// 1. One entry for each user and sample, under a key of its own: tabs cannot undo one another's.
// 2. What is said again of a sample replaces what has not been sent yet.
// 3. An entry goes when the server has taken exactly it, or has refused it for good; what was refused
//    is told. No answer, a busy server and an ended session only mean: later.
import { useSyncExternalStore } from "react";

import { ApiError, asApiError, fetchClient } from "../api/client";
import { refresh } from "../api/refresh";

export interface Said {
  sample: string;
  model: string;
  /** Null: cannot tell; undefined: taken back. */
  label: string | null | undefined;
}

export interface Outbox {
  waiting: number;
  /** Why the newest one that was refused was. */
  refused: { said: Said; error: ApiError } | null;
  /** The server has not answered the last time. */
  stuck: boolean;
}

const PREFIX = "edgectl.label.";
const RETRY_MS = 3_000;
const REFETCH = ["/api/v1/models/{name}/labelling", "/api/v1/samples", "/api/v1/samples/{sample}/annotations"] as const;

let user = "";
let state: Outbox = { waiting: 0, refused: null, stuck: false };
let timer: ReturnType<typeof setTimeout> | undefined;
let sending = false;
const watchers = new Set<() => void>();

function tell(changes: Partial<Outbox>): void {
  state = { ...state, ...changes, waiting: keys().length };
  for (const watcher of watchers) watcher();
}

const prefix = () => `${PREFIX}${encodeURIComponent(user)}.`;

function keys(): string[] {
  if (!user) return [];
  return Array.from({ length: localStorage.length }, (_, number) => localStorage.key(number) ?? "").filter((key) => key.startsWith(prefix()));
}

/** What is said of a sample and has not been taken by the server yet; undefined: nothing waits. */
export function waitingFor(sample: string): Said | undefined {
  return read(prefix() + sample)?.said;
}

function read(key: string): { text: string; at: number; said: Said } | undefined {
  const text = localStorage.getItem(key);
  try {
    const kept = JSON.parse(text ?? "") as { at: number; model: string; label: string | null; back: boolean };
    return { text: text!, at: kept.at, said: { sample: key.slice(prefix().length), model: kept.model, label: kept.back ? undefined : kept.label } };
  } catch {
    return undefined;
  }
}

/** Keep what was said, and send it as soon as may be. */
export function say(said: Said): void {
  const kept = { at: Date.now(), model: said.model, label: said.label ?? null, back: said.label === undefined };
  localStorage.setItem(prefix() + said.sample, JSON.stringify(kept));
  tell({});
  void send();
}

/** Go on with what was left by this user, here or before a reload. */
export function openOutbox(of: string): () => void {
  user = of;
  tell({ refused: null, stuck: false });
  void send();
  const again = () => void send();
  window.addEventListener("online", again);
  return () => {
    window.removeEventListener("online", again);
    clearTimeout(timer);
    user = "";
    tell({ refused: null, stuck: false });
  };
}

export function useOutbox(): Outbox {
  return useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    () => state,
  );
}

export function forgetRefusal(): void {
  tell({ refused: null });
}

async function send(): Promise<void> {
  if (sending) return;
  sending = true;
  clearTimeout(timer);
  const of = user;
  try {
    for (;;) {
      const [next] = keys()
        .map((key) => ({ key, ...read(key) }))
        .sort((one, other) => (one.at ?? 0) - (other.at ?? 0));
      if (!next || user !== of) return;
      if (!next.said) {
        localStorage.removeItem(next.key); // not from this page
        continue;
      }
      const error = await deliver(next.said);
      if (user !== of) return;
      if (error && !final(error)) {
        tell({ stuck: true });
        timer = setTimeout(() => void send(), RETRY_MS);
        return;
      }
      // What was said meanwhile of the same sample stays.
      if (localStorage.getItem(next.key) === next.text) localStorage.removeItem(next.key);
      tell({ stuck: false, ...(error ? { refused: { said: next.said, error } } : {}) });
    }
  } finally {
    sending = false;
    if (user && user !== of) void send();
  }
}

/** Whether asking again would give the same answer. */
function final({ status }: ApiError): boolean {
  return status === 403 || status === 404 || status === 409 || status === 422;
}

async function deliver({ sample, label }: Said): Promise<ApiError | null> {
  const path = { params: { path: { sample } } };
  try {
    if (label === undefined) await fetchClient.DELETE("/api/v1/samples/{sample}/annotation", path);
    else await fetchClient.PUT("/api/v1/samples/{sample}/annotation", { ...path, body: { label } });
    void refresh(...REFETCH);
    return null;
  } catch (failure) {
    return asApiError(failure);
  }
}
