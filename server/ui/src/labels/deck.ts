// The samples of one sitting: those that the server gives to label next, in order, with what was said.
import { useEffect, useRef, useState } from "react";

import { api, fetchClient, type Schemas } from "../api/client";
import { queryClient } from "../session";
import { KEPT } from "../samples/Content";
import { say, waitingFor } from "./outbox";

type Sample = Schemas["SampleInfo"];

export interface Asked {
  model: string;
  first: "uncertain" | "newest" | "conflict";
  labellers: number;
  reason: Sample["reason"] | undefined;
  /** With which to begin. */
  sample: string | undefined;
}

export interface Deck {
  samples: Sample[];
  place: number;
  /** What I have said in this sitting, by sample; null: cannot tell. */
  said: ReadonlyMap<string, string | null>;
  classes: string[] | undefined;
  /** Samples that nobody has said enough of. */
  waiting: number | undefined;
  /** Samples that nobody can look at here. */
  sealed: number;
  error: unknown;
  loading: boolean;
  current: Sample | undefined;
  label: (label: string | null) => void;
  undo: () => void;
  move: (by: number) => void;
  retry: () => void;
}

const AT_ONCE = 20;
/** So many before the end more are asked for. */
const LEFT_MIN = 5;
const AHEAD = 2;

interface Step {
  sample: Sample;
  place: number;
  /** What I had said before; undefined: nothing. */
  before: string | null | undefined;
}

export function useDeck(asked: Asked): Deck {
  const [samples, setSamples] = useState<Sample[]>([]);
  const [place, setPlace] = useState(0);
  const [said, setSaid] = useState<ReadonlyMap<string, string | null>>(new Map());
  const [steps, setSteps] = useState<Step[]>([]);
  const [classes, setClasses] = useState<string[]>();
  const [waiting, setWaiting] = useState<number>();
  const [sealed, setSealed] = useState(0);
  /** How much had been said when the server counted. */
  const [counted, setCounted] = useState(0);
  const [error, setError] = useState<unknown>(null);
  const [loading, setLoading] = useState(true);
  const busy = useRef(false);
  /** Ends when the server gives nothing new. */
  const dry = useRef(false);

  const fetchMore = async () => {
    if (busy.current || dry.current) return;
    busy.current = true;
    setLoading(true);
    try {
      const { model, first, labellers, reason } = asked;
      const { data } = await fetchClient.GET("/api/v1/models/{name}/labelling/queue", {
        params: { path: { name: model }, query: { first, labellers, reason, limit: AT_ONCE * 2 } },
      });
      const begin = asked.sample && !samples.length ? await one(asked.sample) : undefined;
      setClasses(data?.classes ?? []);
      setWaiting(data?.waiting);
      setSealed(data?.sealed ?? 0);
      setCounted(said.size);
      setError(null);
      setSamples((before) => {
        const known = new Set(before.map((sample) => sample.id));
        // What waits to be sent is not yet known to the server.
        const fresh = (data?.items ?? []).filter(({ id }) => !known.has(id) && id !== begin?.id && !waitingFor(id)).slice(0, AT_ONCE);
        dry.current = fresh.length === 0 || (data?.items.length ?? 0) < AT_ONCE * 2;
        return [...before, ...(begin && !known.has(begin.id) ? [begin] : []), ...fresh];
      });
    } catch (failure) {
      setError(failure);
    } finally {
      busy.current = false;
      setLoading(false);
    }
  };

  const left = samples.length - place;
  useEffect(() => {
    if (left <= LEFT_MIN) void fetchMore();
    for (const { id } of samples.slice(place + 1, place + 1 + AHEAD)) {
      void queryClient.prefetchQuery({ ...api.queryOptions("get", "/api/v1/samples/{sample}/content", { params: { path: { sample: id } } }), ...KEPT });
    }
    // Asked again as the deck gets short; what is asked for is the key of the whole sitting.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [left, place]);

  const current = samples[place];
  return {
    samples,
    place,
    said,
    classes,
    sealed,
    waiting: waiting === undefined ? undefined : Math.max(0, waiting - (said.size - counted)),
    error,
    loading,
    current,
    label: (label) => {
      if (!current) return;
      say({ sample: current.id, model: current.model, label });
      setSteps((before) => [...before, { sample: current, place, before: said.get(current.id) }]);
      setSaid((before) => new Map(before).set(current.id, label));
      setPlace(place + 1);
    },
    undo: () => {
      const last = steps.at(-1);
      if (!last) return;
      say({ sample: last.sample.id, model: last.sample.model, label: last.before });
      setSteps((before) => before.slice(0, -1));
      setSaid((before) => {
        const after = new Map(before);
        if (last.before === undefined) after.delete(last.sample.id);
        else after.set(last.sample.id, last.before);
        return after;
      });
      setPlace(last.place);
    },
    move: (by) => setPlace((before) => Math.max(0, Math.min(samples.length, before + by))),
    retry: () => {
      dry.current = false;
      void fetchMore();
    },
  };
}

async function one(sample: string): Promise<Sample | undefined> {
  const { data } = await fetchClient.GET("/api/v1/samples/{sample}/annotations", { params: { path: { sample } } });
  return data?.sample;
}
