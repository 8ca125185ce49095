import "@mantine/core/styles.css";
import "./styles.css";

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { createBrowserRouter, Navigate, RouterProvider } from "react-router";

import { connectLive } from "./api/live";
import { DevicePage } from "./pages/DevicePage";
import { EnrolPage } from "./pages/EnrolPage";
import { FleetPage } from "./pages/FleetPage";
import { HandoverPage } from "./pages/HandoverPage";
import { ModelPage } from "./pages/ModelPage";
import { ModelsPage } from "./pages/ModelsPage";
import { NotFoundPage, PageError } from "./pages/NotFoundPage";
import { RolloutPage } from "./pages/RolloutPage";
import { RolloutsPage } from "./pages/RolloutsPage";
import { SettingsPage } from "./pages/SettingsPage";
import { StartRolloutPage } from "./pages/StartRolloutPage";
import { TrustPage } from "./pages/TrustPage";
import { VersionPage } from "./pages/VersionPage";
import { checkSession, queryClient } from "./session";
import { Shell } from "./Shell";
import { theme } from "./theme";

connectLive(queryClient, checkSession);

const router = createBrowserRouter([
  {
    path: "/",
    element: <Shell />,
    errorElement: <PageError />,
    children: [
      { index: true, element: <Navigate to="/fleet" replace /> },
      { path: "fleet", element: <FleetPage /> },
      { path: "fleet/:id", element: <DevicePage /> },
      { path: "enrol", element: <EnrolPage /> },
      { path: "models", element: <ModelsPage /> },
      { path: "models/:name", element: <ModelPage /> },
      { path: "models/:name/:version", element: <VersionPage /> },
      { path: "rollouts", element: <RolloutsPage /> },
      { path: "rollouts/new", element: <StartRolloutPage /> },
      { path: "rollouts/:id", element: <RolloutPage /> },
      { path: "handover", element: <HandoverPage /> },
      { path: "trust", element: <TrustPage /> },
      { path: "settings", element: <SettingsPage /> },
      { path: "*", element: <NotFoundPage /> },
    ],
  },
]);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <QueryClientProvider client={queryClient}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
