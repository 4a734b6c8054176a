//! What a program speaks on its port, as its operator declares it.

use clap::ValueEnum;

/// Declared, and never guessed: a server that speaks first would be waited for in vain, and first bytes can be anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1, WebSockets included
    #[value(alias = "http", alias = "http/1.1")]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge
    #[value(alias = "h2c")]
    Http2,
    /// The same; gRPC is HTTP/2 with trailers
    Grpc,
    /// Anything else over TCP, such as a database's protocol: bytes that are not looked into
    Tcp,
}
