//! Whether what is served here works: checks that the member makes of its own service, told to everybody with its registration.
//!
//! The service is asked as its callers ask it, but within this process (`probe`): whether the way to it works is what callers find
//! out themselves, by ejection. What the answers mean over time is `tally`, which is pure.

mod check;
mod probe;
mod tally;

use std::convert::Infallible;

use identity::ServiceName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

pub use check::{Check, CheckError, Probe};
pub(crate) use probe::{Inquire, Inside, Opaque};

use crate::discovery::Health;
use crate::policy::Known;
use probe::Failed;
use tally::Tally;

/// The checks of one service: what the mesh says, else what its member says itself.
pub(crate) struct Checks<A> {
    pub(crate) service: ServiceName,
    pub(crate) asked: A,
    pub(crate) own: Option<Check>,
    pub(crate) policies: Known,
}

impl<A: Inquire> Checks<A> {
    fn wanted(&self) -> Option<Check> {
        let policies = self.policies.borrow();
        let central = policies.as_ref().and_then(|policies| policies.health(&self.service));
        central.or(self.own.as_ref()).cloned()
    }

    /// What is told before the first answer: what is checked does not serve until it has passed.
    pub(crate) fn first(&self) -> Health {
        self.wanted().map_or(Health::Unknown, |_| Health::NotServing)
    }

    /// Checks for as long as it is polled, and tells whenever it finds something else.
    pub(crate) async fn run(&self, health: &watch::Sender<Health>) -> Infallible {
        let mut policies = self.policies.clone();
        loop {
            policies.mark_unchanged();
            let wanted = self.wanted();
            tokio::select! {
                never = self.keep(wanted.as_ref(), health) => match never {},
                () = self.other_than(wanted.as_ref(), &mut policies) => {}
            }
        }
    }

    /// Waits until another check is wanted.
    async fn other_than(&self, wanted: Option<&Check>, policies: &mut Known) {
        while policies.changed().await.is_ok() {
            if self.wanted().as_ref() != wanted {
                return;
            }
        }
        std::future::pending().await
    }

    async fn keep(&self, wanted: Option<&Check>, health: &watch::Sender<Health>) -> Infallible {
        let Some(check) = wanted else {
            health.send_if_modified(|told| std::mem::replace(told, Health::Unknown) != Health::Unknown);
            return std::future::pending().await;
        };
        let mut tally = Tally::new(*health.borrow());
        loop {
            let next = Instant::now() + check.interval;
            let late = || Err(Failed(format!("no answer within {:?}", check.timeout)));
            let answer = timeout(check.timeout, self.asked.ask(&check.probe)).await;
            let answer = answer.unwrap_or_else(|_| late());
            let found = tally.judge(answer.is_ok(), check.failures, check.passes);
            self.tell(found, &answer, health);
            sleep_until(next).await;
        }
    }

    fn tell(&self, found: Health, answer: &Result<(), Failed>, health: &watch::Sender<Health>) {
        let service = &self.service;
        if let Err(reason) = answer {
            tracing::debug!(%service, %reason, "a health check failed");
        }
        if *health.borrow() == found {
            return;
        }
        match answer {
            Ok(()) => tracing::info!(%service, "the health checks pass"),
            Err(reason) => tracing::warn!(%service, %reason, "the health checks fail; callers are told to go elsewhere"),
        }
        health.send_replace(found);
    }
}
