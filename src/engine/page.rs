//! Pages of lists, and streams over pages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::engine::error::Error;
use crate::model::ChangeError;
use crate::store::BoxFuture;

/// Part of a list, and the cursor of the next part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The items of this page.
    pub items: Vec<T>,
    /// What to pass as `after` for the next page; `None` on the last.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Returns a page of at most `limit` items, cut from a list that was read with one more.
    pub(super) fn cut(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Self {
        let limit = limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }
}

type NextPage<T, C> = BoxFuture<'static, Result<Page<T, C>, Error>>;

/// A stream over the items of a list. It reads the next page when the current one is used up.
#[must_use = "streams do nothing unless polled"]
pub struct PageStream<T, C> {
    fetch: Box<dyn FnMut(Option<C>) -> NextPage<T, C> + Send>,
    items: IntoIter<T>,
    pending: Option<NextPage<T, C>>,
}

impl<T, C> PageStream<T, C> {
    pub(super) fn new(
        after: Option<C>,
        mut fetch: impl FnMut(Option<C>) -> NextPage<T, C> + Send + 'static,
    ) -> Self {
        let pending = Some(fetch(after));
        Self { fetch: Box::new(fetch), items: Vec::new().into_iter(), pending }
    }
}

impl<T: Unpin, C> Stream for PageStream<T, C> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(item) = self.items.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            let Some(pending) = &mut self.pending else { return Poll::Ready(None) };
            let page = ready!(pending.as_mut().poll(cx));
            self.pending = None;
            let Page { items, next } = match page {
                Ok(page) => page,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            self.items = items.into_iter();
            if let Some(next) = next {
                let pending = (self.fetch)(Some(next));
                self.pending = Some(pending);
            }
        }
    }
}

impl<T, C> std::fmt::Debug for PageStream<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageStream").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

/// Checks the size of a page.
pub(super) fn page_limit(limit: u32) -> Result<u32, ChangeError> {
    match limit {
        1..=1_000 => Ok(limit),
        _ => Err(ChangeError::invalid("limit", format!("is {limit}, and must be 1 to 1,000"))),
    }
}
