// A real OpenID provider for the tests: oidc-provider with its own pages for login and consent.
// Any password is right; who there is, and with which claims, is read from a file at each look, so
// that a test can change it. Each start makes new signing keys. Loopback only.
//
//   node provider.mjs '{"port": 0, "accounts": "accounts.json", "redirect_uris": […], …}'
import { readFileSync } from "node:fs";
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";

import { Provider } from "oidc-provider";

const given = JSON.parse(process.argv[2]);
const accounts = () => JSON.parse(readFileSync(given.accounts, "utf8"));

function signingKey(number) {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: `${process.pid}-${number}`, use: "sig", alg: "RS256" };
}

const server = createServer();
server.listen(given.port, "127.0.0.1", () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [
      {
        client_id: "edgectl",
        client_secret: given.client_secret,
        redirect_uris: given.redirect_uris,
        post_logout_redirect_uris: given.post_logout_redirect_uris,
      },
    ],
    jwks: { keys: [signingKey(1)] },
    cookies: { keys: ["of the tests"] },
    claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
    findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, ...accounts()[id] }) }),
  });
  server.on("request", provider.callback());
  console.log(JSON.stringify({ ready: true, issuer: provider.issuer }));
});
process.on("SIGTERM", () => process.exit(0));
