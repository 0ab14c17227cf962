//! The meter on any bytes: it does not panic, and what it says does not depend on how the bytes are cut.
#![no_main]

use agentkey::Amount;
use agentkey::llm::{FourBytes, Format, Meter, Prompt};
use agentkey::model::{TokenPrice, TokenUsage};
use libfuzzer_sys::fuzz_target;

const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

const FORMATS: [Format; 4] = [Format::ChatCompletions, Format::Completions, Format::Responses, Format::Messages];

/// What a meter says while a stream comes in these pieces, and at its end.
fn read(pieces: &[&[u8]]) -> Option<[(u64, Option<TokenUsage>, Amount); 2]> {
    let mut meter = Meter::new(PRICE).max_event(1 << 14);
    let said = |meter: &Meter| (meter.text(), meter.told(), meter.cost());
    for piece in pieces {
        let before = meter.text();
        meter.feed(piece).ok()?;
        assert!(meter.text() >= before, "text that was seen is not forgotten");
        assert!(meter.cost() >= Amount::ZERO);
    }
    let running = said(&meter);
    meter.finish();
    assert!(meter.text() >= running.0);
    Some([running, said(&meter)])
}

fuzz_target!(|input: &[u8]| {
    // The first two bytes say how the others are cut.
    let [at, size, stream @ ..] = input else { return };
    let whole = read(&[stream]);
    let (first, second) = stream.split_at(usize::from(*at).min(stream.len()));
    assert_eq!(read(&[first, second]), whole);
    let pieces: Vec<_> = stream.chunks(usize::from(*size).max(1)).collect();
    assert_eq!(read(&pieces), whole);

    if let Ok(prompt) = Prompt::read(stream, &FourBytes) {
        let meter = Meter::new(PRICE).prompt(prompt.clone());
        for format in FORMATS {
            let sent = meter.to_upstream(format, stream).expect("it is a request");
            let again = Prompt::read(&sent, &FourBytes).expect("what is sent is a request");
            assert_eq!((&again.model, again.media, again.answers), (&prompt.model, prompt.media, prompt.answers));
            assert!(again.text <= prompt.text, "what is sent is counted");
            let held = prompt.max_output.filter(|most| *most > 0).unwrap_or(4_096);
            let is_held = again.max_output.is_some_and(|sent| sent <= held);
            assert!(prompt.is_stream || is_held, "no more is asked for than is held");
        }
    }
});
