//! Answers that are judged on their way: a copy of the body is kept as it goes by, and what is wrong is told when it has ended.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway::Gateway;
use gateway::exchange::{BodyRead, Observe};
use http::HeaderMap;
use http_body::Frame;

use crate::body::Error;
use crate::metrics;

/// Who looks at one answer.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) observe: Observe,
    pub(crate) route: Arc<str>,
    pub(crate) request_id: String,
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    /// What came of the body; none once it is too long.
    pub(crate) copy: Option<BytesMut>,
    pub(crate) metrics: Arc<metrics::Core>,
}

impl Observer {
    /// Notes what comes next.
    pub(crate) fn saw(&mut self, frame: &Frame<Bytes>) {
        let (Some(copy), Some(data)) = (&mut self.copy, frame.data_ref()) else {
            return;
        };
        let most = usize::try_from(self.observe.max_body).unwrap_or(usize::MAX);
        if data.len() > most.saturating_sub(copy.len()) {
            self.copy = None;
            return;
        }
        copy.extend_from_slice(data);
    }

    /// Judges the answer, now that it has ended.
    pub(crate) fn judge(self) {
        let body = self.copy.map_or(BodyRead::TooLarge, |copy| BodyRead::Whole(copy.freeze()));
        let wrong = self.gateway.judge_answer(&self.observe, self.status, &self.fields, &body);
        if wrong.is_empty() {
            return;
        }
        self.metrics.misanswered(&self.route);
        tracing::warn!(
            route = %self.route,
            request_id = self.request_id,
            status = self.status,
            "an answer is not as it should be: {}",
            wrong.join("; ")
        );
    }
}

/// Notes a piece of a body that may be observed; gives up where it broke.
pub(crate) fn saw(observer: &mut Option<Box<Observer>>, frame: Option<&Result<Frame<Bytes>, Error>>) {
    match frame {
        Some(Ok(frame)) => observer.iter_mut().for_each(|observer| observer.saw(frame)),
        Some(Err(_)) => *observer = None,
        None => {}
    }
}
