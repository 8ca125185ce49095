import "@mantine/core/styles.css";
import "./styles.css";

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { createBrowserRouter, Navigate, RouterProvider } from "react-router";

import { connectLive } from "./api/live";
import { AlertsPage } from "./pages/AlertsPage";
import { AuditPage } from "./pages/AuditPage";
import { ComparePage } from "./pages/ComparePage";
import { DatasetPage } from "./pages/DatasetPage";
import { DatasetsPage } from "./pages/DatasetsPage";
import { DevicePage } from "./pages/DevicePage";
import { DriftDetailPage } from "./pages/DriftDetailPage";
import { DriftPage } from "./pages/DriftPage";
import { EnrolPage } from "./pages/EnrolPage";
import { FleetPage } from "./pages/FleetPage";
import { HandoverPage } from "./pages/HandoverPage";
import { LabellingPage, LabelsPage } from "./pages/LabelsPage";
import { LoopPage } from "./pages/LoopPage";
import { LoopsPage } from "./pages/LoopsPage";
import { ModelPage } from "./pages/ModelPage";
import { ModelsPage } from "./pages/ModelsPage";
import { NotFoundPage, PageError } from "./pages/NotFoundPage";
import { PushPage } from "./pages/PushPage";
import { RolloutPage } from "./pages/RolloutPage";
import { RolloutsPage } from "./pages/RolloutsPage";
import { SamplePage } from "./pages/SamplePage";
import { SamplesPage } from "./pages/SamplesPage";
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
      { path: "push", element: <PushPage /> },
      { path: "models", element: <ModelsPage /> },
      { path: "models/:name", element: <ModelPage /> },
      { path: "models/:name/:version", element: <VersionPage /> },
      { path: "models/:name/:version/compare/:other", element: <ComparePage /> },
      { path: "rollouts", element: <RolloutsPage /> },
      { path: "rollouts/new", element: <StartRolloutPage /> },
      { path: "rollouts/:id", element: <RolloutPage /> },
      { path: "drift", element: <DriftPage /> },
      { path: "drift/:name", element: <DriftDetailPage /> },
      { path: "samples", element: <SamplesPage /> },
      { path: "samples/:id", element: <SamplePage /> },
      { path: "labels", element: <LabelsPage /> },
      { path: "labels/:name", element: <LabellingPage /> },
      { path: "datasets", element: <DatasetsPage /> },
      { path: "datasets/:name", element: <DatasetPage /> },
      { path: "loop", element: <LoopsPage /> },
      { path: "loop/:name", element: <LoopPage /> },
      { path: "alerts", element: <AlertsPage /> },
      { path: "handover", element: <HandoverPage /> },
      { path: "trust", element: <TrustPage /> },
      { path: "audit", element: <AuditPage /> },
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
