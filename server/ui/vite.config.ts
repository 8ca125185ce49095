import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, sep } from "node:path";

import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

// The licences of every package that is shipped travel with the page.
function thirdPartyLicenses(): Plugin {
  return {
    name: "third-party-licenses",
    apply: "build",
    generateBundle() {
      const folders = new Set<string>();
      for (const id of this.getModuleIds()) {
        const parts = id.replace(/^\0/, "").split("?")[0]!.split(`${sep}node_modules${sep}`);
        if (parts.length < 2) continue;
        const names = parts.at(-1)!.split(sep);
        const name = names.slice(0, names[0]!.startsWith("@") ? 2 : 1);
        folders.add([...parts.slice(0, -1), name.join(sep)].join(`${sep}node_modules${sep}`));
      }
      // Fonts are reached through CSS, which the module graph does not show.
      for (const name of ["inter", "jetbrains-mono"]) {
        folders.add(join(import.meta.dirname, "node_modules", "@fontsource-variable", name));
      }
      const texts = [...folders].sort().map((folder) => {
        const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
        const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
        const text = file ? readFileSync(join(folder, file), "utf8").trim() : "";
        return `${about.name} ${about.version} (${about.license})\n\n${text}\n`;
      });
      const source = texts.join(`\n${"-".repeat(78)}\n\n`);
      this.emitFile({ type: "asset", fileName: "THIRD-PARTY-LICENSES.txt", source });
    },
  };
}

const server = process.env.EDGECTL_SERVER_URL ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react(), thirdPartyLicenses()],
  worker: { format: "es" },
  build: {
    outDir: "../edgectl_server/web",
    emptyOutDir: true,
    target: "es2022",
    // light-dark() is written as it is: these are the first browsers that know it.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // The policy of the page forbids data: anywhere but in images, so nothing is inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      output: {
        codeSplitting: {
          groups: [
            { name: "react", test: /node_modules[\\/](react|react-dom|react-router|scheduler)[\\/]/ },
            { name: "mantine", test: /node_modules[\\/]@?(mantine|floating-ui)/ },
          ],
        },
      },
    },
  },
  server: { proxy: { "/api": { target: server } } },
});
