//! The authority while members talk: roots change, identities are taken away, and nobody who should be heard is not.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use identity::ServiceName;
use mesh_api::v1;
use mesh_api::v1::operator_client::OperatorClient;
use mesh_client::control::Bearer;
use mesh_client::{ClientOptions, Credential, JoinError, Mesh};
use mesh_runtime::{Config, Running};
use support::{Member, eventually};
use tokio::sync::oneshot;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

struct World {
    _folder: tempfile::TempDir,
    running: Running,
}

/// A member that serves until it is dropped.
struct Served {
    mesh: Mesh,
    seen: Arc<AtomicU64>,
    _stop: oneshot::Sender<()>,
}

impl World {
    async fn new(svid_ttl: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.admin = "127.0.0.1:0".parse().unwrap();
        config.svid_ttl = svid_ttl;
        let running = mesh_runtime::serve(config).await.unwrap();
        Self {
            _folder: folder,
            running,
        }
    }

    fn operator(&self) -> OperatorClient<InterceptedService<Channel, Bearer>> {
        mesh_client::control::operator(&[self.running.control().to_string()], &self.running.operator()).unwrap()
    }

    async fn token(&self, service: &str) -> mesh_api::JoinToken {
        let service = ServiceName::new(service).unwrap();
        self.running.create_token(&service, Duration::from_secs(60)).await.unwrap()
    }

    fn config(&self, credential: Credential) -> mesh_client::Config {
        let control = self.running.control().to_string();
        mesh_client::Config::new([control.as_str()], credential).unwrap()
    }

    async fn join(&self, service: &str) -> Mesh {
        let credential = Credential::Token(self.token(service).await);
        Mesh::join(self.config(credential)).await.unwrap()
    }

    fn at_socket(&self) -> mesh_client::Config {
        self.config(Credential::Local(self.running.socket().to_owned()))
    }

    /// A member as whatever the registration entries let this process be.
    async fn attested(&self, service: Option<&str>) -> Result<Mesh, JoinError> {
        let config = match service {
            Some(service) => self.at_socket().service(ServiceName::new(service).unwrap()),
            None => self.at_socket(),
        };
        Mesh::join(config).await
    }

    async fn entry(&self, service: &str, selectors: &[String]) -> Result<String, Status> {
        let request = v1::CreateEntryRequest {
            service: service.to_owned(),
            selectors: selectors.to_vec(),
        };
        Ok(self.operator().create_entry(request).await?.into_inner().id)
    }

    async fn remove(&self, id: &str) -> Result<u32, Status> {
        let request = v1::RemoveEntryRequest { id: id.to_owned() };
        Ok(self.operator().remove_entry(request).await?.into_inner().revoked)
    }

    /// The id of what let the only member of `service` in.
    async fn let_in(&self, service: &str) -> String {
        let listed = self.operator().list_entries(v1::ListEntriesRequest {}).await.unwrap();
        let mut entries = listed.into_inner().entries.into_iter();
        entries.find(|entry| entry.service == service).unwrap().id
    }

    /// How many endpoints of a service are registered.
    async fn listed(&self, service: &str) -> usize {
        let request = v1::ListEndpointsRequest {
            service: service.to_owned(),
        };
        self.operator()
            .list_endpoints(request)
            .await
            .unwrap()
            .into_inner()
            .endpoints
            .len()
    }

    async fn status(&self) -> v1::AuthorityStatus {
        let status = self.operator().show_authority(v1::ShowAuthorityRequest {}).await;
        status.unwrap().into_inner()
    }

    async fn rotate(&self) -> Result<v1::AuthorityStatus, Status> {
        let request = v1::RotateAuthorityRequest::default();
        Ok(self.operator().rotate_authority(request).await?.into_inner())
    }
}

