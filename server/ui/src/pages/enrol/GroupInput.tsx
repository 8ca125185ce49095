// The group into which devices enrol.
import { TextInput } from "@mantine/core";

export function GroupInput({ value, change, width }: { value: string; change: (value: string) => void; width?: number }) {
  return (
    <TextInput
      label="Group"
      placeholder="none"
      w={width}
      maxLength={64}
      spellCheck={false}
      value={value}
      error={value && !GROUP.test(value) ? "such as site-a" : undefined}
      onChange={(event) => change(event.currentTarget.value.trim())}
    />
  );
}

const GROUP = /^[a-z0-9][a-z0-9._-]*$/;
export const wrongGroup = (group: string) => Boolean(group && !GROUP.test(group)) && "Correct the group first.";
