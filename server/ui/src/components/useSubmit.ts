// What a form does when it is sent: once at a time, and what the server refuses is kept, to be shown.
import { useState, type FormEvent } from "react";

interface SubmitOptions {
  /** Takes the form away once it was taken; until it has gone it stays busy. */
  close?: () => void;
  /** Something is still to be filled in: it is not sent. */
  incomplete?: boolean;
}

export function useSubmit(send: () => Promise<unknown>, { close, incomplete }: SubmitOptions = {}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const submit = async () => {
    if (busy || incomplete) return;
    setBusy(true);
    setError(null);
    try {
      await send();
      if (close) close();
      else setBusy(false);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    void submit();
  };
  return { busy, error, submit, onSubmit };
}
