//! Timers that are armed seldom: a deadline that moves on with every request need not move its timer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// A timer. It is armed anew only where something is due before it would fire, and when it has fired too early.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    wakes: Option<Waker>,
}

impl Alarm {
    pub(crate) fn new(first: Duration) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(first)),
            wakes: None,
        }
    }

    /// Ready when `due` has come, which may be another moment with each call.
    pub(crate) fn poll_due(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = tokio::time::Instant::from_std(due);
        if self.sleep.deadline() > due {
            self.sleep.as_mut().reset(due);
        } else if !self.sleep.is_elapsed() && self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            // Asking again would register the waker again.
            return Poll::Pending;
        }
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                if self.wakes.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    self.wakes = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if tokio::time::Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}

/// A core's alarms between two uses. They stay armed, so that one that is used again for a later deadline costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Alarms(RefCell<Vec<Alarm>>);

impl Alarms {
    /// What the future gives, unless `deadline` comes first. It is pinned where it is made: an `async` function that takes a future
    /// and pins it has room for it twice.
    pub(crate) async fn until<F: Future + Unpin>(&self, deadline: Instant, mut future: F) -> Option<F::Output> {
        let kept = self.0.borrow_mut().pop();
        let alarm = kept.unwrap_or_else(|| Alarm::new(deadline.saturating_duration_since(Instant::now())));
        let mut taken = Taken {
            alarms: self,
            alarm: Some(alarm),
        };
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            match &mut taken.alarm {
                Some(alarm) => alarm.poll_due(deadline, cx).map(|()| None),
                None => Poll::Ready(None),
            }
        })
        .await
    }
}

/// An alarm that goes back when it is dropped.
struct Taken<'a> {
    alarms: &'a Alarms,
    alarm: Option<Alarm>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.alarms.0.borrow_mut().extend(self.alarm.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_that_was_armed_for_another_deadline_keeps_each_all_the_same() {
        let alarms = Alarms::default();
        let began = Instant::now();
        let never = std::future::pending::<()>;
        let after = |millis| began + Duration::from_millis(millis);
        assert_eq!(alarms.until(after(10), std::future::ready(1)).await, Some(1));
        assert_eq!(alarms.until(after(30), never()).await, None);
        assert!(Instant::now() >= after(30), "not when it was armed for first");
        assert_eq!(alarms.until(after(60_000), std::future::ready(2)).await, Some(2));
        assert_eq!(alarms.until(after(60), never()).await, None);
        assert!(
            Instant::now() >= after(60) && Instant::now() < after(50_000),
            "not a minute later"
        );
        assert_eq!(alarms.0.borrow().len(), 1);
    }
}
