//! Answers that are kept, and questions that are under way, both by the token's hash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::identity::verifier::{Verified, VerifyError};
use crate::model::TokenHash;

/// The most answers that are kept. While there are as many, further ones are not kept.
const MAX_KEPT: usize = 10_000;
/// The most tokens that are asked about at once, or wait for a place.
const MAX_UNDER_WAY: usize = 1_024;

/// The answer to one question, for all who wait for it.
pub(super) type Answer = Option<Result<Arc<Verified>, VerifyError>>;

#[derive(Default)]
pub(super) struct Cache(Mutex<Maps>);

#[derive(Default)]
struct Maps {
    /// Positive answers, each until an instant. Others are not kept, so that they take no places.
    kept: HashMap<TokenHash, (Arc<Verified>, Timestamp)>,
    under_way: HashMap<TokenHash, watch::Receiver<Answer>>,
}

/// What is known of a token.
pub(super) enum Asked {
    Kept(Arc<Verified>),
    /// The issuer is being asked.
    UnderWay(watch::Receiver<Answer>),
    /// The caller has to ask.
    First(watch::Receiver<Answer>, watch::Sender<Answer>),
    TooMany,
}

impl Cache {
    pub(super) fn ask(&self, token: &TokenHash, now: Timestamp) -> Asked {
        let mut maps = self.maps();
        match maps.kept.get(token) {
            Some((verified, until)) if now < *until => return Asked::Kept(verified.clone()),
            Some(_) => drop(maps.kept.remove(token)),
            None => {}
        }
        // A channel is closed without an answer where its task was ended.
        let is_live = |answer: &&watch::Receiver<Answer>| answer.has_changed().is_ok();
        if let Some(answer) = maps.under_way.get(token).filter(is_live) {
            return Asked::UnderWay(answer.clone());
        }
        if maps.under_way.len() >= MAX_UNDER_WAY {
            maps.under_way.retain(|_, answer| answer.has_changed().is_ok());
        }
        if maps.under_way.len() >= MAX_UNDER_WAY {
            return Asked::TooMany;
        }
        let (question, answer) = watch::channel(None);
        maps.under_way.insert(*token, answer.clone());
        Asked::First(answer, question)
    }

    /// Ends a question, and keeps its answer until an instant.
    pub(super) fn answered(
        &self,
        token: &TokenHash,
        kept: Option<(Arc<Verified>, Timestamp)>,
        now: Timestamp,
    ) {
        let mut maps = self.maps();
        maps.under_way.remove(token);
        let Some(kept) = kept else { return };
        if maps.kept.len() >= MAX_KEPT {
            maps.kept.retain(|_, (_, until)| now < *until);
        }
        if maps.kept.len() < MAX_KEPT {
            maps.kept.insert(*token, kept);
        }
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
