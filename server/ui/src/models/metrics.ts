// The metric that a version was measured by: what it is called, and how its values are written.
import { share } from "../format";

export const METRICS: Record<string, string> = {
  accuracy: "accuracy",
  agreement: "agreement with fp32",
  auc: "area under the ROC curve",
  f1: "mean F1",
  map: "mean average precision",
  own: "metric.py",
  rmse: "root mean squared error",
  top5: "top-5 accuracy",
};
const SHARES = new Set(["accuracy", "agreement", "top5"]);

export function measured(metric: string | null | undefined, value: number | null | undefined): string {
  if (value == null) return "–";
  return metric != null && SHARES.has(metric) ? share(value) : Number(value.toPrecision(4)).toString();
}

export function metricHeading(metric: string | null | undefined): string {
  const words = metric == null ? "accuracy" : metric === "agreement" ? "agreement" : (METRICS[metric] ?? metric);
  return words.charAt(0).toUpperCase() + words.slice(1);
}
