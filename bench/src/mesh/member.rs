//! A member that speaks the control plane's protocol by hand, so that it can be many.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use identity::{Matcher, SpiffeId, TrustDomain};
use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::v1::registry_client::RegistryClient;
use mesh_api::{CONTROL_PLANE_PATH, v1};
use mesh_client::control;
use mesh_client::tls::{Bundle, ClientTls, Credentials, Key, Rotation, Svid};
use mesh_client::{BoxError, Credential, find_operator};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::ControlPlane;

/// A member that joined as one service.
pub(crate) struct Member {
    control: String,
    credentials: Credentials,
    control_plane: SpiffeId,
    /// Ends the credentials' renewal when it goes.
    _rotation: Rotation,
}

impl Member {
    /// Joins as `service`, by a token of the operator's.
    pub(crate) async fn join(control: &ControlPlane, service: &str) -> Result<Self> {
        let address = control.address.clone();
        let Credential::Operator(operator) = find_operator(&[&address], &|name| control.variable(name))? else {
            bail!("the control plane left no operator's credential");
        };
        let token = v1::CreateTokenRequest {
            service: service.to_owned(),
            ttl_seconds: 60,
        };
        let addresses = [address.clone()];
        let token = control::operator(&addresses, &operator)?
            .create_token(token)
            .await?
            .into_inner();
        let token: mesh_api::JoinToken = token.token.parse()?;
        let key = Key::generate()?;
        let join = v1::JoinRequest {
            secret: token.secret(),
            csr: key.signing_request()?,
        };
        let channel = control::pinned_channel(&addresses, token.pin())?;
        let joined = IdentityClient::new(channel).join(join).await?.into_inner();
        let bundle = joined.bundle.context("an SVID comes with its bundle")?;
        let domain = TrustDomain::new(&bundle.trust_domain)?;
        let control_plane = SpiffeId::new(&domain, CONTROL_PLANE_PATH)?;
        let bundle = Bundle::new(domain, bundle.roots.into_iter().map(Into::into).collect())?;
        let svid = Svid::new(joined.chain.into_iter().map(Into::into).collect(), key.to_pkcs8())?;
        let (rotation, credentials) = Credentials::new(svid, bundle);
        Ok(Self {
            control: address,
            credentials,
            control_plane,
            _rotation: rotation,
        })
    }

    /// The registry over a connection of its own, as another process would have it.
    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        let tls = Arc::new(ClientTls::new(
            self.credentials.clone(),
            Matcher::Id(self.control_plane.clone()),
        ));
        let address = self.control.clone();
        let connect = tower::service_fn(move |_| {
            let (tls, address) = (Arc::clone(&tls), address.clone());
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, BoxError>(TokioIo::new(tls.connect(stream).await?.0))
            }
        });
        RegistryClient::new(Endpoint::from_static("http://control-plane.mesh").connect_with_connector_lazy(connect))
    }
}
