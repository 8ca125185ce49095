// SHA-256 of a file, read piece by piece: crypto.subtle wants it whole in memory, and is not there at
// all on a page without HTTPS.
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

export type FromHashing = { done: number } | { sha256: string } | { failed: string };

const TELL_EVERY = 8 * 1024 * 1024;
const scope = self as unknown as { onmessage: ((event: MessageEvent<File>) => void) | null; postMessage: (message: FromHashing) => void };

scope.onmessage = (event) => {
  void hash(event.data).catch((error: unknown) => scope.postMessage({ failed: String(error) }));
};

async function hash(file: File): Promise<void> {
  const digest = sha256.create();
  const reader = file.stream().getReader();
  let done = 0;
  let told = 0;
  for (;;) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    digest.update(value);
    done += value.length;
    if (done - told >= TELL_EVERY) {
      told = done;
      scope.postMessage({ done });
    }
  }
  scope.postMessage({ sha256: bytesToHex(digest.digest()) });
}
