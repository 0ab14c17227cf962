//! Meters for the answers of language models (feature `llm`).
//!
//! A [`Meter`] reads what a model answers, and says what it costs while it comes. [`Charge::meter`]
//! puts it between an upstream and a client: it holds the money for each event before it passes the
//! event on, so a stream cannot overrun its limit. The most that a whole answer may cost, or a
//! stream with [hidden reasoning](Meter::hidden_reasoning), is held before the model is asked.
//!
//! ```text
//! client ◄── event ◄── hold the shortfall ◄── count its text and usage ◄── event ◄── upstream
//!                         │ refused
//!                         └─► error event, hang up, settle
//! ```
//!
//! A stream is passed on while there is money for its next event. Then it ends with an error, and the
//! next request is refused before the model is asked.
//!
//! ```
//! use agentkey::http::BodyError;
//! use agentkey::llm::{Format, FourBytes, Meter, Prompt};
//! use agentkey::model::TokenPrice;
//! use agentkey::{AgentKeys, Amount, Budget, MemoryStore, NewKey, Token};
//! # use bytes::Bytes;
//! use http::Response;
//! use http_body_util::{BodyExt, Full};
//!
//! const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));
//! /// Five tokens.
//! const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"once upon a time, \"}}]}\n\n";
//!
//! async fn ask(keys: &AgentKeys, token: &Token) -> Result<String, BodyError> {
//!     let format = Format::ChatCompletions;
//!     let body = br#"{"model":"tales-1","stream":true,"messages":[]}"#;
//!     let charge = keys.charge(&keys.authorize(token).await?).await?;
//!     let meter = Meter::new(PRICE).prompt(Prompt::read(body, &FourBytes)?);
//!     charge.hold_for(&meter).await?; // refused here
//!     let _request = meter.to_upstream(format, body)?; // what a model would be asked
//!     let upstream: Response<Full<Bytes>> = Response::new(EVENT.repeat(10_000).into());
//!     let answer = charge.meter(upstream, format, meter);
//!     let read = answer.into_body().collect().await?.to_bytes();
//!     Ok(String::from_utf8(read.to_vec())?)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
//! let keys = AgentKeys::new(MemoryStore::new())?;
//! let new = NewKey::new("acme".parse()?).budget(Budget::lifetime(Amount::cents(1)));
//! let token = keys.create(new).await?.token;
//!
//! let read = ask(&keys, &token).await?;
//! assert_eq!(read.matches("once upon a time").count(), 133); // 9,975 micros of the 10,000
//! assert!(read.ends_with("}\n\n") && read.contains(r#""code":"budget_exceeded""#));
//! assert!(ask(&keys, &token).await.is_err());
//! # keys.shutdown().await;
//! # Ok(()) }
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
