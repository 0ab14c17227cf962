//! Meters for the answers of language models (feature `llm`).
//!
//! A [`Meter`] reads what a model answers, and says what it costs while it comes. [`Charge::meter`]
//! puts it between an upstream and a client: it holds the money for each event before it passes the
//! event on, so a stream cannot overrun its limit.
//!
//! ```text
//! client ◄── event ◄── hold the shortfall ◄── count its text and usage ◄── event ◄── upstream
//!                         │ refused
//!                         └─► error event, hang up, settle
//! ```
//!
//! - [`Charge::hold_for`] holds before the model is asked, and [`Charge::meter`] meters the answer.
//! - [`Prompt`] estimates what a request costs; a [`TokenEstimator`] may be the model's own tokenizer.
//! - [`PriceTable`] has the prices of models, from the application's TOML or JSON.
//! - [`Format::refusal`] answers refusals in the shape that the SDKs of OpenAI and Anthropic read.
//!
//! `docs/llm.md` has the rules, and what becomes of seventeen streams that upstreams send.
//!
//! [`Charge::meter`]: crate::Charge::meter
//! [`Charge::hold_for`]: crate::Charge::hold_for

mod answer;
mod body;
mod error;
mod estimator;
mod events;
mod format;
mod lenient;
mod meter;
mod metering;
mod price_table;
mod prompt;
mod repeated;
mod tally;
mod told;
mod upstream;
mod walk;
mod written;

pub use body::MeteredBody;
pub use estimator::{FourBytes, TokenEstimator};
pub use format::Format;
pub use meter::{Meter, MeterError};
pub use price_table::{PriceTable, UnknownModel};
pub use prompt::{IMAGE_TOKENS, Prompt, PromptError};
