"""An issuer of tokens: PyJWT or jwcrypto makes and signs, the standard library serves the keys.

    issuer.py pyjwt|jwcrypto

Prints `listening on PORT`, then answers
    /jwks                                 the keys
    /.well-known/openid-configuration     where they are
    /token?alg=RS256&sub=7                a fresh token
    /rotate                               a new key for every algorithm, and none of the old
    /down, /up                            503 for the keys from here on, and the end of that
    /fetches                              how often the keys were asked for
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]


class PyJwt:
    """Keys by `cryptography`, tokens by PyJWT."""

    def __init__(self):
        import jwt
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        self.jwt = jwt
        self.make = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "PS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }

    def key(self, algorithm):
        return self.make[algorithm]()

    def public(self, algorithm, key):
        by = self.jwt.get_algorithm_by_name(algorithm)
        return json.loads(by.to_jwk(key.public_key()))

    def sign(self, algorithm, key, header, claims):
        return self.jwt.encode(claims, key, algorithm=algorithm, headers=header)


class JwCrypto:
    """Keys and tokens by jwcrypto."""

    def __init__(self):
        from jwcrypto import jwk, jwt

        self.jwk, self.jwt = jwk, jwt
        self.make = {
            "RS256": {"kty": "RSA", "size": 2048},
            "PS256": {"kty": "RSA", "size": 2048},
            "ES256": {"kty": "EC", "crv": "P-256"},
            "ES384": {"kty": "EC", "crv": "P-384"},
            "EdDSA": {"kty": "OKP", "crv": "Ed25519"},
        }

    def key(self, algorithm):
        return self.jwk.JWK.generate(**self.make[algorithm])

    def public(self, algorithm, key):
        return key.export_public(as_dict=True)

    def sign(self, algorithm, key, header, claims):
        token = self.jwt.JWT(header={"alg": algorithm, **header}, claims=claims)
        token.make_signed_token(key)
        return token.serialize()


class Issuer:
    def __init__(self, library):
        self.library = library
        self.rounds = 0
        self.down = False
        self.fetches = 0
        self.rotate()

    def rotate(self):
        self.rounds += 1
        self.keys = {name: (f"{name}-{self.rounds}", self.library.key(name)) for name in ALGORITHMS}

    def jwks(self):
        keys = [
            {**self.library.public(name, key), "kid": kid, "alg": name, "use": "sig"}
            for name, (kid, key) in self.keys.items()
        ]
        return {"keys": keys}

    def token(self, url, algorithm, subject):
        kid, key = self.keys[algorithm]
        now = int(time.time())
        claims = {"iss": url, "aud": "bank-api", "sub": subject, "iat": now, "exp": now + 300}
        return self.library.sign(algorithm, key, {"kid": kid, "typ": "at+jwt"}, claims)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        issuer, parts = self.server.issuer, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        url = f"http://127.0.0.1:{self.server.server_port}"
        status, answer = 200, {}
        if parts.path == "/jwks":
            issuer.fetches += 1
            status, answer = (503, {}) if issuer.down else (200, issuer.jwks())
        elif parts.path == "/.well-known/openid-configuration":
            answer = {"issuer": url, "jwks_uri": f"{url}/jwks"}
        elif parts.path == "/token":
            answer = {"token": issuer.token(url, asked["alg"], asked["sub"])}
        elif parts.path == "/rotate":
            issuer.rotate()
        elif parts.path in ("/down", "/up"):
            issuer.down = parts.path == "/down"
        elif parts.path == "/fetches":
            answer = {"fetches": issuer.fetches}
        else:
            status = 404
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.issuer = Issuer({"pyjwt": PyJwt, "jwcrypto": JwCrypto}[sys.argv[1]]())
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
