// The form's state, kept in the address a moment later: whoever opens that sees the same form.
import { useEffect, useRef, useState } from "react";
import { useSearchParams } from "react-router";

import { choiceAddress, readChoice, type RolloutChoice } from "./choice";

const TYPING_MS = 200;

export function useChoice(): [RolloutChoice, (part: Partial<RolloutChoice>) => void] {
  const [parameters, setParameters] = useSearchParams();
  const [choice, setChoice] = useState(() => readChoice(parameters));
  const written = useRef(parameters.toString());
  const underWay = useRef(new Set<string>());
  useEffect(() => {
    const now = parameters.toString();
    if (now === written.current) underWay.current.clear();
    // An address of ours that comes late, with a newer one behind it, changes nothing.
    else if (!underWay.current.has(now)) {
      // Somebody followed a link to the form, or went back.
      written.current = now;
      setChoice(readChoice(parameters));
    }
  }, [parameters]);
  useEffect(() => {
    const address = choiceAddress(choice);
    if (address.toString() === written.current) return undefined;
    const timer = setTimeout(() => {
      written.current = address.toString();
      underWay.current.add(written.current);
      setParameters(address, { replace: true, preventScrollReset: true });
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [choice, setParameters]);
  return [choice, (part) => setChoice((before) => ({ ...before, ...part }))];
}
