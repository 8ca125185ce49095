// The page's icons: 24 × 24, drawn as lines, always beside words or with a label on the button.
import type { ReactNode } from "react";

const SHAPES = {
  fleet: (
    <>
      <rect x="3" y="4" width="18" height="6.5" rx="1.8" />
      <rect x="3" y="13.5" width="18" height="6.5" rx="1.8" />
      <path d="M7 7.25h.01M7 16.75h.01M11 7.25h6M11 16.75h6" />
    </>
  ),
  model: (
    <>
      <path d="M12 3l8 4.5v9L12 21l-8-4.5v-9z" />
      <path d="M4.3 7.6L12 12l7.7-4.4M12 12v8.7" />
    </>
  ),
  rollout: (
    <>
      <path d="M4 12h9M9.5 7.5L14 12l-4.5 4.5" />
      <path d="M18 5v14M21.5 8v8" />
    </>
  ),
  wave: <path d="M3 15c2-6 4-6 6 0s4 6 6 0 3.5-5.5 6-3M3 20h18" />,
  loop: <path d="M18.5 9.5A7 7 0 0 0 6 8M5.5 4.5V8H9M5.5 14.5A7 7 0 0 0 18 16M18.5 19.5V16H15" />,
  bell: <path d="M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 2h-15zM10 21.2h4" />,
  picture: (
    <>
      <rect x="3" y="4.5" width="18" height="15" rx="2" />
      <circle cx="8.5" cy="9.5" r="1.6" />
      <path d="M4 17.5l5-5 3.5 3.5 3-3 4.5 4.5" />
    </>
  ),
  settings: (
    <>
      <path d="M4 7h9M17.5 7H20M4 17h2.5M11 17h9" />
      <circle cx="15.2" cy="7" r="2.2" />
      <circle cx="8.8" cy="17" r="2.2" />
    </>
  ),
  shield: <path d="M12 3l7.5 2.8v5.6c0 4.6-3.2 7.7-7.5 9.6-4.3-1.9-7.5-5-7.5-9.6V5.8zM8.7 12l2.4 2.4 4.3-4.6" />,
  sun: (
    <>
      <circle cx="12" cy="12" r="4" />
      <path d="M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M18.7 5.3l-1.4 1.4M6.7 17.3l-1.4 1.4" />
    </>
  ),
  moon: <path d="M20 14.2A8.2 8.2 0 0 1 9.8 4a8.2 8.2 0 1 0 10.2 10.2z" />,
  screen: (
    <>
      <rect x="3" y="4.5" width="18" height="12" rx="2" />
      <path d="M9 20h6M12 16.5V20" />
    </>
  ),
  search: (
    <>
      <circle cx="10.5" cy="10.5" r="6.5" />
      <path d="M20 20l-4.8-4.8" />
    </>
  ),
  filter: <path d="M4 6h16M7 12h10M10.5 18h3" />,
  tag: (
    <>
      <path d="M3.5 11.2V4.5a1 1 0 0 1 1-1h6.7L20.5 12.8l-7.7 7.7z" />
      <path d="M8 8h.01" />
    </>
  ),
  people: (
    <>
      <circle cx="9" cy="8.5" r="3.4" />
      <path d="M3 20c.5-3.6 2.8-5.6 6-5.6s5.5 2 6 5.6M16 5.4a3.4 3.4 0 0 1 0 6.3M18 14.8c1.8.8 2.8 2.5 3 5.2" />
    </>
  ),
  data: <path d="M5 6.5c0-1.7 3.1-3 7-3s7 1.3 7 3-3.1 3-7 3-7-1.3-7-3zM5 6.5v11c0 1.7 3.1 3 7 3s7-1.3 7-3v-11M5 12c0 1.7 3.1 3 7 3s7-1.3 7-3" />,
  list: <path d="M8.5 6.5H20M8.5 12H20M8.5 17.5H20M4.2 6.5h.01M4.2 12h.01M4.2 17.5h.01" />,
  upload: <path d="M12 16V5M7.5 9.3L12 4.8l4.5 4.5M4.5 15.5V19h15v-3.5" />,
  up: <path d="M7 14.5l5-5 5 5" />,
  down: <path d="M7 9.5l5 5 5-5" />,
  updown: <path d="M8 9.8L12 6l4 3.8M8 14.2l4 3.8 4-3.8" />,
  left: <path d="M14.5 6.5L9 12l5.5 5.5" />,
  right: <path d="M9.5 6.5L15 12l-5.5 5.5" />,
  copy: (
    <>
      <rect x="9" y="9" width="11" height="11" rx="2" />
      <path d="M15 9V6a2 2 0 0 0-2-2H6a2 2 0 0 0-2 2v7a2 2 0 0 0 2 2h3" />
    </>
  ),
  check: <path d="M5 12.5l4.5 4.5L19 7.5" />,
  cross: <path d="M6.5 6.5l11 11M17.5 6.5l-11 11" />,
  warning: (
    <>
      <path d="M12 4l9 16H3z" />
      <path d="M12 10.5v4M12 17.2h.01" />
    </>
  ),
  info: (
    <>
      <circle cx="12" cy="12" r="8.5" />
      <path d="M12 11.2V16M12 8.2h.01" />
    </>
  ),
  pause: <path d="M9 6v12M15 6v12" />,
  play: <path d="M8 5.5v13l10.5-6.5z" />,
  stop: <rect x="6.5" y="6.5" width="11" height="11" rx="1.6" />,
  back: <path d="M9.5 8L5.5 12l4 4M6 12h8.5a4 4 0 0 0 0-8H12" />,
  refresh: <path d="M19.5 12a7.5 7.5 0 1 1-2.2-5.3M19.5 4v4.2h-4.2" />,
  minus: <path d="M6.5 12h11" />,
  plus: <path d="M12 5.5v13M5.5 12h13" />,
  clock: (
    <>
      <circle cx="12" cy="12" r="8.5" />
      <path d="M12 7.5V12l3 2" />
    </>
  ),
  busy: (
    <>
      <path d="M12 3.5a8.5 8.5 0 0 1 8.5 8.5" />
      <circle cx="12" cy="12" r="8.5" opacity="0.3" />
    </>
  ),
  door: (
    <>
      <path d="M10 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h4" />
      <path d="M14.5 8l4 4-4 4M18 12H9.5" />
    </>
  ),
  key: (
    <>
      <circle cx="8" cy="15.5" r="4" />
      <path d="M11 12.7L19.5 4.2M16 7.7l2.6 2.6" />
    </>
  ),
} satisfies Record<string, ReactNode>;

export type IconName = keyof typeof SHAPES;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth={size < 16 ? 2.4 : 1.8}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
      style={{ flex: "none" }}
    >
      {SHAPES[name]}
    </svg>
  );
}

/** The sign of the product: a device that sends and receives. */
export function Mark({ size = 26 }: { size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8.5" fill="#0c6f79" />
      <circle cx="16" cy="16" r="3.6" fill="#fff" />
      <g fill="none" stroke="#fff" strokeWidth="2.5" strokeLinecap="round">
        <path d="M10.2 10.2a8.2 8.2 0 0 0 0 11.6M21.8 10.2a8.2 8.2 0 0 1 0 11.6" />
      </g>
    </svg>
  );
}
