// A dialog before something that is hard to undo: what will happen, the reason, the name typed in
// full, and the command that does the same.
import { useEffect, useState, type ReactNode } from "react";
import { Button, Modal, Textarea, TextInput } from "@mantine/core";

import { Equivalent } from "./Command";
import { ErrorPanel } from "./Panels";
import { useSubmit } from "./useSubmit";

interface ConfirmProps {
  opened: boolean;
  close: () => void;
  title: string;
  action: string;
  danger?: boolean;
  /** What has to be typed; nothing when left out. */
  typed?: string;
  askReason?: boolean;
  /** Something in the dialog is still to be filled in. */
  incomplete?: boolean;
  command?: (reason: string) => string;
  confirm: (reason: string) => Promise<unknown>;
  children?: ReactNode;
}

/** A dialog that is mounted anew each time that it opens gives the focus back itself, when it goes. */
export function useFocusBack(): void {
  const [opener] = useState(() => document.activeElement);
  useEffect(
    () => () => {
      requestAnimationFrame(() => {
        if (document.activeElement === document.body && opener instanceof HTMLElement) opener.focus();
      });
    },
    [opener],
  );
}

export function Confirm(props: ConfirmProps) {
  return (
    <Modal opened={props.opened} onClose={props.close} title={props.title} size="md">
      <Inside {...props} />
    </Modal>
  );
}

function Inside({ close, action, danger, typed, askReason, incomplete, command, confirm, children }: ConfirmProps) {
  const [reason, setReason] = useState("");
  const [name, setName] = useState("");
  const complete = !incomplete && (!typed || name.trim() === typed);
  const { busy, error, onSubmit } = useSubmit(() => confirm(reason.trim()), { close, incomplete: !complete });

  return (
    <form onSubmit={onSubmit} className="stack">
      {children}
      {askReason && (
        <Textarea
          label="Reason"
          description="Kept in the history, for those who come after you."
          maxLength={1024}
          autosize
          minRows={2}
          value={reason}
          onChange={(event) => setReason(event.currentTarget.value)}
        />
      )}
      {typed && (
        <TextInput
          label={
            <>
              Type <span className="mono">{typed}</span> to confirm
            </>
          }
          autoComplete="off"
          spellCheck={false}
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
        />
      )}
      {command && <Equivalent text={command(reason.trim())} />}
      {error != null && <ErrorPanel error={error} />}
      <div className="row" style={{ justifyContent: "flex-end" }}>
        <Button variant="default" onClick={close}>
          Cancel
        </Button>
        <Button type="submit" color={danger ? "red.8" : undefined} loading={busy} disabled={!complete}>
          {action}
        </Button>
      </div>
    </form>
  );
}
