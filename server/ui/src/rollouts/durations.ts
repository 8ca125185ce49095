// Durations as people type them: "90", "10m", "2h", "1d".
const UNITS: Record<string, number> = { "": 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** "10m" → 600; null where it is no duration. */
export function seconds(text: string): number | null {
  const found = /^(\d{1,8}(?:\.\d{1,3})?)\s*([smhd]?)$/.exec(text.trim());
  return found ? Number(found[1]) * UNITS[found[2] ?? ""]! : null;
}
