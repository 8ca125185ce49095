// Which key says which class: digits first, then letters that mean nothing else.
export const CANNOT_TELL = "0";
export const UNDO = "u";
export const NEXT = "ArrowRight";
export const BEFORE = "ArrowLeft";
export const SHOW = "m";

const CLASS_KEYS = "123456789abcdefghijklnopqrstvwxyz";

/** The key of a class by its number; undefined: there are more classes than keys. */
export function keyOf(number: number): string | undefined {
  return CLASS_KEYS[number];
}

export function classOf(key: string, classes: string[]): string | undefined {
  const number = key.length === 1 ? CLASS_KEYS.indexOf(key) : -1;
  return number < 0 ? undefined : classes[number];
}

/** Whether a key press is meant for a field, a button's own key, or the browser. */
export function isElsewhere(event: KeyboardEvent): boolean {
  const target = event.target as HTMLElement | null;
  if (event.altKey || event.metaKey || event.ctrlKey || event.isComposing) return true;
  if (document.querySelector("[role=dialog]")) return true;
  return Boolean(target?.closest("input, textarea, select, [contenteditable=true], [role=listbox]"));
}
