// What a change makes of the query cache. Never invalidateQueries or setQueryData for that: an answer
// that is still awaited may be of before the change. Where it is the first of its query, the library
// waits for it instead of asking anew, and takes it for the new one; and it overwrites what was set.
import type { QueryClient, QueryKey } from "@tanstack/react-query";

import { queryClient } from "../session";
import type { paths } from "./schema";

/** Ask anew for what is shown of these paths; return when it is there. */
export async function refresh(...changed: (keyof paths)[]): Promise<void> {
  await Promise.all(
    changed.map(async (path) => {
      const asked = { queryKey: ["get", path] };
      await queryClient.cancelQueries(asked);
      await queryClient.invalidateQueries(asked);
    }),
  );
}

/** Have `data` be the newest answer of a query: one that is still awaited is older. */
export function setNewest(queryKey: QueryKey, data: unknown, client: QueryClient = queryClient): void {
  client.setQueryData(queryKey, data);
  void client.cancelQueries({ queryKey, exact: true });
}
