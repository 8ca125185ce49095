// Since when nothing has come from the server, so that nobody steers by what is no longer so.
import { useLiveStatus } from "../api/live";
import { useNow } from "./Time";

/** How long a broken connection counts as a hiccup. */
const HICCUP_MS = 10_000;

/** The moment from which on what is shown may be old; null while changes arrive, or nearly. */
export function useStaleSince(): number | null {
  const { live, since } = useLiveStatus();
  const now = useNow();
  return !live && now - since > HICCUP_MS ? since : null;
}
