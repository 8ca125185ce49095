// A file to the server, in pieces: hashed first, because its digest names the upload, then sent from
// wherever the server has it already. A lost connection is waited for; the server's offset is the truth.
import { ApiError, asApiError, csrfHeaders, outdated, problemOf } from "./client";
import type { FromHashing } from "./hash.worker";

export interface Progress {
  stage: "hashing" | "sending" | "waiting" | "there";
  done: number;
  total: number;
}

const PIECE_BYTES = 2 * 1024 * 1024;
const PIECE_MS_MAX = 120_000;
const RETRY_MS = 2_000;
const RETRIES_MAX = 150;
/** What passes by itself. */
const PASSING = new Set(["upload.offset", "upload.busy"]);

/** Returns the SHA-256 of the file, hexadecimal, when the server has all of it. */
export async function upload(file: File, tell: (progress: Progress) => void, stop: AbortSignal): Promise<string> {
  const total = file.size;
  const digest = await hash(file, (done) => tell({ stage: "hashing", done, total }), stop);
  let failures = 0;
  let at = await ask(digest, stop);
  while (at !== null) {
    const from: number = at;
    tell({ stage: "sending", done: from, total });
    try {
      const reached = await send(digest, file, from, stop);
      if (reached !== null && reached <= from) throw new ApiError({ status: 204, code: "client.answer", detail: "The server took a piece and stayed where it was." });
      at = reached;
      failures = 0;
    } catch (failure) {
      const error = asApiError(failure);
      const passing = error.status === 0 || error.status >= 502 || PASSING.has(error.code);
      if (stop.aborted || !passing || (failures += 1) > RETRIES_MAX) throw failure;
      tell({ stage: "waiting", done: from, total });
      await pause(RETRY_MS, stop);
      at = await ask(digest, stop).catch(() => from);
    }
  }
  tell({ stage: "there", done: total, total });
  return digest;
}

function hash(file: File, tell: (done: number) => void, stop: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./hash.worker.ts", import.meta.url), { type: "module" });
    const end = (act: () => void) => {
      worker.terminate();
      act();
    };
    const unreadable = (why: string) =>
      new ApiError({ status: 400, code: "file.unreadable", detail: `${file.name} cannot be read: ${why}`, hint: "Choose it again." });
    stop.addEventListener("abort", () => end(() => reject(stop.reason as Error)), { once: true });
    // A script that cannot be fetched has nothing to say.
    worker.onerror = (event) => end(() => reject(event.message ? unreadable(event.message) : outdated()));
    worker.onmessage = ({ data }: MessageEvent<FromHashing>) => {
      if ("done" in data) tell(data.done);
      else if ("failed" in data) end(() => reject(unreadable(data.failed)));
      else end(() => resolve(data.sha256));
    };
    tell(0);
    worker.postMessage(file);
  });
}

/** Where to go on; null when all of it is there. */
async function ask(digest: string, stop: AbortSignal): Promise<number | null> {
  return offsetOf(await fetch(`/api/v1/uploads/${digest}`, { method: "HEAD", signal: stop }));
}

async function send(digest: string, file: File, at: number, stop: AbortSignal): Promise<number | null> {
  const answer = await fetch(`/api/v1/uploads/${digest}`, {
    method: "PATCH",
    headers: {
      ...csrfHeaders(),
      "Content-Type": "application/octet-stream",
      "Upload-Offset": String(at),
      "Upload-Length": String(file.size),
    },
    body: file.slice(at, at + PIECE_BYTES),
    signal: AbortSignal.any([stop, AbortSignal.timeout(PIECE_MS_MAX)]),
  });
  return offsetOf(answer);
}

async function offsetOf(answer: Response): Promise<number | null> {
  if (!answer.ok) throw await problemOf(answer);
  if (answer.headers.get("Upload-Complete") === "?1") return null;
  const offset = Number(answer.headers.get("Upload-Offset") ?? Number.NaN);
  if (!Number.isInteger(offset)) throw new ApiError({ status: answer.status, code: "client.answer", detail: "The server does not say how much it has." });
  return offset;
}

function pause(milliseconds: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    stop.addEventListener("abort", () => (clearTimeout(timer), reject(stop.reason as Error)), { once: true });
  });
}
