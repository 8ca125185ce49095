// Buttons that change something. Who may not press one still sees it, with the reason.
import type { ReactNode } from "react";
import { Button, Tooltip, type ButtonProps } from "@mantine/core";
import { useNavigate } from "react-router";

import type { Role } from "../api/client";
import { useRefusal } from "../session";
import { Icon, type IconName } from "./Icon";

interface ActionProps extends ButtonProps {
  needs: Role;
  /** Why it makes no sense now, such as a rollout that has ended. */
  blocked?: string | null | false;
  icon?: IconName;
  to?: string;
  onClick?: () => void;
  submit?: boolean;
  children: ReactNode;
}

export function Action({ needs, blocked, icon, to, onClick, submit, children, ...rest }: ActionProps) {
  const refusal = useRefusal(needs) || blocked || null;
  const navigate = useNavigate();
  const act = to ? () => void navigate(to) : onClick;
  const button = (
    <Button
      {...rest}
      type={submit && !refusal ? "submit" : "button"}
      leftSection={icon && <Icon name={icon} size={15} />}
      data-disabled={refusal ? true : undefined}
      aria-disabled={refusal ? true : undefined}
      aria-description={refusal ?? undefined}
      onClick={refusal ? (event) => event.preventDefault() : act}
    >
      {children}
    </Button>
  );
  return refusal ? <Tooltip label={refusal}>{button}</Tooltip> : button;
}
