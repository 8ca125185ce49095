// Moments: relative to now, absolute in the tooltip. One clock ticks for all of them.
import { useSyncExternalStore } from "react";

import { absolute, relative } from "../format";

let now = Date.now();
const watchers = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const each of watchers) each();
  }, 5_000);
  return () => {
    watchers.delete(watcher);
    if (watchers.size) return;
    clearInterval(timer);
    timer = undefined;
  };
}

export function useNow(): number {
  return useSyncExternalStore(watch, () => now);
}

export function Time({ at, never = "never" }: { at: string | null | undefined; never?: string }) {
  const current = useNow();
  if (!at) return <span className="soft">{never}</span>;
  const moment = Date.parse(at);
  return (
    <time className="nowrap" dateTime={at} title={absolute(moment)}>
      {relative(moment, Math.max(current, Date.now()))}
    </time>
  );
}
