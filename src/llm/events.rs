//! Event streams as the WHATWG standard has them (HTML, 9.2.6 "Interpreting an event stream").
//!
//! Two steps: [`EventBuffer`] cuts a stream of bytes into events, without a copy where an event
//! comes in one piece, and [`data`] reads the data of one event.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memchr2_iter};

/// What U+FEFF is in UTF-8. A stream may begin with it.
const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// An event is longer than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventTooLong;

/// Cuts a stream into events. It keeps at most one event, and no more than its bound.
#[derive(Clone, Debug)]
pub(super) struct EventBuffer {
    max: usize,
    /// The beginning of an event whose end has not come.
    begun: BytesMut,
    /// Whether the line in hand has a byte.
    in_line: bool,
    /// Whether the last byte was a carriage return, so that a line feed belongs to it.
    after_return: bool,
    /// Whether that carriage return ended an event.
    after_event: bool,
}

impl EventBuffer {
    pub(super) fn new(max: usize) -> Self {
        let (in_line, after_return, after_event) = (false, false, false);
        Self { max, begun: BytesMut::new(), in_line, after_return, after_event }
    }

    /// Takes the bytes up to the end of an event, and returns the event. Takes all of them where it
    /// does not end.
    pub(super) fn take(&mut self, bytes: &mut Bytes) -> Result<Option<Bytes>, EventTooLong> {
        let end = self.find_end(bytes);
        if self.begun.len() + end.unwrap_or(bytes.len()) > self.max {
            return Err(EventTooLong);
        }
        let Some(end) = end else {
            self.begun.extend_from_slice(bytes);
            bytes.clear();
            return Ok(None);
        };
        let event = bytes.split_to(end);
        if self.begun.is_empty() {
            return Ok(Some(event));
        }
        self.begun.extend_from_slice(&event);
        Ok(Some(std::mem::take(&mut self.begun).freeze()))
    }

    /// Takes what the stream ended with, if that was not the end of an event.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        let rest = std::mem::take(&mut self.begun).freeze();
        Some(rest).filter(|rest| !rest.is_empty())
    }

    /// Returns how many bytes belong to the event in hand: up to the end of an empty line. A line ends
    /// with a carriage return, a line feed, or both.
    ///
    /// After a carriage return the event has ended, whatever follows. A line feed that comes later is
    /// an event by itself, without data.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            let after_return = std::mem::replace(&mut self.after_return, *first == b'\r');
            let after_event = std::mem::take(&mut self.after_event);
            rest = after;
            match first {
                b'\n' if after_event => return Some(bytes.len() - rest.len()),
                b'\n' if after_return => {}
                b'\n' | b'\r' if std::mem::take(&mut self.in_line) => {}
                b'\n' => return Some(bytes.len() - rest.len()),
                b'\r' => {
                    if let Some(after) = rest.strip_prefix(b"\n") {
                        self.after_return = false;
                        rest = after;
                    }
                    self.after_event = self.after_return;
                    return Some(bytes.len() - rest.len());
                }
                _ => {
                    self.in_line = true;
                    let end = memchr2(b'\r', b'\n', rest);
                    rest = rest.get(end.unwrap_or(rest.len())..).unwrap_or_default();
                }
            }
        }
        None
    }
}

