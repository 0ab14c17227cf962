//! A check, and what came of it.

use serde::Serialize;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Info,
    Ok,
    Warning,
    Failed,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    pub(super) found: String,
    /// What to do about it.
    pub(super) mend: Option<&'static str>,
}

impl Check {
    pub(super) const fn info(name: &'static str, found: String) -> Self {
        Self { name, status: Status::Info, found, mend: None }
    }

    pub(super) const fn ok(name: &'static str, found: String) -> Self {
        Self { name, status: Status::Ok, found, mend: None }
    }

    pub(super) const fn warning(name: &'static str, found: String, mend: &'static str) -> Self {
        Self { name, status: Status::Warning, found, mend: Some(mend) }
    }

    pub(super) const fn failed(name: &'static str, found: String, mend: &'static str) -> Self {
        Self { name, status: Status::Failed, found, mend: Some(mend) }
    }

    /// Returns a warning if there is something to do, and else that all is well.
    pub(super) fn warn_if(
        is_bad: bool,
        name: &'static str,
        found: String,
        mend: &'static str,
    ) -> Self {
        if is_bad { Self::warning(name, found, mend) } else { Self::ok(name, found) }
    }
}
