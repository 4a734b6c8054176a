// An OpenID provider: oidc-provider with one client, whose access tokens are JWTs for the resource `bank-api`.
// Prints `listening on PORT`.

import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const jwk = (type, options, more) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }),
  use: "sig",
  ...more,
});

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  const issuer = `http://127.0.0.1:${port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "bank",
        client_secret: "a-secret-of-this-test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    jwks: {
      keys: [
        jwk("ec", { namedCurve: "P-256" }, { kid: "ec", alg: "ES256" }),
        jwk("rsa", { modulusLength: 2048 }, { kid: "rsa", alg: "RS256" }),
      ],
    },
    scopes: ["accounts:read"],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:bank-api",
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: "accounts:read",
          audience: "bank-api",
          accessTokenFormat: "jwt",
          accessTokenTTL: 300,
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  server.on("request", provider.callback());
  console.log(`listening on ${port}`);
});