/// Returns the data of an event: its `data` fields, joined by line feeds. `None` where it has none.
///
/// What is no field of an event stream is returned by `stray`, a line at a time.
pub(super) fn data<'a>(event: &'a [u8], mut stray: impl FnMut(&'a [u8])) -> Option<Cow<'a, [u8]>> {
    let mut data: Option<Cow<'a, [u8]>> = None;
    for line in lines(event) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let (name, value) = line.split_at(colon);
                let value = value.strip_prefix(b":").unwrap_or_default();
                (name, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match (name, &mut data) {
            (b"data", None) => data = Some(Cow::Borrowed(value)),
            (b"data", Some(data)) => {
                data.to_mut().push(b'\n');
                data.to_mut().extend_from_slice(value);
            }
            // A comment, or a field that says nothing of what a model wrote.
            (b"" | b"event" | b"id" | b"retry", _) => {}
            _ => stray(line),
        }
    }
    data
}

/// Returns the event without the byte order mark that a stream may begin with.
pub(super) fn without_mark(event: &[u8]) -> &[u8] {
    event.strip_prefix(BYTE_ORDER_MARK).unwrap_or(event)
}

/// Returns the lines of an event. Empty ones are left out, so a carriage return and its line feed
/// end one line.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr2_iter(b'\r', b'\n', event).chain([event.len()]);
    let mut start = 0;
    ends.filter_map(move |end| event.get(std::mem::replace(&mut start, end + 1)..end))
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of all events of a stream that comes in these pieces, and the pieces put together.
    fn read(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let mut buffer = EventBuffer::new(1_000);
        let mut events = Vec::new();
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece);
            while let Some(event) = buffer.take(&mut bytes).unwrap() {
                events.push(event);
            }
        }
        events.extend(buffer.rest());
        let mut first = true;
        let texts = events.iter().filter_map(|event| {
            let event =
                if std::mem::take(&mut first) { without_mark(event) } else { event.as_ref() };
            Some(String::from_utf8(data(event, |_| ())?.into_owned()).unwrap())
        });
        (texts.collect(), events.concat())
    }

    /// The examples of the standard, and what it says about ends of lines, comments and fields.
    const STREAMS: [(&str, &[&str]); 14] = [
        ("data: a\n\ndata: b\n\n", &["a", "b"]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]),
        ("data: a\r\rdata: b\r\r", &["a", "b"]),
        ("data: a\r\n\rdata: b\n\r\n", &["a", "b"]),
        ("\u{feff}data: a\n\n", &["a"]),
        ("event: message\ndata: a\n\n", &["a"]),
        ("data: YHOO\ndata: +2\ndata: 10\n\n", &["YHOO\n+2\n10"]),
        (": comment\n\ndata: a\nid: 1\n\ndata:b\nid\n\ndata:  c\n\n", &["a", "b", " c"]),
        ("data\n\ndata\ndata\n\ndata:", &["", "\n", ""]),
        ("data:test\n\ndata: test\n\n", &["test", "test"]),
        ("\n\n\r\r\n\ndata: a\n\n", &["a"]),
        ("dataset: a\n\nda\n\n data: b\n\n", &[]),
        ("data: a: b\n\n", &["a: b"]),
        ("data: not ended", &["not ended"]),
    ];

    #[test]
    fn events_are_those_of_the_standard() {
        for (stream, events) in STREAMS {
            assert_eq!(read(&[stream.as_bytes()]).0, events, "{stream:?}");
        }
    }

    #[test]
    fn events_do_not_depend_on_how_bytes_arrive() {
        for (stream, events) in STREAMS {
            let bytes = stream.as_bytes();
            for at in 0..=bytes.len() {
                let (seen, passed) = read(&[&bytes[..at], &bytes[at..]]);
                assert_eq!(seen, events, "{stream:?} cut at {at}");
                assert_eq!(passed, bytes, "{stream:?} cut at {at}");
            }
            let single: Vec<_> = bytes.chunks(1).collect();
            assert_eq!(
                read(&single),
                (events.iter().map(|it| it.to_string()).collect(), bytes.to_vec())
            );
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(pieces in proptest::collection::vec("[a:\n\r\u{feff} ]{0,12}", 0..12)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            prop_assert_eq!(read(&pieces).1, pieces.concat());
        }
    }

    #[test]
    fn an_event_beyond_the_bound_is_an_error_however_it_arrives() {
        let event = format!("data: {}\n\n", "a".repeat(100));
        for piece in [1, 7, event.len()] {
            for (max, fits) in [(event.len(), true), (event.len() - 1, false)] {
                let mut buffer = EventBuffer::new(max);
                let taken = event.as_bytes().chunks(piece).try_fold(0, |events, piece| {
                    let taken = buffer.take(&mut Bytes::copy_from_slice(piece))?;
                    assert!(buffer.begun.len() <= max);
                    Ok::<_, EventTooLong>(events + usize::from(taken.is_some()))
                });
                assert_eq!(taken, if fits { Ok(1) } else { Err(EventTooLong) }, "{max}");
            }
        }
    }
}
