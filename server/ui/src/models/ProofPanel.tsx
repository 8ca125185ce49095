// What every device replays before it serves a bundle, and where the version comes from; as signed.
import { api, type Schemas } from "../api/client";
import { Digest } from "../components/Command";
import { ErrorPanel, Facts, Panel } from "../components/Panels";
import { count, share } from "../format";

type Lineage = Schemas["LineageInfo"];

export function useLineage(model: string, version: string, made: boolean) {
  return api.useQuery(
    "get",
    "/api/v1/models/{name}/versions/{version}/lineage",
    { params: { path: { name: model, version } } },
    { enabled: made, staleTime: 60_000 },
  );
}

interface ProofPanelProps {
  query: ReturnType<typeof useLineage>;
  /** How many golden cases were chosen for which reason. */
  chosen: Record<string, number>;
}

export function ProofPanel({ query, chosen }: ProofPanelProps) {
  if (query.error) return <ErrorPanel error={query.error} retry={() => void query.refetch()} />;
  if (!query.data?.variants.length) return null;
  const reasons = Object.entries(chosen);
  return (
    <Panel flush title="Golden inputs" aside={<span className="soft small">every device replays them in its trial</span>}>
      {reasons.length > 0 && (
        <p className="soft small" style={{ padding: "0 18px 12px" }}>
          Chosen: {reasons.map(([reason, cases]) => `${count(cases)} ${reason.replaceAll("_", " ")}`).join(", ")}
        </p>
      )}
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Golden inputs">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Variant</th>
              <th scope="col" data-align="right">
                Cases
              </th>
              <th scope="col" data-align="right">
                Must agree
              </th>
              <th scope="col">An output may differ by</th>
            </tr>
          </thead>
          <tbody>
            {query.data.variants.map(({ variant, golden }) => (
              <tr key={variant}>
                <td className="mono">{variant}</td>
                <td data-align="right" className="number">
                  {count(golden.cases)}
                </td>
                <td data-align="right" className="number nowrap">
                  {share(golden.agreement_min, 0)}
                </td>
                <td className="small">
                  {Object.entries(golden.tolerances).map(([output, { atol, rtol }]) => (
                    <div key={output}>
                      <span className="mono breakable">{output}</span>{" "}
                      <span className="number">
                        {tolerance(atol)} + {tolerance(rtol)} of it
                      </span>
                    </div>
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function tolerance(value: number): string {
  return Number(value.toPrecision(3)).toString();
}

/** What the signed bundles say of the making beyond the row of the version. */
export function MakingPanel({ lineage }: { lineage: Lineage | undefined }) {
  if (!lineage?.variants.length) return null;
  const tools = new Map(lineage.variants.flatMap(({ tools }) => tools.map((tool) => [tool.name, tool.version] as const)));
  return (
    <Panel title="How it was made">
      <Facts
        rows={[
          ["Training data", <Digest key="t" value={lineage.training_data} />],
          ["Code", lineage.code_revision ? <span className="mono breakable">{lineage.code_revision}</span> : <span className="soft">not said</span>],
          ...lineage.variants.map(({ variant, recipe, float_nodes, calibration_samples, steps_from }): [string, string] => [
            variant,
            [
              recipe,
              calibration_samples > 0 && `${count(calibration_samples)} calibration samples`,
              float_nodes.length > 0 && `${count(float_nodes.length)} operators in float`,
              steps_from && "in small steps from its parent",
            ]
              .filter(Boolean)
              .join(", "),
          ]),
          ["Tools", tools.size ? [...tools].map(([name, version]) => `${name} ${version}`).join(", ") : <span className="soft">not said</span>],
        ]}
      />
    </Panel>
  );
}
