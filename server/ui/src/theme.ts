// Colours chosen so that text reaches 4.5:1 on every surface in both themes; see styles.css for the
// surfaces and the tones of states.
import { ActionIcon, Button, createTheme, Modal, NumberInput, Tooltip, type MantineColorsTuple } from "@mantine/core";

const teal: MantineColorsTuple = [
  "#e6f6f7",
  "#cdebed",
  "#9ed9de",
  "#6bc4cc",
  "#41b1bb",
  "#1f9ca7",
  "#12868f",
  "#0c6f79",
  "#085861",
  "#04424a",
];

const slate: MantineColorsTuple = [
  "#e8edef",
  "#cfd8dc",
  "#a7b4ba",
  "#8b9aa1",
  "#4a575d",
  "#2f3a40",
  "#20292e",
  "#171e22",
  "#11171a",
  "#0c1113",
];

export const theme = createTheme({
  primaryColor: "teal",
  primaryShade: { light: 7, dark: 7 },
  colors: { teal, dark: slate },
  fontFamily: '"Inter Variable", system-ui, -apple-system, "Segoe UI", sans-serif',
  fontFamilyMonospace: '"JetBrains Mono Variable", ui-monospace, SFMono-Regular, Menlo, monospace',
  fontSizes: { xs: "12px", sm: "13.5px", md: "14.5px", lg: "16px", xl: "19px" },
  defaultRadius: "md",
  cursorType: "pointer",
  respectReducedMotion: true,
  components: {
    Button: Button.extend({ defaultProps: { size: "sm" } }),
    ActionIcon: ActionIcon.extend({ defaultProps: { variant: "subtle", color: "gray", size: 32 } }),
    NumberInput: NumberInput.extend({ defaultProps: { hideControls: true } }),
    Modal: Modal.extend({
      defaultProps: {
        centered: true,
        closeButtonProps: { "aria-label": "Close" },
        // It is a <header> outside of any section: without this, a second banner of the page.
        attributes: { header: { role: "presentation" } },
        transitionProps: { duration: 120 },
        overlayProps: { backgroundOpacity: 0.45, blur: 2 },
      },
    }),
    Tooltip: Tooltip.extend({
      defaultProps: { multiline: true, maw: 320, openDelay: 150, events: { hover: true, focus: true, touch: true } },
    }),
  },
});
