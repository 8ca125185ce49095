// The one way to the server: typed by openapi.json, every failure an ApiError, the CSRF header on
// every change.
import createFetchClient, { type Middleware } from "openapi-fetch";
import createQueryClient from "openapi-react-query";

import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Role = Schemas["Me"]["role"];

const REQUEST_TIMEOUT_MS = 20_000;

/** What went wrong, in the server's words (RFC 9457) or, where it did not answer, in ours. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly hint: string;
  readonly requestId: string;
  readonly data: Record<string, unknown>;
  /** What is wrong with a field of what was sent, by its place, such as "policy.windows". */
  readonly fields: Record<string, string>;

  constructor(problem: Partial<Schemas["Problem"]> & { status: number }) {
    super(problem.detail || problem.title || `HTTP ${problem.status}`);
    this.status = problem.status;
    this.code = problem.code || `http.${problem.status}`;
    this.detail = this.message;
    this.hint = problem.hint ?? "";
    this.requestId = problem.request_id ?? "";
    this.data = (problem.data as Record<string, unknown> | undefined) ?? {};
    this.fields = Object.fromEntries(
      (problem.errors ?? []).map((one) => [String(one.field).replace(/^body\./, ""), String(one.message)]),
    );
  }
}

/** A part of the page that was not fetched yet is away: an upgraded server has another page. */
export function outdated(): ApiError {
  return new ApiError({
    status: 404,
    code: "page.outdated",
    detail: "A part of this page cannot be fetched: the server was upgraded since it was opened, or does not answer.",
    hint: "Reload the page.",
  });
}

export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError({
    status: 0,
    code: "network",
    detail: "The server does not answer.",
    hint: "Check that it runs and that this machine reaches it.",
  });
}

let csrf: string | null = null;
let signedOut: () => void = () => {};

/** Say what to do when the server no longer knows who this is. */
export function onSignedOut(act: () => void): void {
  signedOut = act;
}

/** The session's token against cross-site requests; it comes with `Me`. */
export function setCsrf(token: string | null | undefined): void {
  csrf = token ?? null;
}

/** For requests that do not go through `fetchClient`. */
export function csrfHeaders(): Record<string, string> {
  return csrf ? { "X-CSRF-Token": csrf } : {};
}

/** What an answer says that is not a success. */
export async function problemOf(response: Response): Promise<ApiError> {
  let problem: Partial<Schemas["Problem"]> = {};
  try {
    problem = (await response.clone().json()) as Partial<Schemas["Problem"]>;
  } catch {
    // Not from our server: a proxy's page. The status says enough.
  }
  if (response.status === 401) signedOut();
  return new ApiError({ ...problem, status: response.status });
}

const conventions: Middleware = {
  onRequest({ request }) {
    if (request.method !== "GET") for (const [name, value] of Object.entries(csrfHeaders())) request.headers.set(name, value);
    return request;
  },
  async onResponse({ response }) {
    if (response.ok) return undefined;
    throw await problemOf(response);
  },
};

export const fetchClient = createFetchClient<paths>({
  fetch: (request) =>
    fetch(request, {
      signal: AbortSignal.any([request.signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]),
    }),
});
fetchClient.use(conventions);

export const api = createQueryClient(fetchClient);
