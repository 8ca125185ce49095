// A command to copy.
import { useEffect, useState } from "react";
import { ActionIcon, Tooltip } from "@mantine/core";

import { Icon } from "./Icon";

/** The clipboard API needs HTTPS or localhost; a page of a server in the shop has neither. */
async function copy(text: string): Promise<boolean> {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not permitted: the old way below.
    }
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.style.position = "fixed";
  field.style.opacity = "0";
  (document.querySelector("[role=dialog]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (!said) return undefined;
    const timer = setTimeout(() => setSaid(""), 2_000);
    return () => clearTimeout(timer);
  }, [said]);
  return (
    <Tooltip label={said || label}>
      <ActionIcon
        size={28}
        my={-6}
        aria-label={label}
        onClick={() => void copy(text).then((done) => setSaid(done ? "Copied" : "Copying is not possible"))}
      >
        <Icon name={said === "Copied" ? "check" : "copy"} size={15} />
        <span className="hidden" role="status">
          {said}
        </span>
      </ActionIcon>
    </Tooltip>
  );
}

export function Command({ text }: { text: string }) {
  return (
    <div className="command">
      <code>
        {text.split(/(?<=\s)(?=--)/).map((part, number) => (
          // Lines break before options, neither within one nor between it and its value.
          <span key={number}>{part}</span>
        ))}
      </code>
      <CopyButton text={text} label="Copy command" />
    </div>
  );
}

/** What does the same on the command line. */
export function Equivalent({ text }: { text: string }) {
  return (
    <div>
      <p className="soft small" style={{ marginBottom: 4 }}>
        On the command line
      </p>
      <Command text={text} />
    </div>
  );
}

export function Digest({ value }: { value: string | null | undefined }) {
  if (!value) return <span className="soft">none</span>;
  return (
    <span className="row" style={{ gap: 2, display: "inline-flex" }}>
      <span className="mono" title={value}>
        {value.replace(/^sha256:/, "").slice(0, 12)}…
      </span>
      <CopyButton text={value} label="Copy digest" />
    </span>
  );
}
