//! How values look in tables.

use agentkey::jiff::{Timestamp, tz::TimeZone};
use agentkey::model::Balance;
use agentkey::{Amount, Budget, Key, ScopeSet};

/// How many characters a bar has at most.
const BAR: u32 = 24;

/// Returns an instant to the second, in UTC.
pub(crate) fn instant(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Returns what was spent of each limit, a line for each.
pub(crate) fn budget(budget: &Budget, balance: &Balance) -> String {
    let mut lines: Vec<_> = budget
        .limits()
        .map(|limit| {
            let spent = balance.spent_in(limit.period).unwrap_or_default();
            format!("{spent} of {} {}", limit.amount, limit.period)
        })
        .collect();
    if lines.is_empty() {
        lines.push(format!("{} of no limit", balance.spent()));
    }
    if balance.held.is_positive() {
        lines.push(format!("{} held", balance.held));
    }
    lines.join(", ")
}

/// Returns the limits as `--spend-limit` reads them, with spaces between them.
pub(crate) fn limits(budget: &Budget) -> String {
    let limits = budget.limits().map(|limit| format!("{}/{}", limit.amount, limit.period));
    limits.collect::<Vec<_>>().join(" ")
}

/// Returns what is left, or that there is no limit.
pub(crate) fn remaining(amount: Option<Amount>) -> String {
    amount.map_or_else(|| "no limit".to_owned(), |amount| amount.to_string())
}

/// Returns scopes as one word or a list.
pub(crate) fn scopes(scopes: &ScopeSet) -> String {
    if scopes.is_unrestricted() {
        return "unrestricted".to_owned();
    }
    let list: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(" ") }
}

/// Returns the start of a key's token, by which people recognise it, or what it has in place of one.
pub(crate) fn token_start(key: &Key) -> String {
    if key.is_session() {
        return "session".to_owned();
    }
    if key.was_made_for_subject() {
        return "subject".to_owned();
    }
    match (key.prefix.as_str(), key.start.as_str()) {
        ("", "") => "-".to_owned(),
        ("", start) => format!("{start}…"),
        (prefix, start) => format!("{prefix}_{start}…"),
    }
}

/// Returns a bar whose length is the share of `most`, in eighths of a character.
pub(crate) fn bar(amount: Amount, most: Amount) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if !amount.is_positive() || !most.is_positive() {
        return String::new();
    }
    let share = i128::from(amount.as_micros()) * i128::from(BAR * 8) / i128::from(most.as_micros());
    // Whatever was charged shows.
    let eighths = usize::try_from(share).unwrap_or_default().clamp(1, BAR as usize * 8);
    "█".repeat(eighths / 8) + EIGHTHS.get(eighths % 8).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_length_of_their_share() {
        let most = Amount::units(100);
        assert_eq!(bar(most, most), "█".repeat(24));
        assert_eq!(bar(Amount::units(50), most), "█".repeat(12));
        assert_eq!(bar(Amount::micros(1), most), "▏");
        assert_eq!(bar(Amount::ZERO, most), "");
        assert_eq!(bar(Amount::units(-3), most), "");
    }
}