impl Served {
    async fn start(mesh: Mesh, service: &str) -> Self {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seen);
        let answer = tower::service_fn(move |_: Request<_>| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("an account")))) }
        });
        let listening = mesh.bind(service).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move { listening.serve(answer, async { drop(stopped.await) }).await });
        Self { mesh, seen, _stop: stop }
    }
}

async fn answers(mesh: &Mesh, url: &str) {
    eventually(async || mesh.get(url).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_replaced_without_a_restart_and_without_a_failed_request() {
    let world = World::new(Duration::from_secs(120)).await;
    let accounts = Served::start(world.join("accounts").await, "accounts").await;
    let (rates, cards) = (world.join("rates").await, world.join("cards").await);
    answers(&rates, "http://accounts.mesh/").await;
    let old = world.status().await.authorities[0].pin.clone();
    // Somebody who has an SVID of the root before and does not renew it.
    let idle = Member::join(world.running.control(), &world.token("idle").await)
        .await
        .unwrap();
    let operator = world.running.operator();

    let calling = Arc::new(AtomicBool::new(true));
    let load = [rates.clone(), cards].map(|member| {
        let calling = Arc::clone(&calling);
        tokio::spawn(async move {
            let client = member.client_with(ClientOptions::default().without_retries());
            let mut count = 0_u64;
            while calling.load(Ordering::Relaxed) {
                // Every few calls over a connection that is new.
                let fresh = member.client_with(ClientOptions::default().without_retries());
                for client in [&client, &client, &fresh] {
                    client.get("http://accounts.mesh/").await.unwrap();
                    count += 1;
                }
            }
            count
        })
    });
    let status = world.rotate().await.unwrap();
    assert_eq!(
        status.authorities.iter().map(|one| one.retiring).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(status.authorities[1].pin, old);
    // Members renew by themselves.
    eventually(async || {
        let status = world.status().await;
        let [signing, retiring] = &status.authorities[..] else {
            panic!("{status:?}")
        };
        let under = |service: &str, authority: &v1::Authority| {
            let id = format!("spiffe://mesh.local/service/{service}");
            authority.identities.iter().any(|identity| identity.spiffe_id == id)
        };
        ["accounts", "rates", "cards"]
            .iter()
            .all(|service| under(service, signing) && !under(service, retiring))
    })
    .await;
    // What one still needs is not taken away from it, and who that is, is told.
    for refused in [
        world
            .operator()
            .retire_authority(v1::RetireAuthorityRequest {})
            .await
            .unwrap_err(),
        world.rotate().await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(
            refused.message().contains(&old) && refused.message().contains("spiffe://mesh.local/service/idle"),
            "{refused}"
        );
        assert!(!refused.message().contains("service/rates"), "{refused}");
    }
    let csr = mesh_client::tls::Key::generate().unwrap().signing_request().unwrap();
    let renewed = idle.identity().renew(v1::RenewRequest { csr }).await.unwrap().into_inner();
    let roots = renewed.bundle.unwrap().roots;
    assert_eq!(roots.len(), 2);
    // It went away without showing what it got, so that its first SVID has to run out; until somebody takes its token away.
    world.remove(&world.let_in("idle").await).await.unwrap();
    eventually(async || world.status().await.authorities.len() == 1).await;
    let status = world.status().await;
    assert_ne!(status.authorities[0].pin, old);
    let none = world
        .operator()
        .retire_authority(v1::RetireAuthorityRequest {})
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::FailedPrecondition, "{none}");

    // And on it goes: who is there already, who comes, and who comes again.
    eventually(async || rates.credentials().held().bundle.roots().len() == 1).await;
    let before = accounts.seen.load(Ordering::Relaxed);
    eventually(async || accounts.seen.load(Ordering::Relaxed) > before + 20).await;
    let late = world.join("late").await;
    answers(&late, "http://accounts.mesh/").await;
    assert_ne!(
        world.running.operator().pin(),
        operator.pin(),
        "the operator's credential names the new root"
    );
    calling.store(false, Ordering::Relaxed);
    for calls in load {
        assert!(calls.await.unwrap() > 20, "no call failed");
    }
    drop(accounts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_the_root_before_lets_in_and_holds_it_up() {
    let world = World::new(Duration::from_secs(60)).await;
    let token = world.token("accounts").await;
    world.rotate().await.unwrap();
    let refused = world
        .operator()
        .retire_authority(v1::RetireAuthorityRequest {})
        .await
        .unwrap_err();
    assert!(refused.message().contains("1 unused join tokens"), "{refused}");
    let mesh = Mesh::join(world.config(Credential::Token(token))).await.unwrap();
    assert_eq!(mesh.id().path(), "/service/accounts");
    eventually(async || world.status().await.authorities.len() == 1).await;
    let rates = Mesh::join(world.config(Credential::Token(world.token("rates").await)))
        .await
        .unwrap();
    assert_eq!(rates.credentials().held().bundle.roots().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intermediate_is_replaced_under_the_same_root() {
    let world = World::new(Duration::from_secs(3600)).await;
    let accounts = Served::start(world.join("accounts").await, "accounts").await;
    let before = world.status().await;
    let request = v1::RotateAuthorityRequest { intermediate_only: true };
    let after = world.operator().rotate_authority(request).await.unwrap().into_inner();
    assert_eq!(
        (after.authorities.len(), &after.authorities[0].pin),
        (1, &before.authorities[0].pin)
    );
    let rates = world.join("rates").await;
    answers(&rates, "http://accounts.mesh/").await;
    let intermediate = |mesh: &Mesh| mesh.credentials().held().svid.chain()[1].clone();
    assert_ne!(intermediate(&accounts.mesh), intermediate(&rates));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_what_the_kernel_says_and_the_entries_let_it_be() {
    let world = World::new(Duration::from_secs(3600)).await;
    let program = std::env::current_exe().unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&program).unwrap());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    let gid = format!("unix:gid:{}", rustix::process::getegid().as_raw());
    let path = format!("unix:path:{}", program.display());
    let whole = [uid.clone(), gid.clone(), path.clone(), format!("unix:sha256:{hash}")];

    let refused = world.attested(None).await.unwrap_err().to_string();
    assert!(
        refused.contains(&uid) && refused.contains(&path) && refused.contains("entry create"),
        "{refused}"
    );
    // Each of these is wrong in one fact.
    for (nth, wrong) in [
        (0, "unix:uid:4294967294".to_owned()),
        (1, "unix:gid:4294967294".to_owned()),
        (2, "unix:path:/usr/bin/true".to_owned()),
        (3, format!("unix:sha256:{}", "0".repeat(64))),
    ] {
        let mut selectors = whole.clone();
        selectors[nth] = wrong;
        let id = world.entry("accounts", &selectors).await.unwrap();
        let refused = world.attested(Some("accounts")).await.unwrap_err();
        assert!(matches!(refused, JoinError::Refused(_)), "{nth}: {refused}");
        world.remove(&id).await.unwrap();
    }
    let id = world.entry("accounts", &whole).await.unwrap();
    assert_eq!(world.attested(None).await.unwrap().id().path(), "/service/accounts");
    assert_eq!(
        world.attested(Some("accounts")).await.unwrap().id().path(),
        "/service/accounts"
    );
    let refused = world.attested(Some("rates")).await.unwrap_err().to_string();
    assert!(refused.contains("`rates`"), "{refused}");
    let twice = world.entry("accounts", &whole).await.unwrap_err();
    assert_eq!(
        (twice.code(), twice.message().contains(&id)),
        (Code::AlreadyExists, true),
        "{twice}"
    );

    // Whoever may be several says which; a member without a name of its own takes the one that it serves as.
    world.entry("rates", &[uid]).await.unwrap();
    let refused = world.attested(None).await.unwrap_err().to_string();
    assert!(
        refused.contains("accounts, rates") && refused.contains("MESH_SERVICE"),
        "{refused}"
    );
    assert_eq!(world.attested(Some("rates")).await.unwrap().id().path(), "/service/rates");
    for selectors in [&[][..], &["unix:uid:me".to_owned()], &["everybody".to_owned()]] {
        assert_eq!(
            world.entry("cards", selectors).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(world.remove("0123456789abcdef").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn elsewhere_than_at_the_socket_nobody_is_known_by_the_kernel() {
    let world = World::new(Duration::from_secs(3600)).await;
    let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    world.entry("accounts", &[uid]).await.unwrap();
    let member = Member::join(world.running.control(), &world.token("accounts").await)
        .await
        .unwrap();
    let csr = mesh_client::tls::Key::generate().unwrap().signing_request().unwrap();
    let request = v1::AttestRequest {
        service: "accounts".to_owned(),
        csr,
    };
    let refused = member.identity().attest(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_loses_its_connections_at_once_everywhere() {
    let world = World::new(Duration::from_secs(3600)).await;
    let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    let id = world.entry("rates", &[uid]).await.unwrap();
    let accounts = Served::start(world.join("accounts").await, "accounts").await;
    let rates = Served::start(world.attested(Some("rates")).await.unwrap(), "rates").await;
    let bystander = world.join("cards").await;
    answers(&rates.mesh, "http://accounts.mesh/").await;
    answers(&accounts.mesh, "http://rates.mesh/").await;
    answers(&bystander, "http://accounts.mesh/").await;

    assert_eq!(world.listed("rates").await, 1);
    let endpoints = bystander.endpoints(&ServiceName::new("rates").unwrap());
    eventually(async || endpoints.borrow().endpoints.len() == 1).await;
    assert_eq!(world.remove(&id).await.unwrap(), 1);
    let began = std::time::Instant::now();
    assert_eq!(world.listed("rates").await, 0, "its lease is not waited for");
    // Without retries, on the connections that there are: as one that calls, and as one that is called.
    let client = rates.mesh.client_with(ClientOptions::default().without_retries());
    eventually(async || {
        rates.mesh.get("http://accounts.mesh/").await.is_err() && client.get("http://accounts.mesh/").await.is_err()
    })
    .await;
    eventually(async || accounts.mesh.get("http://rates.mesh/").await.is_err()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let seen = (accounts.seen.load(Ordering::Relaxed), rates.seen.load(Ordering::Relaxed));
    for _ in 0..5 {
        client.get("http://accounts.mesh/").await.unwrap_err();
        accounts.mesh.get("http://rates.mesh/").await.unwrap_err();
    }
    assert_eq!(
        seen,
        (accounts.seen.load(Ordering::Relaxed), rates.seen.load(Ordering::Relaxed))
    );
    bystander.get("http://accounts.mesh/").await.unwrap();
    eventually(async || endpoints.borrow().endpoints.is_empty()).await;
    assert_eq!(world.listed("rates").await, 0, "it does not come back by itself");
    let refused = world.attested(Some("rates")).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused(_)), "{refused}");
}

#[tokio::test]
async fn what_a_token_let_in_can_be_removed_too_and_renews_nothing() {
    let world = World::new(Duration::from_secs(3600)).await;
    let member = Member::join(world.running.control(), &world.token("accounts").await)
        .await
        .unwrap();
    let renew = async |member: &Member| {
        let csr = mesh_client::tls::Key::generate().unwrap().signing_request().unwrap();
        member.identity().renew(v1::RenewRequest { csr }).await
    };
    renew(&member).await.unwrap();
    let mut watch = member
        .registry()
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap();
    let id = world.let_in("accounts").await;
    assert_eq!(
        world.remove(&id).await.unwrap(),
        2,
        "the one that it has, and the one that it was given"
    );
    assert!(watch.message().await.is_err(), "its connection is closed");
    renew(&member).await.unwrap_err();
    assert_eq!(world.remove(&id).await.unwrap_err().code(), Code::NotFound);
}
