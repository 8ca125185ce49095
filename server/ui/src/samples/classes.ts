// Names of the classes that models answer with.
import { useQueries } from "@tanstack/react-query";

import { api } from "../api/client";
import { KEPT } from "./Content";
import type { Sample } from "./reasons";

const VERSIONS_MAX = 12;

/** By sample: the labels of the version that answered; undefined until known. */
export function useClasses(samples: Sample[]): (sample: Sample) => string[] | undefined {
  const keys = [...new Set(samples.map((sample) => `${sample.model}\n${sample.version}`))].slice(0, VERSIONS_MAX);
  const found = useQueries({
    queries: keys.map((key) => {
      const [name = "", version = ""] = key.split("\n");
      return { ...api.queryOptions("get", "/api/v1/models/{name}/versions/{version}", { params: { path: { name, version } } }), ...KEPT };
    }),
  });
  return (sample) => found[keys.indexOf(`${sample.model}\n${sample.version}`)]?.data?.labels;
}
