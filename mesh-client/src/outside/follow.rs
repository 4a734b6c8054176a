//! Keeps what is known of something outside the mesh fresh.
//!
//! An answer of DNS is held for as long as it says, within bounds. While DNS does not answer the last answer is used, however old it is:
//! most of what it said is still so. Only an answer changes it, and that nothing is there is an answer, too.

use std::time::Duration;

use identity::ServiceName;
use tokio::time::sleep;

use super::dns::{Answer, DnsError, Found};
use super::{External, Place, Ttl};
use crate::backoff::Backoff;
use crate::discovery::Endpoint;

/// How long after a failure DNS is asked again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// When DNS is asked next. Pure: the random part is an argument.
struct Refresh {
    ttl: Ttl,
    backoff: Backoff,
}

impl Refresh {
    const fn new(ttl: Ttl) -> Self {
        Self {
            ttl,
            backoff: Backoff::new(AGAIN.0, AGAIN.1),
        }
    }

    /// The wait after an answer that is good for so long.
    fn answered(&mut self, valid_for: Duration) -> Duration {
        self.backoff.after_success();
        valid_for.clamp(self.ttl.min, self.ttl.max)
    }

    /// The wait after another failure.
    fn failed(&mut self, random: f64) -> Duration {
        self.backoff.after_failure(random)
    }
}

/// Publishes the endpoints of `external` whenever they are others, for as long as this is polled. `ask` asks DNS, and `count` hears
/// whether it answered.
pub(crate) async fn follow<F>(
    service: &ServiceName,
    external: &External,
    ask: impl Fn() -> F,
    count: impl Fn(bool),
    publish: impl Fn(Vec<Endpoint>),
) where
    F: Future<Output = Result<Answer, DnsError>>,
{
    if let Place::Fixed(addresses) = &external.place {
        publish(external.endpoints(addresses.iter().copied().map(Found::at).collect()));
        return std::future::pending().await;
    }
    let mut refresh = Refresh::new(external.ttl);
    let mut known: Option<Vec<Endpoint>> = None;
    loop {
        let answer = ask().await;
        count(answer.is_ok());
        let wait = match answer {
            Ok(Answer { found, valid_for }) => {
                let endpoints = external.endpoints(found);
                if known.as_ref() != Some(&endpoints) {
                    tracing::debug!(%service, endpoints = endpoints.len(), "DNS says where it is");
                    publish(endpoints.clone());
                    known = Some(endpoints);
                }
                refresh.answered(valid_for)
            }
            Err(error) => {
                let kept = known.as_ref().map_or(0, Vec::len);
                tracing::warn!(%service, %error, kept, "DNS does not answer; what it said last is used");
                // Whoever waits for the first answer waits in vain.
                publish_first(&mut known, &publish);
                refresh.failed(rand::random())
            }
        };
        sleep(wait).await;
    }
}

fn publish_first(known: &mut Option<Vec<Endpoint>>, publish: impl Fn(Vec<Endpoint>)) {
    known.get_or_insert_with(|| {
        publish(Vec::new());
        Vec::new()
    });
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::sync::Arc;

    use tokio::time::{Instant, timeout};

    use super::super::{Speech, Way};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn external(place: Place) -> External {
        External {
            place,
            way: Arc::new(Way::new(Speech::Http1, None)),
            host: None,
            ttl: Ttl::default(),
        }
    }

    fn answer(addresses: &[&str], seconds: u64) -> Result<Answer, DnsError> {
        Ok(Answer {
            found: addresses.iter().map(|address| Found::at(address.parse().unwrap())).collect(),
            valid_for: Duration::from_secs(seconds),
        })
    }

    /// What is published at which second, and when DNS was asked, while it answers like this and then not at all.
    async fn followed(answers: Vec<Result<Answer, DnsError>>, for_how_long: Duration) -> (Vec<(u64, Vec<String>)>, Vec<u64>) {
        let place = Place::Host {
            name: "api.test".into(),
            port: 80,
        };
        let (external, start) = (external(place), Instant::now());
        let (published, asked) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let answers = RefCell::new(VecDeque::from(answers));
        let ask = || {
            asked.borrow_mut().push(start.elapsed().as_secs());
            let next = answers.borrow_mut().pop_front();
            std::future::ready(next.unwrap_or(Err(DnsError::Timeout)))
        };
        let publish = |endpoints: Vec<Endpoint>| {
            let addresses = endpoints.iter().map(|one| one.address().to_owned()).collect();
            published.borrow_mut().push((start.elapsed().as_secs(), addresses));
        };
        let service = ServiceName::new("api").unwrap();
        let following = pin!(follow(&service, &external, ask, |_| {}, publish));
        timeout(for_how_long, following).await.unwrap_err();
        (published.take(), asked.take())
    }

    fn at(second: u64, addresses: &[&str]) -> (u64, Vec<String>) {
        (second, addresses.iter().map(|one| (*one).to_owned()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_held_for_as_long_as_it_says_and_only_what_is_other_is_told() {
        let answers = vec![
            answer(&["10.0.0.1:80"], 20),
            answer(&["10.0.0.1:80"], 10),
            answer(&["10.0.0.2:80", "10.0.0.1:80"], 100),
        ];
        let (published, asked) = followed(answers, 60 * SECOND).await;
        assert_eq!(asked, [0, 20, 30]);
        assert_eq!(published, [at(0, &["10.0.0.1:80"]), at(30, &["10.0.0.1:80", "10.0.0.2:80"])]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_answer_says_of_its_time_is_held_to_within_bounds() {
        let answers = vec![answer(&["10.0.0.1:80"], 0), answer(&["10.0.0.1:80"], 86_400), answer(&[], 1)];
        let (_, asked) = followed(answers, Duration::from_millis(301_500)).await;
        assert_eq!(asked, [0, 1, 301]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_dns_is_dead_the_last_answer_is_used_and_it_is_asked_less_and_less_often() {
        let (published, asked) = followed(vec![answer(&["10.0.0.1:80"], 5)], 3_600 * SECOND).await;
        assert_eq!(published, [at(0, &["10.0.0.1:80"])]);
        assert_eq!(asked[..2], [0, 5]);
        assert!((120..300).contains(&asked.len()), "every 15 to 30 s: {}", asked.len());
    }

    #[tokio::test(start_paused = true)]
    async fn that_nothing_is_there_is_an_answer_and_no_answer_is_none() {
        let answers = vec![
            Err(DnsError::Timeout),
            answer(&["10.0.0.1:80"], 60),
            answer(&[], 60),
            answer(&["10.0.0.3:80"], 300),
        ];
        let (published, asked) = followed(answers, 200 * SECOND).await;
        let said: Vec<_> = published.iter().map(|(_, addresses)| addresses.len()).collect();
        assert_eq!(
            said,
            [0, 1, 0, 1],
            "nobody waits for a first answer that does not come: {published:?}"
        );
        assert_eq!(asked.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn fixed_addresses_are_told_once_and_dns_is_never_asked() {
        let fixed = external(Place::Fixed(vec!["10.0.0.7:5432".parse().unwrap()]));
        let published = RefCell::new(Vec::new());
        let service = ServiceName::new("db").unwrap();
        let ask = || -> std::future::Ready<Result<Answer, DnsError>> { unreachable!("there is nothing to ask") };
        let following = follow(
            &service,
            &fixed,
            ask,
            |_| {},
            |endpoints| published.borrow_mut().push(endpoints.len()),
        );
        timeout(SECOND, following).await.unwrap_err();
        assert_eq!(published.into_inner(), [1]);
    }
}
