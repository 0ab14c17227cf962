//! How much text a model wrote, where the same text comes more than once.

use std::collections::BTreeMap;

/// How many items are summed by themselves. It bounds what is kept of a stream.
const MAX_ITEMS: usize = 64;

/// The tokens of text, by where they are. The same text may come in several of these places: first
/// in pieces, and then whole. So each place is summed by itself, and the largest sum counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// What is new in this event.
    pub(super) delta: u64,
    /// A part that is done, whole.
    pub(super) part: u64,
    /// An item that is done, whole.
    pub(super) item: u64,
    /// The answer, whole.
    pub(super) whole: u64,
}

impl Tokens {
    pub(super) fn add(&mut self, other: Self) {
        self.delta = self.delta.saturating_add(other.delta);
        self.part = self.part.saturating_add(other.part);
        self.item = self.item.saturating_add(other.item);
        self.whole = self.whole.max(other.whole);
    }

    pub(super) fn max(&self) -> u64 {
        self.delta.max(self.part).max(self.item).max(self.whole)
    }
}

/// The text of an answer, item by item: one item comes in pieces, and another only when it is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// The last items, by their places in the output. What is of no item is one by itself.
    items: BTreeMap<Option<u64>, Tokens>,
    /// The sum of all items.
    sum: u64,
    /// The answer, whole.
    whole: u64,
}

impl Written {
    pub(super) fn add(&mut self, item: Option<u64>, text: Tokens) {
        self.whole = self.whole.max(text.whole);
        if self.items.len() == MAX_ITEMS && !self.items.contains_key(&item) {
            self.items.pop_first();
        }
        let tokens = self.items.entry(item).or_default();
        let before = tokens.max();
        tokens.add(Tokens { whole: 0, ..text });
        self.sum = self.sum.saturating_add(tokens.max() - before);
    }

    pub(super) fn tokens(&self) -> u64 {
        self.sum.max(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(delta: u64) -> Tokens {
        Tokens { delta, ..Tokens::default() }
    }

    fn part(part: u64) -> Tokens {
        Tokens { part, ..Tokens::default() }
    }

    fn item(item: u64) -> Tokens {
        Tokens { item, ..Tokens::default() }
    }

    fn sums(events: &[(Option<u64>, Tokens)]) -> Vec<u64> {
        let mut written = Written::default();
        events
            .iter()
            .map(|(item, tokens)| {
                written.add(*item, *tokens);
                written.tokens()
            })
            .collect()
    }

    #[test]
    fn what_comes_in_pieces_and_again_whole_counts_once() {
        let events = [delta(3), delta(4), part(7), delta(2), part(2), item(8)];
        assert_eq!(sums(&events.map(|text| (None, text))), [3, 7, 7, 9, 9, 9]);
    }

    #[test]
    fn each_item_counts_whether_it_comes_in_pieces_or_not() {
        let (one, two, three) = (Some(0), Some(1), Some(2));
        let events = [
            (one, delta(5)),
            (two, item(20)),
            (three, delta(1)),
            (one, delta(5)),
            (three, part(9)),
            (one, item(10)),
            (three, item(9)),
        ];
        assert_eq!(sums(&events), [5, 25, 26, 31, 39, 39, 39]);
        let whole = Tokens { whole: 40, ..Tokens::default() };
        assert_eq!(sums(&[(one, delta(5)), (None, whole), (two, item(36))]), [5, 40, 41]);
    }

    #[test]
    fn no_more_than_so_many_items_are_kept_and_all_count() {
        let mut written = Written::default();
        for index in 0..10_000 {
            written.add(Some(index), delta(1));
            assert!(written.items.len() <= MAX_ITEMS);
        }
        assert_eq!(written.tokens(), 10_000);
        written.add(Some(9_999), item(1));
        assert_eq!(written.tokens(), 10_000, "of the last items it is known what came in pieces");
    }
}
