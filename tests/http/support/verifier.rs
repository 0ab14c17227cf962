//! A verifier of credentials that another service issued: a table that a test fills.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentkey::identity::{Subject, Verified, Verifier, VerifyError, VerifyFuture};

/// Accepts credentials that begin with its prefix.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    prefix: &'static str,
    known: Arc<Mutex<HashMap<String, Result<Verified, VerifyError>>>>,
    asked: Arc<AtomicUsize>,
}

impl Table {
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self { prefix, known: Arc::default(), asked: Arc::default() }
    }

    /// From now on, a credential is answered so.
    pub(crate) fn set(&self, credential: &str, answer: Result<Verified, VerifyError>) {
        self.known.lock().unwrap().insert(credential.to_owned(), answer);
    }

    /// How many credentials it was asked about.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Verifier for Table {
    fn accepts(&self, credential: &str) -> bool {
        credential.starts_with(self.prefix)
    }

    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.known.lock().unwrap().get(credential).cloned();
        let unknown = || Err(VerifyError::Invalid("it is not in the table".to_owned()));
        Box::pin(async move { answer.unwrap_or_else(unknown) })
    }
}

pub(crate) fn subject(id: &str) -> Subject {
    Subject::new("https://issuer.example", id).unwrap()
}
