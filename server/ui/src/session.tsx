// Who is using this page, and what that role may do.
import { QueryClient, useQuery } from "@tanstack/react-query";

import { ApiError, asApiError, fetchClient, onSignedOut, setCsrf, type Role, type Schemas } from "./api/client";

export type Me = Schemas["Me"];

const ME = ["me"];

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      // The server's word is final; only a missing answer is asked for again.
      retry: (failures, error) => failures < 1 && asApiError(error).status === 0,
      retryDelay: 500,
      refetchOnWindowFocus: true,
    },
  },
});

onSignedOut(() => queryClient.setQueryData(ME, null));

/** Null: nobody has logged in here. */
export function useSession() {
  return useQuery({
    queryKey: ME,
    staleTime: Number.POSITIVE_INFINITY,
    queryFn: async (): Promise<Me | null> => {
      try {
        const { data } = await fetchClient.GET("/api/v1/me");
        setCsrf(data?.csrf);
        return data ?? null;
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) return null;
        throw asApiError(error);
      }
    },
  });
}

export function useMe(): Me {
  const { data } = useSession();
  return data ?? { user: "", role: "viewer", scopes: [], csrf: null };
}

export async function logIn(username: string, password: string): Promise<void> {
  setCsrf(null);
  const { data } = await fetchClient.POST("/api/v1/session", { body: { username, password } });
  setCsrf(data?.csrf);
  queryClient.setQueryData(ME, data ?? null);
}

/** Names of people who came by single sign-on end with this, and no others do. */
const BY_SIGN_ON = "@sso";

export const comesBySignOn = (user: string) => user.endsWith(BY_SIGN_ON);

export async function logOut(): Promise<void> {
  const user = queryClient.getQueryData<Me | null>(ME)?.user ?? "";
  const asked = comesBySignOn(user) ? fetchClient.GET("/api/v1/openid").catch(() => null) : null;
  const signOn = (await asked)?.data;
  await fetchClient.DELETE("/api/v1/session");
  if (signOn?.logout_url) {
    window.location.assign(signOn.logout_url); // else the next click would log them in again, unasked
    return;
  }
  queryClient.setQueryData(ME, null);
  queryClient.removeQueries({ predicate: (query) => query.queryKey[0] !== ME[0] });
}

/** After the stream broke: has the session ended, or only the connection? */
export function checkSession(): void {
  void queryClient.invalidateQueries({ queryKey: ME });
}

const ORDER: Role[] = ["viewer", "operator", "admin"];

/** Why this user may not do what needs `role`; null when they may. */
export function useRefusal(role: Role): string | null {
  const me = useMe();
  if (ORDER.indexOf(me.role) >= ORDER.indexOf(role)) return null;
  return `This needs the role ${role}; you are logged in as ${me.role}.`;
}
